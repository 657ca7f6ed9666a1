package protocol_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/fdbroker/fdbroker/protocol"
)

func TestDecodeCall(t *testing.T) {
	tests := []struct {
		name, in string
		want     protocol.Call
		bad      bool
	}{
		{name: "method alone", in: `{"method":"a.b"}`, want: protocol.Call{Method: "a.b"}},
		{name: "flags", in: `{"method":"a.b","more":true,"oneway":true}`, want: protocol.Call{Method: "a.b", More: true, Oneway: true}},
		{name: "parameters", in: ` {"method":"a.b","parameters":{"x":1}}`, want: protocol.Call{Method: "a.b", Parameters: json.RawMessage(`{"x":1}`)}},
		{name: "null parameters", in: `{"method":"a.b","parameters":null}`, want: protocol.Call{Method: "a.b", Parameters: json.RawMessage(`null`)}},
		{name: "unknown field", in: `{"method":"a.b","upgrade":false,"z":[1]}`, want: protocol.Call{Method: "a.b"}},
		{name: "null flag", in: `{"method":"a.b","more":null}`, want: protocol.Call{Method: "a.b"}},
		{name: "empty", in: ``, bad: true},
		{name: "blank", in: ` `, bad: true},
		{name: "no object", in: `[]`, bad: true},
		{name: "no method", in: `{}`, bad: true},
		{name: "method of another type", in: `{"method":7}`, bad: true},
		{name: "two values", in: `{"method":"a.b"}{}`, bad: true},
		{name: "no JSON", in: `GET / HTTP/1.1`, bad: true},
		{name: "no UTF-8", in: "{\"method\":\"a.\xff\"}", bad: true},
		{name: "too deep", in: `{"method":"a.b","parameters":` + string(bytes.Repeat([]byte("["), 20000)), bad: true},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, err := protocol.DecodeCall([]byte(tt.in))
			if tt.bad {
				if !errors.Is(err, protocol.ErrMalformed) {
					t.Errorf("got %+v, %v; want ErrMalformed", got, err)
				}
				return
			}
			if err != nil || !reflect.DeepEqual(got, tt.want) {
				t.Errorf("got %+v, %v; want %+v", got, err, tt.want)
			}
		})
	}
}

func TestDecodeParameters(t *testing.T) {
	for _, in := range []string{``, `null`, `{}`, `{"unknown":[1]}`} {
		var p protocol.GetParameters
		if err := protocol.DecodeParameters(json.RawMessage(in), &p); err != nil || p.Names != nil {
			t.Errorf("%q: got %+v, %v; want nothing", in, p, err)
		}
	}
	tests := []struct{ in, parameter string }{
		{`{"names":"web"}`, "names"},
		{`{"names":[1]}`, "names"},
		{`{"wait":"yes"}`, "wait"},
		{`[]`, "parameters"},
		{`"x"`, "parameters"},
	}
	for _, tt := range tests {
		var p protocol.GetParameters
		err := protocol.DecodeParameters(json.RawMessage(tt.in), &p)
		var invalid *protocol.InvalidParameterError
		if !errors.As(err, &invalid) || invalid.Parameter != tt.parameter {
			t.Errorf("%s: got %v, want InvalidParameter of %q", tt.in, err, tt.parameter)
		}
	}
}

func TestReplyRoundTrip(t *testing.T) {
	want := protocol.GetReply{Grant: 7, Sockets: []protocol.Socket{{Name: "web", Network: "tcp", Address: "[::]:9000"}}}
	b, err := protocol.AppendReply([]byte("before"), want, true)
	if err != nil || !bytes.HasPrefix(b, []byte(`before{"parameters":`)) || bytes.IndexByte(b, 0) != len(b)-1 {
		t.Fatalf("got %q, %v", b, err)
	}
	r, err := protocol.DecodeReply(b[len("before") : len(b)-1])
	if err != nil || !r.Continues || r.Err != nil {
		t.Fatalf("got %+v, %v", r, err)
	}
	var got protocol.GetReply
	if err := protocol.DecodeParameters(r.Parameters, &got); err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v, %v; want %+v", got, err, want)
	}
	for _, bad := range []string{``, `nope`, "{\"error\":\"\xff\"}"} {
		if r, err := protocol.DecodeReply([]byte(bad)); !errors.Is(err, protocol.ErrMalformed) {
			t.Errorf("%q: got %+v, %v; want ErrMalformed", bad, r, err)
		}
	}
}

