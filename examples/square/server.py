"""The plain square server: it owns its port, so the port goes when it crashes.

    python3 server.py 127.0.0.1:9000
"""
import os
import socket
import sys

host, port = sys.argv[1].rsplit(":", 1)
with socket.socket() as listener:
    # Without it a restarted server could not bind while its last connections linger in TIME_WAIT.
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind((host, int(port)))
    listener.listen()
    print(f"server {os.getpid()}: accepting on {sys.argv[1]}", flush=True)
    while True:
        connection, _ = listener.accept()
        with connection, connection.makefile("rw") as stream:
            number = int(stream.readline())  # the bug: "five" ends the whole process
            print(number * number, os.getpid(), file=stream)
