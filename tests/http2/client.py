"""A client that speaks HTTP/2 frame by frame. It sends what the test says, and holds what comes to RFC 9113 without mercy.

Bytes travel through `do(what, **order)`: the orders "dial", "write", "read", "flood" and "hang_up" of tests/attacks/raw.py, which are
carried out inside the sandbox.
"""

import os
import re

from http2 import frames, hpack
from http2.frames import CONTINUATION, DATA, GOAWAY, HEADERS, PING, PUSH_PROMISE, RST_STREAM, SETTINGS, WINDOW_UPDATE

PATIENCE = 10  # Seconds for what takes milliseconds.
OPEN_ENDS = ("open", "timeout")


class Silence(AssertionError):
    """Nothing came although something must."""


class Response:
    def __init__(self):
        self.informational, self.fields, self.body, self.trailers = [], None, b"", None
        self.reset = None  # The code of RST_STREAM.
        self.complete = False
        self.pieces = []  # The sizes of DATA frames.

    @property
    def status(self):
        return int(dict(self.fields)[":status"]) if self.fields is not None else None

    def values(self, name):
        return [value for key, value in self.fields or [] if key == name]

    @property
    def reason(self):
        return (self.values("x-postern-reason") or [None])[0]

    def __repr__(self):
        return f"<{self.fields} {len(self.body)} bytes {self.body[:80]} trailers {self.trailers} reset {self.reset} complete {self.complete}>"


