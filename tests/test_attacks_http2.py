"""Attacks by HTTP/2 on one Postern that must survive them all (docs/security.md 13, 16-18, 24-40, 54, 65-69, 72).

Around each of them: an honest call that works in the same Postern, no canary where it does not belong, the same process with its
descriptors, and an origin that finds no fault with the HTTP/1.1 that reached it (tests/http2/strict_origin.py).
"""

import itertools
import time

import pytest

import kit
from http2 import frames, hpack
from http2.frames import (CANCEL, DATA, ENHANCE_YOUR_CALM, HEADERS, INITIAL_WINDOW_SIZE, MAX_FRAME_SIZE, PING, PREFACE, PROTOCOL_ERROR, REFUSED_STREAM,
                          RST_STREAM, SETTINGS, WINDOW_MAX, continuation, data, frame, headers, ping, priority, rst_stream, settings, window_update)
from http2.strict_origin import ok
from http2.world import API, EVIL, OTHER, PLAIN, World, eventually

MARKERS = itertools.count()
GROWTH = 24_000  # Kilobytes that Postern may have more while an attack goes on: buffers that are kept, not an attacker's choice.


class Slow:
    """Connections that begin and never go on: opened before all other tests, looked at after them. In a world of their own, for their
    ends are recorded while others count records."""

    def __init__(self, authority):
        self.world = world = World(kit.temporary_directory(), authority)
        self.clients = {}
        for name, alpn, pieces in (
                ("no preface", ["h2"], []), ("half a preface", ["h2"], [PREFACE[:10]]), ("a preface without SETTINGS", ["h2"], [PREFACE]),
                ("half a SETTINGS frame", ["h2"], [PREFACE + settings((1, 4096))[:12]]),
                ("HEADERS without their end", ["h2"], [PREFACE + settings(), settings(ack=True), headers(1, request("/slow-head"), complete=False)]),
                ("half a HEADERS frame", ["h2"], [PREFACE + settings(), settings(ack=True), headers(1, request("/slow-half"))[:20]])):
            client = world.client(alpn=alpn, start=False)
            world.clients.remove(client)
            for piece in pieces:
                if piece == settings(ack=True):
                    client.pending.append([])
                    client.expect(SETTINGS, ack=False)
                client.write(piece)
            self.clients[name] = client
        self.since = time.monotonic()


@pytest.fixture(scope="module")
def shared(authority):
    world = World(kit.temporary_directory(), authority)
    world.honest()
    world.slow = Slow(authority)
    yield world
    worlds = (world, world.slow.world)
    try:
        for each in worlds:
            each.check_end()
    finally:
        for each in worlds:
            each.end()


@pytest.fixture
def world(shared):
    shared.before = shared.sandbox.resident_kilobytes()
    yield shared
    shared.honest()
    shared.between_tests()
    shared.sandbox.check_alive(slack=60)
    for origin in (shared.other, shared.plain, shared.evil):
        assert not shared.key.found_in(origin.everything())


@pytest.fixture
def client(world):
    return world.client()


def cases(table):
    return [pytest.param(*row[1:], id=row[0]) for row in table]


def request(path="/", *more, method="GET", authority=API, scheme="https"):
    return [(":method", method), (":scheme", scheme), (":authority", authority), (":path", path), *more]


def mark(world):
    """Waits for the records of everything before; returns how many there are."""
    marker = f"/marker-{next(MARKERS)}"
    assert world.client().get(marker).status == 200
    assert eventually(lambda: any(record.get("path") == marker for record in world.sandbox.records()))
    return len(world.sandbox.records())


def records_of(world, count, act):
    """Exactly `count` records come of what `act` does; another would show while an honest call is made."""
    before = mark(world)
    result = act()
    eventually(lambda: len(world.sandbox.records()) >= before + count)
    found = world.sandbox.records()[before:mark(world) - 1]
    assert len(found) == count, found
    return result, found


def check_honest_beside(world):
    """Another connection is served while the attack's is still there; the client gives up on what takes longer than its patience."""
    world.honest()


def check_memory(world):
    assert world.sandbox.resident_kilobytes() - world.before < GROWTH, (world.before, world.sandbox.resident_kilobytes())


# --- floods (65, 66, 68)

def check_calmed(client, *other_codes):
    """The connection was ended, and says why if the word could get through."""
    client.drained()
    assert client.goaway is None and client.end == "reset" or client.goaway.code in (ENHANCE_YOUR_CALM, *other_codes), (client.goaway, client.end)


