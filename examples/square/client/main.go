// Command client asks a square server twenty questions, one after the other, each over a connection of its own, and
// says how each ended. The sixth question is the word "five", which crashes the server.
//
//	client 127.0.0.1:9000
//	client -json 127.0.0.1:9000     one JSON object for each request
//	client -requests 2000 -round 400 -halfway 'kill -HUP 1234' 127.0.0.1:9000
//	                                more of them, "five" once in 400, and a
//	                                command when half of them are done
package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"log"
	"net"
	"os"
	"os/exec"
	"strconv"
	"syscall"
	"time"
)

// poison is the number of the question, in each round, that is sent as a word.
const poison = 5

// A result is the outcome of one request.
type result struct {
	Request int     `json:"request"`
	Sent    string  `json:"sent"`
	Outcome string  `json:"outcome"` // ok, refused, reset, empty, timeout, wrong, or another error's text
	PID     int     `json:"pid,omitempty"`
	TookMS  float64 `json:"took_ms"`
}

func main() {
	log.SetPrefix("client: ")
	log.SetFlags(0)
	asJSON := flag.Bool("json", false, "print one JSON object for each request")
	pause := flag.Duration("pause", 10*time.Millisecond, "wait `DURATION` between two requests")
	requests := flag.Int("requests", 20, "ask `N` questions")
	round := flag.Int("round", 20, "crash the server once in `N` questions")
	halfway := flag.String("halfway", "", "run a shell `COMMAND` when half of the questions are asked")
	timeout := flag.Duration("timeout", 10*time.Second, "give a request up after `DURATION`")
	flag.Parse()
	if flag.NArg() != 1 || *round <= poison {
		log.Fatal("usage: client [-json] [-pause DURATION] [-timeout DURATION] [-requests N] [-round N] [-halfway COMMAND] ADDRESS")
	}

	show := func(r result) error {
		_, err := fmt.Printf("%2d  %-4s  %-7s  %7.1f ms\n", r.Request, r.Sent, r.Outcome, r.TookMS)
		return err
	}
	if *asJSON {
		enc := json.NewEncoder(os.Stdout)
		show = func(r result) error { return enc.Encode(r) }
	}
	for n := range *requests {
		if n > 0 {
			time.Sleep(*pause)
		}
		if *halfway != "" && n == *requests/2 {
			if out, err := exec.Command("sh", "-c", *halfway).CombinedOutput(); err != nil {
				log.Fatalf("%s: %v\n%s", *halfway, err, out)
			}
		}
		if err := show(request(flag.Arg(0), n, n%*round == poison, *timeout)); err != nil {
			log.Fatal(err)
		}
	}
}

// request asks for the square of n and judges the answer.
func request(address string, n int, crash bool, timeout time.Duration) result {
	r := result{Request: n, Sent: strconv.Itoa(n)}
	if crash {
		r.Sent = "five"
	}
	start := time.Now()
	answer, err := ask(address, r.Sent, start.Add(timeout))
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

// ask sends one line over a new connection and returns the line that comes back.
func ask(address, line string, deadline time.Time) (string, error) {
	d := net.Dialer{Deadline: deadline}
	conn, err := d.Dial("tcp", address)
	if err != nil {
		return "", err
	}
	defer conn.Close()
	if err := conn.SetDeadline(deadline); err != nil {
		return "", err
	}
	if _, err := fmt.Fprintln(conn, line); err != nil {
		return "", err
	}
	return bufio.NewReader(conn).ReadString('\n')
}

// outcome names the error. A crash after the request was read ends the connection in order (empty). If the request was
// unread, or the connection still in the queue of a socket that is closed, the connection is reset.
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
