"""What the tests of attacks share: canaries in every encoding, a sandbox that does as it is told, origins that keep what they get.

The oracle of every attack: a canary turns up only at the origin that it is bound to, exactly one record is written, the same Postern
is still there with as many descriptors as before, and an honest call works in the same run.
"""

import base64
import json
import os
import pathlib
import secrets
import subprocess
import threading
import time
import urllib.parse

import kit

PYTHON = "/usr/bin/python3"
RAW = kit.ROOT / "tests/attacks/raw.py"
DESCRIPTORS_OF_A_LOOP = 5  # epoll, its alarm, a spare one for each listener, the memory meter
WAIT = 20  # Seconds for what takes milliseconds.


def eventually(condition, seconds=WAIT):
    """Polls: the other side is another process. Returns the last value."""
    end = time.monotonic() + seconds
    while True:
        value = condition()
        if value or time.monotonic() > end:
            return value
        time.sleep(0.01)


class Canary:
    """A secret that cannot be anywhere by chance, and that every encoding changes."""

    def __init__(self):
        self.value = f'ca/{secrets.token_hex(9)}+n"{secrets.token_hex(9)}=='

    def __str__(self):
        return self.value

    def encodings(self):
        raw = self.value.encode()
        forms = {raw, raw.hex().encode(), raw.hex().upper().encode(), json.dumps(self.value)[1:-1].encode(),
                 urllib.parse.quote(raw, safe="").encode(), "".join(f"%{byte:02x}" for byte in raw).encode(),
                 "".join(f"%{byte:02X}" for byte in raw).encode(), "".join(f"\\u{byte:04x}" for byte in raw).encode(),
                 raw.replace(b"/", b"\\/").replace(b'"', b'\\"'), raw[::-1]}
        for shift in range(3):
            # The characters that depend on the secret alone, wherever it lies in what was encoded.
            whole = base64.b64encode(b"x" * shift + raw)
            stable = whole[-(-shift * 8 // 6):(shift + len(raw)) * 8 // 6]
            forms |= {stable, stable.replace(b"+", b"-").replace(b"/", b"_")}
        # Each half alone, too.
        return forms | {part.encode() for part in (self.value[3:21], self.value[23:41])}

    def found_in(self, data):
        data = data if isinstance(data, bytes) else data.encode("utf-8", "surrogateescape")
        return [form for form in self.encodings() if form in data]


class Origin(kit.Scripted):
    """Reads whole requests off each connection and keeps them; `answer(request) -> bytes` says what to send, None: end."""

    def __init__(self, answer=None, **more):
        self.requests = []
        self.answer = answer or (lambda request: b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
        super().__init__(self._script, **more)

    def _script(self, connection, number):
        buffered = b""
        while True:
            while b"\r\n\r\n" not in buffered:
                data = self.read(connection)
                if not data:
                    return
                buffered += data
            head, _, buffered = buffered.partition(b"\r\n\r\n")
            request = Request(head)
            if "content-length" in request.fields:
                while len(buffered) < int(request.fields["content-length"][0]):
                    data = self.read(connection)
                    if not data:
                        return
                    buffered += data
                size = int(request.fields["content-length"][0])
                request.body, buffered = buffered[:size], buffered[size:]
            elif "transfer-encoding" in request.fields:
                while not (buffered.startswith(b"0\r\n") or b"\r\n0\r\n" in buffered) or not buffered.endswith(b"\r\n\r\n"):
                    data = self.read(connection)
                    if not data:
                        return
                    buffered += data
                request.body, buffered = buffered, b""
            self.requests.append(request)
            answer = self.answer(request)
            if answer is None:
                return
            if callable(answer):
                answer(self, connection)
                return
            connection.sendall(answer)

    def values(self, name):
        """Every value of this field in any request."""
        return [value for request in self.requests for value in request.fields.get(name, [])]


class Request:
    def __init__(self, head):
        self.head = head
        lines = head.decode("latin-1").split("\r\n")
        self.method, self.target, self.version = lines[0].split(" ")
        self.names = [line.split(":", 1)[0] for line in lines[1:]]
        self.fields = {}
        self.body = b""
        for line in lines[1:]:
            name, _, value = line.partition(":")
            self.fields.setdefault(name.lower(), []).append(value.strip(" "))


def answer_with(status, body="", *lines):
    return "\r\n".join([f"HTTP/1.1 {status}", *lines, f"Content-Length: {len(body)}", "", body]).encode("latin-1")


class Answer:
    """What the sandbox got back."""

    def __init__(self, reply):
        self.end = reply["end"]
        self.bytes = reply["received"].encode("latin-1")
        self.text = reply["received"]

    @property
    def statuses(self):
        return [int(part[:3]) for part in self.text.split("HTTP/1.1 ")[1:]]

    @property
    def reason(self):
        for line in self.text.split("\r\n"):
            if line.lower().startswith("x-postern-reason: "):
                return line.split(": ")[1]
        return None

    def __repr__(self):
        return f"{self.end}: {self.text!r}"


class Sandbox:
    """A `postern run` of tests/attacks/raw.py that lives as long as the test says."""

    def __init__(self, postern, policy, keys, options=(), env=None, prefix=(), canaries=()):
        words, self.log = postern.arguments(PYTHON, "-u", str(RAW), policy=policy, secrets=keys, options=options)
        self.canaries = [*canaries]
        self.process = subprocess.Popen([*prefix, *words], cwd=postern.work, env=postern.environment(env), stdin=subprocess.PIPE,
                                        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        self.heard = []
        self.stderr = []
        self.work = postern.work
        self.lock = threading.Lock()
        # An unread pipe would stop whoever writes into it.
        threading.Thread(target=lambda: self.stderr.extend(self.process.stderr), daemon=True).start()
        self.do("run", code="result = 1")
        self.pid = self.process.pid
        self.descriptors_at_start, self.loops_at_start = self.descriptors(), self.loops()

    def do(self, what, **order):
        with self.lock:
            self.process.stdin.write(json.dumps({"do": what, **order}) + "\n")
            self.process.stdin.flush()
            line = self.process.stdout.readline()
        self.heard.append(line)
        assert line, f"the sandbox ended with {self.process.wait()}: {''.join(self.stderr)}"
        reply = json.loads(line)
        assert "broken" not in reply, reply["broken"]
        return reply

    def hear(self, text):
        """What a test made of bytes that the sandbox got: it is searched for canaries as they are."""
        self.heard.append(json.dumps({"received": text}))

    def python(self, code):
        return self.do("run", code=code)["result"]

    def talk(self, host, *send, port=443, tls=True, **more):
        pieces = [piece if isinstance(piece, str) else piece.decode("latin-1") for piece in send]
        settings = (tls if isinstance(tls, dict) else {}) if tls else None
        return Answer(self.do("talk", host=host, port=port, tls=settings, send=pieces, **more))

    def get(self, host, path="/", *lines, **more):
        return self.talk(host, "\r\n".join([f"GET {path} HTTP/1.1", f"Host: {host}", "Connection: close", *lines, "", ""]), **more)

    def honest(self, host):
        """A call that must work; when its record is there, so are those of everything before it."""
        path = "/honest-" + secrets.token_hex(6)
        answer = self.get(host, path)
        assert answer.statuses == [200], answer
        assert eventually(lambda: any(record.get("path") == path for record in self.records()))

    def records(self):
        return [json.loads(line) for line in self.log.read_text().rpartition("\n")[0].splitlines()]  # Whole lines.

    def fresh_records(self, since, count=1):
        """Exactly `count` records came after the first `since`; another would show while an honest call is made."""
        eventually(lambda: len(self.records()) >= since + count)
        found = self.records()[since:]
        assert len(found) == count, found
        return found

    def descriptors(self):
        return len(os.listdir(f"/proc/{self.process.pid}/fd")) if os.geteuid() == 0 else 0

    def loops(self):
        """How many run; those beyond the first start when there is work for them."""
        count = 0
        for entry in pathlib.Path(f"/proc/{self.process.pid}/fd").iterdir() if os.geteuid() == 0 else ():
            try:
                count += "[eventpoll]" in os.readlink(entry)
            except FileNotFoundError:  # Closed since.
                pass
        return count

    def resident_kilobytes(self):
        for line in pathlib.Path(f"/proc/{self.process.pid}/status").read_text().splitlines():
            if line.startswith("VmRSS:"):
                return int(line.split()[1])
        raise AssertionError("no VmRSS")

    def check_alive(self, slack=2):
        """The same process, with the descriptors that it had; `slack`: connections to origins that wait for more work."""
        assert self.process.poll() is None, "".join(self.stderr)
        def at_most():
            return self.descriptors_at_start + slack + DESCRIPTORS_OF_A_LOOP * (self.loops() - self.loops_at_start)
        assert eventually(lambda: self.descriptors() <= at_most()), (self.descriptors(), at_most())

    def check_secrecy(self):
        """No canary in what the sandbox got, can read, or what was logged."""
        seen = "".join(self.heard) + "".join(self.stderr) + self.log.read_text()
        for canary in self.canaries:
            assert not canary.found_in(seen), seen
            # Answers travel as JSON, which might hide one form of it.
            for line in self.heard:
                assert not canary.found_in(json.loads(line).get("received", "") or "")
            places = self.do("search", reversed=[form.decode("latin-1")[::-1] for form in canary.encodings()],
                             tops=["/tmp", "/run", "/var/tmp", "/dev/shm", str(self.work), "/etc"])
            assert places["found"] == []

    def end(self):
        if self.process.poll() is None:
            self.process.stdin.close()
            try:
                self.process.wait(WAIT)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        return self.process.returncode
