package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"syscall"
	"time"
)

const (
	poison       = 5                // the number of the question, in each round, that is sent as the word "five"
	questionTime = 10 * time.Second // after which a question is given up
)

// questions are what the client asks: one after the other, each over a connection of its own.
type questions struct {
	count   int
	round   int           // one in so many crashes the server
	pause   time.Duration // between two
	halfway func()        // is called when half of them are asked; nil: nothing is
}

// ask asks a server, and calls show with how each question ended.
func (q questions) ask(ctx context.Context, address string, show func(result)) error {
	for n := range q.count {
		if n > 0 {
			time.Sleep(q.pause)
		}
		if n == q.count/2 && q.halfway != nil {
			q.halfway()
		}
		r := request(ctx, address, n, n%q.round == poison)
		if err := context.Cause(ctx); err != nil {
			return err
		}
		show(r)
	}
	return nil
}

// request asks for the square of n and judges the answer.
func request(ctx context.Context, address string, n int, crash bool) result {
	r := result{Request: n, Sent: strconv.Itoa(n)}
	if crash {
		r.Sent = "five"
	}
	start := time.Now()
	answer, err := exchange(ctx, address, r.Sent, start.Add(questionTime))
	r.TookMS = float64(time.Since(start).Microseconds()) / 1000
	r.Outcome = outcome(err)
	if err != nil {
		return r
	}
	square := 0
	if _, err := fmt.Sscan(answer, &square, &r.PID); err != nil || square != n*n {
		r.Outcome = "wrong"
	}
	return r
}

// exchange sends one line over a new connection and returns the line that comes back.
func exchange(ctx context.Context, address, line string, deadline time.Time) (string, error) {
	d := net.Dialer{Deadline: deadline}
	conn, err := d.DialContext(ctx, "tcp", address)
	if err != nil {
		return "", err
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { _ = conn.Close() })()
	if err := conn.SetDeadline(deadline); err != nil {
		return "", err
	}
	if _, err := fmt.Fprintln(conn, line); err != nil {
		return "", err
	}
	return bufio.NewReader(conn).ReadString('\n')
}

// outcome names what went wrong. A crash after the request was read ends the connection in
// order (empty). If the request was unread, or the connection still in the queue of a socket
// that is closed, the connection is reset.
func outcome(err error) string {
	timeout, ok := errors.AsType[net.Error](err)
	switch {
	case err == nil:
		return "ok"
	case errors.Is(err, syscall.ECONNREFUSED):
		return "refused"
	case errors.Is(err, syscall.ECONNRESET), errors.Is(err, syscall.EPIPE):
		return "reset"
	case errors.Is(err, io.EOF):
		return "empty"
	case ok && timeout.Timeout():
		return "timeout"
	default:
		return err.Error()
	}
}
