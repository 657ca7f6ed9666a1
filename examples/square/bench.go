package main

import (
	"context"
	"errors"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"syscall"
	"time"
)

const module = "github.com/fdbroker/fdbroker"

// setupLimit bounds one row, which takes well under a second.
const setupLimit = 60 * time.Second

// A bench has what all rows need: the programs, built from this module.
type bench struct {
	dir      string // this directory, for the scripts
	bin      string // the built programs and a link to the Python interpreter
	noPython error  // why there is no Python, if so
}

// newBench builds the programs; the caller must close the bench.
func newBench(ctx context.Context) (*bench, error) {
	dir, err := run(ctx, "", nil, "go", "list", "-f", "{{.Dir}}", module+"/examples/square")
	if err != nil {
		return nil, err
	}
	bin, err := os.MkdirTemp("", "square")
	if err != nil {
		return nil, err
	}
	b := &bench{dir: dir, bin: bin}
	_, err = run(ctx, dir, nil, "go", "build", "-o", bin, module+"/cmd/...", module+"/examples/square/worker")
	if err == nil {
		b.noPython = b.linkPython(ctx)
		err = ctx.Err() // an interrupt is no missing Python
	}
	if err != nil {
		b.close()
		return nil, err
	}
	return b, nil
}

func (b *bench) close() { _ = os.RemoveAll(b.bin) }

// linkPython puts the Python interpreter itself among the programs. The python3 in $PATH may be
// a version manager's script, whose start would be measured with the worker's.
func (b *bench) linkPython(ctx context.Context) error {
	python := os.Getenv("PYTHON")
	if python == "" {
		python = "python3"
	}
	exe, err := run(ctx, "", nil, python, "-c", "import sys; print(sys.executable)")
	if err != nil {
		return err
	}
	return os.Symlink(exe, filepath.Join(b.bin, "python3"))
}

// available says why a row cannot be run here.
func (b *bench) available(s setup) error {
	if s.language == "Python" {
		return b.noPython
	}
	return nil
}

// measure runs one row: it starts the processes, asks the questions, and ends all again.
func (b *bench) measure(ctx context.Context, s setup, pause time.Duration) (results, error) {
	ctx, cancel := context.WithTimeout(ctx, setupLimit)
	defer cancel()
	tmp, err := os.MkdirTemp("", "square")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(tmp)
	env := []string{"PATH=" + b.bin + ":" + os.Getenv("PATH"), "FDBROKER_SOCKET=" + filepath.Join(tmp, "control")}

	address, closeAddress, err := b.address(ctx, s, env)
	if err != nil {
		return nil, err
	}
	defer closeAddress()
	var workers []*process
	for range s.times {
		p, err := start(ctx, b.dir, append(env, "ADDR="+address), s.command)
		if err != nil {
			return nil, err
		}
		defer p.stop()
		workers = append(workers, p)
	}
	for _, p := range workers {
		if err := p.waitFor(ctx, "accepting on "+address); err != nil {
			return nil, err
		}
	}
	q := questions{count: 20, round: 20, pause: pause}
	if s.long {
		hangup := func() { _ = syscall.Kill(workers[0].pid, syscall.SIGHUP) }
		q = questions{count: 2000, round: 400, pause: time.Millisecond, halfway: hangup}
	}
	var rs results
	err = q.ask(ctx, address, func(r result) { rs = append(rs, r) })
	if err != nil || !s.broker {
		return rs, err
	}
	if s.long {
		if err := workers[0].waitFor(ctx, "workers replaced"); err != nil {
			return nil, err
		}
	}
	_, err = run(ctx, b.dir, env, filepath.Join(b.bin, "fdclient"), "ping") // the broker must have survived, too
	return rs, err
}

// address returns the address of the row's server. If the row has a broker, it starts one that
// listens there. The caller must call done at the end.
func (b *bench) address(ctx context.Context, s setup, env []string) (address string, done func(), err error) {
	if !s.broker {
		address, err = freeAddress()
		return address, func() {}, err
	}
	p, err := start(ctx, b.dir, env, "fdbroker --bind web=127.0.0.1:0"+s.options+" --log-format json")
	if err != nil {
		return "", nil, err
	}
	if err = p.waitFor(ctx, `"message":"ready"`); err == nil {
		address, err = run(ctx, b.dir, env, filepath.Join(b.bin, "fdclient"), "addr", "web")
	}
	if err != nil {
		p.stop()
	}
	return address, p.stop, err
}

// freeAddress finds a port for a server that binds its own. It is below the ports that the
// kernel chooses, so that no other socket gets it while the server is down. On loopback the
// client's own connection could, and would reach itself.
func freeAddress() (string, error) {
	for range 100 {
		address := net.JoinHostPort("127.0.0.1", strconv.Itoa(20000+rand.IntN(10000)))
		if ln, err := net.Listen("tcp", address); err == nil {
			return address, ln.Close()
		}
	}
	return "", errors.New("no free port between 20000 and 29999")
}
