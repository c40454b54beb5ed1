"""Frames (RFC 9113 §4, §6): constructors that forbid nothing, and a reader."""

import struct

from http2 import hpack

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"

DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS, PUSH_PROMISE, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = range(10)
KINDS = ["DATA", "HEADERS", "PRIORITY", "RST_STREAM", "SETTINGS", "PUSH_PROMISE", "PING", "GOAWAY", "WINDOW_UPDATE", "CONTINUATION"]

END_STREAM = ACK = 0x1
END_HEADERS = 0x4
PADDED = 0x8
WITH_PRIORITY = 0x20

NO_ERROR, PROTOCOL_ERROR, INTERNAL_ERROR, FLOW_CONTROL_ERROR, SETTINGS_TIMEOUT, STREAM_CLOSED, FRAME_SIZE_ERROR, REFUSED_STREAM, CANCEL, \
    COMPRESSION_ERROR, CONNECT_ERROR, ENHANCE_YOUR_CALM, INADEQUATE_SECURITY, HTTP_1_1_REQUIRED = range(14)

HEADER_TABLE_SIZE, ENABLE_PUSH, MAX_CONCURRENT_STREAMS, INITIAL_WINDOW_SIZE, MAX_FRAME_SIZE, MAX_HEADER_LIST_SIZE = range(1, 7)
ENABLE_CONNECT_PROTOCOL = 8

WINDOW_MAX = 2 ** 31 - 1
FRAME_MAX = 16384  # What both sides may send unless told otherwise.


def frame(kind, flags=0, stream=0, payload=b"", length=None):
    """Nine bytes and a payload; `length` may lie, and the top bit of `stream` is the reserved one."""
    return struct.pack("!I", len(payload) if length is None else length)[1:] + struct.pack("!BBI", kind, flags, stream) + payload


def data(stream, content=b"", end=False, pad=None, flags=0):
    flags |= END_STREAM if end else 0
    if pad is not None:
        flags, content = flags | PADDED, bytes([pad]) + content + bytes(pad)
    return frame(DATA, flags, stream, content)


def headers(stream, block, end=True, complete=True, pad=None, priority=None, flags=0):
    """`block`: bytes, or fields to be written without tables."""
    block = block if isinstance(block, bytes) else hpack.block(block)
    flags |= (END_STREAM if end else 0) | (END_HEADERS if complete else 0)
    if priority is not None:
        flags, block = flags | WITH_PRIORITY, struct.pack("!IB", *priority) + block
    if pad is not None:
        flags, block = flags | PADDED, bytes([pad]) + block + bytes(pad)
    return frame(HEADERS, flags, stream, block)


def continuation(stream, block=b"", complete=True, flags=0):
    return frame(CONTINUATION, flags | (END_HEADERS if complete else 0), stream, block)


def priority(stream, dependency=0, weight=15):
    return frame(PRIORITY, 0, stream, struct.pack("!IB", dependency, weight))


def rst_stream(stream, code=CANCEL):
    return frame(RST_STREAM, 0, stream, struct.pack("!I", code))


def settings(*pairs, ack=False, stream=0):
    return frame(SETTINGS, ACK if ack else 0, stream, b"".join(struct.pack("!HI", *pair) for pair in pairs))


def push_promise(stream, promised, block=b""):
    return frame(PUSH_PROMISE, END_HEADERS, stream, struct.pack("!I", promised) + block)


def ping(opaque=b"12345678", ack=False, stream=0):
    return frame(PING, ACK if ack else 0, stream, opaque)


def goaway(last=0, code=NO_ERROR, debug=b"", stream=0):
    return frame(GOAWAY, 0, stream, struct.pack("!II", last, code) + debug)


def window_update(stream, increment):
    return frame(WINDOW_UPDATE, 0, stream, struct.pack("!I", increment))


class Frame:
    """A frame as it came; `fields` of HEADERS whose block is complete, `data` without its padding."""

    def __init__(self, kind, flags, stream, payload):
        self.kind, self.flags, self.stream, self.payload = kind, flags, stream, payload
        self.fields = None

    @property
    def end_stream(self):
        return self.kind in (DATA, HEADERS) and bool(self.flags & END_STREAM)

    @property
    def ack(self):
        return self.kind in (SETTINGS, PING) and bool(self.flags & ACK)

    @property
    def code(self):
        """The error of RST_STREAM or GOAWAY."""
        return struct.unpack("!I", self.payload[:4] if self.kind == RST_STREAM else self.payload[4:8])[0]

    @property
    def last_stream(self):
        return struct.unpack("!I", self.payload[:4])[0] & WINDOW_MAX

    @property
    def increment(self):
        return struct.unpack("!I", self.payload)[0] & WINDOW_MAX

    @property
    def settings(self):
        return [struct.unpack("!HI", self.payload[i:i + 6]) for i in range(0, len(self.payload), 6)]

    @property
    def content(self):
        """The payload without padding and priority."""
        payload, pad = self.payload, 0
        if self.flags & PADDED:
            pad, payload = payload[0], payload[1:]
            assert pad <= len(payload), f"{self}: padding of {pad}"
            payload = payload[:len(payload) - pad]
        return payload[5:] if self.kind == HEADERS and self.flags & WITH_PRIORITY else payload

    def __repr__(self):
        name = KINDS[self.kind] if self.kind < len(KINDS) else f"type {self.kind}"
        more = f"code {self.code}" if self.kind in (RST_STREAM, GOAWAY) else self.fields if self.fields is not None else \
            self.settings if self.kind == SETTINGS else self.payload[:60]
        return f"<{name} stream {self.stream} flags {self.flags:#x} {len(self.payload)} bytes: {more}>"


def take(buffer):
    """(the first frame, what follows it); (None, buffer) when it is not all there."""
    if len(buffer) < 9:
        return None, buffer
    length = int.from_bytes(buffer[:3], "big")
    if len(buffer) < 9 + length:
        return None, buffer
    kind, flags, stream = struct.unpack("!BBI", buffer[3:9])
    return Frame(kind, flags, stream & WINDOW_MAX, buffer[9:9 + length]), buffer[9 + length:]
