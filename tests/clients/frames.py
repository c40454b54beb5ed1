"""A WebSocket on a call of either version (tests/clients/versions.py). The frames are python3-websockets'."""

import base64
import hashlib
import os

from websockets.connection import OPEN, Side
from websockets.connection import Connection as Frames
from websockets.frames import Opcode

UPGRADE = [("connection", "Upgrade"), ("upgrade", "websocket")]


def accept_of(key):
    return base64.b64encode(hashlib.sha1((key + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11").encode()).digest()).decode()


def ask(connection, version, path, fields=()):
    """The call that asks for a WebSocket, in this version's words (RFC 6455, RFC 8441)."""
    asked = [("sec-websocket-version", "13"), ("sec-websocket-protocol", "chat"), ("origin", "https://page.example.test"), *fields]
    if version == "h2":
        return connection.call(path, "CONNECT", asked, last=False, protocol="websocket")
    key = base64.b64encode(os.urandom(16)).decode()
    call = connection.call(path, "GET", [*UPGRADE, ("sec-websocket-key", key), *asked])
    call.expected = accept_of(key)
    return call


def open_socket(connection, version, path="/socket", fields=()):
    call = ask(connection, version, path, fields)
    status = call.head()
    assert status == {"h1": 101, "h2": 200}[version], status
    assert call.field("sec-websocket-protocol") == "chat"
    assert call.field("sec-websocket-accept") == (call.expected if version == "h1" else ""), call.fields
    assert version == "h1" or not (call.field("upgrade") or call.field("connection")), call.fields
    return Socket(call, Side.CLIENT)


def accept(call, version):
    """The origin's side of that."""
    assert call.protocol == "websocket" and call.field("sec-websocket-version") == "13", call.fields
    fields = [("sec-websocket-protocol", "chat")]
    if version == "h2":
        assert call.method == "CONNECT" and not call.field("sec-websocket-key") and not call.field("upgrade"), call.fields
        call.respond(200, fields)
    else:
        assert call.method == "GET"
        call.respond(101, [*UPGRADE, ("sec-websocket-accept", accept_of(call.field("sec-websocket-key"))), *fields])
        call.body = "tunnel"
    return Socket(call, Side.SERVER)


class Socket:
    def __init__(self, call, side):
        self.call, self.frames, self.side = call, Frames(side, state=OPEN, max_size=None), side
        self.events = []

    def _flush(self):
        for data in self.frames.data_to_send():
            if data:
                self.call.send(data)
            elif self.side is Side.SERVER:  # RFC 6455 §7.1.1: the server closes first.
                self.call.end()

    def text(self, text):
        self.frames.send_text(text.encode())
        self._flush()

    def binary(self, data):
        self.frames.send_binary(data)
        self._flush()

    def ping(self, data=b""):
        self.frames.send_ping(data)
        self._flush()

    def close(self, code=1000, reason=""):
        self.frames.send_close(code, reason)
        self._flush()

    def next(self):
        """The next message or pong; None once the other side has closed."""
        while not self.events:
            piece = self.call.read()
            if not piece:
                return None
            self.frames.receive_data(piece)
            self._flush()
            self.events += self.frames.events_received()
        frame = self.events.pop(0)
        if frame.opcode is Opcode.CLOSE:
            return None
        if frame.opcode is Opcode.PING:
            return self.next()
        assert frame.fin
        return frame.data.decode() if frame.opcode is Opcode.TEXT else bytes(frame.data)

    @property
    def close_code(self):
        return self.frames.close_rcvd and self.frames.close_rcvd.code


def echo(socket):
    """Until the client closes."""
    while (message := socket.next()) is not None:
        socket.text(message) if isinstance(message, str) else socket.binary(message)
