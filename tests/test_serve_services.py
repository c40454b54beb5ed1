"""Services of boxes: HTTP to a port in a box of `postern serve`, with the real SDKs, a browser, and both ends hostile."""

import base64
import contextlib
import hashlib
import json
import os
import re
import select
import socket
import subprocess
import urllib.error
import urllib.request

import pytest

from attacks_support import eventually
from clients_support import CACHE, PROGRAMS, WAIT, npm_package
from serve_support import js_sdk, python_sdk, run_js, run_python, server  # noqa: F401 (fixtures)

TOKEN = "X-Langsmith-Sandbox-Service-Token"

WEB = r"""
import http.server, json, os, threading
class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def say(self, body, status=200, *fields):
        self.send_response(status)
        for name, value in (*fields, ("X-Own", "yes"), ("Content-Length", str(len(body)))):
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)
    def do_GET(self):
        path = self.path.split("?")[0]
        if path == "/stream":
            self.send_response(200)
            self.send_header("Content-Type", "text/event-stream")
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            number = 0
            while True:
                self.wfile.write(b"9\r\ndata: %d\n\n\r\n" % number)
                number += 1
                with open("/tmp/next") as next: word = next.read()
                if "end" in word: break
            self.wfile.write(b"0\r\n\r\n")
        elif path == "/large":
            self.send_response(200)
            self.send_header("Connection", "close")
            self.end_headers()
            for _ in range(int(self.path.split("?")[1])): self.wfile.write(bytes(65536))
            self.close_connection = True
        elif path == "/cookie": self.say(b"", 302, ("Set-Cookie", "a=1; Domain=localhost; Path=/x"), ("Location", "/hello"))
        elif path == "/none": self.say(b"", 204)
        elif path == "/page": self.say(b"<title>of the box</title><script>fetch('/hello').then(a => a.json()).then(a => document.title = a.path)</script>", 200, ("Content-Type", "text/html"))
        else: self.say(json.dumps({"path": self.path, "fields": self.headers.items()}).encode(), 200, ("Content-Type", "application/json"))
    do_HEAD = do_DELETE = do_OPTIONS = do_GET
    def do_POST(self):
        if self.headers.get("Transfer-Encoding"):
            body = b""
            while size := int(self.rfile.readline(), 16):
                body += self.rfile.read(size); self.rfile.readline()
            self.rfile.readline()
        else:
            body = self.rfile.read(int(self.headers["Content-Length"]))
        self.say(body)
    do_PUT = do_PATCH = do_POST
    def log_message(self, *_): pass
class Server(http.server.ThreadingHTTPServer):
    request_queue_size = 128
if not os.path.exists("/tmp/next"): os.mkfifo("/tmp/next")
server = Server(("127.0.0.1", 8000), Handler)
open("/tmp/ready8000", "w").close()
server.serve_forever()
"""

# Says what stands in /tmp/answer, and keeps what it was asked; with `echo` in it, a WebSocket first.
RAW = r"""
import base64, hashlib, re, socket, threading
def serve(c):
    asked = b""
    while b"\r\n\r\n" not in asked:
        piece = c.recv(65536)
        if not piece: return
        asked += piece
    open("/tmp/asked", "ab").write(asked)
    answer = open("/tmp/answer", "rb").read()
    if answer == b"echo":
        key = re.search(rb"Sec-WebSocket-Key: (\S+)", asked)[1]
        accept = base64.b64encode(hashlib.sha1(key + b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11").digest())
        c.sendall(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Protocol: chat\r\nSec-WebSocket-Accept: " + accept + b"\r\n\r\nwelcome")
        while piece := c.recv(65536): c.sendall(piece)
        c.sendall(b"bye")
    else:
        c.sendall(answer)
    c.close()
s = socket.create_server(("127.0.0.1", 8001), backlog=128)
open("/tmp/ready8001", "w").close()
while True: threading.Thread(target=serve, args=(s.accept()[0],), daemon=True).start()
"""


def run(server, command, box="one"):
    status, done = server.call("POST", f"/{box}/execute", {"command": command, "timeout": 30})
    assert status == 200 and done["exit_code"] == 0, done
    return done["stdout"]


