"""An HTTP/1.1 origin that believes nothing: what reaches it is parsed by the letter of RFC 9112, and every liberty is kept as a violation.

What was one HTTP/2 request must be exactly one HTTP/1.1 request, however hard the sandbox tried to make it two.
"""

import re

import kit

TOKEN = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
TARGET = re.compile(rb"(/[\x21-\x7e]*|\*)")
VALUE = re.compile(rb"([\x21-\x7e\x80-\xff]([\t\x20-\x7e\x80-\xff]*[\x21-\x7e\x80-\xff])?)?")


class Violation(Exception):
    pass


class Request:
    def __init__(self, head):
        lines = head.split(b"\r\n")
        parts = lines[0].split(b" ")
        if len(parts) != 3 or not TOKEN.fullmatch(parts[0]) or not TARGET.fullmatch(parts[1]) or parts[2] != b"HTTP/1.1":
            raise Violation(f"request line {lines[0]}")
        self.head = head
        self.method, self.target = parts[0].decode(), parts[1].decode()
        self.fields = {}
        for name, value in map(field, lines[1:]):
            self.fields.setdefault(name, []).append(value)
        self.body, self.trailers, self.complete = b"", {}, False
        if len(self.fields.get("host", [])) != 1:
            raise Violation(f"Host is {self.fields.get('host')}")
        length, coding = self.fields.get("content-length"), self.fields.get("transfer-encoding")
        if length and (coding or len(length) != 1 or not re.fullmatch("[0-9]{1,18}", length[0])):
            raise Violation(f"Content-Length {length}, Transfer-Encoding {coding}")
        if coding and coding != ["chunked"]:
            raise Violation(f"Transfer-Encoding {coding}")
        self.length, self.chunked = int(length[0]) if length else 0, bool(coding)

    def one(self, name):
        values = self.fields.get(name, [])
        assert len(values) == 1, (name, values)
        return values[0]


def field(line):
    name, colon, value = line.partition(b":")
    if not colon or not TOKEN.fullmatch(name):
        raise Violation(f"field {line}")
    if value.startswith(b" "):
        value = value[1:]
    if not VALUE.fullmatch(value):
        raise Violation(f"field {line}")
    return name.decode().lower(), value.decode("latin-1")


class Reader:
    """What one connection brings."""

    def __init__(self, origin, connection):
        self.origin, self.connection, self.buffer = origin, connection, b""

    def more(self):
        data = self.origin.read(self.connection)
        self.buffer += data
        return bool(data)

    def line(self):
        while b"\r\n" not in self.buffer:
            if b"\n" in self.buffer:
                raise Violation(f"a bare LF in {self.buffer[:80]}")
            if not self.more():
                raise EOFError
        line, _, self.buffer = self.buffer.partition(b"\r\n")
        if b"\n" in line or b"\r" in line:
            raise Violation(f"line {line}")
        return line

    def exactly(self, size):
        while len(self.buffer) < size:
            if not self.more():
                raise EOFError
        piece, self.buffer = self.buffer[:size], self.buffer[size:]
        return piece

    def head(self):
        lines = [self.line()]
        while line := self.line():
            lines.append(line)
        return Request(b"\r\n".join(lines))

    def body(self, request):
        """Adds what comes to request.body until it is complete."""
        if not request.chunked:
            while len(request.body) < request.length:
                if not self.buffer and not self.more():
                    raise EOFError
                size = min(request.length - len(request.body), len(self.buffer))
                request.body, self.buffer = request.body + self.buffer[:size], self.buffer[size:]
        else:
            while True:
                size = self.line()
                if not re.fullmatch(rb"[0-9A-Fa-f]{1,8}", size):
                    raise Violation(f"chunk size {size}")
                if int(size, 16) == 0:
                    break
                request.body += self.exactly(int(size, 16))
                if self.exactly(2) != b"\r\n":
                    raise Violation("a chunk does not end where it should")
            while line := self.line():
                name, value = field(line)
                request.trailers.setdefault(name, []).append(value)
        request.complete = True


class StrictOrigin(kit.Scripted):
    """`answer(request)` gives bytes, a function (origin, connection, reader, request), or None: end without an answer.

    It is asked when the body is complete; for a target below /early, when the head is.
    """

    def __init__(self, answer=None, **more):
        self.requests, self.violations = [], []  # Requests are here from their head on.
        self.answer = answer or (lambda request: ok("ok"))
        self.closed = []  # The last targets of connections that Postern ended.
        super().__init__(self._script, **more)

    def _script(self, connection, number):
        reader, target = Reader(self, connection), None
        try:
            while True:
                request = reader.head()
                target = request.target
                self.requests.append(request)
                early = target.startswith("/early")
                if not early:
                    reader.body(request)
                    if reader.buffer:
                        raise Violation(f"{reader.buffer[:80]} came after the request and before its answer")
                answer = self.answer(request)
                if callable(answer):
                    answer(self, connection, reader, request)
                elif answer is None:
                    return
                else:
                    connection.sendall(answer)
                if early and not request.complete:
                    reader.body(request)
        except EOFError:
            self.closed.append(target)
        except OSError:
            self.closed.append(target)
            raise
        except Violation as violation:
            self.violations.append(str(violation))

    def of(self, target):
        return [request for request in self.requests if request.target == target]


def ok(body, *lines, status="200 OK"):
    body = body.encode("latin-1") if isinstance(body, str) else body
    return "\r\n".join([f"HTTP/1.1 {status}", *lines, f"Content-Length: {len(body)}", "", ""]).encode("latin-1") + body
