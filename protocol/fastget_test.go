package protocol_test

import (
	"bytes"
	"encoding/json"
	"reflect"
	"testing"

	"github.com/fdbroker/fdbroker/protocol"
)

// slowGetCall is DecodeGetCall by the general functions.
func slowGetCall(b []byte) (p protocol.GetParameters, more, ok bool) {
	c, err := protocol.DecodeCall(b)
	if err != nil || c.Method != protocol.MethodGet || c.Oneway {
		return p, false, false
	}
	if protocol.DecodeParameters(c.Parameters, &p) != nil {
		return p, false, false
	}
	return p, c.More, true
}

func slowGetReply(b []byte) (r protocol.GetReply, continues, ok bool) {
	reply, err := protocol.DecodeReply(b)
	if err != nil || reply.Err != nil {
		return r, false, false
	}
	if protocol.DecodeParameters(reply.Parameters, &r) != nil {
		return r, false, false
	}
	return r, reply.Continues, true
}

// sameGet fails if the fast functions decode a message that the general ones do not decode,
// or decode it differently.
func sameGet(t *testing.T, b []byte) (understood bool) {
	t.Helper()
	p, more, ok := protocol.DecodeGetCall(b)
	if sp, smore, sok := slowGetCall(b); ok && (!sok || !reflect.DeepEqual(p, sp) || more != smore) {
		t.Fatalf("%q: quick %+v %v, general %+v %v %v", b, p, more, sp, smore, sok)
	}
	r, continues, rok := protocol.DecodeGetReply(b)
	if sr, sc, sok := slowGetReply(b); rok && (!sok || !reflect.DeepEqual(r, sr) || continues != sc) {
		t.Fatalf("%q: quick %+v %v, general %+v %v %v", b, r, continues, sr, sc, sok)
	}
	return ok || rok
}

func TestQuickGet(t *testing.T) {
	for _, in := range []string{
		`{"method":"io.fdbroker.Get","parameters":{"names":["web"]}}`,
		` { "parameters" : { "wait" : true , "names" : [ "web" , "adm" ] , "blocking" : false } , "more" : true , "method" : "io.fdbroker.Get" } `,
		`{"method":"io.fdbroker.Get","parameters":{"names":[]},"more":false}`,
		`{"method":"io.fdbroker.Get","parameters":{}}`,
		`{"method":"io.fdbroker.Get","parameters":{"names":["web"],"wait":true,"blocking":true,"drainSignal":"QUIT","generation":7,"resume":9007199254740993},"more":true}`,
		`{"parameters":{"grant":7,"sockets":[{"name":"web","network":"tcp","address":"[::]:9000","fileDescriptor":0}]},"continues":true}`,
		`{"parameters":{"grant":0,"event":"unbound"}}`,
		`{"parameters":{"grant":7,"event":"drain"},"continues":true}`,
		`{"parameters":{}}`,
	} {
		if !sameGet(t, []byte(in)) {
			t.Errorf("%s: not understood", in)
		}
	}
	for _, in := range []string{
		``, `{`, `{}`, `[]`, `{"method":"io.fdbroker.List"}`, `{"method":"io.fdbroker.Get","oneway":true}`,
		`{"method":"io.fdbroker.Get","parameters":null}`,
		`{"method":"io.fdbroker.Get","parameters":{"names":["w\u0065b"]}}`,
		`{"method":"io.fdbroker.Get","method":"io.fdbroker.Get"}`,
		`{"method":"io.fdbroker.Get","parameters":{"names":["web"]}}x`,
		`{"method":"io.fdbroker.Get","parameters":{"names":["web",]}}`,
		`{"method":"io.fdbroker.Get","parameters":{"generation":-1}}`, `{"method":"io.fdbroker.Get","parameters":{"resume":"7"}}`,
		`{"method":"io.fdbroker.Get","parameters":{"drainSignal":null}}`, `{"method":"io.fdbroker.Get","parameters":{"generation":1,"generation":2}}`,
		`{"method":"io.fdbroker.Get",}`, `{,"method":"io.fdbroker.Get"}`,
		`{"error":"io.fdbroker.Full","parameters":{}}`,
		`{"parameters":{"grant":-1}}`, `{"parameters":{"grant":01}}`, `{"parameters":{"grant":1e3}}`,
		`{"parameters":{"grant":9999999999999999999}}`, `{"parameters":{"grant":1.5}}`,
	} {
		if sameGet(t, []byte(in)) {
			t.Errorf("%s: understood", in)
		}
	}
}

