module github.com/fdbroker/fdbroker/internal/gracefultest

go 1.26.0

replace github.com/fdbroker/fdbroker => ../..

require (
	github.com/coder/websocket v1.8.15
	github.com/fdbroker/fdbroker v0.0.0
	github.com/miekg/dns v1.1.73
	github.com/quic-go/quic-go v0.65.0
	golang.org/x/net v0.62.0
	golang.org/x/sys v0.49.0
	google.golang.org/grpc v1.85.0
	google.golang.org/protobuf v1.36.12
)

require (
	golang.org/x/crypto v0.58.0 // indirect
	golang.org/x/text v0.43.0 // indirect
	google.golang.org/genproto/googleapis/rpc v0.0.0-20260817212433-ac3dfec99bb1 // indirect
)
