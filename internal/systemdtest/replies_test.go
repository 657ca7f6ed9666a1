package systemdtest

import (
	"bufio"
	"encoding/json"
	"net"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/fdbroker/fdbroker/internal/fdtest"
	"github.com/fdbroker/fdbroker/protocol"
)

// startBroker runs an fdbroker with its control socket in dir.
func startBroker(t *testing.T, dir string, args ...string) (control string) {
	t.Helper()
	bin := t.TempDir()
	fdtest.Build(t, bin, "github.com/fdbroker/fdbroker/cmd/fdbroker")
	control = dir + "/c"
	cmd := exec.Command(bin+"/fdbroker", append([]string{"--socket", control}, args...)...)
	var log strings.Builder
	cmd.Stderr = &log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		fdtest.Stop(cmd.Process, func() { _ = cmd.Wait() })
		if t.Failed() {
			t.Logf("the broker said:\n%s", log.String())
		}
	})
	fdtest.Eventually(t, "the broker answers", func() bool {
		c, err := net.Dial("unix", control)
		if err == nil {
			_ = c.Close()
		}
		return err == nil
	})
	return control
}

// raw is a client that knows nothing of package protocol. Descriptors are closed by
// the kernel, since it reads without room for them.
type raw struct {
	t          *testing.T
	conn       net.Conn
	in         *bufio.Reader
	interfaces map[string]Interface
}

func newRaw(t *testing.T, control string) *raw {
	t.Helper()
	conn, err := net.Dial("unix", control)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	if err := conn.SetDeadline(time.Now().Add(30 * time.Second)); err != nil {
		t.Fatal(err)
	}
	return &raw{t, conn, bufio.NewReader(conn), map[string]Interface{
		protocol.InterfaceName:        parse(t, protocol.Interface, protocol.InterfaceName),
		protocol.ServiceInterfaceName: parse(t, protocol.ServiceInterface, protocol.ServiceInterfaceName),
	}}
}

func (r *raw) send(message string) {
	r.t.Helper()
	if _, err := r.conn.Write([]byte(message + "\x00")); err != nil {
		r.t.Fatal(err)
	}
}

// reply reads a reply to method, checks it, and returns its error and parameters.
func (r *raw) reply(method string) (name, parameters string) {
	r.t.Helper()
	text, err := r.in.ReadString(0)
	if err != nil {
		r.t.Fatalf("reply to %s: %v", method, err)
	}
	var m struct {
		Error      string
		Parameters json.RawMessage
	}
	if err := json.Unmarshal([]byte(text[:len(text)-1]), &m); err != nil {
		r.t.Fatal(err)
	}
	in, member := r.find(method)
	want := in.Methods[member].Out
	if m.Error != "" {
		var ok bool
		in, member = r.find(m.Error)
		if want, ok = in.Errors[member]; !ok {
			r.t.Errorf("%s: no interface has the error %s", method, m.Error)
		}
	}
	if err := in.Conform(want, m.Parameters); err != nil {
		r.t.Errorf("%s answers %s: %v", method, text, err)
	}
	return m.Error, string(m.Parameters)
}

func (r *raw) find(name string) (Interface, string) {
	dot := strings.LastIndexByte(name, '.')
	return r.interfaces[name[:max(dot, 0)]], name[dot+1:]
}

// call calls method and returns the error's name.
func (r *raw) call(method, parameters string) string {
	r.t.Helper()
	r.send(`{"method":"` + method + `","parameters":` + parameters + `}`)
	name, _ := r.reply(method)
	return name
}

