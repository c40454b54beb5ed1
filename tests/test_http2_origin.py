"""HTTP/2 toward the origin, frame by frame: what RFC 9113 asks of a client, and what a hostile origin can do.

The origin (tests/http2/origin.py) holds every frame that reaches it to the rules and decides every byte that it answers.
"""

import shutil
import threading

import pytest

import kit
from attacks_support import Canary, Sandbox, eventually
from http2 import frames, hpack
from http2.client import Client
from http2.frames import (CANCEL, COMPRESSION_ERROR, DATA, ENABLE_PUSH, ENHANCE_YOUR_CALM, FLOW_CONTROL_ERROR, FRAME_SIZE_ERROR, GOAWAY, HEADER_TABLE_SIZE,
                          HEADERS, INITIAL_WINDOW_SIZE, INTERNAL_ERROR, MAX_CONCURRENT_STREAMS, MAX_FRAME_SIZE, NO_ERROR, PING, PROTOCOL_ERROR,
                          REFUSED_STREAM, RST_STREAM, SETTINGS, STREAM_CLOSED, WINDOW_MAX, continuation, data, frame, goaway, headers, ping, priority,
                          push_promise, rst_stream, settings, window_update)
from http2.origin import Http2Origin

API, NARROW, ONE, TABLELESS = "api.example.test", "narrow.example.test", "one.example.test", "tableless.example.test"
GROWTH = 24_000  # Kilobytes


class World:
    def __init__(self, place, authority):
        self.place, self.key = place, Canary()
        self.gate = threading.Event()
        self.origins = {API: Http2Origin(authority, [API], settings=[(frames.ENABLE_CONNECT_PROTOCOL, 1)]),
                        NARROW: Http2Origin(authority, [NARROW], settings=[(INITIAL_WINDOW_SIZE, 0)]),
                        ONE: Http2Origin(authority, [ONE], settings=[(MAX_CONCURRENT_STREAMS, 1)]),
                        TABLELESS: Http2Origin(authority, [TABLELESS], settings=[(HEADER_TABLE_SIZE, 0), (MAX_FRAME_SIZE, 16384)])}
        self.api = self.origins[API]
        postern = kit.Postern(place, authority)
        for name, origin in self.origins.items():
            postern.at(name, origin.port)
        policy = {"rules": [{"name": name, "match_hosts": [name], "headers": [
            {"name": "Authorization", "type": "workspace_secret", "value": "Bearer {KEY}"}]} for name in self.origins]}
        self.sandbox = Sandbox(postern, policy, {"KEY": self.key}, canaries=[self.key])
        self.clients = []

    def client(self, host=API, **more):
        client = Client(self.sandbox.do, host, hear=self.sandbox.hear, **more)
        self.clients.append(client)
        return client

    def between_tests(self):
        self.gate.set()
        for client in self.clients:
            client.hang_up()
        self.clients.clear()
        self.gate = threading.Event()
        violations = [violation for origin in self.origins.values() for violation in origin.violations]
        for origin in self.origins.values():
            origin.violations.clear()
            origin.requests.clear()
            origin.scripts.clear()
        assert violations == []
        assert self.sandbox.process.poll() is None, "".join(self.sandbox.stderr)

    def end(self):
        self.sandbox.end()
        for origin in self.origins.values():
            origin.stop()
        shutil.rmtree(self.place, ignore_errors=True)


@pytest.fixture(scope="module")
def shared(authority):
    world = World(kit.temporary_directory(), authority)
    assert world.client().get("/").status == 200
    yield world
    try:
        world.client().check_usable()
        world.between_tests()
        world.sandbox.check_alive(slack=60)
        world.sandbox.check_secrecy()
    finally:
        world.end()


@pytest.fixture
def world(shared):
    shared.before = shared.sandbox.resident_kilobytes()
    yield shared
    assert shared.client().get("/honest").status == 200
    assert shared.api.of("/honest")[-1].one("authorization") == f"Bearer {shared.key}"
    shared.between_tests()
    assert shared.sandbox.resident_kilobytes() - shared.before < GROWTH


@pytest.fixture
def client(world):
    return world.client()


