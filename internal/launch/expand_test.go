package launch_test

import (
	"slices"
	"strings"
	"testing"

	"github.com/fdbroker/fdbroker/internal/launch"
)

// fetched are sockets as a broker may have granted them. Prepare does not need
// their descriptors.
var fetched = []launch.Socket{
	{Name: "web", Network: "tcp", Address: "[::]:9000"},
	{Name: "app", Network: "unix", Address: "/run/app.sock"},
	{Name: "v4", Network: "udp4", Address: "0.0.0.0:53"},
	{Name: "abs", Network: "unixgram", Address: "@abs{fd}"},
	{Name: "app.2", Network: "unix", Address: "/run/2"},
	{Name: "web", Network: "tcp", Address: "[::]:9000"},
}

func TestExpand(t *testing.T) {
	tests := []struct{ name, text, want string }{
		{"none", "plain", "plain"},
		{"empty", "", ""},
		{"first", "{fd} {addr} {port}", "3 [::]:9000 9000"},
		{"by name", "{fd:app}={path:app}={addr:app}", "4=/run/app.sock=/run/app.sock"},
		{"wildcard", "{addr:v4}:{port:v4}", "0.0.0.0:53:53"},
		{"name that begins like another", "{fd:app.2}", "7"},
		{"twice granted", "{fd:web}", "3"},
		{"not scanned again", "{addr:abs}{path:abs}", "@abs{fd}@abs{fd}"},
		{"adjoining", "{fd}{fd:app}{fd}", "343"},
		{"in braces", "{{fd}}", "{3}"},
		{"in JSON", `{"fd":{fd},"a":{}}`, `{"fd":3,"a":{}}`},
		{"nginx", "{fd:web};{fd:app};", "3;4;"},
		{"unknown word", "{x} {FD} {fds} {fd } { fd}", "{x} {FD} {fds} {fd } { fd}"},
		{"unknown name", "{fd:adm} {fd:} {fd:we} {fd:webb}", "{fd:adm} {fd:} {fd:we} {fd:webb}"},
		{"unclosed", "{fd {fd: {fd:web {", "{fd {fd: {fd:web {"},
		{"a shell's", "${fd} ${port:-80} $${fd:web} ${x}", "${fd} ${port:-80} $${fd:web} ${x}"},
		{"not a shell's", "$ {fd}", "$ 3"},
		{"broken off by another", "{fd:{fd}", "{fd:3"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			p, err := launch.Prepare(launch.Config{
				Sockets: fetched,
				Env:     []string{"T=" + tt.text},
				Command: []string{"/bin/sh", tt.text},
			})
			if err != nil {
				t.Fatal(err)
			}
			if got := p.Argv()[1]; got != tt.want {
				t.Errorf("word: got %q, want %q", got, tt.want)
			}
			if !slices.Contains(p.Env(), "T="+tt.want) {
				t.Errorf("environment: got %q, want %q", p.Env(), "T="+tt.want)
			}
		})
	}
}

func TestExpandErrors(t *testing.T) {
	tests := []struct {
		name string
		c    launch.Config
		want string
	}{
		{"port of a unix socket", launch.Config{Command: []string{"/bin/sh", "-p", ":{port:app}"}},
			`in the command's word ":{port:app}": {port:app}: app is unix /run/app.sock, which has no port; {addr:app} is its address`},
		{"path of the first, a tcp socket", launch.Config{Command: []string{"/bin/sh"}, Env: []string{"P={path}"}},
			`in --env "P={path}": {path}: web is tcp [::]:9000, which has no path; {addr:web} is its address`},
		{"setting without =", launch.Config{Command: []string{"/bin/sh"}, Env: []string{"P"}},
			`--env "P" is not of the form NAME=VALUE`},
		{"setting without name", launch.Config{Command: []string{"/bin/sh"}, Env: []string{"=x"}},
			`--env "=x" is not of the form NAME=VALUE`},
		{"no command", launch.Config{}, "no command to run"},
		{"empty command", launch.Config{Command: []string{""}}, "no command to run"},
		{"several at 0", launch.Config{Stdin: true, Command: []string{"/bin/sh"}},
			"standard input can be one socket only, and 6 were asked for"},
		{"no socket", launch.Config{Command: []string{"/bin/sh"}, Sockets: []launch.Socket{}}, "no socket to pass on"},
		{"unspeakable address", launch.Config{Command: []string{"/bin/sh"},
			Sockets: []launch.Socket{{Name: "web", Network: "unix", Address: "@a\x00b"}}},
			`the address of web, "@a\x00b", contains a zero byte, which neither an argument nor a variable can hold`},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if tt.c.Sockets == nil {
				tt.c.Sockets = fetched
			}
			_, err := launch.Prepare(tt.c)
			if err == nil || err.Error() != tt.want {
				t.Errorf("got  %v\nwant %s", err, tt.want)
			}
			if got := launch.ExitCode(err); got != 125 {
				t.Errorf("exit status: got %d, want 125", got)
			}
		})
	}
}

