package journal_test

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"strconv"
	"testing"
	"time"

	"github.com/fdbroker/fdbroker/broker/server/journal"
	"github.com/fdbroker/fdbroker/internal/fdtest"
	"github.com/fdbroker/fdbroker/scmrights"
)

// Words of the header, and the size of a head.
const (
	atStart = 32
	header  = 64
	head    = 8
)

func word(b []byte, at int) int { return int(binary.NativeEndian.Uint64(b[at:])) }

// logEnd returns the end of the log.
func logEnd(b []byte) int {
	at := word(b, atStart)
	for word(b, at) != 0 {
		at += head + (word(b, at)>>8&(1<<24-1)+7)&^7
	}
	return at
}

// contentsOf returns the contents of a file with these bytes.
func contentsOf(t *testing.T, b []byte) journal.Contents {
	t.Helper()
	j, c, err := journal.Open(fileOf(t, b))
	if err != nil {
		t.Fatal(err)
	}
	j.Close()
	return c
}

// tear returns before with any of the bytes that after changes, from low up to high.
func tear(r *rand.Rand, before, after []byte, low, high int) []byte {
	torn := bytes.Clone(before)
	for at := low; at < high; at++ {
		if at+512 <= high && bytes.Equal(before[at:at+512], after[at:at+512]) {
			at += 511
		} else if before[at] != after[at] && r.IntN(2) == 0 {
			torn[at] = after[at]
		}
	}
	return torn
}

// TestTorn: until the one store that puts an update in force, the journal has its contents
// from before, whatever else of the update was written.
func TestTorn(t *testing.T) {
	fdtest.CheckLeaks(t)
	const size = 3 << 18
	r := rand.New(rand.NewPCG(3, 4))
	j, want, err := journal.Open(fileOf(t, bytesOf(t, begin(t), size)))
	if err != nil {
		t.Fatal(err)
	}
	defer j.Close()
	compacted := 0
	for i := range 100 {
		before := bytesOf(t, j, size)
		g := bigGrant(r.Int64N(20) + 1)
		g.Generation = int64(i)
		j.PutGrant(g)
		after, was := bytesOf(t, j, size), contentsOf(t, before)
		if !sameRecords(was, want) {
			t.Fatalf("update %d: it was not what it must be", i)
		}
		want.Grants[g.ID] = g
		end, start := logEnd(before), word(before, atStart)
		if word(after, atStart) == start {
			for range 2 { // all behind the head of the record
				next, got, err := journal.Open(fileOf(t, tear(r, before, after, end+head, size)))
				if err != nil || !sameRecords(got, was) {
					t.Fatalf("update %d: torn, it says something else, %v", i, err)
				}
				next.PutListener(someListener(1)) // over the remains, of which it leaves some
				got.Listeners[1] = someListener(1)
				if _, now := reopen(t, next); !sameRecords(now, got) {
					t.Fatalf("update %d: torn, it cannot be gone on with", i)
				}
				next.Close()
			}
			continue
		}
		compacted++
		// The new log was being written, and the old one is whole.
		torn := tear(r, before, after, header, start)
		torn = tear(r, torn, tear(r, before, after, end, size), end+head, size)
		if got := contentsOf(t, torn); !sameRecords(got, was) {
			t.Fatalf("update %d: half compacted, it says something else", i)
		}
		// The new log is in force, and the old one was being removed.
		torn = bytes.Clone(after)
		copy(torn[start:end], tear(r, before, after, start, end)[start:end])
		if got := contentsOf(t, torn); !sameRecords(got, want) {
			t.Fatalf("update %d: compacted, it says something else", i)
		}
	}
	if compacted < 2 {
		t.Errorf("it was compacted %d times", compacted)
	}
}

// writerHelper writes to the journal that is its descriptor 3, at random from the seed
// args[0], until it is killed. The journal counts its steps.
func writerHelper(args []string) int {
	seed, _ := strconv.ParseUint(args[0], 10, 64)
	j, want, err := journal.Open(scmrights.NewFD(3))
	if err != nil {
		fmt.Println(err)
		return 1
	}
	j.SetEnding(journal.Killed, 0)
	fmt.Println("writes")
	for r, n := rand.New(rand.NewPCG(seed, 0)), 1; ; n++ {
		step(r, j, &want)
		j.SetEnding(journal.Killed, n)
	}
}

// TestKilled: whenever a broker is killed, the next one finds its last update, or the one before, and goes on.
func TestKilled(t *testing.T) {
	fdtest.CheckLeaks(t)
	j, model, want := begin(t), begin(t), empty()
	total := 0
	for seed := range uint64(20) {
		fd, err := j.File().Dup()
		if err != nil {
			t.Fatal(err)
		}
		file, err := fd.File("journal")
		if err != nil {
			t.Fatal(err)
		}
		cmd := fdtest.Helper(t, "writer", strconv.FormatUint(seed, 10))
		cmd.ExtraFiles = append(cmd.ExtraFiles, file)
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		_ = file.Close()
		if line, _ := bufio.NewReader(out).ReadString('\n'); line != "writes\n" {
			t.Fatalf("got %q", line)
		}
		time.Sleep(time.Duration(rand.IntN(10000)) * time.Microsecond) // it is killed at any instant
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		next, got := reopen(t, j)
		r := rand.New(rand.NewPCG(seed, 0))
		for range got.Process {
			step(r, model, &want)
		}
		if total += got.Process; !sameRecords(got, want) {
			if step(r, model, &want); !sameRecords(got, want) {
				t.Fatalf("round %d: after %d steps: got\n%+v\nwant\n%+v", seed, got.Process, got, want)
			}
		}
		next.Close()
	}
	t.Logf("%d steps", total)
}
