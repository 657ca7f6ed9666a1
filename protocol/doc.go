// Package protocol is the control protocol of fdbroker: what broker and client
// say to each other, and how it is framed. It holds no listener and keeps no
// state but that of one connection.
//
// The protocol is Varlink: JSON objects, each ended by one NUL byte, over a Unix
// stream socket, with descriptors attached to the first byte of the message that
// names them by index. [Interface] is its definition, and its documentation.
//
// Encoding ([AppendCall], [AppendReply], [AppendError]) and decoding
// ([DecodeCall], [DecodeReply]) are pure; only [Conn] touches a socket.
package protocol
