package main

import (
	"bytes"
	"context"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/fdbroker/fdbroker/broker"
	"github.com/fdbroker/fdbroker/internal/cli"
	"github.com/fdbroker/fdbroker/internal/fdtest"
)

func TestMain(m *testing.M) {
	fdtest.Main(m, map[string]func([]string) int{
		"fdbroker": func([]string) int {
			_ = os.Setenv(fdtest.HelperEnv, "fdbroker") // for the runs of this program that it starts
			main()
			return 0
		},
	})
}

// waitReady waits until a broker answers at path.
func waitReady(t *testing.T, path string) {
	t.Helper()
	c := broker.Client{Socket: path}
	defer c.Close()
	fdtest.Eventually(t, "the broker answers", func() bool {
		_, err := c.Info(context.Background())
		return err == nil
	})
}

// terminate stops a broker, which has to end without complaint.
func terminate(t *testing.T, cmd *exec.Cmd) {
	t.Helper()
	if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err != nil {
		t.Errorf("after SIGTERM: %v", err)
	}
}

// TestRun runs the command in this process; that of both commands together is
// tested by the scripts of fdclient.
func TestRun(t *testing.T) {
	t.Setenv("FDBROKER_SOCKET", filepath.Join(fdtest.SocketDir(t), "c"))
	for _, c := range []struct {
		name   string
		args   string
		status int
		stdout string // all of it, or its beginning and "..."
		stderr string
	}{
		{"version", "--version", cli.OK, "fdbroker " + cli.Version + "\n", ""},
		{"help", "--help", cli.OK, "fdbroker owns listening sockets...", ""},
		{"check", "--check --bind web=9000 --bind a=unix:///a,backlog=2", cli.OK, "web=:9000\na=unix:///a,backlog=2\n", ""},
		{"check warns", "--check --bind web=:9000,backlog=2000000000 --bind a=unix:///no/such/dir/a", cli.OK, "web=:9000,backlog=2000000000\na=unix:///no/such/dir/a\n",
			"fdbroker: warning: web: backlog=2000000000 is more than net.core.somaxconn: the kernel gives ..."},
		{"check of a user", "--check --bind web=:9000,allow=user:no-such-user", cli.Usage, "", "fdbroker: --bind: spec \"web=:9000,allow=user:no-such-user\": option allow: \"user:no-such-user\": there is no user \"no-such-user\"\n"},
		{"flag", "--no-such-flag", cli.Usage, "", "fdbroker: unknown flag: --no-such-flag\nTry 'fdbroker --help'.\n"},
		{"argument", "web=:9000", cli.Usage, "", "fdbroker: unexpected argument..."},
		{"limit", "--max-clients 0", cli.Usage, "", "fdbroker: --max-clients 0: must be at least 1\n..."},
		{"names in a call", "--max-names-per-call 300", cli.Usage, "", "fdbroker: --max-names-per-call 300: one message..."},
		{"timeout", "--call-timeout 0s", cli.Usage, "", "fdbroker: --call-timeout 0s: must be more than 0s\n..."},
		{"level", "--log-level=", cli.Usage, "", "fdbroker: --log-level \"\": use debug..."},
		{"format", "--log-format=x", cli.Usage, "", "fdbroker: --log-format \"x\": use auto..."},
		{"mode", "--socket-mode=0", cli.Usage, "", "fdbroker: --socket-mode \"0\": use an octal..."},
		{"group", "--socket-group=no-such-group", cli.Usage, "", "fdbroker: --socket-group no-such-group: ..."},
		{"spec", "--bind web", cli.Usage, "", "fdbroker: --bind: spec \"web\": ..."},
		{"name twice", "--bind a=:1 --bind a=:2", cli.Usage, "", "fdbroker: --bind: the name \"a\" is given twice\n"},
		{"config", "--config /no/such/file", cli.Usage, "", "fdbroker: --config: open /no/such/file: no such file or directory\n"},
		{"bind", "--log-level=disabled --bind a=unix:///no/such/dir/a", cli.Failed, "", "fdbroker: cannot bind a=unix:///no/such/dir/a: ..."},
		{"socket", "--log-level=disabled --socket /no/such/dir/c", cli.Failed, "", "fdbroker: ..."},
	} {
		t.Run(c.name, func(t *testing.T) {
			fdtest.CheckLeaks(t)
			var stdout, stderr bytes.Buffer
			status := run(context.Background(), strings.Fields(c.args), inputs{}, &stdout, &stderr)
			if status != c.status {
				t.Errorf("exit status %d, want %d", status, c.status)
			}
			check := func(stream, got, want string) {
				t.Helper()
				if begin, ok := strings.CutSuffix(want, "..."); ok && strings.HasPrefix(got, begin) {
					return
				}
				if got != want {
					t.Errorf("%s: got %q, want %q", stream, got, want)
				}
			}
			check("stdout", stdout.String(), c.stdout)
			check("stderr", stderr.String(), c.stderr)
		})
	}
}

