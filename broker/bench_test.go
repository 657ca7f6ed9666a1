//go:build linux

package broker_test

import (
	"context"
	"net"
	"path/filepath"
	"testing"

	"github.com/fdbroker/fdbroker/broker"
	"github.com/fdbroker/fdbroker/internal/fdtest"
	"golang.org/x/sys/unix"
)

// BenchmarkDial is what a worker pays once: connect, Get, Close.
func BenchmarkDial(b *testing.B) {
	d := startBroker(b, "web=127.0.0.1:0").dialer()
	b.ReportAllocs()
	for b.Loop() {
		ln, err := d.Dial(context.Background(), "web")
		if err != nil {
			b.Fatal(err)
		}
		if err := ln.Close(); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkDialFloor is the least that BenchmarkDial could take: connect to a minimal server,
// send a call, receive a descriptor, and close both.
func BenchmarkDialFloor(b *testing.B) {
	path := serveFloor(b)
	b.ReportAllocs()
	for b.Loop() {
		s := connectRaw(b, path)
		getRaw(b, s)
		_ = unix.Close(s)
	}
}

// BenchmarkGet is Get on an open connection.
func BenchmarkGet(b *testing.B) {
	c := startBroker(b, "web=127.0.0.1:0").client()
	b.ReportAllocs()
	for b.Loop() {
		sockets, err := c.Get(context.Background(), broker.GetOptions{}, "web")
		if err != nil {
			b.Fatal(err)
		}
		if err := sockets[0].FD.Close(); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkGetFloor is the least that BenchmarkGet could take.
func BenchmarkGetFloor(b *testing.B) {
	s := connectRaw(b, serveFloor(b))
	defer unix.Close(s)
	b.ReportAllocs()
	for b.Loop() {
		getRaw(b, s)
	}
}

var (
	floorCall  = make([]byte, 60)
	floorReply = make([]byte, 140)
)

// serveFloor answers each call with a descriptor, through the net package, and does nothing
// else. It returns its path.
func serveFloor(b *testing.B) string {
	b.Helper()
	path := filepath.Join(fdtest.SocketDir(b), "c")
	ln, err := net.ListenUnix("unix", &net.UnixAddr{Net: "unix", Name: path})
	if err != nil {
		b.Fatal(err)
	}
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _, _ = ln.Close(), unix.Close(fd) })
	rights := unix.UnixRights(fd)
	go func() {
		for {
			c, err := ln.AcceptUnix()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				buf := make([]byte, 512)
				for {
					if _, err := c.Read(buf); err != nil {
						return
					}
					if _, _, err := c.WriteMsgUnix(floorReply, rights, nil); err != nil {
						return
					}
				}
			}()
		}
	}()
	return path
}

func connectRaw(b *testing.B, path string) int {
	b.Helper()
	s, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		b.Fatal(err)
	}
	if err := unix.Connect(s, &unix.SockaddrUnix{Name: path}); err != nil {
		b.Fatal(err)
	}
	return s
}

func getRaw(b *testing.B, s int) {
	b.Helper()
	if _, err := unix.Write(s, floorCall); err != nil {
		b.Fatal(err)
	}
	buf, oob := make([]byte, 512), make([]byte, unix.CmsgSpace(4))
	_, oobn, _, _, err := unix.Recvmsg(s, buf, oob, unix.MSG_CMSG_CLOEXEC)
	if err != nil {
		b.Fatal(err)
	}
	messages, err := unix.ParseSocketControlMessage(oob[:oobn])
	if err != nil || len(messages) != 1 {
		b.Fatal(len(messages), err)
	}
	fds, err := unix.ParseUnixRights(&messages[0])
	if err != nil {
		b.Fatal(err)
	}
	for _, fd := range fds {
		_ = unix.Close(fd)
	}
}
