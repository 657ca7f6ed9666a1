package server

import (
	"maps"
	"slices"

	"github.com/fdbroker/fdbroker/broker/socket"
	"github.com/fdbroker/fdbroker/broker/socket/spec"
	"github.com/fdbroker/fdbroker/internal/procfs"
	"github.com/fdbroker/fdbroker/protocol"
)

// bind answers Bind.
func (k *call) bind() error {
	var p protocol.BindParameters
	if err := protocol.DecodeParameters(k.Parameters, &p); err != nil {
		return err
	}
	if len(p.Listeners) == 0 {
		return &protocol.InvalidParameterError{Parameter: "listeners"}
	}
	return k.run(func() (any, error) {
		specs, err := parseSpecs(p.Listeners)
		if err == nil {
			err = k.Bind(specs...)
		}
		if err != nil {
			return nil, err
		}
		names := make([]string, len(specs))
		for i, s := range specs {
			names[i] = s.Name
		}
		return protocol.BindReply{Listeners: k.describeNew(names)}, nil
	})
}

// describeNew describes listeners that were just bound, and says what the kernel gives less of than was asked for.
func (s *Server) describeNew(names []string) []protocol.Listener {
	shots := s.registry.Snapshots(names)
	listeners := s.describe(shots)
	for i, shot := range shots {
		if !shot.Socket.Any() {
			listeners[i].Capped = socket.Shortfalls(shot.Socket.Spec())
		}
	}
	return listeners
}

func parseSpecs(texts []string) ([]spec.Spec, error) {
	var failed protocol.BindFailedError
	specs := make([]spec.Spec, 0, len(texts))
	for _, text := range texts {
		s, err := spec.Parse(text)
		if err != nil {
			failed.Failures = append(failed.Failures, protocol.BindFailure{Spec: text, Message: err.Error()})
			continue
		}
		specs = append(specs, s)
	}
	if len(failed.Failures) > 0 {
		return nil, &failed
	}
	return specs, nil
}

// unbind answers Unbind.
func (k *call) unbind() error {
	var p protocol.UnbindParameters
	if err := protocol.DecodeParameters(k.Parameters, &p); err != nil {
		return err
	}
	if len(p.Names) == 0 {
		return &protocol.InvalidParameterError{Parameter: "names"}
	}
	return k.run(func() (any, error) { return k.unbindNames(p.Names) })
}

// reload answers Reload.
func (k *call) reload() error {
	var p protocol.ReloadParameters
	if err := protocol.DecodeParameters(k.Parameters, &p); err != nil {
		return err
	}
	if k.cfg.Reload == nil {
		return &protocol.ReloadFailedError{Reasons: []string{"this broker has no configuration file (--config) to read again"}}
	}
	return k.run(func() (any, error) {
		c, err := k.cfg.Reload(ReloadOptions{Force: p.Force, Rebind: p.Rebind})
		if err != nil {
			return nil, loggedError{err}
		}
		return protocol.ReloadReply{
			Bound: append([]string{}, c.Bound...), Unbound: append([]string{}, c.Unbound...), Changed: append([]string{}, c.Changed...),
			Renewed: renewed(c, p.Rebind),
		}, nil
	})
}

// renewed describes who has old sockets.
func renewed(c Changes, asks bool) (all []protocol.Renewed) {
	for _, name := range slices.Sorted(maps.Keys(c.Renewed)) {
		left := c.Renewed[name]
		one := protocol.Renewed{Name: name, Rolling: len(left.Rolling), Moving: left.Moving, Asked: []protocol.Process{}, Left: []protocol.Process{}}
		for _, h := range left.Asked {
			to := &one.Left
			if asks {
				to = &one.Asked
			}
			*to = append(*to, protocol.Process{PID: h.PID, Command: h.Command})
		}
		for _, h := range left.Stuck {
			one.Left = append(one.Left, protocol.Process{PID: h.PID, Command: h.Command})
		}
		for _, pid := range left.Strays {
			one.Left = append(one.Left, protocol.Process{PID: pid, Command: procfs.Name(pid)})
		}
		all = append(all, one)
	}
	return all
}
