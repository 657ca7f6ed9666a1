package systemdtest

import (
	"encoding/json"
	"fmt"
	"io"
	"net"
	"os/exec"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/fdbroker/fdbroker/internal/fdtest"
	"github.com/fdbroker/fdbroker/protocol"
)

// varlinkctl is a systemd's varlinkctl, and a broker that it can reach.
type varlinkctl struct {
	box tree
	dir string
}

const inBox = "/mnt/c" // the control socket as the box sees it

func newVarlinkctl(t *testing.T) varlinkctl {
	t.Helper()
	box := systemdTree(t, "sid")
	v := varlinkctl{box, fdtest.SocketDir(t)}
	out, err := v.command("--version").Output()
	version := regexp.MustCompile(`^systemd (\d+)`).FindSubmatch(out)
	if err != nil || version == nil {
		t.Skipf("no varlinkctl: %v %q", err, out)
	}
	if n, _ := strconv.Atoi(string(version[1])); n < 258 {
		t.Skipf("varlinkctl is of systemd %d; --exec came with 258", n)
	}
	startBroker(t, v.dir, "--bind", "web=127.0.0.1:0", "--bind", "adm=127.0.0.1:0")
	return v
}

func (v varlinkctl) command(args ...string) *exec.Cmd {
	return v.box.command(v.dir, append([]string{"varlinkctl"}, args...)...)
}

// run returns what varlinkctl prints, and fails the test where it complains.
func (v varlinkctl) run(t *testing.T, args ...string) string {
	t.Helper()
	cmd := v.command(args...)
	var complaint strings.Builder
	cmd.Stderr = &complaint
	out, err := cmd.Output()
	if err != nil || complaint.Len() > 0 {
		t.Fatalf("varlinkctl %s: %v\n%s%s", strings.Join(args, " "), err, out, complaint.String())
	}
	return string(out)
}

// TestVarlinkctl: varlinkctl is a client like any other.
func TestVarlinkctl(t *testing.T) {
	v := newVarlinkctl(t)
	t.Run("info", func(t *testing.T) {
		out := v.run(t, "info", inBox)
		for _, want := range []string{"Vendor: fdbroker", "Product: fdbroker", "io.fdbroker\n", "org.varlink.service\n"} {
			if !strings.Contains(out, want) {
				t.Errorf("%q is not in\n%s", want, out)
			}
		}
	})
	t.Run("introspect", v.introspect)
	t.Run("list-methods", func(t *testing.T) {
		out := "\n" + v.run(t, "list-methods", inBox)
		for name := range parse(t, protocol.Interface, protocol.InterfaceName).Methods {
			if !strings.Contains(out, "\nio.fdbroker."+name+"\n") {
				t.Errorf("%s is not in\n%s", name, out)
			}
		}
	})
	t.Run("call", v.call)
	t.Run("exec", v.exec)
}

// introspect compares what varlinkctl has made of the text with what we make of it.
func (v varlinkctl) introspect(t *testing.T) {
	for name, text := range map[string]string{protocol.InterfaceName: protocol.Interface, protocol.ServiceInterfaceName: protocol.ServiceInterface} {
		got, want := parse(t, strings.TrimSpace(v.run(t, "introspect", inBox, name))+"\n", name), parse(t, text, name)
		if fmt.Sprintf("%+v", got) != fmt.Sprintf("%+v", want) {
			t.Errorf("%s: varlinkctl has read\n%+v\nand we\n%+v", name, got, want)
		}
	}
	v.run(t, "introspect", inBox) // all at once
}

func (v varlinkctl) call(t *testing.T) {
	i := parse(t, protocol.Interface, protocol.InterfaceName)
	out := v.run(t, "--json=short", "call", inBox, "io.fdbroker.List", "{}")
	if err := i.Conform(i.Methods["List"].Out, []byte(out)); err != nil {
		t.Errorf("List: %v\n%s", err, out)
	}
	v.run(t, "call", inBox, "io.fdbroker.List")
	v.run(t, "call", inBox, "io.fdbroker.Bind", `{"listeners":["new=127.0.0.1:0"]}`)
	v.run(t, "call", inBox, "io.fdbroker.Unbind", `{"names":["new"]}`)
	for _, c := range []struct{ method, parameters, want string }{
		{"io.fdbroker.Get", `{"names":["wbe"]}`, "io.fdbroker.UnknownName"},
		{"io.fdbroker.Bind", `{"listeners":["bad=:99999"]}`, "io.fdbroker.BindFailed"},
	} {
		cmd := v.command("--json=short", "call", inBox, c.method, c.parameters)
		var complaint strings.Builder
		cmd.Stderr = &complaint
		out, err := cmd.Output()
		if err == nil || !strings.Contains(complaint.String(), c.want) {
			t.Errorf("%s %s: %v, %q, want %s", c.method, c.parameters, err, complaint.String(), c.want)
		}
		checkError(t, i, c.want, out)
	}
}

func checkError(t *testing.T, i Interface, name string, parameters []byte) {
	t.Helper()
	if err := i.Conform(i.Errors[strings.TrimPrefix(name, i.Name+".")], parameters); err != nil {
		t.Errorf("%s: %v\n%s", name, err, parameters)
	}
}

// exec: what varlinkctl becomes has the sockets and is, for the broker, who holds them.
func (v varlinkctl) exec(t *testing.T) {
	const server = `
import json, os, socket, sys
n = int(os.environ["LISTEN_FDS"])
assert n == 2 and int(os.environ["LISTEN_PID"]) == os.getpid(), os.environ
reply = json.load(sys.stdin)
for s in reply["sockets"]:
    ln = socket.socket(fileno=3 + s["fileDescriptor"])
    assert "%s:%d" % ln.getsockname() == s["address"], s
    ln.setblocking(True)
    print(s["address"], flush=True)
    with ln.accept()[0] as c:
        c.sendall(s["name"].encode())
`
	cmd := v.command("--exec", "call", inBox, "io.fdbroker.Get", `{"names":["adm","web"]}`, "--", "python3", "-c", server)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	var complaint strings.Builder
	cmd.Stderr = &complaint
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"adm", "web"} {
		if got, err := askThere(out); err != nil || got != name {
			_ = cmd.Process.Kill()
			_ = cmd.Wait()
			t.Fatalf("the server of %s answers %q, %v; it said:\n%s", name, got, err, complaint.String())
		}
		var list protocol.ListReply
		if err := json.Unmarshal([]byte(v.run(t, "--json=short", "call", inBox, "io.fdbroker.List")), &list); err != nil {
			t.Fatal(err)
		}
		if name == "adm" && (len(list.Holders) != 1 || list.Holders[0].PID != cmd.Process.Pid) {
			t.Errorf("held by %+v, want pid %d", list.Holders, cmd.Process.Pid)
		}
	}
	if err := cmd.Wait(); err != nil {
		t.Errorf("the server: %v\n%s", err, complaint.String())
	}
}

// askThere reads an address from r, connects, and returns what it is told there.
func askThere(r io.Reader) (string, error) {
	var address string
	if _, err := fmt.Fscanln(r, &address); err != nil {
		return "", err
	}
	c, err := net.DialTimeout("tcp", address, 10*time.Second)
	if err != nil {
		return "", err
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(10 * time.Second))
	answer, err := io.ReadAll(c)
	return string(answer), err
}
