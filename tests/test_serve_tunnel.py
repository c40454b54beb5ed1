"""Tunnels into boxes of `postern serve` and links to their files, with the Python SDK and with clients that break the protocol."""

import base64
import contextlib
import socket
import struct
import threading
import urllib.error
import urllib.request

import pytest

from attacks_support import eventually
from clients_support import WAIT
from serve_support import Server, python_sdk, run_python, server  # noqa: F401 (fixtures)

DATA, WINDOW, PING, AWAY = range(4)
SYN, ACK, FIN, RST = 1, 2, 4, 8
KIB = 1024


def frame(kind, flags, stream, length, content=b""):
    return struct.pack(">BBHII", 0, kind, flags, stream, length) + content


def data(stream, content, flags=0):
    return frame(DATA, flags, stream, len(content), content)


def opening(stream, port, version=1):
    return frame(WINDOW, SYN, stream, 0) + data(stream, struct.pack(">BH", version, port))


class Refused(Exception):
    pass


class Closed(Exception):
    pass


class Raw:
    """A yamux client on a WebSocket, both of which do what they are told."""

    def __init__(self, server, box, key=None):
        host, port = server.url.removeprefix("http://").rsplit(":", 1)
        self.socket = socket.create_connection((host, int(port)), timeout=WAIT)
        self.bytes = b""
        self.read_ahead = b""
        keys = "" if key is False else f"X-Api-Key: {key or server.key}\r\n"
        self.socket.sendall((f"GET /api/v2/sandboxes/{box}/tunnel HTTP/1.1\r\nHost: {host}:{port}\r\n{keys}Connection: Upgrade\r\nUpgrade: websocket\r\n"
                             "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n").encode())
        head = b""
        while not head.endswith(b"\r\n\r\n"):
            head += self.exactly(1)
        if b" 101 " not in head.split(b"\r\n")[0]:
            raise Refused(int(head.split()[1]))

    def exactly(self, size):
        while len(self.read_ahead) < size:
            piece = self.socket.recv(65536)
            if not piece:
                raise Closed(1006)
            self.read_ahead += piece
        out, self.read_ahead = self.read_ahead[:size], self.read_ahead[size:]
        return out

    def send(self, content, opcode=2):
        """One message, masked with zeros."""
        length = len(content)
        short = bytes([0x80 | length]) if length < 126 else b"\xfe" + struct.pack(">H", length) if length < 65536 else b"\xff" + struct.pack(">Q", length)
        self.socket.sendall(bytes([0x80 | opcode]) + short + bytes(4) + content)

    def message(self):
        while True:
            first, length = self.exactly(2)
            if length >= 126:
                length = int.from_bytes(self.exactly(2 if length == 126 else 8), "big")
            content = self.exactly(length)
            if first & 15 == 8:
                raise Closed(int.from_bytes(content[:2], "big"))
            if first & 15 < 8:
                return content

    def frame(self):
        """(kind, flags, stream, content or number)"""
        def more(size):
            while len(self.bytes) < size:
                self.bytes += self.message()
        more(12)
        _, kind, flags, stream, length = struct.unpack(">BBHII", self.bytes[:12])
        self.bytes = self.bytes[12:]
        if kind != DATA:
            return kind, flags, stream, length
        more(length)
        content, self.bytes = self.bytes[:length], self.bytes[length:]
        return kind, flags, stream, content

    def until(self, kind, stream, flags=None):
        while True:
            got = self.frame()
            if got[0] == kind and got[2] == stream and (flags is None or got[1] & flags):
                return got

    def status_of(self, stream):
        return self.until(DATA, stream)[3]

    def end(self):
        """The code that it was closed with."""
        try:
            while True:
                self.bytes += self.message()
        except Closed as closed:
            return closed.args[0]


@contextlib.contextmanager
def raw(server, box="one", key=None):
    made = Raw(server, box, key)
    try:
        yield made
    finally:
        made.socket.close()


@pytest.fixture
def box(server):
    server.start()
    assert server.call("POST", "/boxes", {"name": "one"})[0] == 201
    return server


