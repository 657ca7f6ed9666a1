package runtest

import (
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/fdbroker/fdbroker/internal/fdtest"
)

// startAs starts one of the programs as another user.
func (r *rig) startAs(uid uint32, name string, args ...string) *process {
	r.t.Helper()
	cmd := exec.Command(filepath.Join(bin, name), args...)
	cmd.Dir = "/"
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Credential: &syscall.Credential{Uid: uid, Gid: uid}}
	return r.startCmd(cmd)
}

// TestDeployOfAnotherUser: a deploy replaces another whose workers the broker, being of
// another user, may not signal.
func TestDeployOfAnotherUser(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root to start programs of other users")
	}
	const brokers, workers = 65532, 65533
	r := &rig{t: t, dir: fdtest.SocketDir(t)}
	if err := os.Chmod(bin, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(r.dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Chown(r.dir, brokers, brokers); err != nil {
		t.Fatal(err)
	}
	b := r.startAs(brokers, "fdbroker", "--socket-mode", "0666", "--bind", "web=127.0.0.1:0,allow=any")
	b.says(`"ready"`)
	r.address = r.list().Listeners[0].Address
	v1 := r.startAs(workers, "fdclient", "run", "web", "-n", "2", "--ready", "notify", "--", "worker", "v1", "fd")
	v1.says(`"message":"ready"`)
	l := startLoad(t, r.address)
	l.waitFor("v1", 10)
	v2 := r.startAs(workers, "fdclient", "run", "web", "-n", "2", "--replace", "--ready", "notify", "--", "worker", "v2", "fd")
	v1.ends(0)
	l.waitFor("v2", 10)
	l.done(0)
	v2.signal(syscall.SIGTERM)
	v2.ends(0)
}