// TestReplies: what the broker answers is what the interface says.
func TestReplies(t *testing.T) {
	config := t.TempDir() + "/specs"
	if err := os.WriteFile(config, []byte("other=127.0.0.1:0\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	control := startBroker(t, fdtest.SocketDir(t), "--bind", "web=127.0.0.1:0", "--bind", "one=127.0.0.1:0,max=1", "--max-names", "6", "--config", config)
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	watcher, r := newRaw(t, control), newRaw(t, control)
	watcher.send(`{"method":"io.fdbroker.Watch","more":true}`)
	watcher.reply("io.fdbroker.Watch")
	const long = "io.fdbroker.Get"
	holder := newRaw(t, control)
	holder.send(`{"method":"io.fdbroker.Get","parameters":{"names":["web","one"]},"more":true}`)
	holder.reply(long)

	const deploy = "io.fdbroker.Deploy"
	deployer := newRaw(t, control)
	deployer.send(`{"method":"io.fdbroker.Deploy","parameters":{"names":["web"]},"more":true}`)
	deployer.reply(deploy)

	for _, c := range []struct{ method, parameters, err string }{
		{"org.varlink.service.GetInfo", `{}`, ""},
		{"org.varlink.service.GetInfo", `null`, ""},
		{"org.varlink.service.GetInterfaceDescription", `{"interface":"io.fdbroker"}`, ""},
		{"org.varlink.service.GetInterfaceDescription", `{"interface":"a.b"}`, "org.varlink.service.InterfaceNotFound"},
		{"io.fdbroker.List", `{}`, ""},
		{"io.fdbroker.Get", `{"names":["other"],"wait":null,"blocking":null}`, ""},
		{"io.fdbroker.Get", `{"names":["none"]}`, "io.fdbroker.UnknownName"},
		{"io.fdbroker.Get", `{"names":[]}`, "org.varlink.service.InvalidParameter"},
		{"io.fdbroker.Get", `{"names":7}`, "org.varlink.service.InvalidParameter"},
		{"io.fdbroker.Get", `{"names":["one"]}`, "io.fdbroker.Full"},
		{"io.fdbroker.Get", `{"names":["web"],"blocking":true}`, "io.fdbroker.Conflict"},
		{"io.fdbroker.Bind", `{"listeners":["new=127.0.0.1:0"]}`, ""},
		{"io.fdbroker.Bind", `{"listeners":["new=127.0.0.2:0"]}`, "io.fdbroker.NameInUse"},
		{"io.fdbroker.Bind", `{"listeners":["bad=:99999","in=` + taken.Addr().String() + `"]}`, "io.fdbroker.BindFailed"},
		{"io.fdbroker.Bind", `{"listeners":["in=` + taken.Addr().String() + `"]}`, "io.fdbroker.BindFailed"},
		{"io.fdbroker.Bind", `{"listeners":["a=127.0.0.1:0","b=127.0.0.1:0","c=127.0.0.1:0"]}`, "io.fdbroker.LimitReached"},
		{"io.fdbroker.List", `{}`, ""},
		{"io.fdbroker.Unbind", `{"names":["new"]}`, ""},
		{"io.fdbroker.Unbind", `{"names":["new"]}`, "io.fdbroker.UnknownName"},
		{"io.fdbroker.Nope", `{}`, "org.varlink.service.MethodNotFound"},
		{"io.fdbroker.Watch", `{}`, "org.varlink.service.ExpectedMore"},
	} {
		if got := r.call(c.method, c.parameters); got != c.err {
			t.Errorf("%s %s: error %q, want %q", c.method, c.parameters, got, c.err)
		}
	}
	if _, ok := r.interfaces[protocol.InterfaceName].Methods["Reload"]; ok {
		if got := r.call("io.fdbroker.Reload", `{}`); got != "" {
			t.Errorf("Reload: error %q", got)
		}
	}

	// All that happens, until the last of it.
	if got := r.call("io.fdbroker.Unbind", `{"names":["web","one"]}`); got != "" {
		t.Errorf("Unbind: error %q", got)
	}
	if _, event := holder.reply(long); !strings.Contains(event, "unbound") {
		t.Errorf("the holder is told %s", event)
	}
	r.send(`}`)
	if name, _ := r.reply(""); name != "io.fdbroker.Malformed" {
		t.Errorf("no call: error %q, want Malformed", name)
	}
	_ = holder.conn.Close()
	for what := ""; what != "ended"; {
		_, parameters := watcher.reply("io.fdbroker.Watch")
		var m struct{ Event struct{ What string } }
		if err := json.Unmarshal([]byte(parameters), &m); err != nil {
			t.Fatal(err)
		}
		what = m.Event.What
	}
}
