package logging

import (
	"fmt"
	"slices"

	"github.com/rs/zerolog"
	"github.com/spf13/pflag"
)

// Flags are the flags that say what is logged, and how.
type Flags struct {
	Level  zerolog.Level // after Check
	Format string
	level  string
}

var (
	levels  = []string{"debug", "info", "warn", "error", "disabled"}
	formats = []string{"console", "json", "auto"}
)

// Define adds the flags to fs.
func (f *Flags) Define(fs *pflag.FlagSet) {
	fs.StringVar(&f.level, "log-level", "info", "log messages of `LEVEL` and above: debug, info, warn, error or disabled")
	fs.StringVar(&f.Format, "log-format", "auto", "log in `FORMAT`: console, json, or auto for console on a terminal and json elsewhere")
}

// Check sets the level, and refuses what is not one of the values.
func (f *Flags) Check() (err error) {
	if f.Level, err = zerolog.ParseLevel(f.level); err != nil || f.level == "" {
		return fmt.Errorf("--log-level %q: use debug, info, warn, error or disabled", f.level)
	}
	if !slices.Contains(formats, f.Format) {
		return fmt.Errorf("--log-format %q: use auto, console or json", f.Format)
	}
	return nil
}

// FlagValues returns the values of the flags, for completion.
func FlagValues() map[string][]string {
	return map[string][]string{"log-level": levels, "log-format": formats}
}
