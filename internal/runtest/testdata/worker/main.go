// Command worker answers each connection's line with its version and pid, one
// connection after the other, so that a crash fails no more than the one that it has.
//
//	worker VERSION HOW [WORDS]
//
// HOW is fd (the socket is descriptor 3), dial, or wait (dial, when there is a place). WORDS are deaf (ignores
// SIGTERM), mute (never says READY=1), and fork (a child has the socket too, and goes on when this one ends).
package main

import (
	"bufio"
	"context"
	"fmt"
	"log"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"strings"
	"syscall"

	"github.com/fdbroker/fdbroker/broker"
	"github.com/fdbroker/fdbroker/protocol"
)

func main() {
	version, how, words := os.Args[1], os.Args[2], strings.Join(os.Args[3:], " ")
	fmt.Println("starting", version, os.Getpid(), "of", protocol.GenerationOf(os.Getenv))
	stop := make(chan os.Signal, 1)
	if strings.Contains(words, "deaf") {
		signal.Ignore(syscall.SIGTERM, syscall.SIGINT)
	} else {
		signal.Notify(stop, syscall.SIGTERM, os.Interrupt)
	}
	if strings.Contains(words, "fork") {
		child := exec.Command(os.Args[0], version, how, "mute")
		child.ExtraFiles = []*os.File{os.NewFile(3, "socket")}
		if err := child.Start(); err != nil {
			log.Fatal(err)
		}
	}
	if how == "wait" {
		ready(words) // as far as it can come without a place
	}
	ln, err := listen(how)
	if err != nil {
		log.Fatal(err)
	}
	if how != "wait" {
		ready(words)
	}
	fmt.Println("serving", version, os.Getpid())
	go func() {
		<-stop
		_ = ln.Close()
	}()
	for {
		c, err := ln.Accept()
		if err != nil {
			fmt.Println("leaving", version, os.Getpid())
			return
		}
		answer(c, version)
	}
}

func listen(how string) (net.Listener, error) {
	if how == "fd" {
		return net.FileListener(os.NewFile(3, "socket"))
	}
	d := broker.Dialer{Wait: how == "wait"}
	return d.Dial(context.Background(), "web")
}

func ready(words string) {
	address := os.Getenv("NOTIFY_SOCKET")
	if address == "" || strings.Contains(words, "mute") {
		return
	}
	c, err := net.Dial("unixgram", address)
	if err != nil {
		log.Fatal(err)
	}
	defer c.Close()
	_, _ = c.Write([]byte("READY=1"))
}

func answer(c net.Conn, version string) {
	defer c.Close()
	line, err := bufio.NewReader(c).ReadString('\n')
	if err != nil {
		return
	}
	if line == "crash\n" {
		os.Exit(1)
	}
	fmt.Fprintln(c, version, os.Getpid())
}