def pairs(first, count, make):
    return b"".join(make(first + 2 * i) for i in range(count))


RESETS = [
    ("HEADERS and RST_STREAM", lambda s: headers(s, request("/rapid")) + rst_stream(s), ()),
    ("HEADERS with a body and RST_STREAM", lambda s: headers(s, request("/rapid", method="POST"), end=False) + data(s, b"x") + rst_stream(s), ()),
    ("HEADERS that the server must reset", lambda s: headers(s, request("/rapid", ("UPPER", "x"))), ()),
    ("a window's overflow that the server must reset", lambda s: headers(s, request("/rapid")) + window_update(s, WINDOW_MAX), ()),
    # These are connection errors at once.
    ("an increment of 0", lambda s: headers(s, request("/rapid")) + window_update(s, 0), (PROTOCOL_ERROR,)),
    ("DATA after the end", lambda s: headers(s, request("/rapid")) + data(s, b"x"), (frames.STREAM_CLOSED,)),
    ("a PRIORITY of 4 octets", lambda s: headers(s, request("/rapid")) + frame(frames.PRIORITY, 0, s, bytes(4)), (frames.FRAME_SIZE_ERROR,)),
]


@pytest.mark.parametrize("make, other_codes", cases(RESETS))
def test_rapid_resets_end_the_connection_before_they_cost_the_origin_anything(world, client, make, other_codes):
    """Threat 65: CVE-2023-44487, and CVE-2025-8671 where the server is made to reset."""
    burst, first = 60, 1
    while first < 40_000 and not client.end:
        client.flood(pairs(first, burst, make), 1)
        client.write(ping())
        first += 2 * burst
        try:
            client.expect(PING, ack=True)  # As fast as it can be without more streams at once than are allowed.
        except AssertionError:
            assert client.end
    check_calmed(client, *other_codes)
    check_honest_beside(world)
    assert len(world.api.of("/rapid")) < 1000
    check_memory(world)


def test_resets_in_one_burst_end_the_connection_too(world, client):
    client.flood(pairs(1, 20_000, lambda s: headers(s, request("/rapid")) + rst_stream(s)), 1)
    check_calmed(client)
    check_honest_beside(world)
    assert len(world.api.of("/rapid")) < 1000
    check_memory(world)


def test_a_few_resets_are_a_clients_good_right(world, client):
    for _ in range(100):
        client.write(rst_stream(client.request("/cancelled")))
    client.check_usable()


@pytest.mark.parametrize("piece", cases([
    ("empty ones", continuation(1, b"", complete=False)), ("of one octet", continuation(1, b"\x00", complete=False)),
    ("of small fields", continuation(1, hpack.literal("x", "y" * 100), complete=False)),
    ("of large fields", continuation(1, hpack.literal("x", "y" * 16000), complete=False)),
    ("of the same indexed field", continuation(1, hpack.indexed(2) * 1000, complete=False)),
    ("of one name without an end", continuation(1, b"\x00" * 16000, complete=False))]))
def test_continuations_without_an_end_end_the_connection(world, client, piece):
    """Threat 66: CVE-2024-27316 and its like."""
    endless = b"\x00" + hpack.integer(1 << 27, 7) if piece.endswith(bytes(16000)) else b""
    client.write(headers(1, hpack.block(request("/continued")) + endless, complete=False))
    client.flood(piece, 20_000 if len(piece) < 1000 else 2000)
    client.drained()
    assert client.end
    assert not world.api.of("/continued")
    check_honest_beside(world)
    check_memory(world)


ANSWERED = [("PING", ping()), ("SETTINGS", settings((INITIAL_WINDOW_SIZE, 65535))), ("empty SETTINGS", settings()),
            ("many SETTINGS in one frame", settings(*[(INITIAL_WINDOW_SIZE, i) for i in range(2000)]))]


@pytest.mark.parametrize("piece", cases(ANSWERED))
def test_frames_that_must_be_answered_cannot_fill_memory_while_nothing_is_read(world, client, piece):
    """Threat 68: CVE-2019-9512, CVE-2019-9515."""
    sent = client.flood(piece, 400_000 if len(piece) < 100 else 4000, batch=512 if len(piece) < 100 else 4, read=False, patience=2)
    check_memory(world)
    check_honest_beside(world)
    assert sent < 400_000 or client.end or len(piece) > 100  # It was stopped one way or the other.