def start(server, program, port, box="one"):
    run(server, f"rm -f /tmp/ready{port}; cat > /tmp/{port}.py <<'END'\n{program}\nEND\n(setsid python3 /tmp/{port}.py >/tmp/{port}.log 2>&1 </dev/null &)\nwhile ! test -e /tmp/ready{port}; do sleep 0.05; done", box)


@pytest.fixture
def box(server):
    server.start()
    assert server.call("POST", "/boxes", {"name": "one"})[0] == 201
    start(server, WEB, 8000)
    return server


@pytest.fixture
def raw_box(server):
    server.start()
    assert server.call("POST", "/boxes", {"name": "one"})[0] == 201
    start(server, RAW, 8001)
    return server


def service(server, port=8000, box="one", **asked):
    status, answer = server.call("POST", f"/boxes/{box}/service-url", {"port": port, **asked})
    assert status == 200, answer
    return answer


class NoRedirect(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_):
        return None


OPENER = urllib.request.build_opener(NoRedirect)


def fetch(url, token=None, method="GET", data=None, host=None, **fields):
    """(status, fields, body). Names below .localhost lead here, whatever the machine's resolver says."""
    asked = urllib.request.Request(re.sub(r"//[^/]*localhost:", "//127.0.0.1:", url), method=method, data=data, headers={name.replace("_", "-"): value for name, value in fields.items()})
    if named := re.search(r"//([^/]*localhost:\d+)", url):
        asked.add_header("Host", named[1])
    if host:
        asked.add_header("Host", host)
    if token:
        asked.add_header(TOKEN, token)
    try:
        with OPENER.open(asked, timeout=WAIT) as answer:
            return answer.status, answer.headers, answer.read()
    except urllib.error.HTTPError as error:
        return error.code, error.headers, error.read()


def said(server, made, answer, method="GET", head="", path="/"):
    """What a caller gets when the program on port 8001 says these bytes: all of it, up to the end of the connection."""
    assert server.call("POST", "/one/upload?path=/tmp/answer", answer, headers={"Content-Type": "application/octet-stream"})[0] == 200
    with connected(server, made, method, path, head + "Connection: close\r\n") as connection:
        return read_all(connection)


@contextlib.contextmanager
def connected(server, made, method="GET", path="/", head=""):
    host, port = server.url.removeprefix("http://").rsplit(":", 1)
    with socket.create_connection((host, int(port)), timeout=WAIT) as connection:
        target = made["service_url"].removeprefix(server.url).rstrip("/") + path
        connection.sendall(f"{method} {target} HTTP/1.1\r\nHost: {host}:{port}\r\n{TOKEN}: {made['token']}\r\n{head}\r\n".encode())
        yield connection


def read_all(connection):
    out = b""
    with contextlib.suppress(ConnectionResetError):
        while piece := connection.recv(65536):
            out += piece
    return out


def read_until(connection, end):
    out = b""
    while not out.endswith(end):
        piece = connection.recv(1)
        assert piece, out
        out += piece
    return out


# ---- with the SDKs -------------------------------------------------------------------------------------------


def test_the_python_sdk_uses_services(box, python_sdk):
    found = run_python(box, python_sdk, "sdk_services.py")
    assert found["get"] == [200, "/hello?a=1", "yes"] and found["post"] == [200, 300_000]
    assert found["put"] == "put" and found["patch"] == {"a": 1} and found["delete"] == 200
    seen = found["seen"]
    assert seen["x-mine"] == "kept" and seen["x-forwarded-proto"] == "http" and seen["x-forwarded-prefix"].startswith("/services/")
    assert not {TOKEN.lower(), "x-api-key", "x-langsmith-user-id"} & set(seen) and box.key not in json.dumps(seen)
    assert found["refreshed"] and found["nobody"] == [502, "ConnectionError"] and "log in" in found["login"]
    assert found["urls"][0].startswith(f"{box.url}/services/") and all(re.match(r"http://8000--[0-9a-f-]{36}\.localhost:\d+/_postern/", url) for url in found["urls"][1:])
    assert found["async"] == [[200], "hello"]
    assert box.stop() == 0