func TestQuickEncoding(t *testing.T) {
	for _, name := range []string{"web", "", `q"uo\te`, "ünï", "\x00\xff", "a b~", "<&>"} {
		p := protocol.GetParameters{Names: []string{name, "second"}, Wait: name == "web", Blocking: new(name == "")}
		if name != "web" {
			p.DrainSignal, p.Generation, p.Resume = "TERM", 41, int64(len(name))
		}
		b := protocol.AppendGetCall([]byte("before"), p, name == "web")
		want := p
		want.Names = []string{string(bytes.ToValidUTF8([]byte(name), []byte("\ufffd"))), "second"}
		if name == "\x00\xff" {
			want.Names[0] = "\x00\ufffd"
		}
		got, more, ok := slowGetCall(b[len("before") : len(b)-1])
		if !ok || !reflect.DeepEqual(got, want) || more != (name == "web") || bytes.IndexByte(b, 0) != len(b)-1 {
			t.Errorf("%q: got %+v %v %v of %q", name, got, more, ok, b)
		}
		r := protocol.GetReply{Grant: 7, Sockets: []protocol.Socket{{Name: "n", Network: "unix", Address: want.Names[0], FileDescriptor: 3}, {}}, Event: "e"}
		b = protocol.AppendGetReply(nil, r, name == "web")
		gotReply, continues, ok := slowGetReply(b[:len(b)-1])
		if !ok || !reflect.DeepEqual(gotReply, r) || continues != (name == "web") {
			t.Errorf("%q: got %+v %v of %q", name, gotReply, continues, b)
		}
	}
}

func FuzzQuickGet(f *testing.F) {
	f.Add([]byte(`{"method":"io.fdbroker.Get","parameters":{"names":["web"],"wait":true,"blocking":false},"more":true}`))
	f.Add([]byte(`{"method":"io.fdbroker.Get","parameters":{"names":["web"],"drainSignal":"TERM","generation":12,"resume":34}}`))
	f.Add([]byte(`{"parameters":{"grant":7,"sockets":[{"name":"web","network":"tcp","address":"[::]:9000","fileDescriptor":0}],"event":"x"},"continues":true}`))
	f.Fuzz(func(t *testing.T, b []byte) { sameGet(t, b) })
}

func BenchmarkGetCall(b *testing.B) {
	call := protocol.AppendGetCall(nil, protocol.GetParameters{Names: []string{"web"}}, true)
	call = call[:len(call)-1]
	b.Run("quick", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if _, _, ok := protocol.DecodeGetCall(call); !ok {
				b.Fatal("not understood")
			}
		}
	})
	b.Run("general", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if _, _, ok := slowGetCall(call); !ok {
				b.Fatal("not understood")
			}
		}
	})
}

func BenchmarkGetReply(b *testing.B) {
	r := protocol.GetReply{Grant: 7, Sockets: []protocol.Socket{{Name: "web", Network: "tcp", Address: "[::]:9000"}}}
	b.Run("quick", func(b *testing.B) {
		b.ReportAllocs()
		buf := make([]byte, 0, 512)
		for b.Loop() {
			buf = protocol.AppendGetReply(buf[:0], r, true)
		}
	})
	b.Run("general", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if _, err := json.Marshal(r); err != nil {
				b.Fatal(err)
			}
		}
	})
}