def cases(table):
    return [pytest.param(*row[2:], id=f"{row[0]} {row[1]}") for row in table]


def script(world, path="/answer", host=API):
    """Decorates what the origin does for this path."""
    def keep(function):
        world.origins[host].scripts[path] = function
        return function
    return keep


# --- what a client must do

def test_3_4_the_connection_begins_with_the_preface_and_settings(world, client):
    client.get("/first")
    peer = world.api.of("/first")[0].peer
    assert peer.arrived[0].kind == SETTINGS and peer.settings.get(ENABLE_PUSH) == 0  # §8.4: no pushes are wanted.
    assert eventually(lambda: peer.unacknowledged == 0)


def test_8_3_1_a_request_has_its_pseudo_header_fields_and_no_host(world, client):
    client.get("/fields?a=b", ("x-one", "1"), ("accept", "*/*"))
    request = world.api.of("/fields?a=b")[0]
    assert request.fields[:4] and {name: request.one(name) for name in (":method", ":scheme", ":authority", ":path")} == {
        ":method": "GET", ":scheme": "https", ":authority": API, ":path": "/fields?a=b"}
    assert request.one("x-one") == "1"


def test_7541_7_1_3_credentials_are_never_indexed(world, client):
    for _ in range(3):
        client.get("/credential")
    for request in world.api.of("/credential"):
        assert request.one("authorization") == f"Bearer {world.key}"
        assert request.kinds("authorization") == ["never"]
        assert not [value for _, value in request.peer.decoder.table if str(world.key) in value]


def test_8_2_2_hop_by_hop_fields_of_http_1_1_end_at_postern(world):
    answer = world.sandbox.get(API, "/from-one", "Keep-Alive: x", "TE: trailers, gzip", "X-Kept: 1", "Cookie: a=1; b=2", "Proxy-Connection: x")
    assert answer.statuses == [200], answer
    request = world.api.of("/from-one")[0]  # The origin fails on any of them.
    assert request.one("x-kept") == "1" and "; ".join(request.values("cookie")) == "a=1; b=2"


def test_a_chunked_body_of_http_1_1_becomes_data_and_its_trailers_trailers(world):
    answer = world.sandbox.talk(API, f"POST /chunked HTTP/1.1\r\nHost: {API}\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n"
                                "5\r\nhello\r\n6\r\n world\r\n0\r\nX-Sum: 11\r\n\r\n")
    assert answer.statuses == [200], answer
    request = world.api.of("/chunked")[0]
    assert request.body == b"hello world" and request.trailers == [("x-sum", "11")]
    assert not request.values("content-length")


@pytest.mark.parametrize("body", [b"", b"x", b"x" * 100_000])
def test_8_1_bodies_arrive_with_their_length(world, client, body):
    stream = client.stream()
    client.write(headers(stream, client.fields("/body", ("content-length", str(len(body))), method="POST"), end=not body))
    for start in range(0, len(body), 16000):
        client.write(data(stream, body[start:start + 16000], end=start + 16000 >= len(body)))
        client.ping()
    assert client.response(stream).status == 200
    request = world.api.of("/body")[0]
    assert request.body == body and request.values("content-length") in ([str(len(body))], [])


def test_8_1_trailers_go_both_ways(world, client):
    @script(world)
    def answer(peer, request):
        peer.head(request.stream, ("x-head", "1"))
        peer.write(data(request.stream, b"body"), headers(request.stream, [("grpc-status", "0"), ("x-sum", "4")]))
    stream = client.stream()
    client.write(headers(stream, client.fields("/answer", ("te", "trailers"), method="POST"), end=False), data(stream, b"up"), headers(stream, [("x-up", "2")]))
    response = client.response(stream)
    assert response.body == b"body" and response.trailers == [("grpc-status", "0"), ("x-sum", "4")] and response.complete
    request = world.api.of("/answer")[0]
    assert request.trailers == [("x-up", "2")] and request.values("te") == ["trailers"]


def test_trailers_without_content_are_trailers(world, client):
    @script(world)
    def answer(peer, request):
        peer.head(request.stream, ("content-type", "application/grpc"))
        peer.write(headers(request.stream, [("grpc-status", "12")]))
    response = client.get("/answer")
    assert response.trailers == [("grpc-status", "12")] and response.body == b"" and response.complete


