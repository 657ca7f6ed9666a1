package realservers

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"path/filepath"
	"strings"
)

// The parts of FastCGI that one request takes.
const (
	fcgiVersion   = 1
	fcgiBegin     = 1
	fcgiEnd       = 3
	fcgiParams    = 4
	fcgiStdin     = 5
	fcgiStdout    = 6
	fcgiStderr    = 7
	fcgiResponder = 1
)

type fcgiHeader struct {
	Version, Type uint8
	Request       uint16
	Length        uint16
	Padding, _    uint8
}

// askFastCGI asks php-fpm for what index.php in dir prints: the pid of the
// process that answers.
func askFastCGI(address, dir string) (int, outcome, error) {
	return exchange(address, func(conn net.Conn) (string, error) {
		var out bytes.Buffer
		record := func(kind uint8, content []byte) {
			_ = binary.Write(&out, binary.BigEndian, fcgiHeader{Version: fcgiVersion, Type: kind, Request: 1, Length: uint16(len(content))})
			out.Write(content)
		}
		var params bytes.Buffer
		for _, p := range [][2]string{
			{"SCRIPT_FILENAME", filepath.Join(dir, "index.php")}, {"SCRIPT_NAME", "/index.php"}, {"REQUEST_METHOD", "GET"},
			{"SERVER_PROTOCOL", "HTTP/1.1"}, {"QUERY_STRING", ""},
		} {
			for _, s := range p {
				_ = binary.Write(&params, binary.BigEndian, uint32(len(s))|1<<31)
			}
			params.WriteString(p[0] + p[1])
		}
		record(fcgiBegin, []byte{0, fcgiResponder, 0, 0, 0, 0, 0, 0})
		record(fcgiParams, params.Bytes())
		record(fcgiParams, nil)
		record(fcgiStdin, nil)
		if _, err := conn.Write(out.Bytes()); err != nil {
			return "", err
		}
		return readFastCGI(conn)
	})
}

// readFastCGI returns the body of an answer.
func readFastCGI(r io.Reader) (string, error) {
	var stdout, stderr strings.Builder
	for {
		var h fcgiHeader
		if err := binary.Read(r, binary.BigEndian, &h); err != nil {
			return "", err
		}
		content := make([]byte, int(h.Length)+int(h.Padding))
		if _, err := io.ReadFull(r, content); err != nil {
			return "", err
		}
		content = content[:h.Length]
		switch h.Type {
		case fcgiStdout:
			stdout.Write(content)
		case fcgiStderr:
			stderr.Write(content)
		case fcgiEnd:
			header, body, ok := strings.Cut(stdout.String(), "\r\n\r\n")
			if !ok || strings.Contains(header, "Status: ") || stderr.Len() > 0 {
				return "", fmt.Errorf("%q, %q", stdout.String(), stderr.String())
			}
			return body, nil
		}
	}
}
