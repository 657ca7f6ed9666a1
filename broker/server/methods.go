//go:build linux

package server

import (
	"errors"
	"syscall"

	"github.com/fdbroker/fdbroker/broker/socket"
	"github.com/fdbroker/fdbroker/protocol"
)

func (s *session) bind(c protocol.Call) (any, error) {
	if !s.privileged() {
		return nil, &protocol.PermissionDeniedError{}
	}
	var p protocol.BindParameters
	if err := protocol.DecodeParameters(c.Parameters, &p); err != nil {
		return nil, err
	}
	if len(p.Listeners) == 0 {
		return nil, &protocol.InvalidParameterError{Parameter: "listeners"}
	}
	specs, err := parseSpecs(p.Listeners)
	if err != nil {
		return nil, err
	}
	if err := s.server.Bind(specs...); err != nil {
		return nil, err
	}
	names := make([]string, len(specs))
	for i, spec := range specs {
		names[i] = spec.Name
	}
	return protocol.BindReply{Listeners: s.server.describe(names)}, nil
}

func parseSpecs(texts []string) ([]socket.Spec, error) {
	var failed protocol.BindFailedError
	specs := make([]socket.Spec, 0, len(texts))
	for _, text := range texts {
		spec, err := socket.ParseSpec(text)
		if err != nil {
			failed.Failures = append(failed.Failures, protocol.BindFailure{Spec: text, Message: err.Error()})
			continue
		}
		specs = append(specs, spec)
	}
	if len(failed.Failures) > 0 {
		return nil, &failed
	}
	return specs, nil
}

func (s *session) unbind(c protocol.Call) (any, error) {
	if !s.privileged() {
		return nil, &protocol.PermissionDeniedError{}
	}
	var p protocol.UnbindParameters
	if err := protocol.DecodeParameters(c.Parameters, &p); err != nil {
		return nil, err
	}
	if len(p.Names) == 0 {
		return nil, &protocol.InvalidParameterError{Parameter: "names"}
	}
	return nil, s.server.Unbind(p.Names...)
}

func (s *Server) info() protocol.Info {
	return protocol.Info{
		Vendor: "fdbroker", Product: "fdbroker", Version: s.cfg.Version,
		URL:        "https://github.com/fdbroker/fdbroker",
		Interfaces: []string{protocol.InterfaceName, protocol.ServiceInterfaceName},
	}
}

func describe(c protocol.Call) (any, error) {
	var p protocol.InterfaceParameters
	if err := protocol.DecodeParameters(c.Parameters, &p); err != nil {
		return nil, err
	}
	switch p.Interface {
	case protocol.InterfaceName:
		return protocol.InterfaceReply{Description: protocol.Interface}, nil
	case protocol.ServiceInterfaceName:
		return protocol.InterfaceReply{Description: protocol.ServiceInterface}, nil
	case "":
		return nil, &protocol.InvalidParameterError{Parameter: "interface"}
	}
	return nil, &protocol.InterfaceNotFoundError{Interface: p.Interface}
}

// failureOf turns what a spec failed with into what travels.
func failureOf(spec socket.Spec, err error) protocol.BindFailure {
	f := protocol.BindFailure{Spec: spec.String(), Message: err.Error()}
	if errno, ok := errors.AsType[syscall.Errno](err); ok {
		f.Errno = int(errno)
	}
	if b, ok := errors.AsType[*socket.BindError](err); ok {
		for _, p := range b.Holders {
			f.Processes = append(f.Processes, protocol.Process{PID: p.PID, Command: p.Command})
		}
	}
	return f
}
