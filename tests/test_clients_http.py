"""HTTP/1.1 as demanding clients use it, against origins whose every byte is decided here. Where the order of events matters, one side
waits until the other has seen what went before: no test depends on how long anything takes."""

import gzip
import hashlib
import json
import os
import socket

import pytest

import kit
from clients_support import CANARY, SHOWN, PYTHON, WAIT, Once, caller, client, ended_by, running, scripted, simple_answer  # noqa: F401 (fixtures)

HOST = "api.example.test"
POLICY = kit.header_rule(HOST)
SECRETS = {"KEY": CANARY}


def talk(caller, origin, script, policy=POLICY, secrets=SECRETS, **more):
    """The JSON lines that a byte-exact client in the sandbox prints."""
    run = caller.at(HOST, origin.port).python("from talk import Talk, get, tell\nHOST = 'api.example.test'\n" + script, policy=policy,
                                              secrets=secrets, **more)
    assert run.status == 0, f"{run.stderr}\norigin: {origin.errors}\n{run.log_text}"
    run.told = [json.loads(line) for line in run.stdout.splitlines()]
    return run


def fields(head):
    """A head's (lower-case name, value) pairs."""
    text = head.decode("latin-1") if isinstance(head, bytes) else head
    return [(name.lower(), value.strip()) for name, _, value in (line.partition(":") for line in text.split("\r\n")[1:] if line)]


def values(head, name):
    return [value for key, value in fields(head) if key == name]


# ---- streaming ---------------------------------------------------------------------------------------------

def test_every_server_sent_event_arrives_before_the_next_is_sent(client, scripted):
    got = [Once() for _ in range(3)]

    def script(connection, number):
        head = origin.read_head(connection)
        if head.startswith(b"GET /got/"):
            got[int(head[9:10])].happened()
            return connection.sendall(simple_answer())
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n")
        for event in range(3):
            data = b"data: %d\n\n" % event
            connection.sendall(b"%x\r\n%s\r\n" % (len(data), data))
            got[event].wait()
        connection.sendall(b"0\r\n\r\n")

    origin = scripted(script, HOST)
    run = talk(client, origin, """
import http.client
stream = http.client.HTTPSConnection(HOST)
stream.request("GET", "/events")
answer = stream.getresponse()
for number in range(3):
    event = answer.readline() + answer.readline()
    get(HOST, f"/got/{number}")
    tell(event=event)
tell(rest=answer.read())
""")
    assert run.told == [{"event": "data: 0\n\n"}, {"event": "data: 1\n\n"}, {"event": "data: 2\n\n"}, {"rest": ""}]
    assert not origin.errors


def test_events_of_a_stream_that_only_closing_ends_arrive_one_by_one(caller, scripted):
    got = [Once() for _ in range(3)]

    def script(connection, number):
        head = origin.read_head(connection)
        if head.startswith(b"GET /got/"):
            got[int(head[9:10])].happened()
            return connection.sendall(simple_answer())
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Type: application/x-ndjson\r\nConnection: close\r\n\r\n")
        for event in range(3):
            connection.sendall(b"{}\n")
            got[event].wait()
        connection.sendall(b"last words")
        connection.unwrap()

    origin = scripted(script, HOST)
    run = talk(caller, origin, """
import urllib.request
answer = urllib.request.urlopen(f"https://{HOST}/stream")
for number in range(3):
    tell(line=answer.readline())
    get(HOST, f"/got/{number}")
tell(line=answer.read())
""")
    assert [line["line"] for line in run.told] == ["{}\n"] * 3 + ["last words"]


