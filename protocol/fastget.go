package protocol

import (
	"encoding/json"
	"strconv"
)

// Nearly every message is about Get, and a handout takes so little time that a general JSON codec would be a good part
// of it. The functions in this file write and read only what this package itself writes, in any order and with any
// white space. The general functions do everything else.

// AppendGetCall appends a call of Get, ended by NUL, to dst.
func AppendGetCall(dst []byte, p GetParameters, more bool) []byte {
	dst = append(dst, `{"method":"`+MethodGet+`","parameters":{"names":[`...)
	for i, name := range p.Names {
		if i > 0 {
			dst = append(dst, ',')
		}
		dst = appendString(dst, name)
	}
	dst = append(dst, ']')
	if p.Wait {
		dst = append(dst, `,"wait":true`...)
	}
	if p.Blocking != nil {
		dst = append(dst, `,"blocking":`...)
		dst = strconv.AppendBool(dst, *p.Blocking)
	}
	if p.DrainSignal != "" {
		dst = appendText(dst, `,"drainSignal":`, p.DrainSignal)
	}
	dst = appendID(dst, `,"generation":`, p.Generation)
	dst = appendID(dst, `,"resume":`, p.Resume)
	dst = append(dst, '}')
	if more {
		dst = append(dst, `,"more":true`...)
	}
	return append(dst, '}', 0)
}

// appendText appends key and text.
func appendText(dst []byte, key, text string) []byte { return appendString(append(dst, key...), text) }

// appendID appends key and id, unless that is 0.
func appendID(dst []byte, key string, id int64) []byte {
	if id == 0 {
		return dst
	}
	return strconv.AppendInt(append(dst, key...), id, 10)
}

// AppendGetReply appends a reply to Get, ended by NUL, to dst.
func AppendGetReply(dst []byte, r GetReply, continues bool) []byte {
	dst = append(dst, `{"parameters":{"grant":`...)
	dst = strconv.AppendInt(dst, r.Grant, 10)
	for i, s := range r.Sockets {
		key := `,{"name":`
		if i == 0 {
			key = `,"sockets":[{"name":`
		}
		dst = appendText(dst, key, s.Name)
		dst = appendText(dst, `,"network":`, s.Network)
		dst = appendText(dst, `,"address":`, s.Address)
		dst = append(dst, `,"fileDescriptor":`...)
		dst = strconv.AppendInt(dst, int64(s.FileDescriptor), 10)
		dst = append(dst, '}')
	}
	if len(r.Sockets) > 0 {
		dst = append(dst, ']')
	}
	if r.Event != "" {
		dst = appendText(dst, `,"event":`, r.Event)
	}
	dst = append(dst, '}')
	if continues {
		dst = append(dst, `,"continues":true`...)
	}
	return append(dst, '}', 0)
}

// appendString appends s as a JSON string.
func appendString(dst []byte, s string) []byte {
	for i := range len(s) {
		if !plain(s[i]) {
			b, _ := json.Marshal(s) // cannot fail for a string
			return append(dst, b...)
		}
	}
	dst = append(dst, '"')
	dst = append(dst, s...)
	return append(dst, '"')
}

// plain reports whether c stands for itself in a JSON string.
func plain(c byte) bool { return c >= ' ' && c < 0x7f && c != '"' && c != '\\' }

// DecodeGetCall decodes a call of Get that is written plainly, without its NUL. It returns
// false for all others, which [DecodeCall] decodes.
func DecodeGetCall(b []byte) (p GetParameters, more, ok bool) {
	s := scanner{b: b}
	isGet := false
	s.object(func(key []byte) {
		switch string(key) {
		case "method":
			isGet = string(s.text()) == MethodGet
			s.failed = s.failed || !isGet
		case "parameters":
			s.object(func(key []byte) { s.getParameter(string(key), &p) })
		case "more":
			more = s.bool()
		default:
			s.failed = true
		}
	})
	return p, more, s.done() && isGet
}

func (s *scanner) getParameter(key string, p *GetParameters) {
	switch key {
	case "names":
		p.Names = []string{}
		s.array(func() { p.Names = append(p.Names, string(s.text())) })
	case "wait":
		p.Wait = s.bool()
	case "blocking":
		p.Blocking = new(s.bool())
	case "drainSignal":
		p.DrainSignal = string(s.text())
	case "generation":
		p.Generation = s.int()
	case "resume":
		p.Resume = s.int()
	default:
		s.failed = true
	}
}