def test_a_trailer_brings_no_second_credential(world, client):
    stream = client.stream()
    client.write(headers(stream, client.fields("/two", method="POST"), end=False), headers(stream, [("authorization", "mine"), ("x-sum", "1")]))
    client.response(stream)
    for request in world.api.of("/two"):
        assert "authorization" not in dict(request.trailers or [])


@pytest.mark.parametrize("status, method", [("204", "GET"), ("304", "GET"), ("200", "HEAD")])
def test_8_1_an_answer_without_content_ends_with_its_head(world, client, status, method):
    script(world)(lambda peer, request: peer.head(request.stream, *([("content-length", "500")] if method == "HEAD" else []), status=status, end=True))
    response = client.get("/answer", method=method)
    assert response.status == int(status) and response.body == b"" and response.complete


def test_8_1_informational_answers_pass(world, client):
    @script(world)
    def answer(peer, request):
        peer.head(request.stream, ("link", "</x>"), status="103")
        peer.respond(request, b"final")
    response = client.get("/answer")
    assert [dict(fields)["link"] for fields in response.informational] == ["</x>"] and response.body == b"final"


def test_6_7_a_ping_is_answered(world, client):
    @script(world)
    def answer(peer, request):
        peer.write(ping(b"pingping"))
        peer.when(lambda: any(found.kind == PING and found.ack and found.payload == b"pingping" for found in peer.arrived), lambda: peer.respond(request))
    assert client.get("/answer").status == 200


@pytest.mark.parametrize("send", cases([
    ("5.5", "an unknown frame", lambda s: frame(0x77, 0xFF, 0, b"x") + frame(0x78, 0xFF, s, b"y")), ("5.3", "PRIORITY", lambda s: priority(s, 0) + priority(99, 3)),
    ("6.5.2", "unknown settings", lambda s: settings((0x99, 1))), ("6.9", "windows", lambda s: window_update(0, 5) + window_update(s, 5)),
    ("6.7", "an answer to no PING", lambda s: ping(ack=True)),
    ("4.1", "the reserved bit", lambda s: frame(PING, 0, 1 << 31, bytes(8)))]))
def test_what_means_nothing_changes_nothing(world, client, send):
    @script(world)
    def answer(peer, request):
        peer.unacknowledged += 1 if send(request.stream)[3] == SETTINGS else 0
        peer.write(send(request.stream))
        peer.head(request.stream)
        peer.write(frame(0x99, 0, request.stream, b"z"), data(request.stream, b"fine", pad=7, end=True))
    assert client.get("/answer").body == b"fine"


# --- flow control

def test_6_9_a_body_waits_for_the_origins_window(world):
    @script(world, "/early/window", NARROW)
    def answer(peer, request):
        peer.refill = False
        peer.grant(request.stream, 3)
        peer.when(lambda: len(request.body) == 3, lambda: peer.grant(request.stream, 1))
        peer.when(lambda: len(request.body) == 4, lambda: peer.grant(request.stream, 1000))
        peer.when(lambda: request.complete, lambda: peer.respond(request))
    client = world.client(NARROW)
    client.get("/")  # Before the origin's settings came, more would be allowed.
    stream = client.request("/early/window", method="POST", body=b"x" * 500)
    assert client.response(stream).status == 200
    assert world.origins[NARROW].of("/early/window")[0].body == b"x" * 500


def test_6_9_one_octet_at_a_time(world):
    @script(world, "/early/octets", NARROW)
    def answer(peer, request):
        for i in range(1, 33):
            peer.when(lambda i=i: len(request.body) == i - 1, lambda: peer.grant(request.stream, 1))
        peer.refill = False
        peer.when(lambda: request.complete, lambda: peer.respond(request))
    client = world.client(NARROW)
    client.get("/")
    assert client.response(client.request("/early/octets", method="POST", body=bytes(range(32)))).status == 200
    assert world.origins[NARROW].of("/early/octets")[0].body == bytes(range(32))


