"""Serves a broker's listener with nothing but the standard library of Python 3.9.

    python3 client.py [NAME]        (NAME is "web" unless given)

listener() is the whole client: one JSON message ended by a NUL byte, and a reply of the same form
that brings the socket along. It is Varlink, so any language that can receive a descriptor can do it.
"""
import http.server
import json
import os
import socket
import sys

RUN = "/run" if os.getuid() == 0 else os.environ.get("XDG_RUNTIME_DIR", "/run")
CONTROL = os.environ.get("FDBROKER_SOCKET") or RUN + "/fdbroker/control"
if "FDBROKER_SOCKET" not in os.environ and not os.path.exists(CONTROL):
    CONTROL = "/run/fdbroker/control"


def listener(name):
    """Returns the listening socket called name; it is granted for as long as this process lives."""
    with socket.socket(socket.AF_UNIX) as broker:
        broker.connect(CONTROL)
        parameters = {"names": [name]}
        if "FDBROKER_GENERATION" in os.environ:  # set by "fdclient run": the deploy that we belong to
            parameters["generation"] = int(os.environ["FDBROKER_GENERATION"])
        call = {"method": "io.fdbroker.Get", "parameters": parameters}
        broker.sendall(json.dumps(call).encode() + b"\0")
        message, fds = b"", []
        while not message.endswith(b"\0"):
            # Never a plain recv(): it would drop the descriptors that come with the bytes.
            data, received, _, _ = socket.recv_fds(broker, 65536, 1)
            if not data:
                raise OSError("the broker hung up")
            message, fds = message + data, fds + list(received)
    reply = json.loads(message[:-1])
    if "error" in reply:
        raise OSError(f"{reply['error']} {json.dumps(reply.get('parameters', {}))}")
    return socket.socket(fileno=fds[reply["parameters"]["sockets"][0]["fileDescriptor"]])


class Hello(http.server.BaseHTTPRequestHandler):
    """Answers every GET with the process that did."""

    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(f"hello from process {os.getpid()}\n".encode())

    def log_message(self, *_):
        """Says nothing: the base class would log each request."""


def main():
    name = sys.argv[1] if len(sys.argv) > 1 else "web"
    server = http.server.HTTPServer(("", 0), Hello, bind_and_activate=False)
    server.socket.close()
    try:
        server.socket = listener(name)
    except OSError as error:
        sys.exit(f"client.py: no listener {name!r} from {CONTROL}: {error}")
    host, port = server.socket.getsockname()[:2]
    print(f"process {os.getpid()} serves http://{host}:{port}", flush=True)
    # The socket is non-blocking unless the call says "blocking": true. This server waits in poll()
    # before it accepts, so it is content with either, and with losing the race to another worker.
    server.serve_forever()


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        pass