@pytest.fixture
def host_listener():
    """Somebody on the host's own 127.0.0.1."""
    listening = socket.create_server(("127.0.0.1", 0))
    def answer():
        with contextlib.suppress(OSError):
            while True:
                connection, _ = listening.accept()
                connection.sendall(b"the host")
                connection.close()
    threading.Thread(target=answer, daemon=True).start()
    yield listening.getsockname()[1]
    listening.close()


def listen(server, script, port):
    """A Python program in the box that listens on `port`."""
    program = f"import socket,time\ns=socket.create_server(('127.0.0.1',{port}))\nopen('/tmp/ready{port}','w').close()\n{script}"
    command = f"cat > /tmp/l{port}.py <<'END'\n{program}\nEND\n(setsid python3 /tmp/l{port}.py >/tmp/l{port}.log 2>&1 </dev/null &)\nwhile ! test -e /tmp/ready{port}; do sleep 0.05; done"
    status, done = server.call("POST", "/one/execute", {"command": command, "timeout": 30})
    assert status == 200 and done["exit_code"] == 0, done


def test_the_python_sdk_tunnels(server, python_sdk, host_listener):
    server.start()
    found = run_python(server, python_sdk, "sdk_tunnel.py", host_listener)
    assert found["said"] == "listening"
    assert found["small"] and found["large"] and found["many"] and found["flood"] and found["deaf"]
    assert found["page"] == "<h1>from the box</h1>"
    assert found["host"] == "" and found["alive"] == "yes\n"
    assert found["link"] == ["<h1>from the box</h1>", "text/html", True]
    assert server.stop() == 0


def test_each_stream_is_answered_for_itself(box, host_listener):
    listen(box, "while True:\n c,_=s.accept(); c.sendall(b'hello '+c.recv(100)); c.close()", 7100)
    with raw(box) as client:
        client.send(opening(1, 7100) + data(1, b"you") + opening(3, 7199) + opening(5, 0) + opening(7, 7100, version=2) + opening(9, host_listener))
        said, ended = {}, set()
        while ended != {1, 3, 5, 7, 9}:
            kind, flags, stream, content = client.frame()
            if kind == DATA:
                said[stream] = said.get(stream, b"") + content
                if flags & FIN:
                    ended.add(stream)
        assert said == {1: b"\0hello you", 3: b"\2", 5: b"\1", 7: b"\3", 9: b"\2"}
        client.send(frame(AWAY, 0, 0, 0))
        assert client.end() == 1000


def test_half_a_connection_may_be_closed(box):
    listen(box, "c,_=s.accept()\nn=0\nwhile d:=c.recv(65536): n+=len(d)\nc.sendall(str(n).encode())\nc.close()", 7101)
    with raw(box) as client:
        client.send(opening(1, 7101) + data(1, bytes(100_000)) + data(1, b"", FIN))
        said, ended = b"", False
        while not ended:
            _, flags, _, content = client.until(DATA, 1)
            said, ended = said + content, bool(flags & FIN)
        assert said == b"\x00100000"


@pytest.mark.parametrize("bad", [
    b"\x01" * 12, b"GET / HTTP/1.1\r\n\r\n", frame(9, 0, 0, 0), frame(WINDOW, SYN, 2, 0), frame(WINDOW, SYN, 0, 0), frame(DATA, 0, 5, 0xFFFFFFFF),
    frame(WINDOW, SYN, 1, 0) * 2, frame(WINDOW, SYN, 1, 0xFFFFFFFF), opening(1, 7100) + frame(WINDOW, 0, 1, 0xFFFFFFFF), frame(WINDOW, 0x8000, 1, 0),
    opening(1, 7199) + data(1, bytes(256 * KIB)) + data(1, bytes(256 * KIB)) + data(1, b"x") * 3], ids=range(11))
def test_what_is_no_yamux_is_the_end_of_this_tunnel_alone(box, bad):
    with raw(box) as other, raw(box) as client:
        client.send(bad)
        assert client.end() == 1002
        assert client.bytes.endswith(frame(AWAY, 0, 0, 1))
        other.send(frame(PING, SYN, 0, 7))
        assert other.frame() == (PING, ACK, 0, 7)


def test_texts_are_no_tunnel(box):
    with raw(box) as client:
        client.send(b"text", opcode=1)
        assert client.end() == 1003