def test_6_9_a_body_that_waits_does_not_stop_another_stream(world):
    script(world, "/early/never", NARROW)(lambda peer, request: None)
    client = world.client(NARROW)
    client.get("/")
    stalled = client.request("/early/never", method="POST", body=b"x" * 500)
    for _ in range(3):
        assert client.get("/other").status == 200
    client.write(rst_stream(stalled))


def test_6_9_a_download_gets_its_windows_back(world, client):
    assert len(client.get("/big/3000000").body) == 3_000_000


def test_6_9_1_more_data_than_the_window_is_an_error_of_the_stream(world, client):
    """The sandbox does not read, so what Postern grants is two windows of 65,535. The connection's own is larger than all this."""
    @script(world)
    def answer(peer, request):
        peer.head(request.stream)
        peer.write(*[data(request.stream, b"x" * 16384)] * 40)
    client.refill = False
    stream = client.request("/answer")
    client.expect(HEADERS, stream=stream)
    assert eventually(lambda: world.api.of("/answer")[0].reset is not None)
    request = world.api.of("/answer")[0]
    assert request.reset == FLOW_CONTROL_ERROR and request.peer.goaway is None
    client.refill = True
    client.grant(0, 10_000_000)
    client.grant(stream, 10_000_000)
    response = client.response(stream)
    assert response.reset is not None and not response.complete and len(response.body) < 200_000, response
    client.check_usable()
    assert [request.peer for request in world.api.of("/usable")] == [request.peer]  # The connection goes on.


def test_6_9_1_more_data_than_the_connections_window_is_an_error_of_the_connection(world, client):
    """Or of the stream, when Postern gives back what it read before all of it has come. It ends either way."""
    reached = []

    @script(world)
    def answer(peer, request):
        reached.append(peer)
        peer.head(request.stream)
        for _ in range(4000):
            peer.write(data(request.stream, b"x" * 16384))
    client.refill = False
    stream = client.request("/answer")
    client.expect(HEADERS, stream=stream)
    request = world.api.of("/answer")[0]
    # What is still unread when Postern closes may destroy its GOAWAY on the way.
    assert eventually(lambda: FLOW_CONTROL_ERROR in (request.reset, reached[0].goaway and reached[0].goaway.code) or reached[0].ended)
    client.refill = True
    client.grant(0, 10_000_000)
    client.grant(stream, 10_000_000)
    response = client.response(stream)
    assert response.reset is not None and not response.complete and len(response.body) < 3_000_000, response
    client.check_usable()


# --- the origin's settings

def test_6_5_2_no_table_of_the_origin_no_table_of_ours(world):
    client = world.client(TABLELESS)
    for i in range(3):
        assert client.get(f"/table/{i}", ("x-repeated", "again")).status == 200
    assert not world.origins[TABLELESS].requests[-1].peer.decoder.table or \
        eventually(lambda: world.origins[TABLELESS].requests[-1].peer.unacknowledged == 0)


def test_5_1_2_no_more_streams_than_the_origin_allows(world):
    open_now, most = set(), []

    @script(world, "/counted", ONE)
    def answer(peer, request):
        if peer.acknowledged:  # Before it knew of the limit, there was none.
            open_now.add((peer.number, request.stream))
            most.append(sum(number == peer.number for number, _ in open_now))
        def done():
            open_now.discard((peer.number, request.stream))
            peer.respond(request)
        peer.when(lambda: True, done)
    client = world.client(ONE)
    client.get("/")  # The settings have come.
    streams = [client.request("/counted") for _ in range(12)]
    assert all(client.response(stream).status == 200 for stream in streams)
    assert max(most, default=1) == 1


# --- connection errors of an origin

