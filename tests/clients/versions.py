"""One call at a time, whatever version of HTTP carries it: the same words for a program in a sandbox and for an origin of the tests.

A call waits for what it is asked for and never sleeps. HTTP/2 is python3-h2; on HTTP/1.1 a connection carries one call after another.
"""

import collections
import os
import select
import socket
import ssl
import struct
import threading

import h2.config
import h2.connection
import h2.events
import h2.exceptions
import h2.settings

WAIT = 20
CONNECT_PROTOCOL = h2.settings.SettingCodes.ENABLE_CONNECT_PROTOCOL


class Reset(Exception):
    """The other side ended the call before its time; `code` is HTTP/2's, or None for a connection that ended."""

    def __init__(self, code=None):
        super().__init__(f"reset with {code}")
        self.code = code


class Call:
    """What both versions share: reading up to a mark."""

    def __init__(self):
        self.kept = b""
        self.trailers = []

    def until(self, mark):
        while mark not in self.kept:
            piece = self.read()
            if not piece:
                raise EOFError(f"ended before {mark!r}, after {self.kept!r}")
            self.kept += piece
        found, _, self.kept = self.kept.partition(mark)
        return found + mark

    def exactly(self, count):
        while len(self.kept) < count:
            piece = self.read()
            if not piece:
                raise EOFError(f"ended after {self.kept!r}")
            self.kept += piece
        found, self.kept = self.kept[:count], self.kept[count:]
        return found

    def rest(self):
        pieces = [self.kept]
        while piece := self.read():
            pieces.append(piece)
        self.kept = b""
        return b"".join(pieces)

    def field(self, name):
        """Of the last head: all values, joined."""
        return ", ".join(value for key, value in self.fields if key == name)

    def answer(self):
        """(status, body) once it is whole."""
        while self.head() < 200:
            pass
        return self.status, self.rest()


# ---- HTTP/2 ------------------------------------------------------------------------------------------------

class Call2(Call):
    def __init__(self, connection, number):
        super().__init__()
        self.connection, self.number = connection, number
        self.heads = collections.deque()
        self.pieces = collections.deque()
        self.ended = False
        self.reset_code = None
        self.sent = 0  # Bytes of the body.

    def _wait(self, ready):
        """Under the lock: waits for this, or for the call's end."""
        if not self.connection.changed.wait_for(lambda: ready() or self.reset_code is not None or self.connection.over, WAIT):
            raise TimeoutError("what this waits for never happened")
        if not ready():
            raise Reset(self.reset_code)

    def head(self):
        """The status of the next answer, informational ones too; its fields are in `fields`."""
        with self.connection.changed:
            self._wait(lambda: self.heads)
            fields = self.heads.popleft()
        self.status = int(dict(fields)[":status"])
        self.fields = [pair for pair in fields if not pair[0].startswith(":")]
        return self.status

    def read(self):
        """The next piece of the body, b"" at its end. Only what was read is asked for again."""
        with self.connection.changed:
            self._wait(lambda: self.pieces or self.ended)
            if not self.pieces:
                return b""
            data, size = self.pieces.popleft()
            if self.reset_code is None and not self.connection.over:
                self.connection.state.acknowledge_received_data(size, self.number)
                self.connection.flush()
            return data

    def send_head(self, fields, last=False):
        with self.connection.changed:
            self.connection.state.send_headers(self.number, fields, end_stream=last)
            self.connection.flush()

    def inform(self, status, fields=()):
        self.send_head([(":status", str(status)), *fields])

    def respond(self, status=200, fields=(), body=None):
        self.send_head([(":status", str(status)), *fields], last=body == b"")
        if body:
            self.send(body, last=True)

    def send(self, data, last=False):
        data = memoryview(data)
        while data or last:
            with self.connection.changed:
                state = self.connection.state
                if data:
                    self._wait(lambda: self.reset_code is None and state.local_flow_control_window(self.number) > 0)
                elif self.reset_code is not None or self.connection.over:
                    raise Reset(self.reset_code)
                size = min(len(data), state.local_flow_control_window(self.number), state.max_outbound_frame_size)
                final = last and size == len(data)
                state.send_data(self.number, bytes(data[:size]), end_stream=final)
                self.connection.flush()
                self.sent += size
                data = data[size:]
                if final:
                    return self
        return self

    def end(self, trailers=None):
        with self.connection.changed:
            if trailers:
                self.connection.state.send_headers(self.number, trailers, end_stream=True)
            else:
                self.connection.state.end_stream(self.number)
            self.connection.flush()

    def send_what_fits(self, data):
        """False once the other side lets nothing more be sent: its window stays shut while it answers many pings."""
        with self.connection.changed:
            state, connection = self.connection.state, self.connection
            for _ in range(50):
                if state.local_flow_control_window(self.number) > 0:
                    size = min(len(data), state.local_flow_control_window(self.number))
                    return bool(self.send(data[:size]))
                seen = connection.pongs
                state.ping(b"still up")
                connection.flush()
                self._wait(lambda: connection.pongs > seen)
            return False

    def abort(self, code=8):
        with self.connection.changed:
            self.connection.state.reset_stream(self.number, code)
            self.connection.flush()

    def how_it_ended(self):
        """Waits until the other side has broken the call off."""
        with self.connection.changed:
            if not self.connection.changed.wait_for(lambda: self.reset_code is not None or self.connection.over, WAIT):
                raise TimeoutError("the call was never broken off")
            return "connection gone" if self.reset_code is None else "reset"