def test_the_javascript_sdk_uses_services(box, js_sdk):
    found = run_js(box, js_sdk, "sdk_services.mjs")
    assert found["get"] == [200, "/hello?a=1"] and found["post"] == 300_000 and found["refreshed"] and found["nobody"] == 502
    assert TOKEN.lower() not in [name.lower() for name, _ in found["seen"]] and "log in" in found["login"]


# ---- tokens --------------------------------------------------------------------------------------------------


def test_a_token_is_for_one_port_of_one_box_and_for_its_time(box):
    made = service(box)
    url = made["service_url"]
    assert fetch(url, made["token"])[0] == 200
    assert box.call("POST", "/boxes", {"name": "two"})[0] == 201
    start(box, WEB, 8000, "two")
    other = service(box, box="two")
    assert fetch(other["service_url"], other["token"])[0] == 200
    for token in (None, "x", "x.y", other["token"], service(box, 8001)["token"], made["token"] + "A", box.key):
        status, _, body = fetch(url, token)
        assert status == 401 and json.loads(body)["detail"]["error"] == "Unauthorized", token
    assert fetch(url, None, X_Api_Key=box.key)[0] == 401 and fetch(url + "?token=" + made["token"])[0] == 401
    payload, mac = made["token"].split(".")
    forged = base64.urlsafe_b64encode(base64.urlsafe_b64decode(payload + "===").replace(b"8000", b"8001")).decode().rstrip("=")
    assert fetch(url.replace("/8000/", "/8001/"), f"{forged}.{mac}")[0] == 401
    short = service(box, expires_in_seconds=1)
    assert eventually(lambda: fetch(url, short["token"])[0] == 401)
    assert fetch(url, made["token"])[0] == 200
    # A name is not what it is bound to.
    assert box.call("PATCH", "/boxes/one", {"name": "renamed"})[0] == 200 and fetch(url, made["token"])[0] == 200
    assert box.call("DELETE", "/boxes/renamed")[0] == 204 and fetch(url, made["token"])[0] == 404
    assert box.call("POST", "/boxes/renamed/service-url", {"port": 80})[0] == 404


def test_what_was_granted_is_listed_and_taken_back(box):
    made, other = service(box, embed_origins=["https://Console.example:443"]), service(box, 8001)
    assert made["embed_origins"] == ["https://console.example"] and "embed_origins" not in other
    listed = box.call("GET", "/boxes/one/service-urls")[1]
    assert [(item["port"], item["access"], item["embed_origins"]) for item in listed["items"]] == [(8000, "token", ["https://console.example"]), (8001, "token", [])]
    assert listed["next_cursor"] is None and listed["items"][0]["expires_at"] == made["expires_at"]
    first = box.call("GET", "/boxes/one/service-urls?page_size=1")[1]
    assert [item["port"] for item in first["items"]] == [8000]
    assert [item["port"] for item in box.call("GET", f"/boxes/one/service-urls?page_size=1&cursor={first['next_cursor']}")[1]["items"]] == [8001]
    assert box.call("DELETE", "/boxes/one/service-urls?port=8000")[0] == 204
    assert fetch(made["service_url"], made["token"])[0] == 401 and fetch(other["service_url"], other["token"])[0] == 502
    again = service(box)
    assert fetch(again["service_url"], again["token"])[0] == 200 and fetch(made["service_url"], made["token"])[0] == 401
    # It outlives the server, and so does what was taken back.
    box.stop()
    box.start(listen=box.url.removeprefix("http://"))
    start(box, WEB, 8000)
    assert fetch(again["service_url"], again["token"])[0] == 200 and fetch(made["service_url"], made["token"])[0] == 401
    assert box.call("POST", "/boxes/one/service-url", {"port": 8000, "access": "off"})[1]["access"] == "off"
    assert fetch(again["service_url"], again["token"])[0] == 401
    assert box.call("DELETE", "/boxes/one/service-urls")[0] == 204 and box.call("GET", "/boxes/one/service-urls")[1]["items"] == []


