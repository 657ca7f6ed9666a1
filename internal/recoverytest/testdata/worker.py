# Answers each connection with its pid, blocking in accept: the simplest server.
import os, socket, sys

s = socket.socket(fileno=int(sys.argv[1]) if len(sys.argv) > 1 else 3)
while True:
    c, _ = s.accept()
    c.sendall(b"%d\n" % os.getpid())
    c.close()