func TestExpandStdin(t *testing.T) {
	p, err := launch.Prepare(launch.Config{Sockets: fetched[:1], Stdin: true, Command: []string{"/bin/sh", "{fd}{fd:web}"}})
	if err != nil {
		t.Fatal(err)
	}
	if got := p.Argv()[1]; got != "00" {
		t.Errorf("got %q, want the socket at 0", got)
	}
}

// FuzzExpand compares with the standard library's replacer, which is slower to
// make, and knows no errors.
func FuzzExpand(f *testing.F) {
	sockets := []launch.Socket{
		{Name: "web", Network: "tcp", Address: "[::]:9000"},
		{Name: "adm", Network: "tcp", Address: "{fd}$:1"},
	}
	var pairs []string
	for placeholder, value := range map[string]string{
		"{fd}": "3", "{addr}": "[::]:9000", "{port}": "9000",
		"{fd:web}": "3", "{addr:web}": "[::]:9000", "{port:web}": "9000",
		"{fd:adm}": "4", "{addr:adm}": "{fd}$:1", "{port:adm}": "1",
	} {
		pairs = append(pairs, "$"+placeholder, "$"+placeholder, placeholder, value)
	}
	want := strings.NewReplacer(pairs...)
	f.Add("{fd:web};{fd:adm};")
	f.Add("{addr:adm}{fd}${fd}{{port}}{fd:}{fd:x}")
	f.Add("{path:web}")
	f.Fuzz(func(t *testing.T, text string) {
		p, err := launch.Prepare(launch.Config{Sockets: sockets, Command: []string{"/bin/sh", text}})
		if err != nil {
			if !strings.Contains(text, "{path}") && !strings.Contains(text, "{path:") {
				t.Fatalf("%q: %v", text, err)
			}
			return
		}
		if got, want := p.Argv()[1], want.Replace(text); got != want {
			t.Errorf("%q: got %q, want %q", text, got, want)
		}
	})
}

func TestCheckNames(t *testing.T) {
	names := []string{"web", "adm"}
	for text, want := range map[string]string{
		"{fd:wbe}":                 `{fd:wbe}: "wbe" was not asked for (asked: web, adm)`,
		"x{fd:web}{port:ad}y":      `{port:ad}: "ad" was not asked for (asked: web, adm)`,
		"{{addr:é.1-2_3}}":         `{addr:é.1-2_3}: "é.1-2_3" was not asked for (asked: web, adm)`,
		"{path:web2}":              `{path:web2}: "web2" was not asked for (asked: web, adm)`,
		"{fd:web} {addr:adm} {fd}": "", "${fd:wbe}": "", "{fd:}": "", "{fd:wbe": "", "{x:wbe}": "", `{"fd":"wbe"}`: "", "{fd: wbe}": "", "{fd:a,b}": "",
	} {
		got := ""
		if err := launch.CheckNames(names, "plain", text); err != nil {
			got = err.Error()
		}
		if got != want {
			t.Errorf("%s: got %q, want %q", text, got, want)
		}
	}
}