// TestExposedSocket: the log warns of a control socket that others can replace.
func TestExposedSocket(t *testing.T) {
	fdtest.CheckLeaks(t)
	dir := fdtest.SocketDir(t)
	ctx, stop := context.WithCancel(context.Background())
	stop() // as soon as it has started
	for mode, warns := range map[os.FileMode]bool{0o755: false, 0o777: true} {
		if err := os.Chmod(dir, mode); err != nil {
			t.Fatal(err)
		}
		var stderr bytes.Buffer
		args := []string{"--store=none", "--log-format=json", "--socket", dir + "/c"}
		if status := run(ctx, args, inputs{}, io.Discard, &stderr); status != cli.OK {
			t.Errorf("exit status %d:\n%s", status, stderr.String())
		}
		if said := stderr.String(); strings.Contains(said, "can be replaced by others") != warns || strings.Contains(said, "everybody may write to "+dir) != warns {
			t.Errorf("mode %v: %s", mode, said)
		}
	}
}

// TestNonRoot: the control socket of a broker of another user.
func TestNonRoot(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("only root can act as another user")
	}
	const uid = 54321
	dir := fdtest.SocketDir(t)
	for _, err := range []error{os.Chmod(dir, 0o755), os.Mkdir(dir+"/run", 0o700), os.Chown(dir+"/run", uid, uid)} {
		if err != nil {
			t.Fatal(err)
		}
	}
	fdtest.Build(t, dir, "github.com/fdbroker/fdbroker/cmd/fdbroker")
	command := func(env ...string) (*exec.Cmd, *bytes.Buffer) {
		cmd := exec.Command(dir+"/fdbroker", "--bind", "web=127.0.0.1:0")
		cmd.Dir, cmd.Env = dir, env
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uid, Gid: uid}}
		var stderr bytes.Buffer
		cmd.Stderr = &stderr
		return cmd, &stderr
	}

	cmd, _ := command("XDG_RUNTIME_DIR=" + dir + "/run")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { fdtest.Stop(cmd.Process, func() { _ = cmd.Wait() }) })
	path := dir + "/run/fdbroker/control"
	waitReady(t, path)
	for name, want := range map[string]os.FileMode{path: os.ModeSocket | 0o600, filepath.Dir(path): os.ModeDir | 0o755} {
		if st, err := os.Stat(name); err != nil || st.Mode() != want {
			t.Errorf("%s: got %v, %v, want %v", name, st.Mode(), err, want)
		}
	}
	terminate(t, cmd)
	if _, err := os.Stat(path); err == nil {
		t.Error("the control socket is still there")
	}

	cmd, stderr := command()
	err := cmd.Run()
	want := "fdbroker: no place for the control socket: neither FDBROKER_SOCKET nor XDG_RUNTIME_DIR is set; name one with --socket\n"
	if cmd.ProcessState.ExitCode() != cli.Usage || !strings.HasPrefix(stderr.String(), want) {
		t.Errorf("without a place: %v, %q", err, stderr)
	}
}