@pytest.mark.parametrize("piece", cases([
    *ANSWERED, ("PING that answers nothing", ping(ack=True)), ("PRIORITY", priority(9, 7)), ("PRIORITY of ever new streams", None),
    ("WINDOW_UPDATE", window_update(0, 1)), ("WINDOW_UPDATE of a stream", window_update(1, 1)), ("unknown frames", frame(0x42)),
    ("unknown frames on a stream", frame(0x42, 0, 1, b"x" * 50)), ("empty DATA", data(1)), ("padding without content", data(1, b"", pad=200)),
    ("RST_STREAM of a closed stream", rst_stream(3)), ("DATA on a closed stream", data(3, b"x"))]))
def test_frames_that_do_nothing_do_no_harm(world, client, piece):
    """Threat 68: CVE-2019-9513, CVE-2019-9518. The connection may be ended; nobody else may notice."""
    client.write(headers(1, request("/early/flooded", method="POST"), end=False))
    client.write(headers(3, request("/early/reset", method="POST"), end=False), rst_stream(3))
    if piece is None:
        piece = b"".join(priority(stream, stream + 2, stream % 256) for stream in range(5, 4005, 2))
    count = max(50_000 * 9 // len(piece), 20) if len(piece) > 100 else 50_000
    client.pending += [[]] * (count if piece[3] == SETTINGS else 0)
    client.flood(piece, count, batch=256 if len(piece) < 100 else 1)
    check_honest_beside(world)
    check_memory(world)
    if client.end:
        client.drained()
        assert client.goaway is None or client.goaway.code in (ENHANCE_YOUR_CALM, frames.STREAM_CLOSED, PROTOCOL_ERROR, frames.FLOW_CONTROL_ERROR), client.goaway


def test_requests_beyond_the_announced_number_do_not_reach_the_origin(world, client):
    client.flood(pairs(1, 2000, lambda s: headers(s, request("/hold"))), 1)
    seen = client.settings[frames.MAX_CONCURRENT_STREAMS]
    client.refill = False
    try:
        client.ping()
    except AssertionError:
        assert client.end
    assert len(world.api.of("/hold")) <= seen
    refused = [found for found in client.arrived if found.kind == RST_STREAM]
    assert client.end or len(refused) >= 1
    assert all(found.code in (REFUSED_STREAM, ENHANCE_YOUR_CALM) for found in refused)
    check_honest_beside(world)
    check_memory(world)


# --- HPACK (67, 72)

def test_an_hpack_bomb_is_defused(world, client):
    """Threat 67: one entry of 4000 octets, then a thousand octets that each name it."""
    bomb = hpack.literal("x-bomb", "y" * 4000, "incremental")
    client.write(headers(1, hpack.block(request("/bomb")) + bomb))
    assert client.response(1).status == 200
    client.write(headers(3, hpack.block(request("/bombed")) + hpack.indexed(62) * 16000))
    response = client.response(3)
    assert response.status in (None, 431), response
    assert not world.api.of("/bombed")
    check_memory(world)


def test_many_hpack_bombs_at_once_stay_small(world, client):
    client.write(headers(1, hpack.block(request("/bomb")) + hpack.literal("x-bomb", "y" * 4000, "incremental")))
    assert client.response(1).status == 200
    block = hpack.block(request("/bombed")) + hpack.indexed(62) * 16000
    client.flood(pairs(3, 100, lambda s: headers(s, block)), 1)
    check_honest_beside(world)
    assert not world.api.of("/bombed")
    check_memory(world)


def test_an_entry_that_grows_by_reference_is_bounded(world, client):
    """Names by reference, values by Huffman: an octet on the wire is at most some octets in memory."""
    for i in range(50):
        stream = client.stream()
        if not client.write(headers(stream, hpack.block(request("/grown")) + b"".join(hpack.literal(f"x-{i}-{j}", "0" * 1000, "incremental", coded=True)
                                                                                     for j in range(20)))):
            break
        client.response(stream)
    check_memory(world)


@pytest.mark.parametrize("fields", cases([
    ("one huge value", [("x", "y" * 70_000)]), ("a huge name", [("x" * 70_000, "y")]), ("many fields", [("x", "y")] * 3000),
    ("many middling fields", [(f"x{i}", "y" * 700) for i in range(120)]), ("a huge cookie in crumbs", [("cookie", "a" * 60)] * 1500)]))
def test_huge_or_many_fields_are_refused(world, client, fields):
    """Threat 72: 431, or the stream or the connection ends."""
    block = hpack.block(request("/huge", *fields))
    pieces = [block[i:i + 16384] for i in range(0, len(block), 16384)]
    client.write(headers(1, pieces[0], complete=len(pieces) == 1), *[continuation(1, piece, complete=False) for piece in pieces[1:-1]],
                 continuation(1, pieces[-1]) if len(pieces) > 1 else b"")
    response = client.response(1)
    assert response.status in (None, 431), response
    assert response.status == 431 or response.reset is not None or client.goaway
    assert not world.api.of("/huge")


def test_huge_trailers_are_refused(world, client):
    client.write(headers(1, request("/huge-trailers", method="POST"), end=False), data(1, b"x"))
    block = hpack.block([("x", "y" * 700)] * 120)
    pieces = [block[i:i + 16384] for i in range(0, len(block), 16384)]
    client.write(headers(1, pieces[0], complete=False), *[continuation(1, piece, complete=False) for piece in pieces[1:-1]], continuation(1, pieces[-1]))
    response = client.response(1)
    assert response.status in (None, 431, 400), response
    assert not any(seen.complete for seen in world.api.of("/huge-trailers"))


# --- windows (69)

def test_many_streams_without_a_window_hold_no_memory(world):
    """Threat 69, CVE-2019-9517: 120 answers of 8 MB that nobody takes."""
    world.answers["/large"] = lambda origin, connection, reader, request: stream_out(connection, 8 << 20)
    client = world.client(settings=[(INITIAL_WINDOW_SIZE, 0)])
    streams = [client.request("/large") for _ in range(120)]
    assert eventually(lambda: len(world.api.of("/large")) == 120)
    for stream in streams[:40]:
        client.expect(HEADERS, stream=stream)
    check_honest_beside(world)
    assert world.sandbox.resident_kilobytes() - world.before < 60_000
    client.refill = False
    for _ in range(200):  # A trickle keeps nothing alive that costs.
        client.grant(streams[0], 1)
        client.expect(DATA, stream=streams[0])
    check_honest_beside(world)
    assert world.sandbox.resident_kilobytes() - world.before < 60_000


def test_large_windows_and_a_reader_that_does_not_read_hold_no_memory(world):
    """CVE-2019-9511, CVE-2019-9517: HTTP/2 has room, TCP has none."""
    world.answers["/large"] = lambda origin, connection, reader, request: stream_out(connection, 64 << 20)
    client = world.client(settings=[(INITIAL_WINDOW_SIZE, WINDOW_MAX), (MAX_FRAME_SIZE, (1 << 24) - 1)], window=WINDOW_MAX - 65535)
    for _ in range(30):
        client.request("/large")
    assert eventually(lambda: len(world.api.of("/large")) == 30)
    for _ in range(5):
        check_honest_beside(world)
    assert world.sandbox.resident_kilobytes() - world.before < 60_000


def test_bodies_that_the_origin_does_not_take_hold_no_memory(world, client):
    world.answers["/early/takes-nothing"] = lambda origin, connection, reader, request: world.gate.wait(20)
    for stream in range(1, 41, 2):
        client.write(headers(stream, request("/early/takes-nothing", method="POST"), end=False))
    client.ping()
    # As much as the windows that were announced allow.
    granted = 65535 + sum(found.increment for found in client.arrived if found.kind == frames.WINDOW_UPDATE and found.stream == 0)
    stream = 1
    while granted >= 16000:
        client.write(data(stream, b"x" * 16000))
        granted, stream = granted - 16000, (stream + 2) % 40
    check_honest_beside(world)
    check_memory(world)


def stream_out(connection, size):
    connection.sendall(f"HTTP/1.1 200 OK\r\nContent-Length: {size}\r\n\r\n".encode())
    for _ in range(size >> 16):
        connection.sendall(bytes(1 << 16))


# --- whose request it is (13, 16-18, 29, 30, 32)

@pytest.mark.parametrize("named", [OTHER, PLAIN, EVIL, API + ":8443", "127.0.0.1", "www." + API, API + ".evil.example.test"])
def test_another_authority_than_that_of_the_connection_is_misdirected(world, client, named):
    response, [record] = records_of(world, 1, lambda: client.get("/coalesced", authority=named))
    assert response.status == 421 and response.reason == "misdirected_request", response
    assert record["decision"] == "denied" and record["reason"] == "misdirected_request" and record["credentials"] == []
    client.check_usable()
    for origin in (world.api, world.other, world.plain):
        assert not origin.of("/coalesced")


@pytest.mark.parametrize("named", ["API.example.TEST", API + ".", API + ":443"])
def test_another_spelling_of_the_same_host_is_the_same_host(world, client, named):
    assert client.get("/spelling", authority=named).status == 200
    assert world.api.of("/spelling")[-1].one("host") == API and world.api.requests[-1].one("authorization") == f"Bearer {world.key}"


def test_every_stream_has_its_own_verdict_and_its_own_record(world, client):
    asked = [("/one", API, 200), ("/admin/x", API, 403), ("/three", OTHER, 421), ("/four", API, 200), ("/admin", API, 403), ("/six", EVIL, 421)]

    def act():
        streams = [client.request(path, authority=authority) for path, authority, _ in asked]
        return [client.response(stream) for stream in streams]
    responses, found = records_of(world, 6, act)
    assert [response.status for response in responses] == [status for _, _, status in asked]
    assert sorted(record["path"] for record in found if record["reason"] == "allowed") == ["/four", "/one"]
    assert sorted(record["path"] for record in found if record["reason"] == "denied_by_rule") == ["/admin", "/admin/x"]
    assert sum(record["reason"] == "misdirected_request" for record in found) == 2
    assert all(record["protocol"] in ("h2", "HTTP/2", "HTTP/2.0", "http/2") for record in found), found
    assert [seen.target for seen in world.api.requests if seen.target in ("/one", "/four", "/admin", "/admin/x")] in (["/one", "/four"], ["/four", "/one"])


def test_a_refusal_says_why_in_words_as_over_http_1_1(world, client):
    response = client.get("/admin/x")
    assert response.status == 403 and response.reason == "denied_by_rule"
    assert b'"reason":"denied_by_rule"' in response.body and response.complete
    client.check_usable()


def test_a_host_that_is_denied_is_refused_readably(world):
    client = world.client(host=EVIL)
    response = client.get("/")
    assert response.status == 403 and response.reason == "not_in_allow_list" and response.complete, response
    assert b'"reason":"not_in_allow_list"' in response.body
    assert world.evil.connections == 0


@pytest.mark.parametrize("path", ["/admin", "/admin/", "//admin", "/%61dmin", "/x/../admin", "/admin;x", "/;/admin", "/admin%3Bx", "/./admin",
                                  "/x/%2e%2e/admin", "/x/..%2fadmin", "/x\\..\\admin", "/%252e%252e/admin", "/admin%2fx", "/..;/admin", "/admin#x", "/admin?x"])
def test_a_closed_path_is_closed_in_every_form(world, client, path):
    before = len(world.api.requests)
    response, [record] = records_of(world, 1, lambda: client.get(path))
    assert response.status in (400, 403) or response.reset == PROTOCOL_ERROR, response
    assert record["reason"] in ("denied_by_rule", "ambiguous_path", "malformed_request"), record
    assert [seen.target for seen in world.api.requests[before:] if not seen.target.startswith("/marker")] == []


@pytest.mark.parametrize("path", ["https://api.example.test/absolute", "https://evil.example.test/absolute", "//evil.example.test/absolute", "api.example.test:443",
                                  "http://api.example.test/absolute", "/absolute https://x", "?absolute", "absolute"])
def test_a_path_in_another_form_does_not_become_another_request(world, client, path):
    response = client.get(path)
    if response.status == 200:  # "//evil.example.test/absolute" is a path, after all.
        assert path.startswith("//")
        assert world.api.requests[-1].one("host") == API and world.api.requests[-1].target.startswith("/")
    else:
        assert response.status in (400, 421) or response.reset == PROTOCOL_ERROR, response
        assert not [seen for seen in world.api.requests if "absolute" in seen.target]


# --- two readings of one request (25-28, 31)

SMUGGLED = "GET /smuggled HTTP/1.1\r\nHost: api.example.test\r\n\r\n"


@pytest.mark.parametrize("make", cases([
    ("CRLF in a value", lambda: request("/carrier", ("x", f"y\r\n\r\n{SMUGGLED}"))),
    ("LF in a value", lambda: request("/carrier", ("x", "y\n\n" + SMUGGLED))),
    ("CR in a value", lambda: request("/carrier", ("x", "y\rTransfer-Encoding: chunked"))),
    ("NUL in a value", lambda: request("/carrier", ("x", "y\0z"))),
    ("CRLF in a name", lambda: request("/carrier", (f"x: y\r\n\r\n{SMUGGLED}z", "w"))),
    ("a colon in a name", lambda: request("/carrier", ("transfer-encoding:chunked", "x"))),
    ("CRLF in :path", lambda: request(f"/carrier HTTP/1.1\r\nHost: api.example.test\r\n\r\n{SMUGGLED}")),
    ("a space in :path", lambda: request("/carrier HTTP/1.1")),
    ("CRLF in :method", lambda: request("/carrier", method=f"GET / HTTP/1.1\r\nHost: api.example.test\r\n\r\n{SMUGGLED}GET")),
    ("a space in :method", lambda: request("/carrier", method="GET /smuggled")),
    ("CRLF in :authority", lambda: request("/carrier", authority=f"{API}\r\n\r\n{SMUGGLED}")),
    ("CRLF in :scheme", lambda: request("/carrier", scheme="https\r\nx: y")),
    ("Transfer-Encoding", lambda: request("/carrier", ("transfer-encoding", "chunked"), method="POST")),
    ("Transfer-Encoding in Huffman code", lambda: hpack.block(request("/carrier", ("transfer-encoding", "chunked"), method="POST"), coded=True)),
    ("Connection that names Content-Length", lambda: request("/carrier", ("connection", "content-length"), ("content-length", "5"), method="POST")),
    ("Content-Length with CRLF", lambda: request("/carrier", ("content-length", f"0\r\n\r\n{SMUGGLED}"), method="POST")),
    ("two Content-Lengths", lambda: request("/carrier", ("content-length", "0"), ("content-length", "50"), method="POST")),
    ("a Content-Length below the content", lambda: request("/carrier", ("content-length", "3"), method="POST")),
    ("a Content-Length above the content", lambda: request("/carrier", ("content-length", "500"), method="POST")),
    ("a method that is the preface's", lambda: request("*", method="PRI")),
    ("Host that differs", lambda: request("/carrier", ("host", EVIL))),
    ("two Hosts", lambda: request("/carrier", ("host", API), ("host", EVIL)))]))
def test_what_would_be_two_requests_in_http_1_1_is_none(world, client, make):
    """Threat 31: the origin parses strictly; whatever reaches it is no request that was read to its end."""
    def act():
        client.write(headers(1, make(), end=False), data(1, SMUGGLED.encode(), end=True))
        response = client.response(1)
        assert response.status in (None, 400, 421) or response.reset == PROTOCOL_ERROR, response
        client.next_stream = 3
    _, [record] = records_of(world, 1, act)
    assert record["reason"] in ("malformed_request", "malformed_host", "misdirected_request", "sandbox_closed"), record
    assert not any(seen.complete for seen in world.api.requests if seen.target == "/carrier" and seen.chunked)
    assert b"/smuggled HTTP/1.1" not in b"".join(seen.head for seen in world.api.requests)
    assert not world.api.of("/smuggled")


@pytest.mark.parametrize("name", ["transfer_encoding", "content_length", "x-transfer-encoding"])
def test_a_field_that_only_looks_like_framing_frames_nothing(world, client, name):
    client.write(headers(1, request("/lookalike", (name, "5"), method="POST"), end=False), data(1, SMUGGLED.encode(), end=True))
    assert client.response(1).status == 200
    assert world.api.of("/lookalike")[-1].body == SMUGGLED.encode() and not world.api.of("/smuggled")


def test_content_that_looks_like_chunks_stays_content(world, client):
    body = b"0\r\n\r\n" + SMUGGLED.encode()
    client.write(headers(1, request("/chunks", method="POST"), end=False), data(1, body[:3]), data(1, body[3:], end=True))
    assert client.response(1).status == 200
    assert world.api.of("/chunks")[-1].body == body and not world.api.of("/smuggled")


def test_an_early_answer_with_an_unread_body_leaves_nothing_behind(world, client):
    """Threat 33: what was not read of a refused request is nobody's request."""
    stream = client.stream()
    client.write(headers(stream, request("/admin/upload", method="POST"), end=False))
    assert client.response(stream).status == 403
    client.write(data(stream, SMUGGLED.encode() * 100, end=True))
    client.check_usable()
    assert not world.api.of("/smuggled")


# --- methods, tunnels (34-37)

@pytest.mark.parametrize("fields, statuses", cases([
    ("TRACE", request("/", method="TRACE"), (405,)), ("trace", request("/", method="trace"), (405,)),
    ("CONNECT", [(":method", "CONNECT"), (":authority", API + ":443")], (405,)), ("CONNECT elsewhere", [(":method", "CONNECT"), (":authority", EVIL + ":443")], (405, 421)),
    ("extended CONNECT to another protocol", [(":method", "CONNECT"), (":protocol", "connect-udp"), *request("/tunnel")[1:]], (400, 403, 405, 501)),
    ("extended CONNECT to h2c", [(":method", "CONNECT"), (":protocol", "h2c"), *request("/tunnel")[1:]], (400, 403, 405, 501)),
    ("extended CONNECT to a protocol with CRLF", [(":method", "CONNECT"), (":protocol", "websocket\r\nx: y"), *request("/tunnel")[1:]], (400, 403, 405, 501))]))
def test_methods_that_are_not_passed_on(world, client, fields, statuses):
    def act():
        client.write(headers(1, fields, end=False), data(1, b"tunnelled"))
        response = client.response(1)
        assert response.status in statuses or response.status is None and response.reset is not None, response
    _, [record] = records_of(world, 1, act)
    assert record["decision"] == "denied"
    assert b"tunnelled" not in world.api.everything()


WEBSOCKET = [(":method", "CONNECT"), (":protocol", "websocket"), (":scheme", "https"), (":authority", API)]


def test_extended_connect_to_a_websocket_is_a_tunnel_with_its_credential(world, client):
    """The positive control of the tests below (RFC 8441)."""
    import base64
    import hashlib

    def upgrade(origin, connection, reader, request):
        accept = base64.b64encode(hashlib.sha1((request.one("sec-websocket-key") + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11").encode()).digest()).decode()
        connection.sendall(f"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: {accept}\r\n\r\n".encode())
        connection.sendall(b"\x81\x0aecho:" + reader.exactly(5))  # A frame: what comes back is searched for secrets.
    world.answers["/socket"] = upgrade
    client.write(headers(1, [*WEBSOCKET, (":path", "/socket"), ("sec-websocket-version", "13"), ("origin", "x")], end=False))
    found = client.expect(HEADERS, stream=1)
    assert dict(found.fields)[":status"] == "200", found
    client.write(data(1, b"hello"))
    got = b""
    while len(got) < 12:
        got += client.expect(DATA, stream=1).content
    assert got == b"\x81\x0aecho:hello"
    seen = world.api.of("/socket")[-1]
    assert seen.method == "GET" and seen.one("upgrade").lower() == "websocket" and seen.one("authorization") == f"Bearer {world.key}"


@pytest.mark.parametrize("answer, status", cases([
    ("200", ok("no tunnel"), (200, 502)), ("403", ok("no", status="403 Forbidden"), (403,)),
    ("101 to another protocol", b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: other\r\n\r\n", (502,))]))
def test_an_extended_connect_that_is_answered_otherwise_makes_no_tunnel(world, client, answer, status):
    world.answers["/no-socket"] = answer
    client.write(headers(1, [*WEBSOCKET, (":path", "/no-socket"), ("sec-websocket-version", "13")], end=False))
    response = client.response(1)
    # RFC 8441 §5: only 2xx makes a tunnel, so an origin's 200 must not look like one.
    assert response.status in status or response.reset is not None, response
    client.write(data(1, b"tunnelled"))
    client.next_stream = 3
    client.check_usable()
    assert b"tunnelled" not in world.api.everything()


def test_a_closed_path_is_closed_for_extended_connect_too(world, client):
    def act():
        client.write(headers(1, [*WEBSOCKET, (":path", "/admin/socket"), ("sec-websocket-version", "13")], end=False))
        assert client.response(1).status == 403
    _, [record] = records_of(world, 1, act)
    assert record["reason"] == "denied_by_rule"


def test_a_flood_of_informational_answers_ends_in_a_502(world, client):
    world.answers["/informed"] = b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n" * 500 + ok("final")
    response = client.get("/informed")
    assert response.status == 502 or response.reset is not None, response
    assert len(response.informational) <= 16


# --- hostile origins (38)

@pytest.mark.parametrize("answer", cases([
    ("CR in a value", b"HTTP/1.1 200 OK\r\nX: a\rSet-Cookie: b\r\nContent-Length: 5\r\n\r\nfirst"),
    ("two lengths", b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 11\r\n\r\nfirstsecond"),
    ("a length and chunks", b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nfirst\r\n0\r\n\r\n"),
    ("a name with a space", b"HTTP/1.1 200 OK\r\nX Y: a\r\nContent-Length: 5\r\n\r\nfirst"), ("another version", b"HTTP/2 200\r\n\r\n"),
    ("a pseudo-header field", b"HTTP/1.1 200 OK\r\n:status: 500\r\nContent-Length: 5\r\n\r\nfirst"), ("a status of 1000", b"HTTP/1.1 1000 X\r\n\r\n"),
    ("a huge head", b"HTTP/1.1 200 OK\r\nX: " + b"y" * 70_000 + b"\r\n\r\n"), ("many fields", b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 400 + b"\r\n")]))
def test_an_answer_that_is_not_http_becomes_a_502(world, client, answer):
    world.answers["/hostile"] = answer
    response, [record] = records_of(world, 1, lambda: client.get("/hostile"))
    assert response.status == 502 and response.reason == "origin_malformed_response" and b"first" not in response.body, response
    assert record["decision"] == "failed"
    client.check_usable()


@pytest.mark.parametrize("answer", cases([
    ("two answers", ok("first") + ok("second")), ("a body on 204", b"HTTP/1.1 204 No Content\r\nContent-Length: 6\r\n\r\nsecond"),
    ("a body on 304", b"HTTP/1.1 304 Not Modified\r\nETag: \"x\"\r\n\r\n" + ok("second"))]))
def test_what_follows_an_answer_is_nobodys_answer(world, client, answer):
    world.answers["/twice"] = answer
    response = client.get("/twice")
    assert b"second" not in response.body and response.complete, response
    for _ in range(3):
        client.check_usable()


# --- injection (39, 40)

@pytest.mark.parametrize("fields", cases([
    ("one", [("authorization", "Bearer mine")]), ("two", [("authorization", "mine"), ("authorization", "Basic mine")]), ("empty", [("authorization", "")]),
    ("another injected field", [("x-api-key", "mine"), ("x-api-key", "mine too")]), ("beside cookies", [("cookie", "a=1"), ("authorization", "mine"), ("cookie", "b=2")])]))
def test_what_is_injected_stands_there_exactly_once_whatever_the_sandbox_sent(world, client, fields):
    assert client.get("/injected", *fields).status == 200
    seen = world.api.of("/injected")[-1]
    assert seen.one("authorization") == f"Bearer {world.key}" and seen.one("x-api-key") == str(world.key)
    assert b"mine" not in seen.head


@pytest.mark.parametrize("kind", ["incremental", "never"])
def test_the_sandboxs_own_value_in_the_table_changes_nothing(world, client, kind):
    client.write(headers(1, hpack.block(request("/indexed")) + hpack.literal("authorization", "Bearer mine", kind)))
    assert client.response(1).status == 200
    if kind == "incremental":
        client.write(headers(3, hpack.block(request("/indexed")) + hpack.indexed(62)))
        assert client.response(3).status == 200
    for seen in world.api.of("/indexed"):
        assert seen.one("authorization") == f"Bearer {world.key}"


@pytest.mark.parametrize("trailer", [("authorization", "mine"), ("x-api-key", "mine"), ("content-length", "9"), ("host", EVIL), ("cookie", "mine")])
def test_a_trailer_brings_no_second_credential_and_no_second_framing(world, client, trailer):
    client.write(headers(1, request("/trailing", ("te", "trailers"), method="POST"), end=False), data(1, b"hello"), headers(1, [("x-sum", "kept"), trailer]))
    response = client.response(1)
    client.next_stream = 3
    for seen in world.api.of("/trailing"):
        assert seen.one("authorization") == f"Bearer {world.key}"
        assert trailer[0] == "cookie" or trailer[0] not in seen.trailers
    assert response.status in (200, 400) or response.reset == PROTOCOL_ERROR, response
    client.check_usable()


def test_credentials_do_not_come_back(world, client):
    """Neither in fields of Postern's own nor in its tables: whatever was decoded on the way was heard, and is searched."""
    for path in ("/", "/admin/x", "/hold"):
        stream = client.request(path, ("x-echo", "1"))
        world.gate.set()
        client.response(stream)
    client.write(frame(DATA, 0, 0, b"x"))
    client.drained()
    world.sandbox.check_secrecy()
    assert not [value for name, value in client.decoder.table if str(world.key) in value]


# --- ends

def test_a_client_that_vanishes_with_open_streams_leaves_nothing_behind(world):
    for how in ("close", "reset", "half"):
        client = world.client()
        for _ in range(50):
            client.request("/hold")
        assert eventually(lambda: len(world.api.of("/hold")) >= 50)
        client.hang_up(how)
        world.gate.set()
        world.api.requests.clear()
    check_honest_beside(world)
    check_memory(world)


def test_whoever_is_slow_is_cut_off(world):
    """Threat 64: the deadlines of Postern's documentation, on the real clock. Begun before all other tests of this file."""
    for name, client in world.slow.clients.items():
        left = max(1, 40 - (time.monotonic() - world.slow.since))
        client.drained(left)
        assert client.end, name
    assert not world.slow.world.api.of("/slow-head") and not world.slow.world.api.of("/slow-half")
