package server

import (
	"github.com/fdbroker/fdbroker/broker/server/registry"
	"github.com/fdbroker/fdbroker/protocol"
)

// info answers GetInfo.
func (k *call) info() error {
	return k.reply(protocol.Info{
		Vendor: "fdbroker", Product: "fdbroker", Version: k.cfg.Version,
		URL:        "https://github.com/fdbroker/fdbroker",
		Interfaces: []string{protocol.InterfaceName, protocol.ServiceInterfaceName},
	}, false)
}

// describeInterface answers GetInterfaceDescription.
func (k *call) describeInterface() error {
	var p protocol.InterfaceParameters
	if err := protocol.DecodeParameters(k.Parameters, &p); err != nil {
		return err
	}
	switch p.Interface {
	case protocol.InterfaceName:
		return k.reply(protocol.InterfaceReply{Description: protocol.Interface}, false)
	case protocol.ServiceInterfaceName:
		return k.reply(protocol.InterfaceReply{Description: protocol.ServiceInterface}, false)
	case "":
		return &protocol.InvalidParameterError{Parameter: "interface"}
	}
	return &protocol.InterfaceNotFoundError{Interface: p.Interface}
}

// upgrade answers Upgrade. The reply comes once this broker has stopped: a client that connects after it is
// served by the next one.
func (k *call) upgrade() error {
	if k.cfg.Upgrade == nil {
		return &protocol.UpgradeFailedError{Reasons: []string{"this broker cannot be upgraded"}}
	}
	k.conn.Run(func() func() error {
		takeOver, err := k.cfg.Upgrade()
		if err != nil {
			return func() error { return k.refuse(loggedError{err}) }
		}
		takeOver()
		<-k.stopping
		return func() error {
			if err := k.reply(nil, false); err != nil {
				return err
			}
			return registry.ErrStopping
		}
	})
	return nil
}