def test_floods_are_bounded(box):
    """Streams, pings and window updates without end, of a client that does not read."""
    listen(box, "s.listen(512)\nk=[]\nwhile True: k.append(s.accept())", 7102)
    with raw(box) as client:
        client.send(b"".join(frame(WINDOW, SYN, 2 * i + 1, 0) for i in range(5000)))
        resets = sum(1 for _ in range(5000) if client.frame()[1] & RST)
        assert resets == 5000 - 128
    with raw(box) as client:
        client.send(b"".join(opening(2 * i + 1, 7102) for i in range(100)))
        for _ in range(20):
            client.send(frame(PING, SYN, 0, 1) * 40_000)
        pings = 0
        while pings < 800_000:
            pings += client.frame()[0] == PING
        client.send(b"".join(frame(WINDOW, 0, 2 * i + 1, 1) for i in range(100)) * 100)
        client.send(frame(PING, SYN, 0, 2))
        assert client.until(PING, 0)[3] == 2
    status, done = box.call("POST", "/one/execute", {"command": "echo still here", "timeout": 20})
    assert status == 200 and done["stdout"] == "still here\n"


def test_a_reader_that_stops_holds_up_itself_alone(box):
    listen(box, "import os,threading\ndef f(c):\n  n=0\n  try:\n    while True: n+=c.send(bytes(65536)); open('/tmp/n.new','w').write(str(n)); os.replace('/tmp/n.new','/tmp/n')\n  except OSError: pass\nwhile True: threading.Thread(target=f,args=(s.accept()[0],)).start()", 7103)
    with raw(box) as client:
        client.send(opening(1, 7103))
        got = 0
        while got < 256 * KIB:
            kind, _, stream, content = client.frame()
            got += len(content) if kind == DATA else 0
        client.send(frame(PING, SYN, 0, 9))
        assert client.frame() == (PING, ACK, 0, 9)  # and nothing of the stream's
        sent = int(box.call("POST", "/one/execute", {"command": "cat /tmp/n", "timeout": 20})[1]["stdout"])
        assert sent < 16 * 1024 * KIB
        client.send(frame(WINDOW, 0, 1, 128 * KIB))
        assert client.until(DATA, 1)


def test_a_tunnel_needs_a_key_and_a_box(box):
    for name, key, status in (("one", False, 401), ("one", "postern_wrong", 401), ("nothing", None, 404)):
        with pytest.raises(Refused) as refused, raw(box, name, key):
            pass
        assert refused.value.args[0] == status
    status, answer = box.call("GET", "/one/tunnel")
    assert status in (400, 426)


def test_a_tunnel_wakes_its_box_and_ends_with_it(box):
    assert box.call("POST", "/boxes/one/stop")[0] == 204
    with raw(box) as client:
        assert box.call("GET", "/boxes/one/status")[1]["status"] == "ready"
        listen(box, "k=[]\nwhile True: k.append(s.accept())", 7104)
        client.send(opening(1, 7104))
        assert client.status_of(1) == b"\0"
        assert box.call("POST", "/boxes/one/stop")[0] == 204
        assert client.end() == 1001


def fetch(url, method="GET", **fields):
    """(status, fields, body), without a key."""
    asked = urllib.request.Request(url, method=method, headers=fields)
    try:
        with urllib.request.urlopen(asked, timeout=WAIT) as answer:
            return answer.status, answer.headers, answer.read()
    except urllib.error.HTTPError as error:
        return error.code, error.headers, error.read()


def link(server, **asked):
    status, answer = server.call("POST", "/boxes/one/download-url", asked)
    assert status == 200, answer
    return answer


