//go:build linux

package gracefultest

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"log"
	"math/big"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/fdbroker/fdbroker/broker"
	"github.com/fdbroker/fdbroker/broker/graceful"
	"github.com/fdbroker/fdbroker/internal/fdtest"
	"github.com/miekg/dns"
	"github.com/quic-go/quic-go"
	"golang.org/x/net/ipv4"
	"golang.org/x/sys/unix"
)

var _ quic.OOBCapablePacketConn = (*broker.PacketConn)(nil)

// dialPacket starts a broker with the datagram socket "udp" and dials that.
func dialPacket(t *testing.T) *broker.PacketConn {
	t.Helper()
	startBroker(t, "udp=udp://"+freeAddress(t, "udp")+",max=1")
	pc, err := broker.DialPacket("udp")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = pc.Close() })
	return pc
}

// drain asks the holders of "udp" to leave.
func drain(t *testing.T) {
	t.Helper()
	var c broker.Client
	defer c.Close()
	if _, err := c.Drain(context.Background(), broker.DrainOptions{}, "udp"); err != nil {
		t.Fatal(err)
	}
}

// rebind binds "udp" again, at another address, and waits until pc has followed.
func rebind(t *testing.T, pc *broker.PacketConn) {
	t.Helper()
	var c broker.Client
	defer c.Close()
	was := pc.LocalAddr().String()
	if err := c.Unbind(context.Background(), "udp"); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Bind(context.Background(), "udp=udp://"+freeAddress(t, "udp")); err != nil {
		t.Fatal(err)
	}
	for end := time.Now().Add(patience); pc.LocalAddr().String() == was; time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("it does not follow to the new socket")
		}
	}
}

// TestDNS: github.com/miekg/dns answers what it has read when a drain comes, and then ends.
func TestDNS(t *testing.T) {
	fdtest.CheckLeaks(t)
	pc := dialPacket(t)
	asked := make(chan struct{}, 10)
	server := &dns.Server{PacketConn: pc, Handler: dns.HandlerFunc(func(w dns.ResponseWriter, q *dns.Msg) {
		asked <- struct{}{}
		time.Sleep(200 * time.Millisecond) // the answer is from elsewhere
		_ = w.WriteMsg(new(dns.Msg).SetReply(q))
	})}
	var served error
	ended := make(chan error, 1)
	go func() {
		ended <- graceful.Run(context.Background(), graceful.Config{}, graceful.Packet(pc, func() error {
			served = server.ActivateAndServe()
			return served
		}))
	}()
	address := pc.LocalAddr().String()
	var queries sync.WaitGroup
	for range 5 {
		queries.Go(func() {
			c := dns.Client{Timeout: patience}
			if _, _, err := c.Exchange(new(dns.Msg).SetQuestion("example.org.", dns.TypeA), address); err != nil {
				t.Error(err)
			}
		})
	}
	for range 5 {
		<-asked
	}
	drain(t)
	queries.Wait()
	if err := <-ended; err != nil || !errors.Is(served, broker.ErrDrained) {
		t.Errorf("Run: %v; ActivateAndServe: %v", err, served)
	}
}

