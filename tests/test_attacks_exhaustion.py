"""Attacks by quantity: connections, descriptors, half requests; the honest call beside them works (docs/security.md 21, 64, 70)."""

import json
import os
import time

import pytest

import kit
from attacks_support import Canary, Origin, Sandbox, eventually

API = "api.example.test"
GET = f"GET / HTTP/1.1\r\nHost: {API}\r\nConnection: close\r\n\r\n"


@pytest.fixture
def api(authority):
    origin = Origin(authority=authority, names=[API])
    yield origin
    origin.stop()


@pytest.fixture
def start(place, authority, api):
    """A sandbox, started with these words before `postern`; ends with the test."""
    started = []

    def one(*prefix):
        key = Canary()
        postern = kit.Postern(place, authority).at(API, api.port)
        sandbox = Sandbox(postern, kit.header_rule(API), {"KEY": key}, prefix=prefix, canaries=[key])
        started.append(sandbox)
        sandbox.honest(API)
        return sandbox
    yield one
    for sandbox in started:
        sandbox.end()


def many(sandbox, count, send=(), port=443, address="203.0.113.9"):
    """Opens `count` plain connections from inside, with as many descriptors as that takes."""
    sandbox.python("import resource; resource.setrlimit(resource.RLIMIT_NOFILE, (resource.getrlimit(resource.RLIMIT_NOFILE)[1],) * 2)")
    return sandbox.do("hold", host=API, address=address, port=port, count=count, send=list(send))["opened"]


def answers_while(sandbox, seconds=5):
    started = time.monotonic()
    answer = sandbox.get(API)
    assert answer.statuses == [200], answer
    assert time.monotonic() - started < seconds  # Beside the attack, not after it; such a call takes milliseconds.


def test_five_thousand_idle_connections_leave_room_for_an_honest_call(start):
    sandbox = start()
    assert many(sandbox, 5000) == 5000
    answers_while(sandbox)
    per_connection = sandbox.resident_kilobytes() / 5000
    assert per_connection < 16, per_connection
    sandbox.do("release")
    sandbox.check_alive()
    answers_while(sandbox)
    # Each of them has its record: it was opened, said nothing, and went.
    assert eventually(lambda: sum(r["kind"] == "tls" for r in sandbox.records()) == 5000)
    sandbox.check_secrecy()


def test_with_no_descriptor_left_connections_are_refused_and_service_comes_back(start):
    sandbox = start("prlimit", "--nofile=200:200")
    sandbox.python("import subprocess; raw.child = subprocess.Popen([raw.sys.executable, '-u', raw.__file__],"
                   " stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)")

    def second(what, **order):
        line = json.dumps({"do": what, **order}) + "\n"
        return sandbox.python(f"raw.child.stdin.write({line!r}); raw.child.stdin.flush(); result = raw.json.loads(raw.child.stdout.readline())")

    # The sandbox has the same limit and keeps some descriptors to itself: a second process of it takes the rest.
    sandbox.do("hold", host=API, address="203.0.113.9", port=443, count=190, send=[])
    more = second("hold", host=API, address="203.0.113.9", port=443, count=180, send=[])
    # Whether connect() sees a refusal, or the first look at the connection does, is a matter of who is quicker.
    assert more["opened"] + more["refused"] == 180
    assert eventually(lambda: second("held")["open"] < 180, seconds=10)
    # Nobody is left in the kernel's queue: what is open has one of Postern's descriptors.
    assert eventually(lambda: sandbox.do("held")["open"] + second("held")["open"] < 200, seconds=10)
    if os.geteuid() == 0:  # It is at its limit, or this proves nothing.
        assert eventually(lambda: sandbox.descriptors() >= 195), sandbox.descriptors()
    assert sandbox.process.poll() is None
    sandbox.do("release")
    sandbox.python("raw.child.stdin.close(); result = raw.child.wait()")
    assert eventually(lambda: sandbox.get(API).statuses == [200])
    sandbox.check_alive()
    sandbox.check_secrecy()


@pytest.mark.parametrize("send, port", [(["GET / HTTP/1.1\r\nHost: x"], 80), (["\x16\x03\x01\x02\x00\x01\x00"], 443), ([f"POST / HTTP/1.1\r\nHost: {API}\r\nContent-Length: 9\r\n\r\n1"], 80)])
def test_hundreds_of_half_requests_do_not_keep_an_honest_one_waiting(start, send, port):
    sandbox = start()
    assert many(sandbox, 500, send, port) == 500
    for _ in range(5):
        answers_while(sandbox)
    sandbox.do("release")
    sandbox.check_alive()
    sandbox.check_secrecy()


def test_whoever_never_finishes_is_cut_off(start):
    """The deadlines exist on the real clock: silence, half a handshake, half a head. (Their arithmetic is in the unit tests.)"""
    sandbox = start()
    for port, send in ((443, []), (443, ["\x16\x03\x01\x02\x00\x01"]), (80, []), (80, ["GET / HTTP/1.1\r\nHost: "])):
        assert many(sandbox, 3, send, port) == 3
    records = len(sandbox.records())
    assert sandbox.do("ends", seconds=32) == {"left": 0}
    found = sandbox.fresh_records(records, 12)
    assert {r["reason"] for r in found} == {"sandbox_timeout"}, found
    sandbox.do("release")
    sandbox.check_alive()


def test_a_reader_that_reads_nothing_does_not_fill_memory(start, api):
    sandbox = start()
    size = 400 << 20
    block = b"x" * (1 << 20)

    def endless(origin, connection):
        connection.sendall(f"HTTP/1.1 200 OK\r\nContent-Length: {size}\r\n\r\n".encode())
        for _ in range(size >> 20):
            connection.sendall(block)

    api.answer = lambda request: endless if request.target == "/big" else b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
    before = sandbox.resident_kilobytes()
    assert sandbox.do("hold", host=API, port=443, tls={}, count=4, send=[GET.replace("GET /", "GET /big")])["opened"] == 4
    assert eventually(lambda: sum(request.target == "/big" for request in api.requests) == 4)
    for _ in range(20):
        answers_while(sandbox)
    assert sandbox.resident_kilobytes() - before < 20_000
    sandbox.do("release")
    sandbox.check_alive()