def test_a_download_link_is_all_that_its_holder_needs(box):
    assert box.call("POST", "/one/execute", {"command": "printf '<h1>hello</h1>' > /tmp/a.html; printf x > '/tmp/b\"; evil'"})[1]["exit_code"] == 0
    made = link(box, path="/tmp/a.html", content_type="text/html; charset=utf-8", content_disposition="inline", csp_sandbox_flags=["allow-scripts"])
    assert made["expires_at"] is None and made["download_url"].startswith(box.url) and made["download_url"].endswith(made["token"])
    assert box.call("POST", "/boxes/one/stop")[0] == 204  # It is woken.
    status, fields, body = fetch(made["download_url"])
    assert (status, body, fields["Content-Type"]) == (200, b"<h1>hello</h1>", "text/html; charset=utf-8")
    assert fields["Content-Security-Policy"] == "sandbox allow-scripts; frame-ancestors 'none'" and fields["X-Content-Type-Options"] == "nosniff"
    assert fields["Content-Disposition"] == "inline; filename*=UTF-8''a.html"
    status, fields, body = fetch(made["download_url"], Range="bytes=4-8")
    assert (status, body, fields["Content-Range"]) == (206, b"hello", "bytes 4-8/14") and "sandbox" in fields["Content-Security-Policy"]
    status, fields, body = fetch(made["download_url"], "HEAD")
    assert (status, body, fields["Content-Length"]) == (200, b"", "14")
    status, fields, _ = fetch(link(box, path='/tmp/b"; evil')["download_url"])
    assert status == 200 and fields["Content-Disposition"] == "attachment; filename*=UTF-8''b%22%3B%20evil" and fields["Content-Type"] == "application/octet-stream"
    assert fetch(link(box, path="/tmp/none")["download_url"])[0] == 404


def test_a_download_link_is_for_one_file_of_one_box_and_for_its_time(box):
    assert box.call("POST", "/one/execute", {"command": "echo first > /tmp/a"})[1]["exit_code"] == 0
    made = link(box, path="/tmp/a", expires_in_seconds=1)
    url = made["download_url"]
    assert made["expires_at"].endswith("Z")
    assert eventually(lambda: fetch(url)[0] == 403)
    payload, mac = link(box, path="/tmp/a")["token"].split(".")
    forged = base64.urlsafe_b64encode(base64.urlsafe_b64decode(payload + "===").replace(b"/tmp/a", b"/etc/x")).decode().rstrip("=")
    for token in ("", ".", f"{payload}.", f".{mac}", f"{forged}.{mac}", f"{payload}.{mac}A", f"{payload}.{'A' * 43}", "x" * 6000):
        assert fetch(f"{box.url}/downloads?token={token}")[0] == 403, token
    assert fetch(f"{box.url}/downloads")[0] == 403
    url = link(box, path="/tmp/a")["download_url"]
    assert fetch(url)[2] == b"first\n"
    assert box.call("DELETE", "/boxes/one")[0] == 204
    assert box.call("POST", "/boxes", {"name": "one"})[0] == 201  # Another one of the same name.
    assert box.call("POST", "/one/execute", {"command": "echo second > /tmp/a"})[1]["exit_code"] == 0
    assert fetch(url)[0] == 404
    assert box.call("POST", "/boxes/nothing/download-url", {"path": "/x"})[0] == 404
    assert box.call("POST", "/boxes/one/download-url", {"path": "/x"}, key=False)[0] == 401


@pytest.mark.parametrize("asked", [
    {}, {"path": ""}, {"path": "/x", "expires_in_seconds": 0}, {"path": "/x", "content_type": "text/html\r\nX-Evil: 1"}, {"path": "/x", "content_type": "html"},
    {"path": "/x", "content_disposition": "inline; x"}, {"path": "/x", "csp_sandbox": False}, {"path": "/x", "csp_sandbox_flags": ["allow-same-origin"]},
    {"path": "/x", "csp_sandbox_flags": ["allow-scripts; script-src *"]}, {"path": "/x", "csp_source_bundles": ["all"]}], ids=range(10))
def test_a_download_link_that_would_give_away_too_much_is_not_made(box, asked):
    assert box.call("POST", "/boxes/one/download-url", asked)[0] == 422


def test_no_log_holds_a_download_link(server):
    server.start("--access-log", server.directory / "access.jsonl")
    assert server.call("POST", "/boxes", {"name": "one"})[0] == 201
    made = link(server, path="/etc/passwd")
    assert fetch(made["download_url"])[0] == 200
    assert server.stop() == 0
    said = (server.directory / "access.jsonl").read_text()
    assert '"/downloads"' in said and made["token"] not in said + server.said() and made["token"].split(".")[1] not in said