@pytest.mark.parametrize("asked, status", [
    ({}, 422), ({"port": 0}, 422), ({"port": 65536}, 422), ({"port": "x"}, 422), ({"port": 80, "expires_in_seconds": 0}, 422),
    ({"port": 80, "expires_in_seconds": 86401}, 422), ({"port": 80, "access": "all"}, 422), ({"port": 80, "access": "workspace"}, 501),
    ({"port": 80, "embed_origins": ["*"]}, 422), ({"port": 80, "embed_origins": ["https://a.example; script-src *"]}, 422),
    ({"port": 80, "embed_origins": ["https://a.example/x"]}, 422), ({"port": 80, "embed_origins": ["https://a.example"] * 6}, 422)], ids=range(12))
def test_what_cannot_be_granted_is_not(box, asked, status):
    assert box.call("POST", "/boxes/one/service-url", asked)[0] == status
    assert box.call("POST", "/boxes/one/service-url", {"port": 80}, key=False)[0] == 401


# ---- requests and answers --------------------------------------------------------------------------------------


def test_bodies_go_both_ways_as_they_come(box):
    made = service(box)
    with connected(box, made, "GET", "/stream", "Connection: close\r\n") as connection:
        assert b"200 OK" in read_until(connection, b"data: 0\n\n\r\n")
        run(box, "echo more > /tmp/next")
        assert b"data: 1" in read_until(connection, b"\n\n\r\n")
        run(box, "echo end > /tmp/next")
        assert read_all(connection) == b"0\r\n\r\n"
    with connected(box, made, "POST", "/echo", "Transfer-Encoding: chunked\r\nExpect: 100-continue\r\nConnection: close\r\n") as connection:
        assert read_until(connection, b"\r\n\r\n").startswith(b"HTTP/1.1 100 ")
        connection.sendall(b"5;x=y\r\nhello\r\n6\r\n world\r\n0\r\nTrailer: x\r\n\r\n")
        assert read_all(connection).endswith(b"\r\n\r\nhello world")
    assert len(fetch(made["service_url"] + "large?64", made["token"])[2]) == 4 * 1024 * 1024
    status, fields, body = fetch(made["service_url"] + "hello", made["token"], "HEAD")
    assert (status, body) == (200, b"") and int(fields["Content-Length"]) > 50
    assert fetch(made["service_url"] + "none", made["token"])[0] == 204
    # A caller that does not read holds up its own connection, and the box is not drained into memory.
    with connected(box, made, "GET", "/large?100000") as connection:
        assert connection.recv(100)
        assert fetch(made["service_url"] + "hello", made["token"])[0] == 200


def test_a_stopped_box_is_woken(box):
    made = service(box)
    assert box.call("POST", "/boxes/one/stop")[0] == 204
    status, _, body = fetch(made["service_url"], made["token"])
    assert (status, json.loads(body)["detail"]["error"]) == (502, "ConnectionError")  # Its programs ended with it.
    assert box.call("GET", "/boxes/one/status")[1]["status"] == "ready"