// An error has the same type, data, sentinel and text on both sides of the socket.
func TestErrorsTravel(t *testing.T) {
	held := []protocol.Holder{{Grant: 1, Names: []string{"web"}, PID: 42, Command: "python3 app.py", State: protocol.StateActive}, {Grant: 2, UID: 7}}
	tests := []struct {
		err      error
		sentinel error
		text     string
	}{
		{&protocol.UnknownNameError{Name: "wbe", Names: []string{"adm", "web"}}, protocol.ErrUnknownName, `no listener is called "wbe"; there are: adm, web`},
		{&protocol.UnknownNameError{Name: "wbe", Names: slices.Repeat([]string{"web"}, 12)}, protocol.ErrUnknownName,
			`no listener is called "wbe"; there are: ` + strings.Repeat("web, ", 9) + `web and 2 more`},
		{&protocol.UnknownNameError{Name: "wbe", Names: slices.Repeat([]string{"web"}, 100)}, protocol.ErrUnknownName,
			`no listener is called "wbe"; there are: ` + strings.Repeat("web, ", 9) + `web and at least 90 more`},
		{&protocol.UnknownNameError{Name: "wbe", Names: []string{"adm"}, UID: 1000}, protocol.ErrDenied,
			`no listener is called "wbe", or uid 1000 may not get it; there are: adm`},
		{&protocol.UnknownNameError{Name: "wbe"}, protocol.ErrUnknownName, `no listener is called "wbe"`},
		{&protocol.DeniedError{Name: "web", UID: 1000, Allow: []string{"root", "uid:33"}}, protocol.ErrDenied, `uid 1000 is not allowed to get "web"; allowed: root, uid:33`},
		{&protocol.ConflictError{Name: "web", Blocking: true, Holders: held}, protocol.ErrConflict,
			`"web" is held blocking by pid 42 (python3 app.py), a process of uid 7 in another namespace, and O_NONBLOCK is shared: stop them first, or give the non-blocking workers a listener of their own`},
		{&protocol.FullError{Name: "web", Max: 1, Holders: held[:1]}, protocol.ErrFull, `"web" has no free place: max=1, held by pid 42 (python3 app.py)`},
		{&protocol.NameInUseError{Name: "web", Spec: "web=:9000"}, protocol.ErrNameInUse, `"web" is bound already, as web=:9000; unbind it first`},
		{&protocol.BindFailedError{Failures: []protocol.BindFailure{{Spec: "a=:1", Message: "first"}, {Spec: "b=:2", Message: "second", Errno: 98, Processes: []protocol.Process{{PID: 1, Command: "x"}}}}}, protocol.ErrBindFailed, "first\nsecond"},
		{&protocol.LimitError{Limit: "clients", Max: 4096}, protocol.ErrLimitReached, `the broker's limit of clients is reached: 4096`},
		{&protocol.MalformedError{Reason: "no method"}, protocol.ErrMalformed, `malformed message: no method`},
		{&protocol.PermissionDeniedError{}, protocol.ErrDenied, `permission denied: only root and the user that the broker runs as may do this`},
		{&protocol.InvalidParameterError{Parameter: "names"}, nil, `invalid parameter: names`},
		{&protocol.MethodNotFoundError{Method: "io.fdbroker.Fly"}, nil, `the broker has no method io.fdbroker.Fly; it may be older than this client`},
		{&protocol.InterfaceNotFoundError{Interface: "a.b"}, nil, `there is no interface a.b`},
		{&protocol.ExpectedMoreError{}, nil, `the method must be called with "more"`},
		{&protocol.ExitedError{PID: 7}, nil, "pid 7, which made this connection, has exited: connect again"},
		{&protocol.FailedError{Message: "disk on fire"}, nil, "the broker failed: disk on fire"},
		{&protocol.RemoteError{Name: "com.example.New", Parameters: json.RawMessage(`{"why":"\u001b[2J"}`)}, nil, `the broker answers com.example.New {"why":"\u001b[2J"}`},
	}
	for _, tt := range tests {
		b, err := protocol.AppendError(nil, tt.err)
		if err != nil {
			t.Fatal(err)
		}
		r, err := protocol.DecodeReply(b[:len(b)-1])
		if err != nil {
			t.Fatalf("%s: %v", b, err)
		}
		if !reflect.DeepEqual(r.Err, tt.err) {
			t.Errorf("sent %#v, got %#v", tt.err, r.Err)
		}
		if tt.sentinel != nil && !errors.Is(r.Err, tt.sentinel) {
			t.Errorf("%v is not %v", r.Err, tt.sentinel)
		}
		if r.Err.Error() != tt.text {
			t.Errorf("got  %s\nwant %s", r.Err, tt.text)
		}
	}
	b, err := protocol.AppendError(nil, errors.New("disk on fire"))
	if err != nil {
		t.Fatal(err)
	}
	if want := `{"error":"io.fdbroker.Failed","parameters":{"message":"disk on fire"}}` + "\x00"; string(b) != want {
		t.Errorf("got %q, want %q", b, want)
	}
}

func TestPrintable(t *testing.T) {
	if got, want := protocol.Printable("a\x1b[2J\nü\u009b\u2028"), "a?[2J?ü??"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

func FuzzDecodeCall(f *testing.F) {
	f.Add([]byte(`{"method":"io.fdbroker.Get","parameters":{"names":["web"]},"more":true}`))
	f.Add([]byte(`{"method":"a.b","parameters":null,"oneway":true}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		c, err := protocol.DecodeCall(b)
		if err != nil {
			if !errors.Is(err, protocol.ErrMalformed) {
				t.Fatalf("untyped error %v", err)
			}
			return
		}
		again, err := protocol.AppendCall(nil, c, nil)
		if err != nil {
			t.Fatal(err)
		}
		c2, err := protocol.DecodeCall(again[:len(again)-1])
		if err != nil || c2.Method != c.Method || c2.More != c.More || c2.Oneway != c.Oneway {
			t.Fatalf("%+v became %+v, %v", c, c2, err)
		}
		twice, err := protocol.AppendCall(nil, c2, nil)
		if err != nil || !bytes.Equal(again, twice) {
			t.Fatalf("%q became %q, %v", again, twice, err)
		}
	})
}

func FuzzDecodeReply(f *testing.F) {
	f.Add([]byte(`{"parameters":{"grant":1},"continues":true}`))
	f.Add([]byte(`{"error":"io.fdbroker.Conflict","parameters":{"name":"x","holders":[{"pid":1}]}}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		r, err := protocol.DecodeReply(b)
		if err != nil {
			if !errors.Is(err, protocol.ErrMalformed) {
				t.Fatalf("untyped error %v", err)
			}
			return
		}
		if r.Err == nil {
			return
		}
		_ = r.Err.Error()
		if _, err := protocol.AppendError(nil, r.Err); err != nil {
			t.Fatalf("%#v cannot be sent on: %v", r.Err, err)
		}
	})
}