@pytest.mark.parametrize("send, codes", cases([
    ("6.6", "a push that is not wanted", lambda s: push_promise(s, 2, hpack.block([(":method", "GET"), (":scheme", "https"), (":authority", API), (":path", "/p")])),
     (PROTOCOL_ERROR,)),
    ("5.1", "HEADERS on an idle stream", lambda s: headers(s + 1000, [(":status", "200")]), (PROTOCOL_ERROR,)),
    ("5.1", "DATA on an idle stream", lambda s: data(s + 1000, b"x"), (PROTOCOL_ERROR,)),
    ("5.1.1", "HEADERS on an even stream", lambda s: headers(2, [(":status", "200")]), (PROTOCOL_ERROR,)),
    ("6.1", "DATA on stream 0", lambda s: data(0, b"x"), (PROTOCOL_ERROR,)),
    ("6.2", "HEADERS on stream 0", lambda s: headers(0, [(":status", "200")]), (PROTOCOL_ERROR,)),
    ("6.1", "padding beyond the payload", lambda s: headers(s, [(":status", "200")], end=False) + frame(DATA, frames.PADDED, s, b"\xffx"), (PROTOCOL_ERROR,)),
    ("6.4", "RST_STREAM on stream 0", lambda s: rst_stream(0), (PROTOCOL_ERROR,)),
    ("6.4", "RST_STREAM of 3 octets", lambda s: frame(RST_STREAM, 0, s, b"\0\0\0"), (FRAME_SIZE_ERROR,)),
    ("6.5", "SETTINGS of 5 octets", lambda s: frame(SETTINGS, 0, 0, bytes(5)), (FRAME_SIZE_ERROR,)),
    ("6.5.2", "a window of 2^31", lambda s: settings((INITIAL_WINDOW_SIZE, 1 << 31)), (FLOW_CONTROL_ERROR,)),
    ("6.5.2", "frames of 1 octet", lambda s: settings((MAX_FRAME_SIZE, 1)), (PROTOCOL_ERROR,)),
    ("6.5.2", "a server that enables push", lambda s: settings((ENABLE_PUSH, 1)), (PROTOCOL_ERROR,)),
    ("6.7", "PING of 7 octets", lambda s: ping(b"1234567"), (FRAME_SIZE_ERROR,)),
    ("6.8", "GOAWAY of 4 octets", lambda s: frame(GOAWAY, 0, 0, bytes(4)), (FRAME_SIZE_ERROR,)),
    ("6.9", "an increment of 0", lambda s: window_update(0, 0), (PROTOCOL_ERROR,)),
    ("6.9.1", "a window beyond 2^31 - 1", lambda s: window_update(0, WINDOW_MAX), (FLOW_CONTROL_ERROR,)),
    ("6.10", "CONTINUATION alone", lambda s: continuation(s), (PROTOCOL_ERROR,)),
    ("6.10", "PING inside a field block", lambda s: headers(s, [(":status", "200")], complete=False) + ping(), (PROTOCOL_ERROR,)),
    ("4.2", "a frame beyond the largest size", lambda s: frame(0x42, 0, 0, bytes(16385)), (FRAME_SIZE_ERROR,)),
    ("4.3", "an index of 0", lambda s: headers(s, hpack.indexed(0)), (COMPRESSION_ERROR,)),
    ("4.3", "a table that is too large", lambda s: headers(s, hpack.table_size(1 << 20) + hpack.block([(":status", "200")])), (COMPRESSION_ERROR,)),
    ("3.4", "HTTP/1.1", lambda s: b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nno", (PROTOCOL_ERROR, FRAME_SIZE_ERROR))]))
def test_a_connection_error_of_the_origin_is_told_and_becomes_a_502(world, client, send, codes):
    peers = []

    @script(world)
    def answer(peer, request):
        peers.append(peer)
        peer.write(send(request.stream))
    response = client.get("/answer")
    assert response.status == 502 and response.complete or response.reset is not None, response
    assert eventually(lambda: peers and peers[0].goaway)
    assert peers[0].goaway.code in codes, peers[0].goaway


# --- malformed answers

@pytest.mark.parametrize("send", cases([
    ("8.3.2", "no :status", lambda s: headers(s, [("x", "y")])),
    ("8.3.2", "no fields", lambda s: headers(s, [])),
    ("8.3.2", "two :status", lambda s: headers(s, [(":status", "200"), (":status", "404")])),
    ("8.3.2", ":status of letters", lambda s: headers(s, [(":status", "abc")])),
    ("8.3.2", ":status of two digits", lambda s: headers(s, [(":status", "20")])),
    ("8.3.2", ":status of four digits", lambda s: headers(s, [(":status", "2000")])),
    ("8.6", ":status of 101", lambda s: headers(s, [(":status", "101")], end=False)),
    ("8.3", "a request's pseudo-header field", lambda s: headers(s, [(":status", "200"), (":path", "/")])),
    ("8.3", ":status behind a field", lambda s: headers(s, [("x", "y"), (":status", "200")])),
    ("8.2.1", "a name in upper case", lambda s: headers(s, [(":status", "200"), ("X-Upper", "y")])),
    ("8.2.1", "a name with a space", lambda s: headers(s, [(":status", "200"), ("x y", "z")])),
    ("8.2.1", "CRLF in a value", lambda s: headers(s, [(":status", "200"), ("x", "y\r\nset-cookie: z")])),
    ("8.2.1", "NUL in a value", lambda s: headers(s, [(":status", "200"), ("x", "y\0z")])),
    ("8.2.1", "a space before a value", lambda s: headers(s, [(":status", "200"), ("x", " y")])),
    ("8.2.2", "Connection", lambda s: headers(s, [(":status", "200"), ("connection", "close")])),
    ("8.2.2", "Transfer-Encoding", lambda s: headers(s, [(":status", "200"), ("transfer-encoding", "chunked")])),
    ("8.1", "DATA before a head", lambda s: data(s, b"x", end=True)),
    ("8.1", "an informational answer that ends the stream", lambda s: headers(s, [(":status", "103")])),
    ("8.1.1", "an end before the announced length", lambda s: headers(s, [(":status", "200"), ("content-length", "5")])),
    ("8.1.1", "two lengths", lambda s: headers(s, [(":status", "200"), ("content-length", "5"), ("content-length", "6")], end=False) + data(s, b"hello", end=True)),
    ("8.1.1", "a length that is none", lambda s: headers(s, [(":status", "200"), ("content-length", "x")], end=False) + data(s, b"hello", end=True))]))
def test_a_malformed_answer_becomes_a_502_and_spares_the_other_streams(world, client, send):
    script(world)(lambda peer, request: peer.write(send(request.stream)))
    response = client.get("/answer")
    assert response.status == 502 and response.complete, response
    request = world.api.of("/answer")[0]
    assert request.reset in (None, PROTOCOL_ERROR, CANCEL)
    assert len(world.api.of("/answer")) == 1  # An answer that makes no sense is an answer: nothing is asked again.


@pytest.mark.parametrize("send", cases([
    ("8.1.1", "more content than announced", lambda s: headers(s, [(":status", "200"), ("content-length", "3")], end=False) + data(s, b"hello", end=True)),
    ("8.1.1", "less content than announced", lambda s: headers(s, [(":status", "200"), ("content-length", "9")], end=False) + data(s, b"hello", end=True)),
    ("8.1", "trailers with a pseudo-header field",
     lambda s: headers(s, [(":status", "200")], end=False) + data(s, b"hello") + headers(s, [(":status", "200")])),
    ("8.1", "trailers that do not end the stream", lambda s: headers(s, [(":status", "200")], end=False) + data(s, b"hello") + headers(s, [("x", "y")], end=False)),
    ("8.1", "trailers with a name in upper case", lambda s: headers(s, [(":status", "200")], end=False) + data(s, b"hello") + headers(s, [("X-Up", "y")])),
    ("5.4.2", "a reset", lambda s: headers(s, [(":status", "200")], end=False) + data(s, b"hello") + rst_stream(s, INTERNAL_ERROR)),
    ("5.4.2", "a reset without an error", lambda s: headers(s, [(":status", "200")], end=False) + data(s, b"hello") + rst_stream(s, NO_ERROR))]))
def test_an_answer_that_breaks_is_not_taken_for_whole(world, client, send):
    script(world)(lambda peer, request: peer.write(send(request.stream)))
    response = client.get("/answer")
    assert not response.complete and response.reset is not None or response.status == 502, response
    client.check_usable()


def test_data_after_the_end_is_nobodys(world, client):
    script(world)(lambda peer, request: peer.write(headers(request.stream, [(":status", "200")], end=False), data(request.stream, b"first", end=True),
                                                   data(request.stream, b"second", end=True)))
    response = client.get("/answer")
    assert response.body == b"first" and response.complete
    client.check_usable()


# --- resets and goings

def test_8_7_a_refused_stream_may_be_asked_again(world, client):
    tried = []

    @script(world)
    def answer(peer, request):
        tried.append(request)
        peer.write(rst_stream(request.stream, REFUSED_STREAM)) if len(tried) == 1 else peer.respond(request)
    response = client.get("/answer")
    assert response.status == 200 and len(tried) == 2, (response, len(tried))
    assert all(request.one("authorization") == f"Bearer {world.key}" for request in tried)


def test_a_stream_that_is_always_refused_is_a_502_and_no_loop(world, client):
    tried = []

    @script(world)
    def answer(peer, request):
        tried.append(request)
        peer.write(rst_stream(request.stream, REFUSED_STREAM))
    response = client.get("/answer")
    assert response.status in (502, 503) and len(tried) <= 4, (response, len(tried))


@pytest.mark.parametrize("code", [PROTOCOL_ERROR, INTERNAL_ERROR, CANCEL, ENHANCE_YOUR_CALM, 0x7777])
def test_a_request_that_may_have_been_acted_on_is_not_repeated(world, client, code):
    tried = []

    @script(world)
    def answer(peer, request):
        tried.append(request)
        peer.write(rst_stream(request.stream, code))
    response = client.get("/answer", method="POST", body=b"once")
    assert response.status == 502 or response.reset is not None, response
    assert len(tried) == 1


def test_8_1_a_reset_without_error_after_a_whole_answer_leaves_it_whole(world, client):
    @script(world, "/early/whole")
    def answer(peer, request):
        peer.respond(request, b"no need to hear more", status="413")
        peer.write(rst_stream(request.stream, NO_ERROR))
    stream = client.stream()
    client.write(headers(stream, client.fields("/early/whole", method="POST"), end=False), data(stream, b"x" * 1000))
    response = client.response(stream)
    assert response.status == 413 and response.body == b"no need to hear more" and response.complete, response
    client.check_usable()


def test_6_8_what_a_goaway_did_not_take_is_asked_again_elsewhere(world, client):
    seen = []

    @script(world)
    def answer(peer, request):
        seen.append(peer)
        if len(seen) == 1:
            peer.write(goaway(request.stream - 2 if request.stream > 1 else 0, NO_ERROR))
        else:
            peer.respond(request)
    response = client.get("/answer")
    assert response.status == 200 and len(seen) == 2 and seen[0] is not seen[1], (response, len(seen))


def test_6_8_what_a_goaway_took_is_answered_and_nothing_new_goes_there(world, client):
    going = []

    @script(world)
    def answer(peer, request):
        peer.write(goaway(request.stream, NO_ERROR))
        going.append(peer)
        peer.when(lambda: world.gate.is_set(), lambda: peer.respond(request, b"late"))
    stream = client.request("/answer")
    assert eventually(lambda: going)
    client.ping()
    for _ in range(3):
        client.check_usable()
    late = [request for request in world.api.of("/usable") if request.peer is going[0]]
    # One request may already have been on its way.
    assert len(late) <= 1, late
    world.gate.set()
    assert client.response(stream).body == b"late"


def test_6_8_a_goaway_with_an_error_breaks_what_it_did_not_finish(world, client):
    @script(world)
    def answer(peer, request):
        peer.head(request.stream)
        peer.write(data(request.stream, b"half"), goaway(request.stream, INTERNAL_ERROR, b"oops"))
        peer.connection.close()
    response = client.get("/answer")
    assert not response.complete and response.reset is not None, response
    client.check_usable()


def test_a_connection_that_ends_in_an_answer_breaks_the_answer(world, client):
    @script(world)
    def answer(peer, request):
        peer.head(request.stream)
        peer.write(data(request.stream, b"half"))
        peer.connection.close()
    response = client.get("/answer")
    assert not response.complete and response.reset is not None, response
    client.check_usable()


def test_a_reset_of_the_sandbox_is_a_reset_for_the_origin(world, client):
    script(world)(lambda peer, request: peer.head(request.stream))
    stream = client.request("/answer")
    client.expect(HEADERS, stream=stream)
    client.write(rst_stream(stream, CANCEL))
    request = world.api.of("/answer")[0]
    assert eventually(lambda: request.reset is not None)
    assert request.reset == CANCEL
    client.check_usable()
    assert request.peer.goaway is None


def test_a_sandbox_that_leaves_resets_its_streams_at_the_origin(world, client):
    script(world)(lambda peer, request: peer.head(request.stream))
    streams = [client.request("/answer") for _ in range(5)]
    for stream in streams:
        client.expect(HEADERS, stream=stream)
    client.hang_up()
    assert eventually(lambda: all(request.reset is not None for request in world.api.of("/answer")) or
                      all(request.peer.goaway for request in world.api.of("/answer")))


# --- floods by an origin

@pytest.mark.parametrize("piece, times", cases([
    ("68", "PING", ping(), 20_000), ("68", "SETTINGS", settings((0x99, 1)), 20_000), ("66", "CONTINUATION", None, 20_000),
    ("68", "empty DATA", "data", 20_000), ("37", "informational answers", "103", 2000), ("65", "RST_STREAM", rst_stream(1), 20_000),
    ("68", "WINDOW_UPDATE", window_update(0, 1), 20_000), ("68", "PRIORITY", priority(1), 20_000)]))
def test_a_flood_of_the_origin_harms_nobody(world, client, piece, times):
    @script(world)
    def answer(peer, request):
        peer.unacknowledged += times if piece and piece[3:4] == bytes([SETTINGS]) else 0
        stream = request.stream
        if piece is None:
            peer.write(headers(stream, [(":status", "200")], complete=False))
            one = continuation(stream, hpack.literal("x", "y" * 50), complete=False)
        elif piece == "data":
            peer.head(stream)
            one = data(stream)
        else:
            one = headers(stream, [(":status", "103"), ("link", "x")], end=False) if piece == "103" else piece
        for _ in range(times // 100):
            peer.write(one * 100)
        peer.respond(request)
    other = world.client(ONE)
    stream = client.request("/answer")
    for _ in range(3):
        assert other.get("/beside").status == 200
    response = client.response(stream)
    assert response.status in (200, 502, 503) or response.reset is not None, response
    assert len(response.informational) <= 16


def test_an_hpack_bomb_of_the_origin_is_defused(world, client):
    @script(world)
    def answer(peer, request):
        peer.write(headers(request.stream, hpack.block([(":status", "200")]) + hpack.literal("x-bomb", "y" * 4000, "incremental")
                           + hpack.indexed(62) * 12000))
    response = client.get("/answer")
    assert response.status == 502 or response.reset is not None, response
    assert world.sandbox.resident_kilobytes() - world.before < GROWTH


@pytest.mark.parametrize("fields", cases([("72", "a huge value", [("x", "y" * 16000)] * 6), ("72", "many fields", [("x", "y")] * 1500)]))
def test_huge_heads_of_the_origin_become_a_502(world, client, fields):
    @script(world)
    def answer(peer, request):
        block = hpack.block([(":status", "200"), *fields])
        pieces = [block[i:i + 16384] for i in range(0, len(block), 16384)]
        peer.write(headers(request.stream, pieces[0], complete=len(pieces) == 1), *[continuation(request.stream, piece, complete=False) for piece in pieces[1:-1]],
                   continuation(request.stream, pieces[-1]) if len(pieces) > 1 else b"")
    response = client.get("/answer")
    assert response.status == 502 or response.reset is not None, response


def test_a_sandbox_that_does_not_read_stops_the_origin(world, client):
    client.refill = False
    @script(world)
    def answer(peer, request):
        peer.head(request.stream)
        peer.send_body(request.stream, bytes(8 << 20))
    streams = [client.request("/answer") for _ in range(20)]
    for stream in streams:
        client.expect(HEADERS, stream=stream)
    assert world.client().get("/beside").status == 200
    assert world.sandbox.resident_kilobytes() - world.before < GROWTH
