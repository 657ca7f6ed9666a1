// Package gracefultest tests the packages broker and broker/graceful with the servers and clients that people use: gRPC,
// WebSockets, QUIC and DNS. It is a module of its own, so that fdbroker does not depend on them:
//
//	cd internal/gracefultest && go test ./...
package gracefultest
