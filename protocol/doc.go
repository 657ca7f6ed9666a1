// Package protocol is the control protocol of fdbroker: the messages between broker and client, and their framing. It
// must never hold a listener, and it keeps no state except that of one connection.
//
// The protocol is Varlink: JSON objects, each ended by one NUL byte, over a Unix stream socket. Descriptors travel with
// the first byte of the message that names them by index. [Interface] is its definition, and its documentation.
//
// Encoding ([AppendCall], [AppendReply], [AppendError]) and decoding ([DecodeCall],
// [DecodeReply]) are pure; only [Conn] touches a socket.
package protocol