def test_each_chunk_of_an_upload_reaches_the_origin_before_the_next_is_made(caller, scripted):
    seen = [Once() for _ in range(3)]

    def script(connection, number):
        head = origin.read_head(connection)
        if head.startswith(b"GET /seen/"):
            seen[int(head[10:11])].wait()
            return connection.sendall(simple_answer())
        data = head.partition(b"\r\n\r\n")[2]
        for number in range(3):
            while b"chunk %d" % number not in data:
                data += origin.read(connection)
            seen[number].happened()
        while not data.endswith(b"0\r\n\r\n"):
            data += origin.read(connection)
        connection.sendall(simple_answer(b"all seen"))

    origin = scripted(script, HOST)
    run = talk(caller, origin, """
upload = Talk(HOST).send(b"POST /up HTTP/1.1\\r\\nHost: api.example.test\\r\\nTransfer-Encoding: chunked\\r\\n\\r\\n")
for number in range(3):
    upload.send(b"7\\r\\nchunk %d\\r\\n" % number)
    get(HOST, f"/seen/{number}")
upload.send(b"0\\r\\n\\r\\n")
tell(body=upload.answer()[1])
""")
    assert run.told == [{"body": "all seen"}]


def test_both_directions_stream_at_once(caller, scripted):
    """A request body that waits for pieces of its own answer, as gRPC-like protocols over HTTP/1.1 do."""
    def script(connection, number):
        data = origin.read_head(connection).partition(b"\r\n\r\n")[2]
        connection.sendall(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        for number in range(3):
            while b"ask %d" % number not in data:
                data += origin.read(connection)
            connection.sendall(b"7\r\nreply %d\r\n" % number)
        while not data.endswith(b"0\r\n\r\n"):
            data += origin.read(connection)
        connection.sendall(b"0\r\n\r\n")

    origin = scripted(script, HOST)
    run = talk(caller, origin, """
both = Talk(HOST).send(b"POST /both HTTP/1.1\\r\\nHost: api.example.test\\r\\nTransfer-Encoding: chunked\\r\\n\\r\\n")
for number in range(3):
    both.send(b"5\\r\\nask %d\\r\\n" % number)
    tell(reply=both.until(b"reply %d" % number)[-7:])
both.send(b"0\\r\\n\\r\\n")
both.until(b"0\\r\\n\\r\\n")
""")
    assert [line["reply"] for line in run.told] == ["reply 0", "reply 1", "reply 2"]
    assert run.record(kind="http", host=HOST)["decision"] == "allowed"


# ---- framing -----------------------------------------------------------------------------------------------

def test_trailers_pass_both_ways(caller, scripted):
    def script(connection, number):
        data = origin.read_head(connection)
        while b"\r\n\r\n" not in data.partition(b"\r\n\r\n")[2]:
            data += origin.read(connection)
        connection.sendall(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X-Checksum\r\n\r\n4\r\nbody\r\n0\r\nX-Checksum: down-7\r\n\r\n")

    origin = scripted(script, HOST)
    run = talk(caller, origin, """
call = Talk(HOST).send(b"POST / HTTP/1.1\\r\\nHost: api.example.test\\r\\nTE: trailers\\r\\nTrailer: X-Sum\\r\\nTransfer-Encoding: chunked\\r\\n\\r\\n"
                       b"4\\r\\nbody\\r\\n0\\r\\nX-Sum: up-7\\r\\n\\r\\n")
call.head()
call.until(b"0\\r\\n")
tell(trailers=call.head())
""")
    assert values("\r\n" + run.told[0]["trailers"], "x-checksum") == ["down-7"]
    assert origin.everything().endswith(b"0\r\nX-Sum: up-7\r\n\r\n")


def test_early_hints_arrive_before_the_origin_has_its_answer(caller, scripted):
    hinted = Once()

    def script(connection, number):
        if origin.read_head(connection).startswith(b"GET /hinted"):
            hinted.happened()
            return connection.sendall(simple_answer())
        connection.sendall(b"HTTP/1.1 103 Early Hints\r\nLink: </style.css>; rel=preload\r\n\r\n")
        hinted.wait()
        connection.sendall(simple_answer(b"page"))

    origin = scripted(script, HOST)
    run = talk(caller, origin, """
call = Talk(HOST).send(b"GET /page HTTP/1.1\\r\\nHost: api.example.test\\r\\n\\r\\n")
hints = call.head()
get(HOST, "/hinted")
head, body = call.answer()
tell(hints=hints, head=head, body=body)
""")
    told = run.told[0]
    assert told["hints"].startswith("HTTP/1.1 103 ") and values(told["hints"], "link") == ["</style.css>; rel=preload"]
    assert told["head"].startswith("HTTP/1.1 200 ") and told["body"] == "page"


def test_a_client_that_waits_for_100_continue_is_told_to_go_on(client, scripted):
    """Older botocore waits on every PUT, and forever."""
    def script(connection, number):
        data = origin.read_head(connection)
        while b"the body" not in data:
            data += origin.read(connection)
        connection.sendall(simple_answer(b"stored"))

    origin = scripted(script, HOST)
    run = talk(client, origin, """
put = Talk(HOST).send(b"PUT /key HTTP/1.1\\r\\nHost: api.example.test\\r\\nExpect: 100-continue\\r\\nContent-Length: 8\\r\\n\\r\\n")
tell(first=put.head())
put.send(b"the body")
tell(body=put.answer()[1])
""")
    assert run.told[0]["first"].startswith("HTTP/1.1 100 ") and run.told[1]["body"] == "stored"


def test_an_upload_that_expects_100_continue_to_a_denied_path_is_refused_before_it_is_sent(caller, scripted):
    origin = scripted(lambda connection, number: origin.read(connection), HOST)
    policy = kit.header_rule(HOST)
    policy["rules"].insert(0, {"name": "no uploads", "match_hosts": [HOST], "match_methods": ["PUT"], "action": "deny"})
    run = talk(caller, origin, """
put = Talk(HOST).send(b"PUT /key HTTP/1.1\\r\\nHost: api.example.test\\r\\nExpect: 100-continue\\r\\nContent-Length: 80000000\\r\\n\\r\\n")
head, body = put.answer()
tell(head=head, body=body)
""", policy=policy)
    assert run.told[0]["head"].startswith("HTTP/1.1 403 ") and "no uploads" in run.told[0]["body"]
    assert origin.connections == 0


def test_answers_without_a_body_leave_the_connection_usable(caller, scripted):
    answers = {b"HEAD": b"HTTP/1.1 200 OK\r\nContent-Length: 12345\r\nETag: \"a\"\r\n\r\n",
               b"DELETE": b"HTTP/1.1 204 No Content\r\n\r\n",
               b"GET": b"HTTP/1.1 304 Not Modified\r\nETag: \"a\"\r\nContent-Length: 12345\r\n\r\n",
               b"POST": simple_answer(b"the end")}

    def script(connection, number):
        while head := origin.read_head(connection):
            connection.sendall(answers[head.split()[0]])

    origin = scripted(script, HOST)
    run = talk(caller, origin, """
call = Talk(HOST)
for method in ("HEAD", "DELETE", "GET"):
    tell(head=call.send(f"{method} / HTTP/1.1\\r\\nHost: {HOST}\\r\\n\\r\\n".encode()).head())
tell(body=call.send(b"POST / HTTP/1.1\\r\\nHost: api.example.test\\r\\nContent-Length: 0\\r\\n\\r\\n").answer()[1])
""")
    head, deleted, unchanged = (line["head"] for line in run.told[:3])
    assert head.startswith("HTTP/1.1 200 ") and values(head, "content-length") == ["12345"]
    assert deleted.startswith("HTTP/1.1 204 ") and not values(deleted, "content-length") and not values(deleted, "transfer-encoding")
    assert unchanged.startswith("HTTP/1.1 304 ") and values(unchanged, "etag") == ['"a"'] and not values(unchanged, "transfer-encoding")
    assert run.told[3]["body"] == "the end"
    assert origin.connections == 1


@pytest.mark.parametrize("asked,kept", [("", False), ("Connection: keep-alive\\r\\n", True)])
def test_a_client_of_http_1_0_gets_an_answer_that_it_understands(caller, scripted, asked, kept):
    def script(connection, number):
        while origin.read_head(connection):
            connection.sendall(simple_answer(b"for the old"))

    origin = scripted(script, HOST)
    again = """
tell(body=old.send(b"GET /again HTTP/1.0\\r\\n\\r\\n").answer()[1])
""" if kept else ""
    run = talk(caller, origin, f"""
old = Talk(HOST).send(b"GET / HTTP/1.0\\r\\n{asked}\\r\\n")
head, body = old.answer()
tell(head=head, body=body){again}
tell(rest=old.rest())
""")
    assert run.told[0]["body"] == "for the old" and run.told[-1]["rest"] == ""
    if kept:
        assert values(run.told[0]["head"], "connection") == ["keep-alive"] and run.told[1]["body"] == "for the old"
    assert b"Host: " + HOST.encode() in origin.everything()


def test_a_client_of_http_1_0_gets_a_chunked_answer_without_chunks(caller, scripted):
    def script(connection, number):
        origin.read_head(connection)
        connection.sendall(b"HTTP/1.1 103 Early Hints\r\n\r\nHTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nplain\r\n6\r\n words\r\n0\r\n\r\n")

    origin = scripted(script, HOST)
    run = talk(caller, origin, """
old = Talk(HOST).send(b"GET / HTTP/1.0\\r\\nHost: api.example.test\\r\\n\\r\\n")
tell(head=old.head(), body=old.rest())
""")
    assert run.told[0]["head"].startswith("HTTP/1.1 200 ") and not values(run.told[0]["head"], "transfer-encoding")
    assert run.told[0]["body"] == "plain words"


def test_pipelined_requests_are_answered_in_order_each_with_its_own_record(caller, scripted):
    def script(connection, number):
        while head := origin.read_head(connection):
            connection.sendall(simple_answer(head.split()[1]))

    origin = scripted(script, HOST)
    run = talk(caller, origin, """
call = Talk(HOST).send(b"".join(b"GET /%d HTTP/1.1\\r\\nHost: api.example.test\\r\\n\\r\\n" % number for number in range(20)))
tell(bodies=[call.answer()[1].decode() for _ in range(20)])
""")
    assert run.told[0]["bodies"] == [f"/{number}" for number in range(20)]
    assert [r["path"] for r in run.records if r["kind"] == "http"] == [f"/{number}" for number in range(20)]
    assert origin.everything().count(f"Authorization: Bearer {CANARY}".encode()) == 20


def test_a_plain_http_client_may_close_its_side_after_the_request(caller, scripted):
    def script(connection, number):
        origin.read_head(connection)
        connection.sendall(simple_answer(b"still here"))

    origin = scripted(script, tls=False)
    run = talk(caller, origin, """
import socket
half = Talk(HOST, tls=False).send(b"GET / HTTP/1.1\\r\\nHost: api.example.test\\r\\n\\r\\n")
half.connection.shutdown(socket.SHUT_WR)
tell(body=half.answer()[1], rest=half.rest())
""", policy=None, secrets=None, options=["--allow", HOST])
    assert run.told == [{"body": "still here", "rest": ""}]
    assert run.record(kind="http", host=HOST)["decision"] == "allowed"


# ---- leaving early -----------------------------------------------------------------------------------------

def test_a_client_that_cancels_an_answer_cancels_it_at_the_origin(caller, scripted):
    ended = []
    done = Once()

    def script(connection, number):
        if origin.read_head(connection).startswith(b"GET /done"):
            done.wait()
            return connection.sendall(simple_answer())
        connection.sendall(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nfirst\r\n")
        ended.append(ended_by(connection))
        done.happened()

    origin = scripted(script, HOST)
    run = talk(caller, origin, """
call = Talk(HOST).send(b"GET /model HTTP/1.1\\r\\nHost: api.example.test\\r\\n\\r\\n")
call.until(b"first")
call.close()
get(HOST, "/done")
""")
    assert ended == ["reset"]
    assert run.record(kind="http", path="/model")["reason"] == "sandbox_closed"


def test_a_client_that_cancels_before_the_answer_cancels_at_the_origin(caller, scripted):
    """A model call that is given up must not go on costing money."""
    asked, done, ended = Once(), Once(), []

    def script(connection, number):
        head = origin.read_head(connection)
        if head.startswith(b"GET /asked"):
            asked.wait()
            return connection.sendall(simple_answer())
        if head.startswith(b"GET /done"):
            done.wait()
            return connection.sendall(simple_answer())
        asked.happened()
        ended.append(ended_by(connection))
        done.happened()

    origin = scripted(script, HOST)
    run = talk(caller, origin, """
call = Talk(HOST).send(b"GET /model HTTP/1.1\\r\\nHost: api.example.test\\r\\n\\r\\n")
get(HOST, "/asked")
call.close()
get(HOST, "/done")
""")
    assert ended == ["reset"]
    assert run.record(kind="http", path="/model")["reason"] == "sandbox_closed"


def test_an_upload_that_is_broken_off_never_looks_complete_to_the_origin(caller, scripted):
    seen, done, ended = Once(), Once(), []

    def script(connection, number):
        data = origin.read_head(connection)
        for path, wanted in ((b"GET /seen", seen), (b"GET /done", done)):
            if data.startswith(path):
                wanted.wait()
                return connection.sendall(simple_answer())
        while b"first" not in data:
            data += origin.read(connection)
        seen.happened()
        ended.append(ended_by(connection))
        done.happened()

    origin = scripted(script, HOST)
    run = talk(caller, origin, """
call = Talk(HOST).send(b"POST /up HTTP/1.1\\r\\nHost: api.example.test\\r\\nTransfer-Encoding: chunked\\r\\n\\r\\n5\\r\\nfirst\\r\\n")
get(HOST, "/seen")
call.close()
get(HOST, "/done")
""")
    assert ended == ["reset"] and b"0\r\n\r\n" not in origin.everything()
    assert run.record(kind="http", path="/up")["reason"] == "sandbox_closed"


def test_an_early_answer_to_a_large_upload_is_read_by_the_client(client, scripted):
    """413 while the body is still coming: the client must see it, not a reset."""
    def script(connection, number):
        origin.read_head(connection)
        connection.sendall(simple_answer(b"too large for me", b"Connection: close\r\n", b"413 Content Too Large"))
        ended_by(connection)  # As servers do: closed with bytes unread, the answer itself could be lost.

    origin = scripted(script, HOST)
    caller = client.at(HOST, origin.port)
    run = caller.run("sh", "-c", f"head -c 60000000 /dev/zero > big; curl -sS -w ' %{{http_code}}' -T big https://{HOST}/up", policy=POLICY, secrets=SECRETS)
    assert run.stdout == "too large for me 413", run.stderr
    assert run.record(kind="http", path="/up")["status"] == 413


def test_a_client_that_reads_only_after_its_whole_upload_still_finds_the_early_answer(caller, scripted):
    """As Python's http.client and most others: nothing is read before everything is sent. The origin takes none of it."""
    read = Once()

    def script(connection, number):
        if origin.read_head(connection).startswith(b"GET /read"):
            read.happened()
            return connection.sendall(simple_answer())
        connection.sendall(simple_answer(b"too large for me", b"Connection: close\r\n", b"413 Content Too Large"))
        read.wait()

    origin = scripted(script, HOST)
    run = talk(caller, origin, """
call = Talk(HOST).send(b"PUT /up HTTP/1.1\\r\\nHost: api.example.test\\r\\nContent-Length: 50000000\\r\\n\\r\\n" + bytes(50000000))
head, body = call.answer()
tell(head=head, body=body, rest=call.rest())
get(HOST, "/read")
""")
    assert run.told[0]["head"].startswith("HTTP/1.1 413 ") and run.told[0]["body"] == "too large for me" and run.told[0]["rest"] == ""
    assert values(run.told[0]["head"], "connection") == ["close"]


def test_a_large_upload_that_is_refused_reads_the_refusal(caller):
    run = caller.python("""
import requests
answer = requests.put("https://elsewhere.example.test/up", data=bytes(20_000_000))
print(answer.status_code, answer.json()["error"]["reason"])
""", policy=POLICY, secrets=SECRETS)
    assert run.stdout == "403 not_in_allow_list\n", run.stderr


def test_a_refused_request_with_a_short_body_leaves_the_connection_usable(caller, scripted):
    def script(connection, number):
        while origin.read_head(connection):
            connection.sendall(simple_answer(b"welcome"))

    origin = scripted(script, HOST)
    policy = kit.header_rule(HOST)
    policy["rules"].insert(0, {"name": "no orders", "match_hosts": [HOST], "match_methods": ["POST"], "action": "deny"})
    run = talk(caller, origin, """
call = Talk(HOST)
head, body = call.send(b"POST / HTTP/1.1\\r\\nHost: api.example.test\\r\\nContent-Length: 5\\r\\n\\r\\n").answer()
tell(head=head, body=body)
head, body = call.send(b"orderGET / HTTP/1.1\\r\\nHost: api.example.test\\r\\n\\r\\n").answer()
tell(head=head, body=body)
""", policy=policy)
    assert run.told[0]["head"].startswith("HTTP/1.1 403 ") and not values(run.told[0]["head"], "connection")
    assert run.told[1]["body"] == "welcome"


# ---- what is inside stays untouched ------------------------------------------------------------------------

def test_chunked_compressed_bodies_pass_byte_for_byte_both_ways(caller, scripted):
    packed = gzip.compress(bytes(range(256)) * 2000)

    def script(connection, number):
        data = origin.read_head(connection)
        head, _, body = data.partition(b"\r\n\r\n")
        while len(body) < len(packed):
            body += origin.read(connection)
        assert body == packed and b"Content-Encoding: gzip" in head
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nTransfer-Encoding: chunked\r\n\r\n")
        for start in range(0, len(packed), 700):
            piece = packed[start:start + 700]
            connection.sendall(b"%x;ext=1\r\n%s\r\n" % (len(piece), piece))
        connection.sendall(b"0\r\n\r\n")

    origin = scripted(script, HOST)
    (caller.work / "packed").write_bytes(packed)
    run = talk(caller, origin, """
import hashlib, http.client
call = http.client.HTTPSConnection(HOST)
call.request("POST", "/", open("packed", "rb").read(), {"Content-Encoding": "gzip"})
answer = call.getresponse()
tell(encoding=answer.getheader("Content-Encoding"), digest=hashlib.sha256(answer.read()).hexdigest())
""", policy=kit.header_rule(HOST, **kit.UNSEARCHED))
    assert run.told == [{"encoding": "gzip", "digest": hashlib.sha256(packed).hexdigest()}]


def test_headers_keep_their_order_case_and_repetition(caller, scripted):
    def script(connection, number):
        origin.read_head(connection)
        connection.sendall(b"HTTP/1.1 200 Fine By Me\r\nX-b: 1\r\nSet-Cookie: a=1\r\nX-a: 2\r\nSet-Cookie: b=2; Path=/\r\nContent-Length: 0\r\n\r\n")

    origin = scripted(script, HOST)
    run = talk(caller, origin, """
call = Talk(HOST).send(b"GET /a%20b//c?q=%2F&r=1 HTTP/1.1\\r\\nHost: api.example.test\\r\\nX-Two: b\\r\\nx-one: a\\r\\nX-Two: c\\r\\n\\r\\n")
tell(head=call.head())
""")
    head = run.told[0]["head"]
    assert head.startswith("HTTP/1.1 200 Fine By Me\r\n")
    assert [pair for pair in fields(head) if pair[0] != "content-length"] == [("x-b", "1"), ("set-cookie", "a=1"), ("x-a", "2"), ("set-cookie", "b=2; Path=/")]
    assert b"GET /a%20b//c?q=%2F&r=1 HTTP/1.1\r\n" in origin.everything()
    assert b"X-Two: b\r\nx-one: a\r\nX-Two: c\r\n" in origin.everything()


# ---- WebSocket ---------------------------------------------------------------------------------------------

SERVER = """
import asyncio, json, ssl, sys, websockets
async def serve(socket):
    await socket.send("auth=" + socket.request_headers.get("Authorization", ""))
    async for message in socket:
        await socket.send(message)
async def main():
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(sys.argv[2], sys.argv[3])
    async with websockets.serve(serve, "127.0.0.1", int(sys.argv[1]), ssl=context, max_size=None):
        await asyncio.Future()
asyncio.run(main())
"""

CLIENT = """
import asyncio, os, websockets
async def main():
    async with websockets.connect("wss://api.example.test/socket", max_size=None) as socket:
        print(await socket.recv())
        for text in ("one", "two"):
            await socket.send(text)
            print(await socket.recv())
        large = os.urandom(3_000_000)
        await socket.send(large)
        print(await socket.recv() == large)
        await (await socket.ping())
    print("closed", socket.close_code)
asyncio.run(main())
"""


def test_a_websocket_is_upgraded_with_the_credential_and_then_carries_anything(client, authority):
    port = kit.free_port()
    with running([PYTHON, "-c", SERVER, port, *authority.certificate(HOST)]) as server:
        kit.wait_for_port(port, server)
        run = client.at(HOST, port).run(PYTHON, "-c", CLIENT, policy=POLICY, secrets=SECRETS)
    assert run.stdout.splitlines() == [f"auth=Bearer {SHOWN}", "one", "two", "True", "closed 1000"], run.stderr
    record = run.record(kind="http", path="/socket")
    assert record["status"] == 101 and record["decision"] == "allowed" and record["response_bytes"] > 3_000_000


def test_a_websocket_message_of_the_server_arrives_while_the_client_is_silent(caller, scripted):
    told = Once()

    def script(connection, number):
        head = origin.read_head(connection)
        if head.startswith(b"GET /told"):
            told.happened()
            return connection.sendall(simple_answer())
        connection.sendall(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: x\r\n\r\nwith the head")
        told.wait()
        connection.sendall(b"and later")
        ended_by(connection)

    origin = scripted(script, HOST)
    run = talk(caller, origin, """
socket = Talk(HOST).send(b"GET /socket HTTP/1.1\\r\\nHost: api.example.test\\r\\nConnection: Upgrade\\r\\nUpgrade: websocket\\r\\n"
                         b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\\r\\nSec-WebSocket-Version: 13\\r\\nSec-WebSocket-Protocol: a, b\\r\\n\\r\\n")
head = socket.head()
tell(head=head, first=socket.until(b"with the head"))
get(HOST, "/told")
tell(later=socket.until(b"and later"))
socket.close()
""", policy=kit.header_rule(HOST, **kit.UNSEARCHED))
    assert run.told[0]["head"].startswith("HTTP/1.1 101 ") and run.told[1]["later"] == "and later"
    sent = origin.everything()
    assert b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n" in sent and b"Sec-WebSocket-Protocol: a, b\r\n" in sent
    assert values(run.told[0]["head"], "sec-websocket-accept") == ["x"]


def test_an_origin_that_refuses_the_upgrade_is_heard(caller, scripted):
    def script(connection, number):
        origin.read_head(connection)
        connection.sendall(simple_answer(b"no sockets here", status=b"426 Upgrade Required"))

    origin = scripted(script, HOST)
    run = talk(caller, origin, """
call = Talk(HOST).send(b"GET /socket HTTP/1.1\\r\\nHost: api.example.test\\r\\nConnection: Upgrade\\r\\nUpgrade: websocket\\r\\n\\r\\n")
head, body = call.answer()
tell(head=head, body=body)
""")
    assert run.told[0]["head"].startswith("HTTP/1.1 426 ") and run.told[0]["body"] == "no sockets here"
