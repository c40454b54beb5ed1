"""An HTTP/2 origin whose every byte a test decides, and that holds the client's frames to RFC 9113."""

import re
import select
import ssl
import time

import kit
from http2 import frames, hpack
from http2.frames import CONTINUATION, DATA, GOAWAY, HEADERS, PING, PREFACE, PRIORITY, PUSH_PROMISE, RST_STREAM, SETTINGS, WINDOW_UPDATE


class Request:
    def __init__(self, peer, stream, fields):
        self.peer, self.stream, self.fields = peer, stream, fields
        self.body, self.trailers, self.complete, self.reset = b"", None, False, None

    def values(self, name):
        return [value for key, value in self.fields if key == name]

    def one(self, name):
        values = self.values(name)
        assert len(values) == 1, (name, self.fields)
        return values[0]

    @property
    def target(self):
        return self.one(":path")

    def kinds(self, name):
        """How each field of that name was written: indexed, incremental, without or never."""
        return [field.kind for field in self.fields if field[0] == name]


class Violation(Exception):
    pass


class Ended(Exception):
    pass


class Peer:
    """One connection. `script(peer, request)` of the origin answers; it runs on the connection's thread."""

    def __init__(self, origin, connection, number):
        self.origin, self.connection, self.number = origin, connection, number
        self.buffer = b""
        self.decoder = hpack.Decoder()
        self.requests, self.settings, self.last = {}, {}, 0
        self.arrived = []
        self.goaway = None
        self.ended = False
        self.window = {}  # What the client may still send.
        self.send_window = {}  # What we may still send, when a test cares (Peer.send_body).
        self.refill = True
        self.unacknowledged, self.acknowledged = 0, False
        self.later = []  # (condition, action)

    def write(self, *pieces):
        try:
            self.connection.sendall(b"".join(pieces))
        except (OSError, ssl.SSLError):
            raise Ended from None

    def head(self, stream, *fields, status="200", end=False):
        self.write(frames.headers(stream, [(":status", status), *fields], end=end))

    def respond(self, request, body=b"ok", *fields, status="200"):
        self.write(frames.headers(request.stream, [(":status", status), *fields], end=not body), frames.data(request.stream, body, end=True) if body else b"")

    def send_body(self, stream, body, end=True):
        """As the windows allow; the rest follows when they do."""
        while body:
            size = min(len(body), frames.FRAME_MAX, self._room(0), self._room(stream))
            if size <= 0:
                rest = body
                self.when(lambda: min(self._room(0), self._room(stream)) > 0, lambda: self.send_body(stream, rest, end))
                return
            for key in (0, stream):
                self.send_window[key] = self._room(key) - size
            self.write(frames.data(stream, body[:size], end=end and size == len(body)))
            body = body[size:]

    def _room(self, stream):
        return self.send_window.get(stream, self.settings.get(frames.INITIAL_WINDOW_SIZE, 65535) if stream else 65535)

    def when(self, condition, action):
        self.later.append((condition, action))

    def run(self):
        preface = self._exactly(len(PREFACE))
        if preface != PREFACE:
            raise Violation(f"§3.4: {preface}")
        self.write(frames.settings(*self.origin.settings))
        self.unacknowledged += 1
        while True:
            found = self._next()
            self.arrived.append(found)
            self._hold_to_rules(found)

    def _exactly(self, size):
        while len(self.buffer) < size:
            self._more()
        piece, self.buffer = self.buffer[:size], self.buffer[size:]
        return piece

    def _more(self):
        end = time.monotonic() + 30
        while not self.connection.pending() and not select.select([self.connection], [], [], 0.005 if self.later else 1)[0]:
            self._do_later()
            if time.monotonic() > end:
                raise Ended
        try:
            data = self.origin.read(self.connection)
        except (OSError, ssl.SSLError):
            raise Ended from None
        if not data:
            raise Ended
        self.buffer += data

    def _do_later(self):
        for entry in list(self.later):
            if entry[0]():
                self.later.remove(entry)
                entry[1]()

    def _next(self):
        while True:
            found, self.buffer = frames.take(self.buffer)
            if found:
                return found
            self._more()

    def _hold_to_rules(self, found):
        """What a client may never do (RFC 9113)."""
        def insist(condition, section):
            if not condition:
                raise Violation(f"§{section}: {found}")

        insist(len(self.arrived) > 1 or found.kind == SETTINGS and not found.ack, "3.4")
        insist(len(found.payload) <= frames.FRAME_MAX, "4.2")
        insist(found.kind <= CONTINUATION and found.kind != PUSH_PROMISE, "8.4")
        if found.kind in (SETTINGS, PING, GOAWAY):
            insist(found.stream == 0, "6")
        elif found.kind != WINDOW_UPDATE:
            insist(found.stream % 2 == 1, "5.1.1")
        if found.kind == SETTINGS:
            if found.ack:
                insist(not found.payload and self.unacknowledged > 0, "6.5.3")
                self.unacknowledged -= 1
                for key in self.window if self.unacknowledged == 0 and not self.acknowledged else ():
                    self.window[key] += self._initial(key) - 65535
                self.acknowledged = self.acknowledged or self.unacknowledged == 0
            else:
                for key, value in found.settings:
                    self.settings[key] = value
                self.write(frames.settings(ack=True))
        elif found.kind == PING and not found.ack:
            self.write(frames.ping(found.payload, ack=True))
        elif found.kind == GOAWAY:
            self.goaway = found
        elif found.kind == WINDOW_UPDATE:
            insist(found.increment > 0, "6.9")
            self.send_window[found.stream] = self._room(found.stream) + found.increment
            self._do_later()
        elif found.kind == HEADERS:
            self._take_headers(found, insist)
        elif found.kind == DATA:
            request = self.requests.get(found.stream)
            insist(request and not request.complete and request.reset is None, "5.1")
            for key in (0, found.stream):
                self.window[key] = self.window.get(key, self._initial(key)) - len(found.payload)
                insist(self.window[key] >= 0 or not found.payload, "6.9.1")
            request.body += found.content
            if self.refill and found.payload:
                self.grant(0, len(found.payload))
                if not found.end_stream:
                    self.grant(found.stream, len(found.payload))
            if found.end_stream:
                self._complete(request)
        elif found.kind == RST_STREAM:
            insist(found.stream <= self.last, "5.1")
            if found.stream in self.requests:
                self.requests[found.stream].reset = found.code
        elif found.kind == PRIORITY:
            insist(len(found.payload) == 5, "6.3")

    def _initial(self, stream):
        """§6.9.2: until our settings are acknowledged the client may not know them."""
        return 65535 if stream == 0 or self.unacknowledged else dict(self.origin.settings).get(frames.INITIAL_WINDOW_SIZE, 65535)

    def grant(self, stream, increment):
        self.window[stream] = self.window.get(stream, self._initial(stream)) + increment
        self.write(frames.window_update(stream, increment))

    def _take_headers(self, found, insist):
        fragment, complete = found.content, found.flags & frames.END_HEADERS
        while not complete:
            more = self._next()
            insist(more.kind == CONTINUATION and more.stream == found.stream, "6.10")
            fragment, complete = fragment + more.payload, more.flags & frames.END_HEADERS
        fields = self.decoder.decode(fragment)
        found.fields = fields
        names = [name for name, _ in fields]
        for name, value in fields:
            insist(re.fullmatch(r":?[!#$%&'*+.^_`|~0-9a-z-]+", name), "8.2.1")
            insist(not re.search(r"[\0\r\n]", value) and value == value.strip(" \t"), "8.2.1")
            insist(name not in ("connection", "proxy-connection", "keep-alive", "transfer-encoding", "upgrade"), "8.2.2")
            insist(name != "te" or value == "trailers", "8.2.2")
        pseudo = [name for name in names if name.startswith(":")]
        request = self.requests.get(found.stream)
        if request:
            insist(not request.complete and found.end_stream and not pseudo, "8.1")
            request.trailers = fields
            self._complete(request)
            return
        insist(found.stream > self.last, "5.1.1")
        self.last = found.stream
        insist(names[:len(pseudo)] == pseudo and len(set(pseudo)) == len(pseudo), "8.3")
        method = dict(fields).get(":method")
        insist(set(pseudo) == ({":method", ":scheme", ":authority", ":path"} if method != "CONNECT" else
                               {":method", ":scheme", ":authority", ":path", ":protocol"}), "8.3.1")
        insist(names.count("host") == 0, "8.3.1")
        request = self.requests[found.stream] = Request(self, found.stream, fields)
        self.origin.requests.append(request)
        if request.target.startswith("/early"):
            self.origin.script_of(request)(self, request)
        if found.end_stream:
            self._complete(request)

    def _complete(self, request):
        request.complete = True
        if not request.target.startswith("/early"):
            self.origin.script_of(request)(self, request)


