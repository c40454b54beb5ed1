"""HTTP/2 toward the sandbox, frame by frame: what RFC 9113 (and RFC 7541, RFC 8441) says with MUST, by the section that says it.

A connection error is always allowed instead of a stream error (§5.4.1), and a malformed request may be answered with 400 (§8.1.1).
The client holds every frame that comes to the rules as well (tests/http2/client.py); the origin does with what reaches it
(tests/http2/strict_origin.py). Attacks are in test_attacks_http2.py.
"""

import struct

import pytest

import kit
from http2 import frames, hpack
from http2.client import Silence
from http2.frames import (CANCEL, COMPRESSION_ERROR, CONTINUATION, DATA, ENABLE_CONNECT_PROTOCOL, ENABLE_PUSH, FLOW_CONTROL_ERROR, FRAME_SIZE_ERROR,
                          GOAWAY, HEADER_TABLE_SIZE, HEADERS, INITIAL_WINDOW_SIZE, MAX_CONCURRENT_STREAMS, MAX_FRAME_SIZE, MAX_HEADER_LIST_SIZE,
                          NO_ERROR, PING, PREFACE, PRIORITY, PROTOCOL_ERROR, PUSH_PROMISE, REFUSED_STREAM, RST_STREAM, SETTINGS, STREAM_CLOSED,
                          WINDOW_MAX, WINDOW_UPDATE, continuation, data, frame, goaway, headers, ping, priority, push_promise, rst_stream, settings,
                          window_update)
from http2.strict_origin import ok
from http2.world import API, PLAIN, REFERENCE, World, eventually, of_request

postern_only = pytest.mark.skipif(bool(REFERENCE), reason="the reference server does not promise this")


@pytest.fixture(scope="module")
def shared(authority):
    world = World(kit.temporary_directory(), authority)
    yield world
    try:
        world.check_end()
    finally:
        world.end()


@pytest.fixture
def world(shared):
    yield shared
    shared.between_tests()


@pytest.fixture
def client(world):
    return world.client()


def cases(table):
    """(section, what is done, ...): the first two name the test."""
    return [pytest.param(*row[2:], id=f"{row[0]} {row[1]}") for row in table]


def opened(client, path="/hold", *more, method="POST"):
    """A stream in state "open": its request is not complete."""
    stream = client.stream()
    client.write(headers(stream, client.fields(path, *more, method=method), end=False))
    return stream


def half_closed(client):
    """A stream in state "half-closed (remote)": its request is complete, its answer is not there."""
    stream = client.request("/hold")
    client.ping()
    return stream


def reset_by_us(client):
    """A stream that is closed because the client reset it."""
    stream = half_closed(client)
    client.write(rst_stream(stream))
    client.ping()
    return stream


def reset_by_server(client):
    """A stream that is closed because the server found the request malformed and reset it, or answered it at once."""
    stream = client.stream()
    client.write(headers(stream, [*client.fields(), ("UPPER", "x")], end=False))
    client.response(stream)
    return stream


def ended(client):
    """A stream that is closed because both sides ended it."""
    stream = client.request("/")
    assert client.response(stream).complete
    return stream


# --- §3.3, §3.4: starting

def test_3_3_alpn_h2_selects_http2(world):
    assert world.client().alpn == "h2"


def test_3_3_h2_is_selected_from_a_list(world):
    for offered in (["h2", "http/1.1"], ["http/1.1", "h2"], ["http/1.1", "spdy/3", "h2"]):
        client = world.client(alpn=offered)
        assert client.alpn == "h2"
        client.check_usable()


@postern_only
def test_3_3_without_h2_in_alpn_http_1_1_is_spoken(world):
    for offered in ([], ["http/1.1"]):
        client = world.client(alpn=offered, start=False)
        assert client.alpn == (offered or [None])[0]
        client.write(f"GET / HTTP/1.1\r\nHost: {API}\r\nConnection: close\r\n\r\n".encode())
        assert client.do("read", id=client.id, timeout=10)["received"].startswith("HTTP/1.1 200 ")


@postern_only
@pytest.mark.parametrize("offered", [[], ["http/1.1"]], ids=["no ALPN", "http/1.1"])
def test_3_3_prior_knowledge_in_tls_without_alpn_h2_is_refused(world, offered):
    client = world.client(alpn=offered, start=False)
    client.write(PREFACE + settings())
    assert client.do("read", id=client.id, timeout=10)["received"].startswith("HTTP/1.1 400 ")


@postern_only
def test_3_3_prior_knowledge_in_clear_text_is_refused(world):
    answer = world.sandbox.talk(API, PREFACE + settings(), port=80, tls=None)
    assert answer.statuses == [400], answer


def test_3_4_the_servers_preface_is_settings_and_ours_are_acknowledged(world):
    client = world.client(settings=[(INITIAL_WINDOW_SIZE, 70000), (ENABLE_PUSH, 0)])
    assert client.arrived[0].kind == SETTINGS and not client.arrived[0].ack
    assert any(found.kind == SETTINGS and found.ack for found in client.arrived)


def test_3_4_a_client_may_send_before_it_saw_the_servers_preface(world):
    client = world.client(start=False)
    client.write(PREFACE + settings(), headers(1, client.fields("/early-bird")))
    client.pending.append([])
    client.next_stream = 3
    assert client.response(1).status == 200
    client.write(settings(ack=True))
    client.check_usable()


@pytest.mark.parametrize("step", [1, 7])
def test_3_4_a_preface_in_pieces_is_a_preface(world, step):
    client = world.client(start=False)
    client.do("write", id=client.id, data=(PREFACE + settings()).decode("latin-1"), step=step)
    client.pending.append([])
    client.expect(SETTINGS, ack=True)
    client.write(settings(ack=True))
    client.check_usable()


@pytest.mark.parametrize("sent", cases([
    ("3.4", "the last octets are others", PREFACE[:-4] + b"\n\n\r\n" + settings()),
    ("3.4", "the version is another", PREFACE.replace(b"2.0", b"2.1") + settings()),
    ("3.4", "frames without a preface", settings() + ping()),
    ("3.4", "an HTTP/1.1 request", f"GET /not-h2 HTTP/1.1\r\nHost: {API}\r\n\r\n".encode()),
    ("3.4", "random bytes", bytes(range(256)))]))
def test_an_invalid_preface_ends_the_connection(world, sent):
    client = world.client(start=False)
    client.write(sent)
    client.drained()  # "A GOAWAY frame MAY be omitted in this case"
    assert client.goaway is None or client.goaway.code == PROTOCOL_ERROR
    assert not world.api.of("/not-h2")


@pytest.mark.parametrize("sent", cases([
    ("3.4", "HEADERS", headers(1, [(":method", "GET"), (":scheme", "https"), (":authority", API), (":path", "/no-settings")])),
    ("3.4", "PING", ping()), ("3.4", "WINDOW_UPDATE", window_update(0, 1)), ("3.4", "DATA", data(1, b"x")), ("3.4", "PRIORITY", priority(1)),
    ("3.4", "GOAWAY", goaway()), ("3.4", "SETTINGS that acknowledges", settings(ack=True)), ("3.4", "an unknown frame", frame(0x77))]))
def test_the_preface_is_followed_by_settings_and_nothing_else(world, sent):
    client = world.client(start=False)
    client.write(PREFACE + sent)
    client.drained()
    assert client.goaway is None or client.goaway.code == PROTOCOL_ERROR
    assert not world.api.of("/no-settings")


# --- connection errors

MINIMAL = [(":method", "GET"), (":scheme", "https"), (":authority", API), (":path", "/never")]
FINE = [*MINIMAL[:3], (":path", "/fine")]  # Before the error: it may be passed on.