// DecodeGetReply decodes a reply to Get that is written plainly, without its NUL. It returns
// false for all others, also for errors, which [DecodeReply] decodes.
func DecodeGetReply(b []byte) (r GetReply, continues, ok bool) {
	s := scanner{b: b}
	found := false
	s.object(func(key []byte) {
		switch string(key) {
		case "parameters":
			found = true
			s.object(func(key []byte) { s.getReply(string(key), &r) })
		case "continues":
			continues = s.bool()
		default:
			s.failed = true
		}
	})
	return r, continues, s.done() && found
}

func (s *scanner) getReply(key string, r *GetReply) {
	switch key {
	case "grant":
		r.Grant = s.int()
	case "event":
		r.Event = string(s.text())
	case "sockets":
		r.Sockets = []Socket{}
		s.array(func() {
			var sock Socket
			s.object(func(key []byte) { s.socketField(string(key), &sock) })
			r.Sockets = append(r.Sockets, sock)
		})
	default:
		s.failed = true
	}
}

func (s *scanner) socketField(key string, sock *Socket) {
	switch key {
	case "name":
		sock.Name = string(s.text())
	case "network":
		sock.Network = string(s.text())
	case "address":
		sock.Address = string(s.text())
	case "fileDescriptor":
		sock.FileDescriptor = int(s.int())
	default:
		s.failed = true
	}
}

// scanner reads plain JSON. It fails for good at the first thing that it does not know.
type scanner struct {
	b      []byte
	at     int // where the next token is
	failed bool
}

// done reports whether all of b was read without a failure.
func (s *scanner) done() bool {
	s.space()
	return !s.failed && s.at == len(s.b)
}

func (s *scanner) space() {
	for s.at < len(s.b) && (s.b[s.at] == ' ' || s.b[s.at] == '\t' || s.b[s.at] == '\n' || s.b[s.at] == '\r') {
		s.at++
	}
}

// next takes c, and white space before it, if that is next, and reports whether it was.
func (s *scanner) next(c byte) bool {
	if s.at == len(s.b) || s.b[s.at] != c { // usually there is no white space
		s.space()
		if s.at == len(s.b) || s.b[s.at] != c {
			return false
		}
	}
	s.at++
	return true
}

// expect takes c, and white space before it.
func (s *scanner) expect(c byte) {
	if !s.next(c) {
		s.failed = true
	}
}

// object takes an object, and calls field with each key, which has to take the value. It
// fails if a key comes twice, or there are more than six.
func (s *scanner) object(field func(key []byte)) {
	s.expect('{')
	if s.next('}') {
		return
	}
	var seen [6]struct{ from, to int32 } // keys, in b; small, because objects in objects need as much stack each
	for i := range seen {
		key := s.text()
		end := s.at - 1
		for _, k := range seen[:i] {
			if string(s.b[k.from:k.to]) == string(key) {
				s.failed = true
			}
		}
		seen[i].from, seen[i].to = int32(end-len(key)), int32(end)
		s.expect(':')
		field(key)
		if s.failed || !s.next(',') {
			s.expect('}')
			return
		}
	}
	s.failed = true
}

// array takes an array, and calls element to take each element.
func (s *scanner) array(element func()) {
	s.expect('[')
	if s.next(']') {
		return
	}
	for element(); !s.failed && s.next(','); {
		element()
	}
	s.expect(']')
}

// text takes a string without escapes.
func (s *scanner) text() []byte {
	s.expect('"')
	rest := s.b[s.at:]
	for i, c := range rest {
		if c == '"' {
			s.at += i + 1
			return rest[:i]
		}
		if !plain(c) {
			break
		}
	}
	s.failed = true
	return nil
}

func (s *scanner) bool() bool {
	s.space()
	for _, word := range []string{"true", "false"} {
		if rest := s.b[s.at:]; len(rest) >= len(word) && string(rest[:len(word)]) == word {
			s.at += len(word)
			return word == "true"
		}
	}
	s.failed = true
	return false
}

// int takes a whole number that is not negative, of at most 18 digits.
func (s *scanner) int() (v int64) {
	s.space()
	digits := s.b[s.at:]
	n := 0
	for n < len(digits) && digits[n] >= '0' && digits[n] <= '9' {
		v = v*10 + int64(digits[n]-'0') // may overflow, and fails then
		n++
	}
	if n == 0 || n > 18 || n > 1 && digits[0] == '0' {
		s.failed = true
	}
	s.at += n
	return v
}