class Http2Origin(kit.Scripted):
    """`scripts[path](peer, request)` answers when the request is complete, or for paths below /early when its head is."""

    def __init__(self, authority, names, settings=(), alpn=("h2",)):
        self.settings = list(settings)
        self.scripts, self.requests, self.violations, self.peers = {}, [], [], []
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(*map(str, authority.certificate(*names)))
        context.set_alpn_protocols(list(alpn))
        super().__init__(self._serve_one, context=context)

    def _serve_one(self, connection, number):
        peer = Peer(self, connection, number)
        self.peers.append(peer)
        if connection.selected_alpn_protocol() != "h2":
            self.violations.append(f"ALPN selected {connection.selected_alpn_protocol()}")
            return
        try:
            peer.run()
        except Ended:
            pass
        except (Violation, hpack.HpackError) as violation:
            self.violations.append(f"{type(violation).__name__}: {violation}")
        finally:
            peer.ended = True

    def script_of(self, request):
        path = request.target.split("?")[0]
        if path in self.scripts:
            return self.scripts[path]
        if path.startswith("/big/"):
            def big(peer, request):
                peer.head(request.stream)
                peer.send_body(request.stream, b"x" * int(path.split("/")[2]))
            return big
        return lambda peer, request: peer.respond(request)

    def of(self, target):
        return [request for request in self.requests if request.target == target]
