//go:build linux

package scmrights_test

import (
	"fmt"
	"testing"

	"github.com/fdbroker/fdbroker/scmrights"
	"golang.org/x/sys/unix"
)

// BenchmarkPass passes descriptors and closes them on arrival, in one thread, so it measures
// the work alone. "floor" is the same in bare system calls.
func BenchmarkPass(b *testing.B) {
	for _, n := range []int{1, 8, 64} {
		b.Run(fmt.Sprintf("fds=%d/floor", n), func(b *testing.B) { passBare(b, n) })
		b.Run(fmt.Sprintf("fds=%d/conn", n), func(b *testing.B) { pass(b, n) })
	}
}

func passBare(b *testing.B, n int) {
	x, y := rawPair(b)
	defer unix.Close(x)
	defer unix.Close(y)
	nums := make([]int, n)
	for i, f := range pipes(b, n) {
		nums[i] = number(b, f)
	}
	message, buf := make([]byte, 60), make([]byte, 512)
	rights, oob := unix.UnixRights(nums...), make([]byte, unix.CmsgSpace(4*n))
	b.ReportAllocs()
	for b.Loop() {
		if err := unix.Sendmsg(x, message, rights, nil, unix.MSG_NOSIGNAL); err != nil {
			b.Fatal(err)
		}
		_, oobn, _, _, err := unix.Recvmsg(y, buf, oob, unix.MSG_CMSG_CLOEXEC)
		if err != nil {
			b.Fatal(err)
		}
		// There is one control message: a header of 16 bytes, then the numbers.
		for p := unix.CmsgLen(0); p < oobn; p += 4 {
			_ = unix.Close(int(uint32(oob[p]) | uint32(oob[p+1])<<8 | uint32(oob[p+2])<<16 | uint32(oob[p+3])<<24))
		}
	}
}

func pass(b *testing.B, n int) {
	x, y := connPair(b)
	fds := pipes(b, n)
	message, buf := make([]byte, 60), make([]byte, 512)
	b.ReportAllocs()
	for b.Loop() {
		if err := x.Send(message, fds...); err != nil {
			b.Fatal(err)
		}
		_, got, err := y.Recv(buf, n)
		if err != nil {
			b.Fatal(err)
		}
		scmrights.CloseAll(got)
	}
}