class Connection2:
    """Both roles. A thread of its own reads; whoever writes does so under the same lock, for TLS objects know no threads."""

    def __init__(self, connection, serve=None, settings=None):
        self.socket, self.serve = connection, serve
        self.socket.settimeout(WAIT)
        self.changed = threading.Condition(threading.RLock())
        self.over = False
        self.pongs = 0
        self.calls = {}
        client = serve is None
        self.state = h2.connection.H2Connection(h2.config.H2Configuration(
            client_side=client, header_encoding="latin-1", validate_inbound_headers=False, validate_outbound_headers=False,
            normalize_outbound_headers=False))
        self.state.local_settings = h2.settings.Settings(client=client, initial_values=settings or {})
        with self.changed:
            self.state.initiate_connection()
            self.state.increment_flow_control_window(1 << 30)  # Streams hold back, not the connection.
            self.flush()
        self.greeted = False
        threading.Thread(target=self._receive, daemon=True).start()

    def flush(self):
        data = self.state.data_to_send()
        if data and not self.over:
            self.socket.sendall(data)

    def _receive(self):
        try:
            while True:
                if not self.socket.pending():
                    select.select([self.socket], [], [])
                with self.changed:
                    self.socket.setblocking(False)
                    try:
                        data = self.socket.recv(65536)
                    except ssl.SSLWantReadError:
                        continue
                    finally:
                        self.socket.settimeout(WAIT)
                    if not data:
                        return
                    for event in self.state.receive_data(data):
                        self._take(event)
                    self.flush()
                    self.changed.notify_all()
        except (OSError, ValueError, h2.exceptions.ProtocolError) as error:
            self.error = error
        finally:
            with self.changed:
                self.over = True
                self.changed.notify_all()

    def _take(self, event):
        if isinstance(event, h2.events.RemoteSettingsChanged):
            self.greeted = True
        if isinstance(event, h2.events.PingAckReceived):
            self.pongs += 1
        call = self.calls.get(getattr(event, "stream_id", None))
        if isinstance(event, h2.events.RequestReceived):
            call = self.calls[event.stream_id] = Call2(self, event.stream_id)
            pseudo = dict(pair for pair in event.headers if pair[0].startswith(":"))
            call.method, call.path, call.authority = pseudo[":method"], pseudo.get(":path"), pseudo.get(":authority")
            call.protocol = pseudo.get(":protocol")
            call.fields = [pair for pair in event.headers if not pair[0].startswith(":")]
            threading.Thread(target=self.serve, args=(call,), daemon=True).start()
        elif call is None:
            return
        elif isinstance(event, (h2.events.ResponseReceived, h2.events.InformationalResponseReceived)):
            call.heads.append(event.headers)
        elif isinstance(event, h2.events.TrailersReceived):
            call.trailers = event.headers
        elif isinstance(event, h2.events.DataReceived):
            if event.data:
                call.pieces.append((event.data, event.flow_controlled_length))
        elif isinstance(event, h2.events.StreamEnded):
            call.ended = True
        elif isinstance(event, h2.events.StreamReset):
            call.reset_code = event.error_code

    def call(self, path="/", method="GET", fields=(), last=None, authority=None, protocol=None):
        with self.changed:
            if not self.changed.wait_for(lambda: self.greeted or self.over, WAIT) or self.over:
                raise Reset()
            number = self.state.get_next_available_stream_id()
            call = self.calls[number] = Call2(self, number)
            pseudo = [(":method", method), (":scheme", "https"), (":authority", authority or self.host), (":path", path)]
            if protocol:
                pseudo.append((":protocol", protocol))
            call.send_head([*pseudo, *fields], last=method == "GET" if last is None else last)
            return call

    def close(self):
        with self.changed:
            self.over = True
            self.socket.shutdown(socket.SHUT_RDWR)


