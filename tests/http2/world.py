"""One sandbox and its origins for a whole file of HTTP/2 tests.

POSTERN_H2_REFERENCE=nghttpx holds another server to the same tests, where they ask for nothing that only Postern does: a way to find out
whether a test or Postern is wrong.
"""

import os
import shutil
import subprocess
import sys
import threading

import kit
from attacks_support import Canary, Sandbox, eventually
from http2.client import Client
from http2.strict_origin import StrictOrigin, ok

API, OTHER, PLAIN, EVIL = "api.example.test", "other.example.test", "plain.example.test", "evil.example.test"
REFERENCE = os.environ.get("POSTERN_H2_REFERENCE")


class World:
    def __init__(self, place, authority, options=()):
        self.place, self.authority = place, authority
        self.key, self.other_key = Canary(), Canary()
        self.answers = {}  # What the origin says, by path; a test may add some.
        self.gate = threading.Event()  # Answers to /hold wait for it.
        self.clients = []
        self.api = StrictOrigin(self._answer, **({} if REFERENCE else {"authority": authority, "names": [API]}))
        self.other = StrictOrigin(authority=authority, names=[OTHER])
        self.plain = StrictOrigin(authority=authority, names=[PLAIN])
        self.evil = StrictOrigin(authority=authority, names=[EVIL])
        if REFERENCE:
            return self._start_reference()
        postern = kit.Postern(place, authority)
        postern.at(API, self.api.port).at(OTHER, self.other.port).at(PLAIN, self.plain.port).at(EVIL, self.evil.port)
        policy = {"access_control": {"allow_list": [API, OTHER, PLAIN]}, "rules": [
            {"name": "closed", "match_hosts": [API], "match_paths": ["/admin", "/admin/*"], "action": "deny"},
            {"name": "api", "match_hosts": [API], "headers": [
                {"name": "Authorization", "type": "workspace_secret", "value": "Bearer {KEY}"},
                {"name": "X-Api-Key", "type": "workspace_secret", "value": "{KEY}"}]},
            {"name": "other", "match_hosts": [OTHER], "headers": [
                {"name": "Authorization", "type": "workspace_secret", "value": "Bearer {OTHER}"}]}]}
        self.sandbox = Sandbox(postern, policy, {"KEY": self.key, "OTHER": self.other_key}, options=options,
                               canaries=[self.key, self.other_key])
        self.do = self.sandbox.do

    def _start_reference(self):
        sys.path.append(str(kit.ROOT / "tests/attacks"))
        import raw
        certificate, key = self.authority.certificate(API)
        port = kit.free_port()
        self.process = subprocess.Popen([REFERENCE, f"-f127.0.0.1,{port}", f"-b127.0.0.1,{self.api.port}", "--no-ocsp", "--errorlog-file=/dev/null",
                                         "--frontend-http2-max-concurrent-streams=128", str(key), str(certificate)])
        kit.wait_for_port(port, self.process)

        def do(what, **order):
            if what == "dial":
                order.update(address="127.0.0.1", port=port, tls={**(order["tls"] or {}), "check": False})
            return getattr(raw, what)(order)
        self.do = do

    def _answer(self, request):
        path = request.target.split("?")[0]
        if path in self.answers:
            answer = self.answers[path]
            return answer(request) if getattr(answer, "of_request", False) else answer
        if path.startswith("/hold"):
            return lambda origin, connection, reader, request: (self.gate.wait(20), connection.sendall(ok("held")))
        if path.startswith("/big/"):
            return ok(b"x" * int(path.split("/")[2]))
        return ok("ok")

    def client(self, **more):
        """A connection to API, unless told otherwise, from inside the sandbox."""
        client = Client(self.do, more.pop("host", API), hear=self._hear, **more)
        self.clients.append(client)
        return client

    def _hear(self, text):
        if not REFERENCE:
            self.sandbox.hear(text)

    def between_tests(self):
        """What holds after every test."""
        self.gate.set()
        for client in self.clients:
            client.hang_up()
        self.clients.clear()
        self.gate = threading.Event()
        self.api.requests.clear()
        assert self.api.violations == [], self.api.violations
        if REFERENCE:
            return
        assert self.sandbox.process.poll() is None, "".join(self.sandbox.stderr)
        assert self.evil.connections == 0

    def honest(self):
        """A call that works, over HTTP/2, with its credential."""
        client = self.client()
        client.check_usable()
        if not REFERENCE:
            assert client.alpn == "h2"
            assert self.api.requests[-1].one("authorization") == f"Bearer {self.key}"

    def end(self):
        if REFERENCE:
            self.process.terminate()
            self.process.wait()
        else:
            self.sandbox.end()
        for origin in (self.api, self.other, self.plain, self.evil):
            origin.stop()
        shutil.rmtree(self.place, ignore_errors=True)

    def check_end(self):
        """What holds when a file has done all it could."""
        self.honest()
        if REFERENCE:
            return
        self.sandbox.honest(API)
        self.between_tests()
        self.sandbox.check_alive(slack=40)
        self.sandbox.check_secrecy()
        for origin in (self.other, self.plain, self.evil):
            assert not self.key.found_in(origin.everything())
        for origin in (self.api, self.plain, self.evil):
            assert not self.other_key.found_in(origin.everything())


def of_request(function):
    """Marks an answer that depends on the request."""
    function.of_request = True
    return function


__all__ = ["API", "EVIL", "OTHER", "PLAIN", "REFERENCE", "World", "eventually", "of_request"]