class Client:
    def __init__(self, do, host, settings=(), start=True, alpn=("h2",), hear=lambda text: None, window=None, **order):
        self.do, self.host, self.hear = do, host, hear
        reply = do("dial", host=host, port=order.pop("port", 443), tls={"alpn": list(alpn), **order.pop("tls", {})}, **order)
        assert "id" in reply, reply
        self.id, self.alpn = reply["id"], reply["alpn"]
        self.buffer, self.end = b"", None  # `end`: how the other side ended it.
        self.decoder = hpack.Decoder()
        self.arrived = []  # Every frame that was read.
        self.unread = []  # Frames that a wait for another one passed over.
        self.next_stream = 1
        self.settings = {}  # The server's.
        self.first_frame = True
        self.states = {}  # Streams on which the server has sent END_STREAM or RST_STREAM.
        self.headers_seen = set()  # Streams whose final header block came.
        self.refill = True  # Gives back the flow-control window that bodies take.
        self.window = {}  # What the server may still send: by stream, 0 is the connection.
        self.initial_window = dict(settings).get(frames.INITIAL_WINDOW_SIZE, 65535)
        self.frame_max = dict(settings).get(frames.MAX_FRAME_SIZE, frames.FRAME_MAX)
        self.goaway = None
        self.flooded = False  # What is still unread when the server closes may destroy its GOAWAY on the way.
        self.pending = []  # Settings that are not acknowledged yet.
        if start:
            self.write(frames.PREFACE + frames.settings(*settings))
            self.pending.append([pair for pair in settings if pair[0] == frames.HEADER_TABLE_SIZE])
            if window:
                self.write(frames.window_update(0, window))
                self.window[0] = 65535 + window
            self.expect(SETTINGS, ack=False)
            self.write(frames.settings(ack=True))
            self.expect(SETTINGS, ack=True)

    # --- bytes and frames

    def write(self, *pieces, times=1):
        """False when the other side had ended the connection before all was written."""
        sent = self.do("write", id=self.id, data=b"".join(pieces).decode("latin-1"), times=times)
        return sent["end"] == "open"

    def flood(self, piece, times, **more):
        """Many copies of the piece, in pieces of `batch`, while what comes is read (unless read=False)."""
        reply = self.do("flood", id=self.id, data=piece.decode("latin-1"), times=times, **more)
        self.flooded = True
        self._received(reply)
        return reply["sent"]

    def hang_up(self, how="close"):
        self.do("hang_up", id=self.id, how=how)

    def _received(self, reply):
        data = reply["received"].encode("latin-1")
        self.buffer += data
        if reply["end"] not in OPEN_ENDS:
            self.end = reply["end"]
        return data

    def _next(self, seconds):
        """The next frame, or None at the end of the connection."""
        while True:
            found, self.buffer = frames.take(self.buffer)
            if found:
                self._hold_to_rules(found)
                self.arrived.append(found)
                return found
            if self.end:
                assert not self.buffer or self.flooded, f"the connection ended in a frame: {self.buffer[:40]}"
                return None
            reply = self.do("read", id=self.id, timeout=seconds)
            self._received(reply)
            if reply["end"] == "timeout":
                raise Silence(f"nothing more came; before: {self.arrived[-5:]}")

    def _hold_to_rules(self, found):
        """What a server may never do (RFC 9113)."""
        assert len(found.payload) <= self.frame_max, f"§4.2: {found}"
        if self.first_frame:
            assert found.kind == SETTINGS and not found.ack, f"§3.4: the server's preface is SETTINGS: {found}"
            self.first_frame = False
        assert found.kind != PUSH_PROMISE, f"§8.4: a push that nobody wanted: {found}"
        assert found.kind <= CONTINUATION, f"an extension that nobody asked for: {found}"
        if found.kind in (SETTINGS, PING, GOAWAY):
            assert found.stream == 0, f"§6: {found}"
        elif found.kind in (DATA, HEADERS, RST_STREAM, CONTINUATION):
            assert found.stream % 2 == 1, f"§5.1.1: {found}"
        if found.kind == SETTINGS:
            assert len(found.payload) % 6 == 0 and not (found.ack and found.payload), f"§6.5: {found}"
            for key, value in found.settings:
                self.settings[key] = value
            if found.ack:
                assert self.pending, f"§6.5.3: {found} acknowledges nothing"
                for key, value in self.pending.pop(0):
                    self._apply(key, value)
        if found.kind == WINDOW_UPDATE:
            assert len(found.payload) == 4 and found.increment > 0, f"§6.9: {found}"
        if found.kind == GOAWAY:
            assert self.goaway is None or found.last_stream <= self.goaway.last_stream, f"§6.8: {found} after {self.goaway}"
            self.goaway = found
        if found.kind in (DATA, HEADERS):
            assert found.stream not in self.states, f"§5.1: {found} after the end of its stream ({self.states[found.stream]})"
        if found.kind == RST_STREAM:
            assert self.states.get(found.stream) != "reset", f"§5.4.2: {found}: a second one"
            self.states[found.stream] = "reset"
        if found.kind == DATA:
            assert found.stream in self.headers_seen, f"§8.1: {found} before a header block"
            for stream in (0, found.stream):
                left = self.window.get(stream, 65535 if stream == 0 else self.initial_window) - len(found.payload)
                assert left >= 0 or not found.payload, f"§6.9.1: {found} exceeds the window of {stream} by {-left}"
                self.window[stream] = left
            for stream in (0, found.stream) if self.refill and not found.end_stream else (0,) if self.refill else ():
                full = 65535 if stream == 0 else self.initial_window
                if self.window[stream] * 2 < full:  # As clients do, and not for every frame.
                    self.grant(stream, full - self.window[stream])
            self.hear(found.content.decode("latin-1"))
        if found.kind == HEADERS:
            found.fields = self._fields_of(found)
        if found.end_stream:
            self.states[found.stream] = "ended"

    def grant(self, stream, increment):
        self.window[stream] = self.window.get(stream, 65535 if stream == 0 else self.initial_window) + increment
        return self.write(frames.window_update(stream, increment))

    def _fields_of(self, head):
        fragment, complete = head.content, head.flags & frames.END_HEADERS
        while not complete:
            found, self.buffer = frames.take(self.buffer)
            if not found:
                assert not self.end, "the connection ended in a header block"
                assert self._received(self.do("read", id=self.id, timeout=PATIENCE)), "a header block has no end"
                continue
            assert found.kind == CONTINUATION and found.stream == head.stream, f"§6.10: {found} inside a header block"
            fragment, complete = fragment + found.payload, found.flags & frames.END_HEADERS
        fields = self.decoder.decode(fragment)
        self.hear("\n".join(f"{name}: {value}" for name, value in fields))
        trailers = head.stream in self.headers_seen
        names = [name for name, _ in fields]
        for name, value in fields:
            assert re.fullmatch(r":?[!#$%&'*+.^_`|~0-9a-z-]+", name), f"§8.2.1: {name!r}"
            assert not re.search(r"[\0\r\n]", value) and value == value.strip(" \t"), f"§8.2.1: {name}: {value!r}"
            assert name not in ("connection", "proxy-connection", "keep-alive", "transfer-encoding", "upgrade", "te"), f"§8.2.2: {name}"
        assert len(fields) < 300
        if trailers:
            assert head.end_stream, f"§8.1: trailers that do not end the stream: {fields}"
            assert not any(name.startswith(":") for name in names), f"§8.1: {fields}"
        else:
            assert names.count(":status") == 1 and names[0] == ":status" and not any(name.startswith(":") for name in names[1:]), \
                f"§8.3.2: {fields}"
            status = dict(fields)[":status"]
            assert re.fullmatch("[1-5][0-9][0-9]", status) and status != "101", f"§8.3.2, §8.6: {status}"
            if status.startswith("1"):
                assert not head.end_stream, f"§8.1: an informational answer ends the stream: {fields}"
            else:
                self.headers_seen.add(head.stream)
        return fields

    def expect(self, kind, stream=None, ack=None, seconds=PATIENCE):
        """The next frame of that kind; others that come first are kept for whoever expects them."""
        def fits(found):
            return found.kind == kind and stream in (None, found.stream) and ack in (None, found.ack)

        for found in self.unread:
            if fits(found):
                self.unread.remove(found)
                return found
        while True:
            found = self._next(seconds)
            assert found, f"the connection ended ({self.end}) before {frames.KINDS[kind]}; there were {self.arrived[-5:]}"
            if fits(found):
                return found
            self.unread.append(found)

    def change(self, *pairs, wait=True):
        """New settings. What widens holds for the server from now on, what narrows from its acknowledgement on (§6.5.3)."""
        widening = [pair for pair in pairs if pair[0] == frames.INITIAL_WINDOW_SIZE and pair[1] > self.initial_window]
        for pair in widening:
            self._apply(*pair)
        self.pending.append([pair for pair in pairs if pair not in widening])
        self.write(frames.settings(*pairs))
        if wait:
            self.expect(SETTINGS, ack=True)

    def _apply(self, key, value):
        if key == frames.INITIAL_WINDOW_SIZE:
            for stream in self.window:
                if stream:
                    self.window[stream] += value - self.initial_window  # §6.9.2
            self.initial_window = value
        elif key == frames.MAX_FRAME_SIZE:
            self.frame_max = value
        elif key == frames.HEADER_TABLE_SIZE:
            self.decoder.allow(value)

    # --- requests

    def fields(self, path="/", *more, method="GET", scheme="https", authority=None):
        return [(":method", method), (":scheme", scheme), (":authority", authority or self.host), (":path", path), *more]

    def stream(self):
        self.next_stream += 2
        return self.next_stream - 2

    def request(self, path="/", *more, method="GET", body=None, authority=None):
        """Sends a request and returns its stream."""
        stream = self.stream()
        self.write(frames.headers(stream, self.fields(path, *more, method=method, authority=authority), end=body is None),
                   frames.data(stream, body, end=True) if body is not None else b"")
        return stream

    def response(self, stream, seconds=PATIENCE):
        """What is answered on this stream, until it ends or is reset; none of it when the connection ends before."""
        response = Response()
        while True:
            mine = [found for found in self.unread if found.stream == stream and found.kind in (DATA, HEADERS, RST_STREAM)]
            found = mine[0] if mine else self._next(seconds)
            if found is None:
                return response
            if mine:
                self.unread.remove(found)
            elif found.stream != stream or found.kind not in (DATA, HEADERS, RST_STREAM):
                self.unread.append(found)
                continue
            if found.kind == RST_STREAM:
                response.reset = found.code
                return response
            if found.kind == DATA:
                response.body += found.content
                response.pieces.append(len(found.content))
            elif response.fields is not None:
                response.trailers = found.fields
            elif dict(found.fields)[":status"].startswith("1"):
                response.informational.append(found.fields)
            else:
                response.fields = found.fields
            if found.end_stream:
                response.complete = True
                return response

    def get(self, path="/", *more, **how):
        return self.response(self.request(path, *more, **how))

    # --- what must follow

    def ping(self):
        """Everything that was sent before has been read by the server when this returns."""
        opaque = os.urandom(8)
        self.write(frames.ping(opaque))
        while True:
            found = self.expect(PING, ack=True)
            if found.payload == opaque:
                return

    def check_usable(self):
        """The connection is in order: nothing ended it, and a further request is answered."""
        response = self.get("/usable")
        assert response.status == 200 and response.body == b"ok" and response.complete, response
        assert self.goaway is None and not self.end

    def drained(self, seconds=PATIENCE):
        """Everything until the connection ended."""
        while self._next(seconds):
            pass
        return self.arrived

    def check_connection_error(self, *codes):
        """§5.4.1: GOAWAY with one of these codes, and the end."""
        self.drained()
        if self.flooded and self.goaway is None and self.end == "reset":
            return
        assert self.goaway is not None, f"the connection ended ({self.end}) without GOAWAY: {self.arrived[-5:]}"
        assert self.goaway.code in codes, f"{self.goaway} instead of {codes}"

    def check_stream_error(self, stream, *codes, usable=True):
        """§5.4.2: RST_STREAM with one of these codes; or the error is taken for one of the connection (§5.4.1)."""
        while True:
            found = next((found for found in self.unread if found.kind == RST_STREAM and found.stream == stream), None)
            if found:
                self.unread.remove(found)
            else:
                found = self._next(PATIENCE)
            if found is None or found.kind == GOAWAY:
                return self.check_connection_error(*codes)
            if found.kind == RST_STREAM and found.stream == stream:
                assert found.code in codes, f"{found} instead of {codes}"
                if usable:
                    self.check_usable()
                return None
            self.unread.append(found)

    def check_malformed(self, stream):
        """§8.1.1: a malformed request is a stream error PROTOCOL_ERROR; a server may answer 400 first."""
        response = self.response(stream)
        if response.status is None and response.reset is None:
            return self.check_connection_error(frames.PROTOCOL_ERROR)
        assert response.status in (None, 400), response
        assert response.complete or response.reset in (frames.PROTOCOL_ERROR, frames.NO_ERROR), response
        self.check_usable()
        return None
