# Python's own HTTP server, at 127.0.0.1:PORT or on the socket that it is passed.
# SIGTERM ends it as it should: no more connections, and those that are there finish.
import http.server, os, signal, socket, sys, threading


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"%d\n" % os.getpid())

    def log_message(self, *args):
        pass


port = int(sys.argv[1]) if len(sys.argv) > 1 else 0
server = http.server.ThreadingHTTPServer(("127.0.0.1", port), Handler, bind_and_activate=port != 0)
if port == 0:
    server.socket.close()
    server.socket = socket.socket(fileno=3)
server.daemon_threads = False
signal.signal(signal.SIGTERM, lambda *_: threading.Thread(target=server.shutdown).start())
server.serve_forever(poll_interval=0.02)
server.server_close()