# ---- HTTP/1.1 ----------------------------------------------------------------------------------------------

class Call1(Call):
    def __init__(self, connection):
        super().__init__()
        self.connection = connection
        self.body = None  # Of what is received: None, "chunked", "close", "tunnel", or a count.
        self.chunked_out = False

    def _lines(self):
        lines = self.connection.until(b"\r\n\r\n" if not self.in_trailers else b"\r\n").decode("latin-1").split("\r\n")
        return [line for line in lines if line]

    in_trailers = False

    def take_head(self, request):
        first, *lines = self._lines()
        self.fields = [(name.lower(), value.strip()) for name, _, value in (line.partition(":") for line in lines)]
        if "chunked" in self.field("transfer-encoding"):
            self.body = "chunked"
        elif length := self.field("content-length"):
            self.body = int(length)
        else:
            self.body = 0 if request else "close"
        return first.split(" ")

    def head(self):
        self.status = int(self.take_head(False)[1])
        if self.status == 101:
            self.body = "tunnel"
        return self.status

    def read(self):
        try:
            if self.body == "chunked":
                size = int(self.connection.until(b"\r\n").split(b";")[0], 16)
                if size:
                    data = self.connection.exactly(size)
                    self.connection.exactly(2)
                    return data
                self.in_trailers, self.body = True, 0
                while line := self._lines():
                    name, _, value = line[0].partition(":")
                    self.trailers.append((name.lower(), value.strip()))
                return b""
            if self.body in ("close", "tunnel"):
                return self.connection.some()
            if self.body:
                data = self.connection.some(self.body)
                if not data:
                    raise EOFError
                self.body -= len(data)
                return data
            return b""
        except (EOFError, ConnectionError):
            raise Reset() from None

    def _write(self, data):
        self.connection.socket.sendall(data)

    def send_head(self, first, fields):
        self._write("\r\n".join([first, *(f"{name}: {value}" for name, value in fields), "", ""]).encode("latin-1"))

    def inform(self, status, fields=()):
        self.send_head(f"HTTP/1.1 {status} Information", fields)

    def respond(self, status=200, fields=(), body=None):
        self.chunked_out = body is None and status != 101
        framing = [("Transfer-Encoding", "chunked")] if self.chunked_out else [] if status == 101 else [("Content-Length", len(body))]
        self.send_head(f"HTTP/1.1 {status} Answer", [*fields, *framing])
        if body:
            self._write(body)

    def send(self, data, last=False):
        self._write(b"%x\r\n%s\r\n" % (len(data), data) if self.chunked_out else data)
        if last:
            self.end()
        return self

    def end(self, trailers=None):
        if self.chunked_out:
            self._write(b"0\r\n" + "".join(f"{name}: {value}\r\n" for name, value in trailers or ()).encode() + b"\r\n")
        elif self.body == "tunnel":
            try:
                self.connection.socket.unwrap()
            except OSError:
                pass  # The other side may just be gone.

    def abort(self):
        """A reset of the connection."""
        self.connection.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.connection.socket.close()

    def how_it_ended(self):
        # Below TLS: Python's shows a reset as an end.
        with socket.socket(fileno=os.dup(self.connection.socket.fileno())) as raw:
            raw.settimeout(WAIT)
            try:
                while raw.recv(65536):
                    pass
                return "connection gone"
            except ConnectionResetError:
                return "reset"


