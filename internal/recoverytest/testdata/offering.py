# A worker that keeps what it was granted, and offers it to the next broker, with
# nothing but the protocol: NAME CONTROL. It cannot be traced, so nobody takes it.
import ctypes, json, os, socket, sys, threading, time

name, control = sys.argv[1:3]
s = socket.socket(fileno=3)
ctypes.CDLL(None).prctl(4, 0, 0, 0, 0)  # PR_SET_DUMPABLE


def serve():
    while True:
        c, _ = s.accept()
        c.sendall(b"%d\n" % os.getpid())
        c.close()


def call(c, method, more=False, fds=[], **parameters):
    m = {"method": "io.fdbroker." + method, "parameters": parameters, "more": more}
    socket.send_fds(c, [json.dumps(m).encode() + b"\0"], fds)
    b = b""
    while not b.endswith(b"\0"):
        data, got, _, _ = socket.recv_fds(c, 65536, 8)
        if not data:
            raise ConnectionError
        for fd in got:
            os.close(fd)  # we have it
        b += data
    return json.loads(b[:-1])


def offer(c):
    r = call(c, "Get", more=True, names=[name])
    if r.get("error") == "io.fdbroker.Pending":
        r = call(c, "Attach", name=name)
        if "error" not in r:
            r = call(c, "Attach", fds=[s.fileno()], name=name, fileDescriptor=0)
        print(json.dumps(r), flush=True)
        r = call(c, "Get", more=True, names=[name])
    if "error" in r:
        raise ConnectionError
    c.recv(1)  # until the broker goes


threading.Thread(target=serve, daemon=True).start()
while True:
    try:
        with socket.socket(socket.AF_UNIX) as c:
            c.connect(control)
            offer(c)
    except OSError:
        pass
    time.sleep(0.02)