CONNECTION_ERRORS = [
    # §4.2
    ("4.2", "HEADERS larger than SETTINGS_MAX_FRAME_SIZE", lambda c: headers(1, c.fields("/", ("x", "y" * 16400))), FRAME_SIZE_ERROR),
    ("4.2", "SETTINGS larger than SETTINGS_MAX_FRAME_SIZE", lambda c: settings(*[(0x99, 1)] * 2731), FRAME_SIZE_ERROR),
    ("4.2", "CONTINUATION larger than SETTINGS_MAX_FRAME_SIZE",
     lambda c: headers(1, MINIMAL, complete=False) + continuation(1, hpack.literal("x", "y" * 16400)), FRAME_SIZE_ERROR),
    ("4.2", "an unknown frame larger than SETTINGS_MAX_FRAME_SIZE", lambda c: frame(0x77, 0, 0, bytes(16385)), FRAME_SIZE_ERROR),
    ("4.2", "GOAWAY larger than SETTINGS_MAX_FRAME_SIZE", lambda c: goaway(debug=bytes(16384)), FRAME_SIZE_ERROR),
    ("4.2", "a frame that claims 16 MiB", lambda c: frame(DATA, 0, 1, b"x" * 100, length=0xFFFFFF), (FRAME_SIZE_ERROR, PROTOCOL_ERROR)),
    # §5.1
    ("5.1", "DATA on an idle stream", lambda c: data(1, b"x"), PROTOCOL_ERROR),
    ("5.1", "DATA that ends an idle stream", lambda c: data(1, b"", end=True), PROTOCOL_ERROR),
    ("5.1", "RST_STREAM on an idle stream", lambda c: rst_stream(1), PROTOCOL_ERROR),
    ("5.1", "WINDOW_UPDATE on an idle stream", lambda c: window_update(1, 1), PROTOCOL_ERROR),
    ("5.1", "CONTINUATION on an idle stream", lambda c: continuation(1, hpack.block(MINIMAL)), PROTOCOL_ERROR),
    ("5.1", "WINDOW_UPDATE on an idle stream of the server", lambda c: window_update(2, 1), PROTOCOL_ERROR),
    ("5.1", "RST_STREAM on an idle stream of the server", lambda c: rst_stream(2), PROTOCOL_ERROR),
    ("5.1", "DATA on an idle stream of the server", lambda c: data(2, b"x"), PROTOCOL_ERROR),
    ("5.1", "DATA on an idle stream above an open one", lambda c: data(opened(c) + 2, b"x"), PROTOCOL_ERROR),
    # §5.1.1
    ("5.1.1", "a request on an even stream", lambda c: headers(2, MINIMAL), PROTOCOL_ERROR),
    ("5.1.1", "a request on a lower stream than the last", lambda c: headers(5, FINE) + headers(3, MINIMAL), (PROTOCOL_ERROR, STREAM_CLOSED)),
    ("5.1.1", "a request on a stream below one that was reset", lambda c: headers(7, FINE, end=False) + rst_stream(7) + headers(5, MINIMAL),
     (PROTOCOL_ERROR, STREAM_CLOSED)),
    ("5.1.1", "a second request on a stream that ended", lambda c: headers(ended(c), MINIMAL), (STREAM_CLOSED, PROTOCOL_ERROR)),
    # §5.5
    ("5.5", "an unknown frame inside a field block", lambda c: headers(1, MINIMAL, complete=False) + frame(0x77, 0, 1) + continuation(1), PROTOCOL_ERROR),
    # §6.1
    ("6.1", "DATA on stream 0", lambda c: data(0, b"x"), PROTOCOL_ERROR),
    ("6.1", "DATA with padding as long as the payload", lambda c: frame(DATA, frames.PADDED, opened(c), b"\x05hello"[:5] + b""), PROTOCOL_ERROR),
    ("6.1", "DATA with padding longer than the payload", lambda c: frame(DATA, frames.PADDED, opened(c), b"\xffhello"), PROTOCOL_ERROR),
    ("6.1", "padded DATA without room for its pad length", lambda c: frame(DATA, frames.PADDED, opened(c), b""), (FRAME_SIZE_ERROR, PROTOCOL_ERROR)),
    # §6.2
    ("6.2", "HEADERS on stream 0", lambda c: headers(0, MINIMAL), PROTOCOL_ERROR),
    ("6.2", "HEADERS with padding longer than the payload",
     lambda c: frame(HEADERS, 0x0D, 1, b"\xff" + hpack.block(MINIMAL)), PROTOCOL_ERROR),
    ("6.2", "HEADERS with padding that takes the priority",
     lambda c: frame(HEADERS, 0x2D, 1, b"\x04" + bytes(8)), (PROTOCOL_ERROR, FRAME_SIZE_ERROR)),
    ("6.2", "HEADERS without room for their pad length", lambda c: frame(HEADERS, 0x0D, 1), (FRAME_SIZE_ERROR, PROTOCOL_ERROR)),
    ("6.2", "HEADERS without room for their priority", lambda c: frame(HEADERS, 0x25, 1, b"\0\0\0\0"), (FRAME_SIZE_ERROR, PROTOCOL_ERROR)),
    *[("6.2", f"{frames.KINDS[kind]} instead of CONTINUATION",
       lambda c, sent=sent: headers(1, MINIMAL, complete=False) + sent + continuation(1), PROTOCOL_ERROR)
      for kind, sent in ((DATA, data(1, b"x")), (HEADERS, headers(1, MINIMAL)), (PRIORITY, priority(1)), (RST_STREAM, rst_stream(1)),
                         (SETTINGS, settings()), (PING, ping()), (GOAWAY, goaway()), (WINDOW_UPDATE, window_update(0, 1)))],
    ("6.2", "HEADERS of another stream instead of CONTINUATION", lambda c: headers(1, MINIMAL, complete=False) + headers(3, MINIMAL), PROTOCOL_ERROR),
    ("6.2", "WINDOW_UPDATE of the stream instead of CONTINUATION",
     lambda c: headers(1, MINIMAL, complete=False) + window_update(1, 1), PROTOCOL_ERROR),
    # §6.3
    ("6.3", "PRIORITY on stream 0", lambda c: priority(0), PROTOCOL_ERROR),
    # §6.4
    ("6.4", "RST_STREAM on stream 0", lambda c: rst_stream(0), PROTOCOL_ERROR),
    ("6.4", "RST_STREAM of 3 octets", lambda c: frame(RST_STREAM, 0, opened(c), b"\0\0\0"), FRAME_SIZE_ERROR),
    ("6.4", "RST_STREAM of 5 octets", lambda c: frame(RST_STREAM, 0, opened(c), bytes(5)), FRAME_SIZE_ERROR),
    # §6.5
    ("6.5", "SETTINGS that acknowledge and say something", lambda c: frame(SETTINGS, frames.ACK, 0, bytes(6)), FRAME_SIZE_ERROR),
    ("6.5", "SETTINGS on a stream", lambda c: settings(stream=1), PROTOCOL_ERROR),
    ("6.5", "SETTINGS that acknowledge on a stream", lambda c: settings(ack=True, stream=1), PROTOCOL_ERROR),
    ("6.5", "SETTINGS of 3 octets", lambda c: frame(SETTINGS, 0, 0, b"\0\3\0"), FRAME_SIZE_ERROR),
    ("6.5", "SETTINGS of 7 octets", lambda c: frame(SETTINGS, 0, 0, bytes(7)), FRAME_SIZE_ERROR),
    ("6.5.2", "SETTINGS_ENABLE_PUSH of 2", lambda c: settings((ENABLE_PUSH, 2)), PROTOCOL_ERROR),
    ("6.5.2", "SETTINGS_ENABLE_PUSH of 2^32 - 1", lambda c: settings((ENABLE_PUSH, 0xFFFFFFFF)), PROTOCOL_ERROR),
    ("6.5.2", "SETTINGS_INITIAL_WINDOW_SIZE of 2^31", lambda c: settings((INITIAL_WINDOW_SIZE, 1 << 31)), FLOW_CONTROL_ERROR),
    ("6.5.2", "SETTINGS_INITIAL_WINDOW_SIZE of 2^32 - 1", lambda c: settings((INITIAL_WINDOW_SIZE, 0xFFFFFFFF)), FLOW_CONTROL_ERROR),
    ("6.5.2", "SETTINGS_MAX_FRAME_SIZE of 2^14 - 1", lambda c: settings((MAX_FRAME_SIZE, 16383)), PROTOCOL_ERROR),
    ("6.5.2", "SETTINGS_MAX_FRAME_SIZE of 2^24", lambda c: settings((MAX_FRAME_SIZE, 1 << 24)), PROTOCOL_ERROR),
    ("6.5.2", "SETTINGS_MAX_FRAME_SIZE of 0", lambda c: settings((MAX_FRAME_SIZE, 0)), PROTOCOL_ERROR),
    ("6.5.2", "a bad value behind good ones", lambda c: settings((INITIAL_WINDOW_SIZE, 1000), (0x99, 7), (MAX_FRAME_SIZE, 1)), PROTOCOL_ERROR),
    # §6.6, §8.4
    ("6.6", "PUSH_PROMISE from a client on an idle stream", lambda c: push_promise(1, 2, hpack.block(MINIMAL)), PROTOCOL_ERROR),
    ("6.6", "PUSH_PROMISE from a client on an open stream", lambda c: push_promise(opened(c), 2, hpack.block(MINIMAL)), PROTOCOL_ERROR),
    ("6.6", "PUSH_PROMISE from a client on stream 0", lambda c: push_promise(0, 2), PROTOCOL_ERROR),
    ("8.4", "PUSH_PROMISE that promises an odd stream", lambda c: push_promise(opened(c), 99, hpack.block(MINIMAL)), PROTOCOL_ERROR),
    # §6.7
    ("6.7", "PING on a stream", lambda c: ping(stream=1), PROTOCOL_ERROR),
    ("6.7", "PING that answers on a stream", lambda c: ping(ack=True, stream=1), PROTOCOL_ERROR),
    ("6.7", "PING of 7 octets", lambda c: ping(b"1234567"), FRAME_SIZE_ERROR),
    ("6.7", "PING of 9 octets", lambda c: ping(b"123456789"), FRAME_SIZE_ERROR),
    ("6.7", "PING of 0 octets", lambda c: ping(b""), FRAME_SIZE_ERROR),
    # §6.8
    ("6.8", "GOAWAY on a stream", lambda c: goaway(stream=1), PROTOCOL_ERROR),
    ("6.8", "GOAWAY of 7 octets", lambda c: frame(GOAWAY, 0, 0, bytes(7)), FRAME_SIZE_ERROR),
    # §6.9
    ("6.9", "WINDOW_UPDATE of 0 for the connection", lambda c: window_update(0, 0), PROTOCOL_ERROR),
    ("6.9", "WINDOW_UPDATE of 0 with the reserved bit", lambda c: window_update(0, 1 << 31), PROTOCOL_ERROR),
    ("6.9", "WINDOW_UPDATE of 3 octets", lambda c: frame(WINDOW_UPDATE, 0, 0, b"\0\0\1"), FRAME_SIZE_ERROR),
    ("6.9", "WINDOW_UPDATE of 5 octets", lambda c: frame(WINDOW_UPDATE, 0, 0, b"\0\0\0\1\0"), FRAME_SIZE_ERROR),
    ("6.9", "WINDOW_UPDATE of 8 octets on a stream", lambda c: frame(WINDOW_UPDATE, 0, opened(c), bytes(7) + b"\1"), FRAME_SIZE_ERROR),
    ("6.9.1", "the connection's window beyond 2^31 - 1 at once", lambda c: window_update(0, WINDOW_MAX), FLOW_CONTROL_ERROR),
    ("6.9.1", "the connection's window beyond 2^31 - 1 in steps",
     lambda c: window_update(0, WINDOW_MAX - 65535) + window_update(0, 1), FLOW_CONTROL_ERROR),
    # §6.10
    ("6.10", "CONTINUATION on stream 0", lambda c: continuation(0, b""), PROTOCOL_ERROR),
    ("6.10", "CONTINUATION after HEADERS with END_HEADERS", lambda c: headers(1, FINE) + continuation(1, b""), PROTOCOL_ERROR),
    ("6.10", "CONTINUATION after CONTINUATION with END_HEADERS",
     lambda c: headers(1, FINE, complete=False) + continuation(1, b"") + continuation(1, b""), PROTOCOL_ERROR),
    ("6.10", "CONTINUATION after DATA", lambda c: data(opened(c), b"x") + continuation(1, b""), PROTOCOL_ERROR),
    ("6.10", "CONTINUATION of another stream", lambda c: headers(1, MINIMAL, complete=False) + continuation(3, b""), PROTOCOL_ERROR),
    ("6.10", "CONTINUATION of stream 0 inside a field block", lambda c: headers(1, MINIMAL, complete=False) + continuation(0, b""), PROTOCOL_ERROR),
    ("6.10", "PING between two CONTINUATIONs",
     lambda c: headers(1, MINIMAL, complete=False) + continuation(1, b"", complete=False) + ping() + continuation(1, b""), PROTOCOL_ERROR),
]


@pytest.mark.parametrize("send, codes", cases(CONNECTION_ERRORS))
def test_a_connection_error_ends_the_connection(world, client, send, codes):
    client.write(send(client))
    client.check_connection_error(*(codes if isinstance(codes, tuple) else (codes,)))
    assert not world.api.of("/never")


# --- §4.3: field blocks that cannot be decoded

