package protocol

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"unicode/utf8"
)

// Call is a decoded method call.
type Call struct {
	Method     string          `json:"method"`
	Parameters json.RawMessage `json:"parameters,omitempty"`
	More       bool            `json:"more,omitempty"`
	Oneway     bool            `json:"oneway,omitempty"`
}

// Reply is a decoded reply: either Parameters or Err is set.
type Reply struct {
	Parameters json.RawMessage
	Continues  bool  // more replies to this call follow
	Err        error // the argument of AppendError, or a *RemoteError
}

// AppendCall appends the call c, ended by NUL, to dst. The parameters may be nil.
func AppendCall(dst []byte, c Call, parameters any) ([]byte, error) {
	if parameters != nil {
		p, err := json.Marshal(parameters)
		if err != nil {
			return dst, fmt.Errorf("encode parameters of %s: %w", c.Method, err)
		}
		c.Parameters = p
	}
	m, err := json.Marshal(c)
	if err != nil {
		return dst, fmt.Errorf("encode call of %s: %w", c.Method, err)
	}
	return append(append(dst, m...), 0), nil
}

// DecodeCall decodes a message without its NUL. The error is a *[MalformedError]. The result refers to b.
func DecodeCall(b []byte) (Call, error) {
	var c Call
	switch {
	case !utf8.Valid(b):
		return c, &MalformedError{Reason: "not UTF-8"}
	case len(bytes.TrimLeft(b, " \t\r\n")) == 0:
		return c, &MalformedError{Reason: "empty message"}
	}
	if err := json.Unmarshal(b, &c); err != nil {
		return c, &MalformedError{Reason: reason(err)}
	}
	if c.Method == "" {
		return c, &MalformedError{Reason: "no method"}
	}
	return c, nil
}

// reason describes an error of a call without the names of this package's types.
func reason(err error) string {
	t, ok := errors.AsType[*json.UnmarshalTypeError](err)
	switch {
	case !ok:
		return err.Error()
	case t.Field == "":
		return "a call is a JSON object, not " + t.Value
	default:
		return fmt.Sprintf("%s must not be of type %s", t.Field, t.Value)
	}
}

// DecodeParameters decodes the parameters of a call or a reply into v. Absent, null and {}
// mean the same; unknown fields are ignored. The error is an *[InvalidParameterError].
func DecodeParameters(p json.RawMessage, v any) error {
	if len(p) == 0 {
		return nil
	}
	err := json.Unmarshal(p, v)
	if err == nil {
		return nil
	}
	param := "parameters"
	if t, ok := err.(*json.UnmarshalTypeError); ok && t.Field != "" {
		param = t.Field
	}
	return &InvalidParameterError{Parameter: param}
}

// AppendReply appends a reply, ended by NUL, to dst. The parameters may be nil.
func AppendReply(dst []byte, parameters any, continues bool) ([]byte, error) {
	p := []byte("{}")
	if parameters != nil {
		var err error
		if p, err = json.Marshal(parameters); err != nil {
			return dst, fmt.Errorf("encode reply: %w", err)
		}
	}
	dst = append(dst, `{"parameters":`...)
	dst = append(dst, p...)
	if continues {
		dst = append(dst, `,"continues":true`...)
	}
	return append(dst, '}', 0), nil
}

// AppendError appends the reply that says err, ended by NUL, to dst. An error that is not of
// this package becomes a *[FailedError] with its text.
func AppendError(dst []byte, err error) ([]byte, error) {
	w := wireError(err)
	p, merr := json.Marshal(w)
	if merr != nil {
		return dst, fmt.Errorf("encode error %s: %w", w.wireName(), merr)
	}
	dst = append(dst, `{"error":"`...)
	dst = append(dst, w.wireName()...)
	dst = append(dst, `","parameters":`...)
	dst = append(dst, p...)
	return append(dst, '}', 0), nil
}

// DecodeReply decodes a message without its NUL. The result refers to b.
func DecodeReply(b []byte) (Reply, error) {
	var m struct {
		Parameters json.RawMessage `json:"parameters"`
		Continues  bool            `json:"continues"`
		Error      string          `json:"error"`
	}
	if !utf8.Valid(b) {
		return Reply{}, &MalformedError{Reason: "reply: not UTF-8"}
	}
	if err := json.Unmarshal(b, &m); err != nil {
		return Reply{}, &MalformedError{Reason: "reply: " + err.Error()}
	}
	if m.Error != "" {
		return Reply{Err: decodeError(m.Error, m.Parameters)}, nil
	}
	return Reply{Parameters: m.Parameters, Continues: m.Continues}, nil
}

// ParseReply decodes a reply without its NUL, and its parameters into v, unless that is nil. The error may be the
// broker's, and is a *[MalformedError] otherwise.
func ParseReply(b []byte, v any) error {
	r, err := DecodeReply(b)
	if err == nil {
		err = r.Err
	}
	if err != nil || v == nil {
		return err
	}
	err = DecodeParameters(r.Parameters, v)
	if invalid, ok := errors.AsType[*InvalidParameterError](err); ok {
		return &MalformedError{Reason: fmt.Sprintf("reply: %s is of another type", invalid.Parameter)}
	}
	return err
}
