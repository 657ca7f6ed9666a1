//go:build linux

package graceful_test

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/fdbroker/fdbroker/broker/graceful"
	"github.com/fdbroker/fdbroker/internal/fdtest"
)

// TestTLS: over TLS too, a kept-alive connection of HTTP/1.1 or HTTP/2 gets another answer and leaves, one that is idle is
// closed, and a hijacked one is waited for.
func TestTLS(t *testing.T) {
	for _, protocol := range []string{"http/1.1", "h2"} {
		t.Run(protocol, func(t *testing.T) {
			fdtest.CheckLeaks(t)
			certificates, roots := certificate(t)
			ln := tls.NewListener(listen(t), &tls.Config{Certificates: certificates, NextProtos: []string{"h2", "http/1.1"}})
			p := newPages()
			drained := make(chan struct{})
			s := run(t, graceful.Config{Grace: 4 * time.Second, OnDrain: func() { close(drained) }}, graceful.HTTP(&http.Server{Handler: p}, ln))
			client := func() *http.Client {
				transport := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots}, Protocols: new(http.Protocols)}
				transport.Protocols.SetHTTP1(protocol != "h2")
				transport.Protocols.SetHTTP2(protocol == "h2")
				t.Cleanup(transport.CloseIdleConnections)
				return &http.Client{Transport: transport, Timeout: grace / 2}
			}
			kept, idle := client(), client()
			post := func(c *http.Client) error {
				resp, err := c.Post("https://"+ln.Addr().String()+"/", "", strings.NewReader("x"))
				if err != nil {
					return err
				}
				defer resp.Body.Close()
				_, err = io.Copy(io.Discard, resp.Body)
				if is := resp.ProtoMajor == 2; err == nil && is != (protocol == "h2") {
					return errors.New(resp.Proto)
				}
				return err
			}
			for _, c := range []*http.Client{kept, idle} {
				if err := post(c); err != nil {
					t.Fatal(err)
				}
			}
			if protocol != "h2" {
				c, err := tls.Dial("tcp", ln.Addr().String(), &tls.Config{RootCAs: roots})
				if err != nil {
					t.Fatal(err)
				}
				defer c.Close()
				if _, err := io.WriteString(c, "GET /hijack HTTP/1.1\r\nHost: x\r\n\r\n"); err != nil {
					t.Fatal(err)
				}
				hijacked := <-p.hijacked
				time.AfterFunc(time.Second, func() { _ = hijacked.Close() })
			}
			s.stop()
			<-drained
			for range 100 {
				if err := post(kept); err != nil { // the connection has left, or the server was asked once more
					break
				}
			}
			if err := s.wait(); err != nil {
				t.Error(err)
			}
		})
	}
}

// certificate returns a certificate for 127.0.0.1, and the roots that it is trusted by.
func certificate(t *testing.T) ([]tls.Certificate, *x509.CertPool) {
	t.Helper()
	s := httptest.NewTLSServer(nil)
	defer s.Close()
	roots := x509.NewCertPool()
	roots.AddCert(s.Certificate())
	return s.TLS.Certificates, roots
}