GOOD = hpack.block(MINIMAL)

UNDECODABLE = [
    ("4.3", "an index of 0", hpack.indexed(0)),
    ("4.3", "an index beyond both tables", hpack.indexed(62)),
    ("4.3", "an index far beyond both tables", hpack.indexed(1 << 20)),
    ("4.3", "a name's index beyond both tables", hpack.literal(70, "x")),
    ("4.3", "a never-indexed name's index beyond both tables", hpack.literal(70, "x", "never")),
    ("4.3", "an integer without an end", b"\xff\x80"),
    ("4.3", "an index of more than 32 bits", b"\xff" + b"\xff" * 9 + b"\x01"),
    ("4.3", "an index padded with a hundred zeros", b"\xff" + b"\x80" * 100 + b"\x00"),
    ("4.3", "a length of more than 32 bits", b"\x00\x7f" + b"\xff" * 9 + b"\x01"),
    ("4.3", "a name longer than the block", b"\x00\x05abc"),
    ("4.3", "a value longer than the block", b"\x00\x01a\x7f\x00x"),
    ("4.3", "a literal without a value", b"\x00\x01a"),
    ("4.3", "a literal without a name", b"\x40"),
    ("4.3", "Huffman padding of zeros", b"\x00\x01a\x81\x18"),
    ("4.3", "Huffman padding of a whole octet", b"\x00\x01a\x82" + hpack.huffman(b"a") + b"\xff"),
    ("4.3", "Huffman padding of eight bits after eight bits", b"\x00\x01a\x82" + hpack.huffman(b"X") + b"\xff"),
    ("4.3", "EOS in a Huffman string", b"\x00\x01a\x84\xff\xff\xff\xff"),
    ("4.3", "a table size above the setting", "first", hpack.table_size(4097)),
    ("4.3", "a table size far above the setting", "first", hpack.table_size(1 << 30)),
    ("4.3", "a table size of more than 32 bits", "first", b"\x3f" + b"\xff" * 9 + b"\x01"),
    ("4.3", "a table size behind the first field", hpack.table_size(100)),
    ("4.3", "a table size between two fields", hpack.table_size(4096) + hpack.literal("x", "y")),
]


@pytest.mark.parametrize("block", cases([(row[0], row[1], row[-1] + GOOD if len(row) == 4 else GOOD + row[-1]) for row in UNDECODABLE]))
def test_a_field_block_that_cannot_be_decoded_is_a_compression_error(world, client, block):
    client.write(headers(1, block))
    client.check_connection_error(COMPRESSION_ERROR)
    assert not world.api.of("/never")


def test_4_3_a_trailer_that_cannot_be_decoded_is_a_compression_error(client):
    stream = opened(client)
    client.write(headers(stream, hpack.indexed(0)))
    client.check_connection_error(COMPRESSION_ERROR)


def test_4_3_a_continuation_that_cannot_be_decoded_is_a_compression_error(client):
    client.write(headers(1, GOOD, complete=False), continuation(1, hpack.indexed(0)))
    client.check_connection_error(COMPRESSION_ERROR)


def test_4_3_a_block_for_a_closed_stream_must_still_decode(client):
    stream = reset_by_us(client)
    client.write(headers(stream, hpack.indexed(0)))
    client.check_connection_error(COMPRESSION_ERROR, STREAM_CLOSED, PROTOCOL_ERROR)


# --- §4.3: field blocks that must be understood

def with_entries(client, *entries, path="/tables"):
    return hpack.block(client.fields(path)) + b"".join(hpack.literal(name, value, "incremental") for name, value in entries)


def seen_by_origin(world, client, stream, path):
    response = client.response(stream)
    assert response.status == 200, response
    return world.api.of(path)[-1].fields


def test_4_3_the_dynamic_table_lasts_from_request_to_request(world, client):
    client.write(headers(1, with_entries(client, ("x-one", "1"), ("x-two", "2"))))
    client.write(headers(3, hpack.block(client.fields("/tables-again")) + hpack.indexed(62) + hpack.indexed(63) + hpack.literal(62, "3")))
    assert client.response(1).status == 200
    seen = seen_by_origin(world, client, 3, "/tables-again")
    assert seen["x-one"] == ["1"] and seen["x-two"] == ["2", "3"]


@pytest.mark.parametrize("between", cases([
    ("4.3", "that was malformed", lambda c: headers(1, hpack.literal("BAD", "x") + with_entries(c, ("x-kept", "yes")))),
    ("4.3", "that was reset at once", lambda c: headers(1, with_entries(c, ("x-kept", "yes"), path="/hold"), end=False) + rst_stream(1)),
    ("4.3", "that was refused by policy", lambda c: headers(1, with_entries(c, ("x-kept", "yes"), path="/admin"))),
    ("4.3", "whose trailers it came in", lambda c: headers(1, c.fields(method="POST"), end=False) + headers(1, hpack.literal("x-kept", "yes", "incremental"))),
    ("4.3", "that came in a CONTINUATION",
     lambda c: headers(1, c.fields(), complete=False) + continuation(1, hpack.literal("x-kept", "yes", "incremental")))]))
def test_an_entry_stays_in_the_table_whatever_became_of_the_request(world, client, between):
    client.write(between(client))
    client.write(headers(3, hpack.block(client.fields("/kept")) + hpack.indexed(62)))
    assert seen_by_origin(world, client, 3, "/kept")["x-kept"] == ["yes"]


def test_4_3_an_entry_stays_in_the_table_when_its_stream_was_closed_before(world, client):
    stream = reset_by_us(client)
    client.write(headers(stream, hpack.literal("x-late", "yes", "incremental")))
    client.write(headers(client.stream(), hpack.block(client.fields("/late")) + hpack.indexed(62)))
    try:
        assert seen_by_origin(world, client, client.next_stream - 2, "/late")["x-late"] == ["yes"]
    except AssertionError:
        client.check_connection_error(STREAM_CLOSED, PROTOCOL_ERROR)


@pytest.mark.parametrize("shrink", cases([
    ("4.3", "a table size of 0", lambda: hpack.table_size(0)),
    ("4.3", "a table size of 0 and back", lambda: hpack.table_size(0) + hpack.table_size(4096)),
    ("4.3", "an entry larger than the table", lambda: hpack.literal("x-large", "y" * 4096, "incremental")),
    ("4.3", "a hundred new entries", lambda: b"".join(hpack.literal("x-new", "y" * 40, "incremental") for _ in range(100)))]))
def test_what_was_evicted_is_gone(world, client, shrink):
    client.write(headers(1, with_entries(client, ("x-gone", "1"))))
    assert client.response(1).status == 200
    block = shrink()
    late = block[0] & 0xE0 != 32  # Size updates come first, entries after the pseudo fields.
    client.write(headers(3, hpack.block(client.fields()) + block if late else block + hpack.block(client.fields())))
    response = client.response(3)
    assert response.status in (200, 431) or response.reset is not None, response
    left = 62 if b"x-new" not in block else 62 + 52  # 52 of them fit into 4096 octets: 32 + 5 + 40 each.
    client.write(headers(5, hpack.block(client.fields("/gone")) + hpack.indexed(left + 1)))
    client.check_connection_error(COMPRESSION_ERROR)
    assert not world.api.of("/gone")


def test_4_3_entries_are_evicted_exactly_when_the_table_is_full(world, client):
    # 32 + 5 + 27: 64 octets, 64 of them fit.
    entries = [("x-fit", f"{i:027}") for i in range(65)]
    client.write(headers(1, with_entries(client, *entries)))
    client.write(headers(3, hpack.block(client.fields("/fit")) + hpack.indexed(62 + 63)))
    assert client.response(1).status == 200
    assert seen_by_origin(world, client, 3, "/fit")["x-fit"] == [f"{1:027}"]
    client.write(headers(5, hpack.block(client.fields("/fit")) + hpack.indexed(62 + 64)))
    client.check_connection_error(COMPRESSION_ERROR)


@pytest.mark.parametrize("write", cases([
    ("4.3", "Huffman strings", lambda fields: hpack.block(fields, coded=True)),
    ("4.3", "never-indexed fields", lambda fields: b"".join(hpack.literal(name, value, "never") for name, value in fields)),
    ("4.3", "incrementally indexed fields", lambda fields: b"".join(hpack.literal(name, value, "incremental", True) for name, value in fields)),
    ("4.3", "static names and pairs", lambda fields: hpack.indexed(2) + hpack.indexed(7) + hpack.literal(1, API) + hpack.block(fields[3:])),
    ("4.3", "integers with padding", lambda fields: hpack.block(fields[:4]) + b"\x00" + hpack.integer(200, 7, 0, 2) + b"x" * 200 + b"\x01y"
        + hpack.block(fields[4:])),
    ("4.3", "a table size first", lambda fields: hpack.table_size(10) + hpack.block(fields)),
    ("4.3", "two table sizes first", lambda fields: hpack.table_size(0) + hpack.table_size(4096) + hpack.block(fields))]))
def test_every_way_to_write_fields_is_understood(world, client, write):
    stream = client.stream()
    client.write(headers(stream, write(client.fields("/written", ("x-value", "a~ \u00e9!")))))
    assert seen_by_origin(world, client, stream, "/written")["x-value"] == ["a~ \u00e9!"]