// TestIPv4: golang.org/x/net/ipv4 sets options, and reads and writes batches with control messages, also at the next
// socket, until a drain.
func TestIPv4(t *testing.T) {
	fdtest.CheckLeaks(t)
	pc := dialPacket(t)
	p := ipv4.NewPacketConn(pc)
	if err := errors.Join(p.SetControlMessage(ipv4.FlagDst, true), p.SetTTL(7)); err != nil {
		t.Fatal(err)
	}
	echo := func(dst bool) {
		t.Helper()
		c, err := net.Dial("udp", pc.LocalAddr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		_ = c.SetDeadline(time.Now().Add(patience))
		if _, err := c.Write([]byte("hello")); err != nil {
			t.Fatal(err)
		}
		m := []ipv4.Message{{Buffers: [][]byte{make([]byte, 100)}, OOB: ipv4.NewControlMessage(ipv4.FlagDst)}}
		if n, err := p.ReadBatch(m, 0); n != 1 || err != nil {
			t.Fatalf("ReadBatch: %d, %v", n, err)
		}
		var control ipv4.ControlMessage
		if err := control.Parse(m[0].OOB[:m[0].NN]); err != nil || dst && !control.Dst.Equal(net.IPv4(127, 0, 0, 1)) {
			t.Errorf("got the control message %v, %v", control, err)
		}
		out := []ipv4.Message{{Buffers: [][]byte{m[0].Buffers[0][:m[0].N]}, Addr: m[0].Addr}}
		if n, err := p.WriteBatch(out, 0); n != 1 || err != nil {
			t.Fatalf("WriteBatch: %d, %v", n, err)
		}
		b := make([]byte, 100)
		if n, err := c.Read(b); err != nil || string(b[:n]) != "hello" {
			t.Errorf("got %q, %v", b[:n], err)
		}
	}
	echo(true)
	rebind(t, pc)
	echo(false) // its options are those of its spec
	drain(t)
	if _, err := p.ReadBatch([]ipv4.Message{{Buffers: [][]byte{make([]byte, 9)}}}, 0); !errors.Is(err, broker.ErrDrained) {
		t.Errorf("after the drain: %v", err)
	}
	if _, err := p.WriteTo([]byte("bye"), nil, pc.LocalAddr()); err != nil {
		t.Errorf("WriteTo after the drain: %v", err)
	}
}

// TestQUIC: quic-go takes a PacketConn for a net.UDPConn, follows it to another socket, and ends with a drain.
func TestQUIC(t *testing.T) {
	fdtest.CheckLeaks(t)
	var logged bytes.Buffer
	defer log.SetOutput(log.Writer())
	log.SetOutput(&logged)
	pc := dialPacket(t)
	server, client := tlsConfigs(t, "echo")
	ln, err := quic.Listen(pc, server, nil)
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(logged.String(), "UDPConn") {
		t.Errorf("logged: %s", &logged)
	}
	if n := option(t, pc, unix.IPPROTO_IP, unix.IP_RECVTOS); n != 1 {
		t.Error("quic-go does not read ECN")
	}
	accepting := make(chan error, 1)
	go func() {
		for {
			c, err := ln.Accept(context.Background())
			if err != nil {
				accepting <- err
				return
			}
			go func() {
				if s, err := c.AcceptStream(context.Background()); err == nil {
					_, _ = io.Copy(s, s)
					_ = s.Close()
				}
			}()
		}
	}()
	echoQUIC(t, pc.LocalAddr().String(), client)
	rebind(t, pc)
	echoQUIC(t, pc.LocalAddr().String(), client)
	drain(t)
	select {
	case err := <-accepting:
		if !errors.Is(err, broker.ErrDrained) {
			t.Errorf("Accept: %v", err)
		}
	case <-time.After(patience):
		t.Error("quic-go does not notice the drain")
	}
	_ = ln.Close()
}

// echoQUIC sends a megabyte and gets it back.
func echoQUIC(t *testing.T, address string, config *tls.Config) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	c, err := quic.DialAddr(ctx, address, config, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer c.CloseWithError(0, "")
	s, err := c.OpenStreamSync(ctx)
	if err != nil {
		t.Fatal(err)
	}
	sent := make([]byte, 1<<20)
	_, _ = rand.Read(sent)
	go func() {
		_, _ = s.Write(sent)
		_ = s.Close()
	}()
	_ = s.SetReadDeadline(time.Now().Add(patience))
	if got, err := io.ReadAll(s); err != nil || !bytes.Equal(got, sent) {
		t.Errorf("got %d bytes, %v", len(got), err)
	}
}

func option(t *testing.T, pc *broker.PacketConn, level, name int) (n int) {
	t.Helper()
	raw, err := pc.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	if cerr := raw.Control(func(fd uintptr) { n, err = unix.GetsockoptInt(int(fd), level, name) }); cerr != nil || err != nil {
		t.Fatal(cerr, err)
	}
	return n
}

// tlsConfigs returns the configurations of a server, and of a client that trusts it.
func tlsConfigs(t *testing.T, protocol string) (server, client *tls.Config) {
	t.Helper()
	certificates, err := newCertificate()
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AddCert(certificates[0].Leaf)
	return &tls.Config{Certificates: certificates, NextProtos: []string{protocol}}, &tls.Config{RootCAs: roots, NextProtos: []string{protocol}}
}

// newCertificate makes a certificate for 127.0.0.1.
func newCertificate() ([]tls.Certificate, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour), IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return nil, err
	}
	leaf, err := x509.ParseCertificate(der)
	return []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key, Leaf: leaf}}, err
}
