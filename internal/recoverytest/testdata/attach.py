# Tries to give the broker a socket that is not the one: CONTROL NAME HOW. Says "up",
# waits for a line, and prints the last reply.
import json, os, socket, sys

control, name, how = sys.argv[1:4]


def call(c, fds=[], **parameters):
    m = {"method": "io.fdbroker.Attach", "parameters": parameters}
    socket.send_fds(c, [json.dumps(m).encode() + b"\0"], fds)
    return json.loads(c.recv(65536)[:-1])


print("up", flush=True)
sys.stdin.readline()
c = socket.socket(socket.AF_UNIX)
c.connect(control)
r = call(c, name=name)
if how != "ask" and "error" not in r:
    s = socket.socket()
    s.bind(("127.0.0.1", 0))
    if how != "deaf":
        s.listen()
    if how == "marked":
        os.fchmod(s.fileno(), 0o1600)  # as a broker of this user does
    r = call(c, [s.fileno()], name=name, fileDescriptor=0)
print(json.dumps(r))