class Connection1:
    def __init__(self, connection):
        self.socket = connection
        self.socket.settimeout(WAIT)
        self.data = b""

    def some(self, most=65536):
        if not self.data:
            return self.socket.recv(most)
        found, self.data = self.data[:most], self.data[most:]
        return found

    def until(self, mark):
        while mark not in self.data:
            piece = self.socket.recv(65536)
            if not piece:
                raise EOFError(f"ended before {mark!r}, after {self.data!r}")
            self.data += piece
        found, _, self.data = self.data.partition(mark)
        return found + mark

    def exactly(self, count):
        while len(self.data) < count:
            piece = self.socket.recv(65536)
            if not piece:
                raise EOFError
            self.data += piece
        found, self.data = self.data[:count], self.data[count:]
        return found

    def call(self, path="/", method="GET", fields=(), last=None, authority=None, protocol=None):
        call = Call1(self)
        framed = any(name.lower() in ("content-length", "upgrade") for name, _ in fields)
        call.chunked_out = not framed and method != "GET" and not last
        chunked = [("Transfer-Encoding", "chunked")] if call.chunked_out else []
        call.send_head(f"{method} {path} HTTP/1.1", [("Host", authority or self.host), *fields, *chunked])
        return call

    def close(self):
        self.socket.shutdown(socket.SHUT_RDWR)
        self.socket.close()


def connect(host, version):
    """A connection of the sandbox's that speaks this version: "h1" or "h2"."""
    context = ssl.create_default_context()
    alpn = {"h1": "http/1.1", "h2": "h2"}[version]
    context.set_alpn_protocols([alpn])
    connection = socket.create_connection((host, 443), WAIT)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    connection = context.wrap_socket(connection, server_hostname=host)
    assert connection.selected_alpn_protocol() == alpn, connection.selected_alpn_protocol()
    speaking = Connection2(connection) if version == "h2" else Connection1(connection)
    speaking.host = host
    return speaking


def get(host, path):
    """A whole call on a connection of its own."""
    connection = connect(host, "h1")
    status, body = connection.call(path).answer()
    connection.close()
    return status, body


class Origin:
    """Serves each call by `script(call)` in a thread. Failures are kept in `errors`; `calls` in the order of their arrival."""

    def __init__(self, script, certificate, alpn, settings=None):
        self.script, self.alpn, self.settings = script, alpn, settings
        self.errors, self.calls, self.versions = [], [], []
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.context.load_cert_chain(*map(str, certificate))
        self.context.set_alpn_protocols(alpn)
        self.listener = socket.create_server(("127.0.0.1", 0), backlog=128)
        self.port = self.listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self):
        while True:
            try:
                connection, _ = self.listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _run(self, call):
        self.calls.append(call)
        try:
            self.script(call)
        except Exception as error:  # A test looks at them.
            self.errors.append(error)

    def _offers_http2(self, connection):
        """Looks at the ClientHello without taking it. Python's TLS goes on where nothing offered is spoken; servers of HTTP/2 alone do not."""
        hello = b""
        while len(hello) < 5 or len(hello) < 5 + int.from_bytes(hello[3:5], "big"):
            before = len(hello)
            hello = connection.recv(20000, socket.MSG_PEEK)
            if len(hello) == before:
                return True  # It ended; the handshake will say so.
        if b"\x02h2" in hello:
            return True
        connection.sendall(b"\x15\x03\x03\x00\x02\x02\x78")  # Alert: no_application_protocol.
        return False

    def _serve(self, connection):
        try:
            connection.settimeout(WAIT)
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if "http/1.1" not in self.alpn and not self._offers_http2(connection):
                return connection.shutdown(socket.SHUT_RDWR)
            connection = self.context.wrap_socket(connection, server_side=True)
        except OSError as error:
            return self.errors.append(error)
        version = connection.selected_alpn_protocol()
        self.versions.append(version)
        if version == "h2":
            return Connection2(connection, self._run, self.settings)
        speaking = Connection1(connection)
        try:
            while True:
                call = Call1(speaking)
                call.method, call.path, _ = call.take_head(True)
                call.protocol = call.field("upgrade")
                self._run(call)
                if call.body == "tunnel":
                    return
        except (EOFError, OSError):
            pass
        finally:
            connection.close()

    def stop(self):
        try:
            self.listener.shutdown(socket.SHUT_RDWR)  # As kit.end_listener(), which is not there in a sandbox.
        except OSError:
            pass
        self.listener.close()