@pytest.mark.parametrize("count", [2, 5, 9])
def test_4_3_a_block_may_be_cut_anywhere(world, client, count):
    """Into eight CONTINUATIONs; what is far beyond is a flood (test_attacks_http2.py)."""
    block = hpack.block(client.fields("/cut", ("x-value", "some value"), ("x-huffman", "y")), coded=True)
    for offset in range(len(block) // count):
        ends = [offset + i * len(block) // count for i in range(1, count)]
        pieces = [block[start:end] for start, end in zip([0, *ends], [*ends, len(block)])]
        stream = client.stream()
        client.write(headers(stream, pieces[0], complete=False), *[continuation(stream, piece, complete=False) for piece in pieces[1:-1]],
                     continuation(stream, pieces[-1]))
        assert seen_by_origin(world, client, stream, "/cut")["x-value"] == ["some value"]


def test_4_3_a_block_may_begin_in_the_first_continuation(world, client):
    client.write(headers(1, b"", complete=False), continuation(1, hpack.block(client.fields("/second")), complete=False), continuation(1, b""))
    assert client.response(1).status == 200 and world.api.of("/second")


def test_4_3_1_the_servers_table_shrinks_before_its_next_block(client):
    client.check_usable()
    client.change((HEADER_TABLE_SIZE, 0))
    client.check_usable()  # The decoder insists on the update.
    client.check_usable()
    client.change((HEADER_TABLE_SIZE, 4096))
    client.check_usable()


def test_4_3_1_a_table_of_zero_from_the_beginning_is_respected(world):
    client = world.client(settings=[(HEADER_TABLE_SIZE, 0)])
    client.check_usable()
    client.check_usable()
    assert not client.decoder.table


# --- frames and their sizes

def test_4_2_data_of_the_largest_size_is_accepted(world, client):
    stream = client.request("/largest", method="POST", body=b"x" * 16384)
    assert client.response(stream).status == 200
    assert world.api.of("/largest")[-1].body == b"x" * 16384


def test_4_2_headers_of_the_largest_size_are_accepted(world, client):
    block = hpack.block(client.fields("/largest-head"))
    block += hpack.literal("x-fill", "y" * (16384 - len(block) - 11))
    assert len(block) == 16384
    client.write(headers(1, block))
    assert len(seen_by_origin(world, client, 1, "/largest-head")["x-fill"][0]) > 16000


def test_4_2_data_larger_than_the_setting_is_an_error(client):
    stream = opened(client)
    client.write(data(stream, b"x" * 16385))
    client.check_stream_error(stream, FRAME_SIZE_ERROR)


def test_4_2_the_server_sends_no_larger_frames_than_the_setting(world, client):
    response = client.get("/big/50000")
    assert len(response.body) == 50000 and max(response.pieces) <= 16384


def test_6_5_2_larger_frames_are_allowed_and_not_required(world):
    client = world.client(settings=[(MAX_FRAME_SIZE, 1 << 20), (INITIAL_WINDOW_SIZE, 1 << 20)], window=1 << 20)
    assert len(client.get("/big/200000").body) == 200000


def test_4_1_the_reserved_bit_is_ignored(world, client):
    client.write(frame(HEADERS, 5, 1 | 1 << 31, hpack.block(client.fields("/reserved"))))
    assert client.response(1).status == 200
    client.write(frame(PING, 0, 1 << 31, b"12345678"))
    assert client.expect(PING, ack=True).payload == b"12345678"


@pytest.mark.parametrize("send", cases([
    ("4.1", "of DATA", lambda c, s: headers(s, c.fields(method="POST"), end=False) + frame(DATA, 0xF7, s, b"hello")),
    ("4.1", "of HEADERS", lambda c, s: headers(s, c.fields(), flags=0xD2)),
    ("4.1", "of RST_STREAM", lambda c, s: headers(s, c.fields(), end=False) + frame(RST_STREAM, 0xFF, s, bytes(4)) + headers(s + 2, c.fields())),
    ("4.1", "of PRIORITY", lambda c, s: frame(PRIORITY, 0xFF, s, bytes(5)) + headers(s, c.fields())),
    ("4.1", "of PING", lambda c, s: frame(PING, 0xFE, 0, bytes(8)) + headers(s, c.fields())),
    ("4.1", "of WINDOW_UPDATE", lambda c, s: frame(WINDOW_UPDATE, 0xFF, 0, b"\0\0\0\1") + headers(s, c.fields())),
    ("4.1", "of CONTINUATION", lambda c, s: headers(s, c.fields(), complete=False) + continuation(s, flags=0xFB)),
    ("4.1", "of an acknowledgement of PING", lambda c, s: frame(PING, 0xFF, 0, bytes(8)) + headers(s, c.fields()))]))
def test_flags_that_mean_nothing_are_ignored(world, client, send):
    client.write(send(client, client.stream()))
    client.stream()
    [stream] = [s for s in (1, 3) if headers(s, b"", end=False)[5:9] in send(client, 1)][-1:]
    assert client.response(stream).status == 200
    client.next_stream = 5
    client.check_usable()


# --- §5.1: stream states

ON_CLOSED = {
    DATA: lambda s: data(s, b"late"), HEADERS: lambda s: headers(s, [(":method", "GET"), (":scheme", "https"), (":authority", API), (":path", "/again")]),
    CONTINUATION: lambda s: continuation(s, b""), PRIORITY: lambda s: priority(s), RST_STREAM: lambda s: rst_stream(s),
    WINDOW_UPDATE: lambda s: window_update(s, 1), PUSH_PROMISE: lambda s: push_promise(s, 2, GOOD)}


@pytest.mark.parametrize("kind", [DATA, HEADERS, CONTINUATION], ids=["5.1 DATA", "5.1 HEADERS", "5.1 CONTINUATION"])
def test_nothing_that_continues_a_request_follows_its_end(world, client, kind):
    stream = half_closed(client)
    client.write(ON_CLOSED[kind](stream))
    client.check_stream_error(stream, STREAM_CLOSED, *([PROTOCOL_ERROR] if kind == CONTINUATION else []))
    assert not world.api.of("/again")


@pytest.mark.parametrize("kind", [PRIORITY, WINDOW_UPDATE, RST_STREAM], ids=["5.1 PRIORITY", "5.1 WINDOW_UPDATE", "5.1 RST_STREAM"])
def test_what_may_come_on_a_half_closed_stream_is_taken(world, client, kind):
    stream = half_closed(client)
    client.write(ON_CLOSED[kind](stream))
    client.check_usable()
    if kind != RST_STREAM:
        world.gate.set()
        assert client.response(stream).body == b"held"


@pytest.mark.parametrize("kind", ON_CLOSED, ids=[f"5.1 {frames.KINDS[kind]}" for kind in ON_CLOSED])
@pytest.mark.parametrize("close", [ended, reset_by_us, reset_by_server])
def test_what_comes_on_a_closed_stream_opens_nothing(world, client, close, kind):
    """PRIORITY, WINDOW_UPDATE and RST_STREAM are normal there; the rest is ignored or an error STREAM_CLOSED."""
    stream = close(client)
    client.write(ON_CLOSED[kind](stream))
    if kind in (PRIORITY, WINDOW_UPDATE, RST_STREAM):
        client.check_usable()
        return
    usable = client.stream()
    client.write(headers(usable, client.fields("/usable")))
    response = client.response(usable)
    if response.status is None:
        client.check_connection_error(STREAM_CLOSED, PROTOCOL_ERROR)
        assert client.goaway.code == STREAM_CLOSED or kind != DATA
    else:
        assert response.status == 200
        assert kind not in (CONTINUATION, PUSH_PROMISE)  # Those are connection errors anywhere.
        late = [found.code for found in client.arrived if found.kind == RST_STREAM and found.stream == stream]
        assert all(code in (STREAM_CLOSED, PROTOCOL_ERROR) for code in late), late
    assert not world.api.of("/again")


def test_5_1_priority_on_an_idle_stream_is_normal(client):
    client.write(priority(1), priority(99), priority(2))
    client.check_usable()


def test_5_1_an_open_stream_takes_data_and_trailers_in_pieces(world, client):
    stream = opened(client, "/pieces")
    for piece in (b"a", b"", b"b", b"c"):
        client.write(data(stream, piece))
        client.ping()
    client.write(headers(stream, [("x-sum", "3")]))
    assert client.response(stream).status == 200
    assert world.api.of("/pieces")[-1].body == b"abc"


def test_5_1_data_on_a_closed_stream_counts_for_the_connections_window(client):
    """Flow-controlled frames that cross with RST_STREAM take from the connection's window: it must be given back."""
    for _ in range(8):
        stream = opened(client, "/hold")
        client.write(data(stream, b"x" * 16000), rst_stream(stream))
    client.ping()
    updates = sum(found.increment for found in client.arrived if found.kind == WINDOW_UPDATE and found.stream == 0)
    window = 65535 + updates - 8 * 16000
    assert window > 16000, window  # Else the next body would starve.
    stream = client.request("/after", method="POST", body=b"y" * 16000)
    assert client.response(stream).status == 200


# --- §5.1.1, §5.1.2

def test_5_1_1_streams_may_be_skipped(client):
    client.next_stream = 1001
    client.check_usable()
    client.next_stream = 100001
    client.check_usable()


def test_5_1_1_the_last_stream_of_all_is_a_stream(client):
    client.next_stream = WINDOW_MAX
    response = client.get()
    assert response.status == 200


def test_5_1_1_a_stream_that_was_skipped_is_closed(world, client):
    client.next_stream = 7
    client.check_usable()
    client.write(headers(5, [*client.fields("/skipped")]))
    client.check_connection_error(PROTOCOL_ERROR, STREAM_CLOSED)
    assert not world.api.of("/skipped")


def test_5_1_2_a_limit_of_at_least_100_streams_is_announced(client):
    assert client.settings[MAX_CONCURRENT_STREAMS] >= 100


@postern_only
def test_5_1_2_the_announced_settings_are_those_of_the_documentation(client):
    assert client.settings[MAX_CONCURRENT_STREAMS] == 128
    assert client.settings.get(INITIAL_WINDOW_SIZE, 65535) == 65535
    assert client.settings.get(MAX_FRAME_SIZE, 16384) == 16384
    assert client.settings.get(HEADER_TABLE_SIZE, 4096) == 4096
    assert client.settings[MAX_HEADER_LIST_SIZE] == 65536
    assert client.settings[ENABLE_CONNECT_PROTOCOL] == 1
    assert ENABLE_PUSH not in client.settings  # §6.5.2: a server MUST NOT set it to anything but 0.


def test_5_1_2_streams_beyond_the_limit_are_refused_and_leave_the_others_alone(world, client):
    most = client.settings[MAX_CONCURRENT_STREAMS]
    streams = [client.request("/hold") for _ in range(most)]
    client.ping()
    beyond = client.request("/beyond")
    refused = client.response(beyond)
    assert refused.status is None and refused.reset in (REFUSED_STREAM, PROTOCOL_ERROR) or client.goaway, refused
    assert not world.api.of("/beyond")
    if not client.goaway:
        client.write(rst_stream(streams.pop()))  # Makes room for another.
        client.check_usable()
        world.gate.set()
        for stream in streams[:3]:
            assert client.response(stream).body == b"held"


def test_5_1_2_streams_that_ended_do_not_count(client):
    for _ in range(client.settings[MAX_CONCURRENT_STREAMS] // 8 + 8):
        streams = [client.request() for _ in range(16)]
        assert all(client.response(stream).status == 200 for stream in streams)


# --- §5.3, §5.4, §5.5

@pytest.mark.parametrize("send", cases([
    ("5.3.2", "in PRIORITY", lambda c: priority(1, 1) + headers(1, c.fields())),
    ("5.3.2", "in HEADERS", lambda c: headers(1, c.fields(), priority=(1, 15))),
    ("5.3.2", "in a circle", lambda c: priority(3, 5) + priority(5, 3) + headers(1, c.fields(), priority=(3, 0)))]))
def test_a_priority_that_depends_on_itself_does_no_harm(client, send):
    client.write(send(client))
    client.next_stream = 7
    response = client.response(1)
    if response.status is None:  # An error in RFC 7540, nothing in RFC 9113.
        assert response.reset == PROTOCOL_ERROR or client.goaway.code == PROTOCOL_ERROR
    else:
        client.check_usable()


@pytest.mark.parametrize("priority_fields", cases([
    ("5.3.2", "exclusive", (1 << 31, 255)), ("5.3.2", "on a stream that is not there", (77, 0)), ("5.3.2", "on a higher stream", (9, 1))]))
def test_a_priority_in_headers_is_read_over(world, client, priority_fields):
    client.write(headers(1, client.fields("/with-priority"), priority=priority_fields, pad=9))
    assert client.response(1).status == 200 and world.api.of("/with-priority")


def test_5_4_1_goaway_names_the_last_stream_that_was_taken(world, client):
    stream = half_closed(client)
    client.write(data(0, b"x"))
    client.check_connection_error(PROTOCOL_ERROR)
    assert client.goaway.last_stream >= stream


def test_5_4_2_a_reset_is_not_answered_with_a_reset(client):
    stream = half_closed(client)
    client.write(rst_stream(stream), rst_stream(stream), rst_stream(stream))
    client.check_usable()
    assert not [found for found in client.arrived if found.kind == RST_STREAM]


def test_5_4_2_what_crosses_with_the_servers_reset_is_taken(client):
    stream = client.stream()
    client.write(headers(stream, [*client.fields(method="POST"), ("UPPER", "x")], end=False))
    client.write(data(stream, b"x" * 100), window_update(stream, 5), headers(stream, [("x-sum", "1")]))
    client.check_malformed(stream)


@pytest.mark.parametrize("send", cases([
    ("5.5", "on the connection", lambda c, s: b""),
    ("5.5", "on an idle stream", lambda c, s: frame(0xEE, 0xFF, s + 2, b"?")),
    ("5.5", "with a large payload", lambda c, s: frame(0xEE, 0, 0, bytes(16384))),
    ("5.5", "of every unknown type", lambda c, s: b"".join(frame(kind, 0xFF, 0, b"?") for kind in range(10, 256) if kind not in (0xA, 0xC, 0x10)))]))
def test_unknown_frames_are_ignored(client, send):
    stream = client.stream()
    client.write(frame(0x42, 0xFF, 0, b"unknown"), send(client, stream), headers(stream, client.fields(method="POST"), end=False), frame(0x42, 0xFF, stream, b""),
                 data(stream, b"x"), frame(0x42, 1, stream, b"??"), data(stream, b"y", end=True), frame(0x42, 0, stream, b"!"))
    assert client.response(stream).status == 200
    client.check_usable()


# --- §6: what each frame must do

def test_6_1_padding_is_taken_away(world, client):
    stream = opened(client, "/padded")
    client.write(data(stream, b"hello", pad=0), data(stream, b" ", pad=255), data(stream, b"", pad=10), data(stream, b"world", pad=1, end=True))
    assert client.response(stream).status == 200
    assert world.api.of("/padded")[-1].body == b"hello world"


def test_6_1_padding_counts_for_flow_control_and_is_given_back(world, client):
    """More padding than the window holds: none of it is content, all of it must come back."""
    stream = opened(client, "/padding")
    sent, granted = 0, 65535
    for _ in range(600):
        if granted - sent < 256:
            client.unread = [found for found in client.unread if found.kind != WINDOW_UPDATE]
            granted += client.expect(WINDOW_UPDATE, stream=stream).increment
        client.write(data(stream, b"", pad=255))
        sent += 256
    client.write(data(stream, b"end", end=True))
    assert client.response(stream).status == 200
    assert world.api.of("/padding")[-1].body == b"end"


def test_6_2_padded_headers_are_read(world, client):
    client.write(headers(1, client.fields("/padded-head"), pad=255), headers(3, client.fields("/padded-head"), pad=0))
    assert client.response(1).status == 200 and client.response(3).status == 200


@pytest.mark.parametrize("size", [0, 4, 6])
def test_6_3_priority_of_another_size_than_5_is_a_stream_error(client, size):
    stream = opened(client)
    client.write(frame(PRIORITY, 0, stream, bytes(size)))
    client.check_stream_error(stream, FRAME_SIZE_ERROR)


@pytest.mark.parametrize("code", [NO_ERROR, CANCEL, 0x77777777, 0xFFFFFFFF])
def test_7_any_code_resets_a_stream(world, client, code):
    stream = half_closed(client)
    client.write(rst_stream(stream, code))
    client.check_usable()


def test_6_5_3_every_settings_frame_is_acknowledged(client):
    for count in range(5):
        client.change(*[(MAX_CONCURRENT_STREAMS, 100 + i) for i in range(count)])
    client.write(settings() * 3)
    client.pending += [[], [], []]
    for _ in range(3):
        client.expect(SETTINGS, ack=True)


def test_6_5_2_unknown_settings_are_ignored(client):
    client.change((0x0, 1), (0x7, 2), (0x99, 0xFFFFFFFF), (0xFFFF, 0))
    client.check_usable()


def test_6_5_3_the_last_of_several_values_counts(client):
    client.change((INITIAL_WINDOW_SIZE, 0), (INITIAL_WINDOW_SIZE, 3), (INITIAL_WINDOW_SIZE, 1))
    client.initial_window, client.refill = 1, False
    stream = client.request("/big/5")
    assert client.expect(DATA, stream=stream).content == b"x"
    client.ping()
    assert not [found for found in client.unread if found.kind == DATA]


@pytest.mark.parametrize("pair", cases([
    ("6.5.2", "ENABLE_PUSH 0", (ENABLE_PUSH, 0)), ("6.5.2", "ENABLE_PUSH 1", (ENABLE_PUSH, 1)), ("6.5.2", "MAX_CONCURRENT_STREAMS 0", (MAX_CONCURRENT_STREAMS, 0)),
    ("6.5.2", "INITIAL_WINDOW_SIZE 2^31-1", (INITIAL_WINDOW_SIZE, WINDOW_MAX)), ("6.5.2", "MAX_FRAME_SIZE 2^24-1", (MAX_FRAME_SIZE, (1 << 24) - 1)),
    ("6.5.2", "MAX_FRAME_SIZE 2^14", (MAX_FRAME_SIZE, 1 << 14)), ("6.5.2", "HEADER_TABLE_SIZE 2^32-1", (HEADER_TABLE_SIZE, 0xFFFFFFFF)),
    ("6.5.2", "MAX_HEADER_LIST_SIZE 2^32-1", (MAX_HEADER_LIST_SIZE, 0xFFFFFFFF))]))
def test_the_ends_of_a_settings_range_are_inside_it(client, pair):
    client.change(pair)
    client.check_usable()


def test_6_7_a_ping_is_answered_with_its_payload(client):
    for opaque in (b"\0" * 8, b"\xff" * 8, b"opaque!!"):
        client.write(ping(opaque))
        assert client.expect(PING, ack=True).payload == opaque


def test_6_7_an_answer_to_a_ping_is_not_answered(client):
    client.write(ping(b"answered", ack=True))
    client.ping()
    assert not [found for found in client.arrived if found.payload == b"answered"]


def test_6_8_after_goaway_open_streams_are_answered_and_the_connection_ends(world, client):
    stream = half_closed(client)
    client.write(goaway(0, NO_ERROR, b"bye"))
    world.gate.set()
    assert client.response(stream).body == b"held"
    client.drained()
    assert client.goaway is None or client.goaway.code == NO_ERROR


def test_6_8_goaway_without_open_streams_ends_the_connection(client):
    client.check_usable()
    client.write(goaway(0))
    client.drained()
    assert client.goaway is None or client.goaway.code == NO_ERROR


def test_6_8_goaway_with_an_unknown_code_is_goaway(client):
    client.write(goaway(0, 0x7777))
    client.drained()


def test_9_1_a_client_that_closes_leaves_nothing_behind(world, client):
    stream = half_closed(client)
    assert eventually(lambda: world.api.of("/hold"))
    client.hang_up("half")
    world.gate.set()
    client.drained()


# --- §6.9: flow control

def test_6_9_the_server_waits_for_a_window(world):
    client = world.client(settings=[(INITIAL_WINDOW_SIZE, 0)])
    client.refill = False
    stream = client.request("/big/10")
    client.expect(HEADERS, stream=stream)
    client.ping()
    assert not [found for found in client.arrived if found.kind == DATA and found.payload]
    client.grant(stream, 4)
    assert client.expect(DATA, stream=stream).content == b"xxxx"
    client.grant(stream, 100)
    assert client.response(stream).body == b"xxxxxx"


def test_6_9_a_window_of_one_octet_at_a_time(world):
    client = world.client(settings=[(INITIAL_WINDOW_SIZE, 1)])
    stream = client.request("/big/64")
    response = client.response(stream)
    assert response.body == b"x" * 64 and response.complete
    assert set(response.pieces) <= {0, 1}


@postern_only
def test_6_9_an_answer_without_content_needs_no_window(world):
    client = world.client(settings=[(INITIAL_WINDOW_SIZE, 0)])
    response = client.get("/big/0")
    assert response.status == 200 and response.complete


def test_6_9_1_the_connections_window_holds_for_all_streams_together(world):
    client = world.client(settings=[(INITIAL_WINDOW_SIZE, 1 << 20)])
    client.refill = False
    streams = [client.request("/big/40000") for _ in range(3)]
    got = 0
    while got < 65535:
        got += len(client.expect(DATA).payload)
    client.ping()
    assert sum(len(found.payload) for found in client.arrived if found.kind == DATA) == 65535
    client.grant(0, 1 << 20)
    while not all(client.states.get(stream) == "ended" for stream in streams):
        client.expect(DATA)
    assert sum(len(found.payload) for found in client.arrived if found.kind == DATA) == 120000


def test_6_9_1_a_stream_without_a_window_does_not_stop_another(world):
    client = world.client(settings=[(INITIAL_WINDOW_SIZE, 100)], window=1 << 20)
    client.refill = False
    stalled = client.request("/big/5000")
    client.expect(DATA, stream=stalled)
    client.ping()
    for _ in range(3):
        other = client.stream()
        client.write(headers(other, client.fields("/big/1000")), window_update(other, 2000))
        client.window[other] = 2100
        assert len(client.response(other).body) == 1000
    client.grant(stalled, 5000)
    while client.states.get(stalled) != "ended":
        client.expect(DATA, stream=stalled)


def test_6_9_2_a_new_initial_window_changes_the_windows_of_open_streams(world):
    client = world.client(settings=[(INITIAL_WINDOW_SIZE, 0)])
    client.refill = False
    stream = client.request("/big/10")
    client.expect(HEADERS, stream=stream)
    client.change((INITIAL_WINDOW_SIZE, 6))
    assert client.expect(DATA, stream=stream).content == b"x" * 6
    client.change((INITIAL_WINDOW_SIZE, 100))
    assert client.response(stream).body == b"x" * 4


def test_6_9_2_a_window_may_become_negative(world):
    client = world.client(settings=[(INITIAL_WINDOW_SIZE, 1000)])
    client.refill = False
    stream = client.request("/big/3000")
    client.expect(DATA, stream=stream)
    while client.window[stream]:
        client.expect(DATA, stream=stream)
    client.change((INITIAL_WINDOW_SIZE, 200))  # 1000 were used: -800.
    assert client.window[stream] == -800
    client.grant(stream, 800)  # 0
    client.ping()
    assert sum(len(found.payload) for found in client.arrived if found.kind == DATA) == 1000
    client.grant(stream, 1)
    assert client.expect(DATA, stream=stream).content == b"x"
    client.grant(stream, 5000)
    while client.states.get(stream) != "ended":
        client.expect(DATA, stream=stream)


def test_6_9_2_an_initial_window_of_zero_and_back_again(client):
    client.change((INITIAL_WINDOW_SIZE, 0))
    stream = client.request("/big/100")
    client.expect(HEADERS, stream=stream)
    client.ping()
    assert not [found for found in client.arrived if found.kind == DATA]
    client.change((INITIAL_WINDOW_SIZE, 65535))
    assert client.response(stream).body == b"x" * 100


def test_6_9_2_a_new_initial_window_leaves_the_connections_window_alone(world, client):
    client.refill = False
    client.change((INITIAL_WINDOW_SIZE, 1 << 20))
    stream = client.request("/big/100000")
    got = 0
    while got < 65535:
        got += len(client.expect(DATA, stream=stream).payload)
    client.ping()
    assert sum(len(found.payload) for found in client.arrived if found.kind == DATA) == 65535
    client.grant(0, 100000)
    while client.states.get(stream) != "ended":
        client.expect(DATA, stream=stream)


@pytest.mark.parametrize("increments, codes", cases([
    ("6.9", "an increment of 0", [0], (PROTOCOL_ERROR,)), ("6.9.1", "a window beyond 2^31 - 1", [WINDOW_MAX], (FLOW_CONTROL_ERROR,)),
    ("6.9.1", "a window beyond 2^31 - 1 in steps", [WINDOW_MAX - 65535, 1], (FLOW_CONTROL_ERROR,))]))
def test_a_bad_window_of_a_stream_is_a_stream_error(client, increments, codes):
    stream = half_closed(client)
    client.write(*[window_update(stream, increment) for increment in increments])
    client.check_stream_error(stream, *codes)


def test_6_9_2_settings_that_lift_a_window_beyond_the_largest_are_an_error(client):
    """A connection error, says §6.9.2; nghttp2 resets the streams whose windows those are, and no other."""
    stream = half_closed(client)
    client.write(window_update(stream, 1))
    client.change((INITIAL_WINDOW_SIZE, WINDOW_MAX), wait=False)
    client.check_stream_error(stream, FLOW_CONTROL_ERROR)


def test_6_9_1_the_largest_windows_are_windows(world, client):
    stream = half_closed(client)
    client.write(window_update(stream, WINDOW_MAX - 65535), window_update(0, WINDOW_MAX - 65535))
    client.window[0] = client.window[stream] = WINDOW_MAX
    client.refill = False
    world.gate.set()
    assert client.response(stream).body == b"held"
    client.check_usable()


def test_6_9_1_more_data_than_the_window_is_an_error(world, client):
    """The origin takes nothing; whatever Postern grants on the way, it cannot be endless."""
    world.answers["/early/takes-nothing"] = lambda origin, connection, reader, request: world.gate.wait(20)
    stream = opened(client, "/early/takes-nothing")
    client.flood(data(stream, b"x" * 16384), 2000)
    client.check_stream_error(stream, FLOW_CONTROL_ERROR, usable=False)


def test_6_9_1_the_servers_windows_are_given_back_as_the_origin_takes_the_body(world, client):
    stream = opened(client, "/upload")
    left = {0: 65535 + sum(found.increment for found in client.arrived if found.kind == WINDOW_UPDATE), stream: client.settings.get(INITIAL_WINDOW_SIZE, 65535)}
    sent = 0
    while sent < 1_000_000:
        size = min(16384, 1_000_000 - sent, *left.values())
        if size:
            client.write(data(stream, b"x" * size))
            sent += size
            for key in left:
                left[key] -= size
        if min(left.values()) < 1024:
            update = client.expect(WINDOW_UPDATE)
            if update.stream in left:
                left[update.stream] += update.increment
    client.write(data(stream, b"", end=True))
    assert client.response(stream).status == 200
    assert len(world.api.of("/upload")[-1].body) == 1_000_000


# --- §8.1: messages

@pytest.mark.parametrize("fields, body", cases([
    ("8.1", "trailers", [], b"hello"), ("8.1", "trailers after no content", [], b""),
    ("8.1", "trailers that were announced", [("te", "trailers"), ("trailer", "x-sum")], b"hello")]))
def test_trailers_end_a_request(world, client, fields, body):
    stream = opened(client, "/trailers", *fields)
    client.write(data(stream, body) if body else b"", headers(stream, [("x-sum", "5"), ("x-more", "")]))
    assert client.response(stream).status == 200
    seen = world.api.of("/trailers")[-1]
    assert seen.body == body and seen.trailers.get("x-sum", ["5"]) == ["5"]


@pytest.mark.parametrize("trailers, end", cases([
    ("8.1", "without END_STREAM", [("x-sum", "1")], False), ("8.1", "with a pseudo-header field", [(":path", "/other")], True),
    ("8.1", "with :method", [("x-sum", "1"), (":method", "GET")], True), ("8.1", "with :status", [(":status", "200")], True),
    ("8.1", "with a name in upper case", [("X-Sum", "1")], True), ("8.1", "with LF in a value", [("x-sum", "1\nhost: evil")], True),
    ("8.1", "with a connection-specific field", [("connection", "close")], True), ("8.1", "with Transfer-Encoding", [("transfer-encoding", "chunked")], True)]))
def test_bad_trailers_are_malformed(world, client, trailers, end):
    before = len(world.api.of("/bad-trailers"))
    stream = opened(client, "/bad-trailers")
    client.write(data(stream, b"hello"), headers(stream, trailers, end=end))
    client.check_malformed(stream)
    assert not any(request.complete for request in world.api.of("/bad-trailers")[before:])


def test_8_1_data_after_trailers_is_an_error(client):
    stream = opened(client)
    client.write(headers(stream, [("x-sum", "1")]), data(stream, b"more", end=True))
    client.check_stream_error(stream, STREAM_CLOSED)


def test_8_1_a_request_may_be_headers_alone_or_end_with_empty_data(world, client):
    assert client.get("/alone").status == 200
    stream = opened(client, "/empty-end", method="GET")
    client.write(data(stream, b"", end=True))
    assert client.response(stream).status == 200
    assert world.api.of("/empty-end")[-1].body == b""


def test_8_1_an_answer_before_the_requests_end_is_whole(world, client):
    """Then the rest of the request may be declined with RST_STREAM(NO_ERROR)."""
    world.answers["/early/answer"] = ok("early", status="413 Content Too Large")
    stream = opened(client, "/early/answer")
    client.write(data(stream, b"x" * 100))
    response = client.response(stream)
    assert response.status == 413 and response.body == b"early" and response.complete, response
    client.write(data(stream, b"y" * 100, end=True))
    client.check_usable()
    resets = [found.code for found in client.arrived if found.kind == RST_STREAM and found.stream == stream]
    assert resets in ([], [NO_ERROR], [STREAM_CLOSED])


@pytest.mark.parametrize("fields, pieces, trailers", cases([
    ("8.1.1", "more DATA than Content-Length", [("content-length", "5")], [b"hello!"], None),
    ("8.1.1", "more DATA than Content-Length in a second frame", [("content-length", "5")], [b"hello", b"GET /smuggled HTTP/1.1\r\nHost: x\r\n\r\n"], None),
    ("8.1.1", "less DATA than Content-Length", [("content-length", "5")], [b"hell"], None),
    ("8.1.1", "no DATA with a Content-Length", [("content-length", "5")], [], None),
    ("8.1.1", "less DATA than Content-Length and trailers", [("content-length", "5")], [b"hell"], [("x-sum", "4")]),
    ("8.1.1", "DATA with a Content-Length of 0", [("content-length", "0")], [b"x"], None),
    ("8.1.1", "two Content-Lengths that differ", [("content-length", "5"), ("content-length", "6")], [b"hello"], None),
    ("8.1.1", "a Content-Length with a sign", [("content-length", "+5")], [b"hello"], None),
    ("8.1.1", "a negative Content-Length", [("content-length", "-5")], [b"hello"], None),
    ("8.1.1", "a Content-Length in hexadecimal", [("content-length", "0x5")], [b"hello"], None),
    ("8.1.1", "an empty Content-Length", [("content-length", "")], [b"hello"], None),
    ("8.1.1", "a Content-Length with a list", [("content-length", "5, 5")], [b"hello"], None),
    ("8.1.1", "a Content-Length that overflows", [("content-length", "18446744073709551621")], [b"hello"], None)]))
def test_a_content_length_that_is_not_that_of_the_content_is_malformed(world, client, fields, pieces, trailers):
    before = len(world.api.of("/length"))
    stream = client.stream()
    whole = [data(stream, piece, end=trailers is None and i == len(pieces) - 1) for i, piece in enumerate(pieces)]
    client.write(headers(stream, client.fields("/length", *fields, method="POST"), end=not pieces and trailers is None), *whole,
                 headers(stream, trailers) if trailers else b"")
    client.check_malformed(stream)
    # What is too much may come behind what looked whole.
    assert len(pieces) > 1 or ("content-length", "0") in fields or not any(request.complete for request in world.api.of("/length")[before:])
    assert not world.api.of("/smuggled")


@pytest.mark.parametrize("length, body", [("5", b"hello"), ("0", b""), ("00005", b"hello")])
def test_8_1_1_a_content_length_that_is_right_is_right(world, client, length, body):
    stream = client.request("/right-length", ("content-length", length), method="POST", body=body)
    response = client.response(stream)
    if length != "00005" or response.status == 200:
        assert response.status == 200 and world.api.of("/right-length")[-1].body == body


# --- §8.2: fields

BAD_FIELDS = [
    ("8.2.1", "a name in upper case", ("X-Upper", "x")), ("8.2.1", "one upper-case letter", ("acceptT", "x")),
    ("8.2.1", "an empty name", ("", "x")), ("8.2.1", "a space in a name", ("x y", "x")), ("8.2.1", "a colon in a name", ("x:y", "x")),
    ("8.2.1", "a name that ends with a colon", ("host:", "x")), ("8.2.1", "NUL in a name", ("x\0", "x")), ("8.2.1", "CR in a name", ("x\r", "x")),
    ("8.2.1", "LF in a name", ("x\ny", "x")), ("8.2.1", "a whole field in a name", ("x: y\r\ntransfer-encoding", "chunked")),
    ("8.2.1", "DEL in a name", ("x\x7f", "x")), ("8.2.1", "an octet above 127 in a name", ("x\u00e9", "x")), ("8.2.1", "TAB in a name", ("x\t", "x")),
    ("8.2.1", "a leading space in a name", (" x", "x")),
    ("8.2.1", "NUL in a value", ("x", "a\0b")), ("8.2.1", "CR in a value", ("x", "a\rb")), ("8.2.1", "LF in a value", ("x", "a\nb")),
    ("8.2.1", "CRLF and a field in a value", ("x", "a\r\nx-injected: b")), ("8.2.1", "a request in a value", ("x", "a\r\n\r\nGET /smuggled HTTP/1.1\r\nHost: x\r\n\r\n")),
    ("8.2.1", "NUL at the beginning of a value", ("x", "\0a")), ("8.2.1", "LF at the end of a value", ("x", "a\n")),
    ("8.2.1", "a space before a value", ("x", " a")), ("8.2.1", "a space after a value", ("x", "a ")),
    ("8.2.1", "TAB before a value", ("x", "\ta")), ("8.2.1", "TAB after a value", ("x", "a\t")),
    ("8.2.2", "Connection", ("connection", "close")), ("8.2.2", "Connection that names a field", ("connection", "x-api-key")),
    ("8.2.2", "Proxy-Connection", ("proxy-connection", "keep-alive")), ("8.2.2", "Keep-Alive", ("keep-alive", "timeout=5")),
    ("8.2.2", "Transfer-Encoding", ("transfer-encoding", "chunked")), ("8.2.2", "Transfer-Encoding of identity", ("transfer-encoding", "identity")),
    ("8.2.2", "Upgrade", ("upgrade", "websocket")), ("8.2.2", "TE of gzip", ("te", "gzip")), ("8.2.2", "TE of trailers and more", ("te", "trailers, deflate")),
]


@pytest.mark.parametrize("bad", cases(BAD_FIELDS))
def test_a_field_that_may_not_be_sent_makes_a_request_malformed(world, client, bad):
    stream = client.stream()
    client.write(headers(stream, client.fields("/bad-field", bad)))
    client.check_malformed(stream)
    assert not world.api.of("/bad-field") and not world.api.of("/smuggled")


@pytest.mark.parametrize("bad", cases([row for row in BAD_FIELDS if row[1] in ("a name in upper case", "CRLF and a field in a value", "Transfer-Encoding")]))
def test_a_field_is_no_better_for_being_huffman_coded_or_in_the_table(world, client, bad):
    block = hpack.block(client.fields("/bad-field"))
    client.write(headers(1, block + hpack.literal(*bad, kind="incremental", coded=True)))
    first = client.response(1)
    assert first.status in (None, 400)
    client.next_stream = 5
    client.write(headers(3, block + hpack.indexed(62)))
    client.check_malformed(3)
    assert not world.api.of("/bad-field")


@pytest.mark.parametrize("good", cases([
    ("8.2.1", "every character of a token", ("!#$%&'*+-.^_`|~09az", "x")), ("8.2.1", "an empty value", ("x-empty", "")),
    ("8.2.1", "spaces and TAB inside a value", ("x-inside", "a b\tc")), ("8.2.1", "octets above 127 in a value", ("x-obs", "caf\u00e9 \u00ff")),
    ("8.2.1", "every visible character in a value", ("x-visible", "".join(map(chr, range(33, 127))))), ("8.2.2", "TE of trailers", ("te", "trailers"))]))
def test_a_field_that_may_be_sent_reaches_the_origin(world, client, good):
    assert client.get("/good-field", good).status == 200
    if good[0] != "te":
        assert world.api.of("/good-field")[-1].fields[good[0]] == [good[1]]


def test_8_2_3_cookie_crumbs_are_joined(world, client):
    client.get("/cookies", ("cookie", "a=1"), ("x-between", "y"), ("cookie", "b=2"), ("cookie", "c=3; d=4"))
    assert world.api.of("/cookies")[-1].fields["cookie"] == ["a=1; b=2; c=3; d=4"]


def test_8_2_fields_of_the_same_name_keep_their_order(world, client):
    client.get("/repeated", ("x-many", "1"), ("x-other", "y"), ("x-many", "2"), ("x-many", "3"))
    assert world.api.of("/repeated")[-1].fields["x-many"] in (["1", "2", "3"], ["1, 2, 3"], ["1,2,3"])


# --- §8.3: pseudo-header fields

METHOD, SCHEME, AUTHORITY, PATH = (":method", "GET"), (":scheme", "https"), (":authority", API), (":path", "/pseudo")

BAD_REQUESTS = [
    ("8.3", "a pseudo-header field after a regular one", [METHOD, SCHEME, AUTHORITY, ("x", "y"), PATH]),
    ("8.3", ":authority after a regular field", [METHOD, SCHEME, PATH, ("x", "y"), AUTHORITY]),
    ("8.3", "an unknown pseudo-header field", [METHOD, SCHEME, AUTHORITY, PATH, (":unknown", "x")]),
    ("8.3", "a pseudo-header field without a name", [METHOD, SCHEME, AUTHORITY, PATH, (":", "x")]),
    ("8.3", "a pseudo-header field in upper case", [METHOD, SCHEME, AUTHORITY, (":PATH", "/pseudo")]),
    ("8.3", "the response's :status", [METHOD, SCHEME, AUTHORITY, PATH, (":status", "200")]),
    ("8.3.1", "two :method", [METHOD, (":method", "POST"), SCHEME, AUTHORITY, PATH]),
    ("8.3.1", "two :method that are the same", [METHOD, METHOD, SCHEME, AUTHORITY, PATH]),
    ("8.3.1", "two :scheme", [METHOD, SCHEME, (":scheme", "http"), AUTHORITY, PATH]),
    ("8.3.1", "two :path", [METHOD, SCHEME, AUTHORITY, PATH, (":path", "/admin")]),
    ("8.3.1", "two :authority", [METHOD, SCHEME, AUTHORITY, (":authority", "evil.example.test"), PATH]),
    ("8.3.1", "no :method", [SCHEME, AUTHORITY, PATH]),
    ("8.3.1", "no :scheme", [METHOD, AUTHORITY, PATH]),
    ("8.3.1", "no :path", [METHOD, SCHEME, AUTHORITY]),
    ("8.3.1", "no fields at all", []),
    ("8.3.1", "neither :authority nor Host", [METHOD, SCHEME, PATH]),
    ("8.3.1", "an empty :authority", [METHOD, SCHEME, (":authority", ""), PATH]),
    ("8.3.1", "an empty :path", [METHOD, SCHEME, AUTHORITY, (":path", "")]),
    ("8.3.1", "an empty :method", [(":method", ""), SCHEME, AUTHORITY, PATH]),
    ("8.3.1", "an empty :scheme", [METHOD, (":scheme", ""), AUTHORITY, PATH]),
    ("8.3.1", ":path without a slash", [METHOD, SCHEME, AUTHORITY, (":path", "pseudo")]),
    ("8.3.1", ":path of * for GET", [METHOD, SCHEME, AUTHORITY, (":path", "*")]),
    ("8.3.1", ":path with a space", [METHOD, SCHEME, AUTHORITY, (":path", "/pseudo HTTP/1.1")]),
    ("8.3.1", ":path with CRLF", [METHOD, SCHEME, AUTHORITY, (":path", "/pseudo HTTP/1.1\r\nx: y")]),
    ("8.3.1", ":path with NUL", [METHOD, SCHEME, AUTHORITY, (":path", "/pse\0udo")]),
    ("8.3.1", ":path with TAB", [METHOD, SCHEME, AUTHORITY, (":path", "/pse\tudo")]),
    ("8.3.1", ":method with a space", [(":method", "GET /pseudo"), SCHEME, AUTHORITY, PATH]),
    ("8.3.1", ":method with CRLF", [(":method", "GET / HTTP/1.1\r\nx: y"), SCHEME, AUTHORITY, PATH]),
    ("8.3.1", ":method that is no token", [(":method", "G@T"), SCHEME, AUTHORITY, PATH]),
    ("8.3.1", ":scheme with CRLF", [METHOD, (":scheme", "https\r\nx: y"), AUTHORITY, PATH]),
    ("8.3.1", ":authority with CRLF", [METHOD, SCHEME, (":authority", API + "\r\nx: y"), PATH]),
    ("8.3.1", ":authority with a space", [METHOD, SCHEME, (":authority", API + " evil"), PATH]),
    ("8.3.1", ":authority with userinfo", [METHOD, SCHEME, (":authority", "user@" + API), PATH]),
    ("8.3.1", ":authority with userinfo and a password", [METHOD, SCHEME, (":authority", "user:password@" + API), PATH]),
    ("8.3.1", "Host that differs from :authority", [METHOD, SCHEME, AUTHORITY, PATH, ("host", "evil.example.test")]),
    ("8.3.1", "two Hosts without :authority", [METHOD, SCHEME, PATH, ("host", API), ("host", "evil.example.test")]),
    ("8.3.1", "Host with userinfo", [METHOD, SCHEME, PATH, ("host", "user@" + API)]),
    # §8.5, RFC 8441 §4
    ("8.5", "CONNECT with :scheme", [(":method", "CONNECT"), SCHEME, AUTHORITY]),
    ("8.5", "CONNECT with :path", [(":method", "CONNECT"), AUTHORITY, PATH]),
    ("8.5", "CONNECT without :authority", [(":method", "CONNECT")]),
    ("RFC 8441 4", ":protocol with GET", [METHOD, SCHEME, AUTHORITY, PATH, (":protocol", "websocket")]),
    ("RFC 8441 4", ":protocol without :path", [(":method", "CONNECT"), SCHEME, AUTHORITY, (":protocol", "websocket")]),
    ("RFC 8441 4", ":protocol without :scheme", [(":method", "CONNECT"), AUTHORITY, PATH, (":protocol", "websocket")]),
    ("RFC 8441 4", "two :protocol", [(":method", "CONNECT"), SCHEME, AUTHORITY, PATH, (":protocol", "websocket"), (":protocol", "x")]),
]


@pytest.mark.parametrize("fields", cases(BAD_REQUESTS))
def test_a_malformed_request_is_not_passed_on(world, client, fields):
    before = len(world.api.requests)
    stream = client.stream()
    client.write(headers(stream, fields))
    client.check_malformed(stream)
    assert [request.target for request in world.api.requests[before:]] in ([], ["/usable"])


@pytest.mark.parametrize("fields, target", cases([
    ("8.3.1", "the order of pseudo-header fields is free", [PATH, AUTHORITY, SCHEME, METHOD], "/pseudo"),
    ("8.3.1", "Host as :authority", [METHOD, SCHEME, AUTHORITY, PATH, ("host", API)], "/pseudo"),
    ("8.3.1", "Host instead of :authority", [METHOD, SCHEME, PATH, ("host", API)], "/pseudo"),
    ("8.3.1", ":authority with the port of the scheme", [METHOD, SCHEME, (":authority", API + ":443"), PATH], "/pseudo"),
    ("8.3.1", ":path with a query", [METHOD, SCHEME, AUTHORITY, (":path", "/pseudo?a=b&c=%20")], "/pseudo?a=b&c=%20"),
    ("8.3.1", "a method of one's own", [(":method", "PURGE"), SCHEME, AUTHORITY, PATH], "/pseudo")]))
def test_a_well_formed_request_is_passed_on(world, client, fields, target):
    client.write(headers(1, fields))
    assert client.response(1).status == 200
    seen = world.api.requests[-1]
    assert seen.target == target and seen.one("host").split(":")[0] == API


def test_8_3_1_options_of_the_whole_server(world, client):
    before = len(world.api.requests)
    client.write(headers(1, [(":method", "OPTIONS"), SCHEME, AUTHORITY, (":path", "*")]))
    response = client.response(1)
    assert response.status in (200, 400) or response.reset == PROTOCOL_ERROR
    assert [request.target for request in world.api.requests[before:]] in ([], ["*"])


@postern_only
def test_8_3_1_another_scheme_than_that_of_the_connection_is_not_believed(world, client):
    client.write(headers(1, [METHOD, (":scheme", "http"), AUTHORITY, PATH]))
    response = client.response(1)
    assert response.status in (400, 421) or response.reset == PROTOCOL_ERROR, response
    client.next_stream = 3
    client.check_usable()


@postern_only
def test_8_5_connect_makes_no_tunnel(world, client):
    client.write(headers(1, [(":method", "CONNECT"), (":authority", API + ":443")], end=False), data(1, b"GET /tunnelled HTTP/1.1\r\n\r\n"))
    response = client.response(1)
    assert response.status == 405 or response.reset == PROTOCOL_ERROR, response
    assert b"/tunnelled" not in world.api.everything()


# --- answers

def answer(world, raw):
    world.answers["/answer"] = raw


@pytest.mark.parametrize("raw, status, body", cases([
    ("8.1", "with a length", ok("hello"), 200, b"hello"),
    ("8.1", "in chunks", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nhel\r\n2\r\nlo\r\n0\r\n\r\n", 200, b"hello"),
    ("8.1", "of no chunks", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 200, b""),
    ("8.1", "204", b"HTTP/1.1 204 No Content\r\n\r\n", 204, b""), ("8.1", "304", b"HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\nETag: \"x\"\r\n\r\n", 304, b""),
    ("8.1", "205", b"HTTP/1.1 205 Reset Content\r\nContent-Length: 0\r\n\r\n", 205, b""), ("8.1", "404", ok("no", status="404 Not Found"), 404, b"no"),
    ("8.1", "599 without a phrase", ok("x", status="599"), 599, b"x")]))
def test_an_answer_arrives_as_it_was_given(world, client, raw, status, body):
    answer(world, raw)
    response = client.get("/answer")
    assert response.status == status and response.body == body and response.complete, response
    client.check_usable()


def test_8_1_an_answer_that_ends_with_the_connection_is_whole(world, client):
    answer(world, lambda origin, connection, reader, request: (connection.sendall(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nhello"),
                                                               connection.unwrap() if hasattr(connection, "unwrap") else None, connection.close()))
    response = client.get("/answer")
    assert response.status == 200 and response.body == b"hello" and response.complete, response


def test_8_1_head_is_answered_without_content(world, client):
    answer(world, b"HTTP/1.1 200 OK\r\nContent-Length: 5000\r\n\r\n")
    response = client.get("/answer", method="HEAD")
    assert response.status == 200 and response.body == b"" and response.complete and response.values("content-length") == ["5000"]
    client.check_usable()


def test_8_1_trailers_of_an_answer_arrive(world, client):
    answer(world, b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X-Sum\r\n\r\n5\r\nhello\r\n0\r\nX-Sum: 5\r\nGrpc-Status: 0\r\n\r\n")
    response = client.get("/answer", ("te", "trailers"))
    assert response.body == b"hello" and response.complete
    assert response.trailers == [("x-sum", "5"), ("grpc-status", "0")]


def test_8_1_informational_answers_come_first(world, client):
    answer(world, b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </y>\r\n\r\n" + ok("final"))
    response = client.get("/answer")
    assert [dict(fields)[":status"] for fields in response.informational] == ["103", "103"]
    assert dict(response.informational[1])["link"] == "</y>"
    assert response.status == 200 and response.body == b"final"


@postern_only
def test_8_1_whoever_expects_100_continue_gets_it(world, client):
    stream = opened(client, "/expect", ("expect", "100-continue"), ("content-length", "5"))
    found = client.expect(HEADERS, stream=stream)
    assert dict(found.fields)[":status"] == "100"
    client.write(data(stream, b"hello", end=True))
    assert client.response(stream).status == 200
    assert world.api.of("/expect")[-1].body == b"hello"


def test_8_2_2_connection_specific_fields_of_an_origin_end_at_postern(world, client):
    answer(world, ok("x", "Connection: keep-alive, x-hop", "Keep-Alive: timeout=5", "Proxy-Connection: keep-alive", "X-Hop: 1", "X-Kept: 2"))
    response = client.get("/answer")  # The client fails on any of them.
    assert response.status == 200 and response.values("x-kept") == ["2"]
    if not REFERENCE:
        assert not response.values("x-hop")


def test_8_2_1_names_of_an_answer_are_in_lower_case(world, client):
    answer(world, ok("x", "X-UPPER: Value", "Set-Cookie: a=1", "SET-COOKIE: b=2"))
    response = client.get("/answer")
    assert response.values("x-upper") == ["Value"] and response.values("set-cookie") == ["a=1", "b=2"]


@postern_only
@pytest.mark.parametrize("raw", cases([
    ("8.6", "101 that nobody asked for", b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"),
    ("8.1", "that is not HTTP", b"SSH-2.0-x\r\n\r\n"), ("8.2.1", "with NUL in a value", b"HTTP/1.1 200 OK\r\nX: a\0b\r\nContent-Length: 0\r\n\r\n"),
    ("8.1", "with two lengths", b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nxx"),
    ("8.1", "of nothing", lambda origin, connection, reader, request: connection.close())]))
def test_an_answer_that_is_none_is_a_502_and_spares_the_connection(world, client, raw):
    answer(world, raw)
    response = client.get("/answer")
    assert response.status == 502 and response.complete, response
    client.check_usable()


@pytest.mark.parametrize("raw", cases([
    ("8.1.1", "cut off before its length", b"HTTP/1.1 200 OK\r\nContent-Length: 50\r\n\r\nfirst"),
    ("8.1.1", "cut off between chunks", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nfirst\r\n"),
    ("8.1.1", "with a bad chunk", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nfirst\r\nzz\r\n0\r\n\r\n")]))
def test_an_answer_that_breaks_is_reset_and_not_ended(world, client, raw):
    answer(world, lambda origin, connection, reader, request: (connection.sendall(raw), connection.close()))
    response = client.get("/answer")
    assert not response.complete or response.status == 502, response
    assert response.reset is not None or response.status == 502, response
    client.check_usable()


def test_5_1_a_reset_of_the_sandbox_reaches_the_origin(world, client):
    closed = len(world.api.closed)

    def endless(origin, connection, reader, request):
        connection.sendall(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        while True:
            connection.sendall(b"4\r\nmore\r\n" * 1000)
    world.answers["/endless"] = endless
    stream = client.request("/endless")
    client.expect(DATA, stream=stream)
    client.write(rst_stream(stream, CANCEL))
    assert eventually(lambda: len(world.api.closed) > closed)
    client.check_usable()


def test_5_1_a_reset_in_the_middle_of_a_request_is_no_end_of_it(world, client):
    stream = opened(client, "/broken-off")
    client.write(data(stream, b"half"))
    assert eventually(lambda: world.api.of("/broken-off"))
    client.write(rst_stream(stream, CANCEL))
    client.check_usable()
    assert eventually(lambda: "/broken-off" in world.api.closed)
    assert not any(request.complete for request in world.api.of("/broken-off"))


def test_5_streams_are_answered_in_any_order(world, client):
    held = client.request("/hold")
    others = [client.request(f"/order/{i}") for i in range(20)]
    for stream in reversed(others):
        assert client.response(stream).status == 200
    world.gate.set()
    assert client.response(held).body == b"held"


def test_5_bodies_of_many_streams_are_kept_apart(world, client):
    @of_request
    def echo(request):
        return ok(request.body)
    world.answers["/echo"] = echo
    bodies = {}
    for i in range(16):
        stream = opened(client, "/echo")
        bodies[stream] = bytes([65 + i]) * 1000
    for start in range(0, 1000, 250):
        for stream, body in bodies.items():
            client.write(data(stream, body[start:start + 250], end=start == 750))
    for stream, body in bodies.items():
        assert client.response(stream).body == body


@postern_only
def test_9_1_2_a_request_for_another_host_is_misdirected(world, client):
    for authority in (PLAIN, "other.example.test", "evil.example.test", API + ":8443", "127.0.0.1"):
        response = client.get("/misdirected", authority=authority)
        assert response.status == 421 and response.complete, response
    client.check_usable()
    assert not world.api.of("/misdirected")