def test_connections_to_a_box_are_bounded(raw_box):
    start(raw_box, "import socket\ns=socket.create_server(('127.0.0.1',8002),backlog=256)\nopen('/tmp/ready8002','w').close()\nk=[]\nwhile True:\n k.append(s.accept())\n open('/tmp/n','w').write(str(len(k)))", 8002)
    made = service(raw_box, 8002)
    with contextlib.ExitStack() as stack:
        for _ in range(64):
            stack.enter_context(connected(raw_box, made))
        assert eventually(lambda: run(raw_box, "cat /tmp/n 2>/dev/null || true") == "64")
        for port in (8002, 8003):
            asked = service(raw_box, port)
            assert fetch(asked["service_url"], asked["token"])[0] == 429
        # Who waits loses it with the grant.
        assert raw_box.call("DELETE", "/boxes/one/service-urls?port=8002")[0] == 204
    made = service(raw_box, 8001)
    assert eventually(lambda: b" 200 " in said(raw_box, made, b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"))


GOOD = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


NO_ANSWERS = [
    b"nonsense\r\n\r\n", b"HTTP/0.9 200 OK\r\n\r\n", b"HTTP/1.1 200 OK\nA: b\n\n", b"HTTP/1.1 200 OK\r\nA : b\r\n\r\n", b"HTTP/1.1 200 OK\r\n A: b\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nok", b"HTTP/1.1 200 OK\r\nContent-Length: +2\r\n\r\nok", b"HTTP/1.1 200 OK\r\nA: \x00\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nA: " + b"x" * 70_000 + b"\r\n\r\n", b"HTTP/1.1 100 Continue\r\n\r\n" * 20 + GOOD, b"HTTP/1.1 200 OK\r\nA: b", b""]


def test_an_answer_that_is_none_is_said_to_be_none(raw_box):
    made = service(raw_box, 8001)
    for answer in NO_ANSWERS:
        got = said(raw_box, made, answer)
        assert got.startswith(b"HTTP/1.1 502 ") and b'"ConnectionError"' in got and got.count(b"HTTP/1.1") == 1, (answer, got)


def test_an_answer_ends_where_its_framing_says(raw_box):
    made = service(raw_box, 8001)
    split = b"HTTP/1.1 200 OK\r\nX-Evil: yes\r\nContent-Length: 4\r\n\r\nevil"
    for answer, body in ((GOOD + split, b"ok"), (b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n" + GOOD, b"ok"), (b"HTTP/1.1 204 No Content\r\n\r\n" + split, b""),
                         (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\nX-Evil: yes\r\n\r\n" + split, b"2\r\nok\r\n0\r\n\r\n"),
                         (b"HTTP/1.0 200 OK\r\n\r\nto the end", b"a\r\nto the end\r\n0\r\n\r\n")):
        got = said(raw_box, made, answer)
        assert got.endswith(b"\r\n\r\n" + body) and b"evil" not in got.lower() and got.count(b"HTTP/1.1") == 1, got
    assert said(raw_box, made, GOOD + split, "HEAD").endswith(b"\r\n\r\n")
    # What breaks off is never complete.
    assert not said(raw_box, made, b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\nXX").endswith(b"0\r\n\r\n")
    got = said(raw_box, made, b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nok")
    assert not got or b"Content-Length: 100" in got and len(got.split(b"\r\n\r\n", 1)[1]) < 100


def test_a_request_is_one_to_the_box_as_well(raw_box):
    made = service(raw_box, 8001)
    hidden = "GET /hidden HTTP/1.1\r\nHost: x\r\n\r\n"
    run(raw_box, "rm -f /tmp/asked")
    for head in ("Content-Length: 5\r\nTransfer-Encoding: chunked\r\n", "Transfer-Encoding: xchunked\r\n", "Content-Length: 5\r\nContent-Length: 6\r\n", "X: a\r\n folded\r\n", "X : y\r\n"):
        with connected(raw_box, made, "POST", "/", head) as connection:
            connection.sendall(b"0\r\n\r\n" + hidden.encode())
            assert int(read_until(connection, b"\r\n").split()[1]) in (400, 501)
    assert run(raw_box, "cat /tmp/asked 2>/dev/null || echo nothing") == "nothing\n"
    said(raw_box, made, GOOD, "GET", "Connection: X-Hop, keep-alive\r\nX-Hop: 1\r\nTE: trailers\r\nForwarded: for=1.2.3.4\r\nX_Langsmith_User_Id: forged\r\nCookie: postern-service=t; b=2\r\n", "/a/../b?c=%2e")
    asked = run(raw_box, "cat /tmp/asked")
    assert asked.startswith("GET /a/../b?c=%2e HTTP/1.1\r\n")
    assert "b=2" in asked and "connection: close" in asked.lower() and not re.search("x-hop|trailers|1\\.2\\.3\\.4|forged|postern-service|service-token", asked, re.I), asked


# ---- WebSockets ------------------------------------------------------------------------------------------------

UPGRADE = "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Protocol: chat\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n"


def test_a_websocket_is_handed_over(raw_box):
    made = service(raw_box, 8001)
    assert raw_box.call("POST", "/one/upload?path=/tmp/answer", b"echo", headers={"Content-Type": "application/octet-stream"})[0] == 200
    accept = base64.b64encode(hashlib.sha1(b"AAAAAAAAAAAAAAAAAAAAAA==258EAFA5-E914-47DA-95CA-C5AB0DC85B11").digest())
    with connected(raw_box, made, head=UPGRADE) as connection:
        head = read_until(connection, b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 101 ") and accept in head and b"Sec-WebSocket-Protocol: chat" in head and b"Content-Length" not in head and b"Transfer-Encoding" not in head
        assert read_until(connection, b"welcome") == b"welcome"
        sent = os.urandom(3_000_000)
        got = b""
        connection.setblocking(False)
        left = sent
        while len(got) < len(sent):  # Both ways at once, as windows allow.
            can_read, can_write, _ = select.select([connection], [connection] if left else [], [], WAIT)
            assert can_read or can_write
            if can_write:
                left = left[connection.send(left[:65536]):]
            if can_read:
                got += connection.recv(65536)
        assert got == sent
        connection.setblocking(True)
        connection.settimeout(WAIT)
        connection.shutdown(socket.SHUT_WR)
        assert read_all(connection) == b"bye"


def test_what_a_grant_let_in_ends_with_it(raw_box):
    made, other = service(raw_box, 8001), service(raw_box, 8000)
    assert raw_box.call("POST", "/one/upload?path=/tmp/answer", b"echo", headers={"Content-Type": "application/octet-stream"})[0] == 200
    start(raw_box, WEB, 8000)
    with connected(raw_box, made, head=UPGRADE) as socket_, connected(raw_box, other, path="/stream") as stream:
        read_until(socket_, b"welcome")
        read_until(stream, b"data: 0\n\n\r\n")
        assert raw_box.call("DELETE", "/boxes/one/service-urls?port=8001")[0] == 204
        assert read_all(socket_) == b""
        run(raw_box, "echo more > /tmp/next")
        read_until(stream, b"data: 1\n\n\r\n")
        assert raw_box.call("DELETE", "/boxes/one/service-urls")[0] == 204
        assert not read_all(stream).endswith(b"0\r\n\r\n")


def test_a_websocket_that_is_refused_is_an_answer(raw_box):
    made = service(raw_box, 8001)
    assert b" 403 " in said(raw_box, made, b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n", head=UPGRADE).split(b"\r\n")[0]
    got = said(raw_box, made, b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: other\r\n\r\n", head=UPGRADE)
    assert got.startswith(b"HTTP/1.1 502 ")


def test_a_websocket_ends_with_its_box_and_its_server(raw_box):
    made = service(raw_box, 8001)
    assert raw_box.call("POST", "/one/upload?path=/tmp/answer", b"echo", headers={"Content-Type": "application/octet-stream"})[0] == 200
    with connected(raw_box, made, head=UPGRADE) as connection:
        read_until(connection, b"welcome")
        assert raw_box.call("POST", "/boxes/one/stop")[0] == 204
        assert read_all(connection) == b""
    start(raw_box, RAW, 8001)
    with connected(raw_box, made, head=UPGRADE) as connection:
        read_until(connection, b"welcome")
        assert raw_box.stop() == 0
        assert read_all(connection) == b""


# ---- browsers ----------------------------------------------------------------------------------------------------


def test_a_browser_hands_its_token_in_once(box):
    made = service(box)
    own = made["browser_url"].split("/_postern")[0]
    status, fields, _ = fetch(made["browser_url"] + "&redirect=/hello?a=1")
    assert status == 303 and fields["Location"] == "/hello?a=1" and fields["Referrer-Policy"] == "no-referrer"
    cookie = fields["Set-Cookie"]
    assert cookie.startswith("postern-service=") and "HttpOnly" in cookie and "SameSite=Lax" in cookie and "Path=/;" in cookie and "Domain" not in cookie
    session = cookie.split(";")[0]
    status, fields, body = fetch(own + "/hello", Cookie=f"x=1; {session}")
    assert status == 200 and fields["Content-Security-Policy"] == "frame-ancestors 'self'"
    seen = json.dumps(json.loads(body)["fields"])
    assert "x=1" in seen and "postern-service" not in seen and made["token"] not in seen
    assert fetch(own + "/hello")[0] == 401 and fetch(own + "/hello", made["token"])[0] == 200
    assert fetch(own + "/hello", Cookie="postern-service=x")[0] == 401
    # Only to itself.
    for elsewhere in ("//evil.example/", "https://evil.example/", "/\\evil.example/", "evil"):
        assert fetch(made["browser_url"] + "&redirect=" + urllib.request.quote(elsewhere, safe=""))[1]["Location"] == "/"
    assert fetch(own + "/_postern/session?token=x")[0] == 401 and fetch(own + "/_postern/other", made["token"])[0] == 404
    # Other sites may lead here, and no more.
    assert fetch(own + "/hello", Cookie=session, Sec_Fetch_Site="cross-site", Sec_Fetch_Mode="navigate")[0] == 200
    for fields in ({"Sec_Fetch_Site": "cross-site", "Sec_Fetch_Mode": "no-cors"}, {"Sec_Fetch_Site": "same-site", "Sec_Fetch_Mode": "cors"}, {"Origin": "http://evil.localhost"}, {"Origin": "null"}):
        assert fetch(own + "/hello", Cookie=session, **fields)[0] == 403, fields
    assert fetch(own + "/echo", Cookie=session, method="POST", data=b"x", Sec_Fetch_Site="cross-site", Sec_Fetch_Mode="navigate")[0] == 403
    assert fetch(own + "/echo", Cookie=session, method="POST", data=b"x", Origin=own)[0] == 200
    assert box.call("DELETE", "/boxes/one/service-urls")[0] == 204
    assert fetch(own + "/hello", Cookie=session)[0] == 401 and fetch(made["browser_url"])[0] == 401


def test_nothing_of_the_api_is_on_a_service_host_and_no_page_of_a_box_in_its_origin(box):
    made = service(box)
    host = made["browser_url"].split("/")[2]
    for path in ("/api/v2/sandboxes/boxes", "/health", "/.well-known/jwks.json", made["service_url"].removeprefix(box.url)):
        assert fetch(box.url + path, host=host, X_Api_Key=box.key)[0] == 401, path
        status, _, body = fetch(box.url + path, made["token"], host=host.upper(), X_Api_Key=box.key)
        assert status == 200 and json.loads(body)["path"] == path
    for elsewhere in ("evil.example", host.replace("localhost", "evil.example")):
        assert fetch(made["service_url"], made["token"], host=elsewhere)[0] == 421
    assert fetch(made["service_url"], made["token"], Origin="https://evil.example")[0] == 403
    status, fields, _ = fetch(made["service_url"] + "cookie", made["token"])
    prefix = made["service_url"].removeprefix(box.url).rstrip("/")
    assert status == 302 and fields["Location"] == prefix + "/hello" and fields["Set-Cookie"] == f"a=1; Path={prefix}/x"
    assert fields["Content-Security-Policy"].startswith("sandbox ") and "allow-same-origin" not in fields["Content-Security-Policy"]


def test_a_page_that_may_embed_it_may(box):
    made = service(box, embed_origins=["https://console.example"])
    url, fragment = made["embed_url"].split("#")
    own = url.split("/_postern")[0]
    status, fields, body = fetch(url)
    assert status == 200 and b"<script>" in body and "script-src 'sha256-" in fields["Content-Security-Policy"]
    assert fetch(own + "/_postern/session", "x", "POST")[0] == 401
    status, fields, _ = fetch(own + "/_postern/session", fragment.removeprefix("token="), "POST")
    assert status == 204 and "SameSite=None; Secure; Partitioned" in fields["Set-Cookie"]
    fields = fetch(own + "/hello", Cookie=fields["Set-Cookie"].split(";")[0])[1]
    assert fields["Content-Security-Policy"] == "frame-ancestors 'self' https://console.example"


@pytest.fixture(scope="module")
def playwright():
    return npm_package(CACHE / "browser", "playwright-core", "1")


def test_chromium_opens_a_service(box, playwright):
    made = service(box)
    copy = playwright.parent / "service_browser.js"
    copy.write_text((PROGRAMS / "service_browser.js").read_text())
    done = subprocess.run(["node", copy, made["browser_url"] + "&redirect=/page", made["embed_url"] + "&redirect=/page", box.url], capture_output=True, text=True, timeout=120,
                          env={"PATH": os.environ["PATH"], "HOME": str(box.directory)})
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["title"] == "/hello" and found["url"] == made["browser_url"].split("/_postern")[0] + "/page"
    assert found["cookies"] == "" and found["embedded"] == "/hello" and found["api"] == "refused"
