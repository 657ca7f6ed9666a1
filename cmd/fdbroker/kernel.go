package main

import (
	"fmt"
	"os"
	"slices"
	"strings"

	"github.com/fdbroker/fdbroker/internal/kernel"
)

// reportKernel logs what the broker has to do without on this kernel, and warns if that keeps it from following workers.
func (d *daemon) reportKernel() {
	if _, err := os.Stat(ownProgram); err != nil {
		d.log.Warn().Str("why", kernel.Explain(err)).Msg("cannot inspect other processes: commands are not shown, and the holders of an address are not named")
	}
	missing := kernel.Missing()
	if len(missing) == 0 {
		return
	}
	d.log.Info().Msg(fmt.Sprintf("kernel %s: without %s (docs/reference.md)", kernel.Release(), strings.Join(missing, ", ")))
	err := kernel.Refuses("pidfd_open")
	if err == nil {
		return
	}
	text := "grants of processes are lost when this broker ends: the next one cannot follow their processes"
	if slices.Contains(missing, "SO_PEERPIDFD") {
		text = "processes of 'fdclient get' cannot be followed: they are no holders once they run"
	}
	d.log.Warn().Err(err).Str("why", kernel.Explain(err)).Msg(text)
}
