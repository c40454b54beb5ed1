"""A client whose every byte its caller decides, over TLS as the sandbox trusts it, or without."""

import json
import socket
import ssl

WAIT = 20


class Talk:
    def __init__(self, host, port=None, tls=True):
        self.connection = socket.create_connection((host, port or (443 if tls else 80)), WAIT)
        if tls:
            self.connection = ssl.create_default_context().wrap_socket(self.connection, server_hostname=host)
        self.data = b""

    def send(self, data):
        self.connection.sendall(data)
        return self

    def until(self, mark):
        """Everything through the mark."""
        while mark not in self.data:
            piece = self.connection.recv(65536)
            if not piece:
                raise EOFError(f"ended before {mark!r}, after {self.data!r}")
            self.data += piece
        found, _, self.data = self.data.partition(mark)
        return found + mark

    def head(self):
        return self.until(b"\r\n\r\n")

    def exactly(self, count):
        while len(self.data) < count:
            piece = self.connection.recv(65536)
            if not piece:
                raise EOFError(f"ended after {self.data!r}")
            self.data += piece
        found, self.data = self.data[:count], self.data[count:]
        return found

    def answer(self):
        """(head, body) of an answer with a Content-Length."""
        head = self.head()
        length = [line for line in head.split(b"\r\n") if line.lower().startswith(b"content-length:")]
        return head, self.exactly(int(length[0].split(b":")[1]) if length else 0)

    def rest(self):
        while True:
            piece = self.connection.recv(65536)
            if not piece:
                break
            self.data += piece
        found, self.data = self.data, b""
        return found

    def close(self):
        self.connection.close()


def get(host, path="/", tls=True):
    """A whole call on a connection of its own."""
    talk = Talk(host, tls=tls).send(f"GET {path} HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())
    head, body = talk.answer()
    talk.close()
    return head, body


def tell(**facts):
    """One JSON line for the test to read; bytes as Latin-1."""
    print(json.dumps({key: value.decode("latin-1") if isinstance(value, bytes) else value for key, value in facts.items()}), flush=True)
