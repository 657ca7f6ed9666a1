"""The square server without the port: it accepts on the socket it finds as its standard input.

    fdclient get --stdin web -- python3 worker.py

It neither binds nor listens, so its crash takes no port down: what connects meanwhile waits in the
queue of the socket that the broker still holds.
"""
import os
import socket

# A plain accept() dies of EAGAIN on a non-blocking socket: --stdin asks the broker for a blocking one.
with socket.socket(fileno=0) as listener:
    host, port = listener.getsockname()[:2]
    print(f"worker {os.getpid()}: accepting on {host}:{port}", flush=True)
    while True:
        connection, _ = listener.accept()
        with connection, connection.makefile("rw") as stream:
            number = int(stream.readline())  # the bug: "five" ends the whole process
            print(number * number, os.getpid(), file=stream)
