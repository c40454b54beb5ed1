"""An origin that repeats what it was sent (docs/transformation.md): whatever way it says it, the program does not learn the credential.

The origin is a positive control of its own: it says the same things on a host whose rule declines to be searched, and there they arrive.
"""

import base64
import gzip
import json
import urllib.parse
import zlib

import pytest

import kit
from attacks_support import Canary, Origin

SEARCHED, TRUSTED = "api.example.test", "trusted.example.test"


def policy():
    rule = kit.header_rule(SEARCHED)["rules"][0]
    open_rule = {**rule, "name": "trusted", "match_hosts": [TRUSTED], "transform": {"response": {"scrub_secrets": False}}}
    return {"rules": [rule, open_rule]}


def body(data, *lines, status="200 OK"):
    data = data if isinstance(data, bytes) else data.encode("latin-1")
    return "\r\n".join([f"HTTP/1.1 {status}", *lines, f"Content-Length: {len(data)}", "", ""]).encode("latin-1") + data


def chunked(pieces, *lines, trailers=()):
    out = "\r\n".join(["HTTP/1.1 200 OK", *lines, "Transfer-Encoding: chunked", "", ""]).encode()
    for piece in pieces:
        out += b"%x\r\n%s\r\n" % (len(piece), piece)
    return out + b"0\r\n" + "".join(f"{line}\r\n" for line in trailers).encode("latin-1") + b"\r\n"


def every(text, size):
    data = text.encode("latin-1")
    return [data[at:at + size] for at in range(0, len(data), size)]


# What a hostile or careless origin makes of the credential that it was sent.
ECHOES = {
    "raw": lambda key: body(f"you said {key}!"),
    "in a field": lambda key: body("x", f"X-Echo: {key}", f"Set-Cookie: session={key}; Path=/", f'WWW-Authenticate: Bearer realm="{key}"'),
    "in the name of a field": lambda key: body("x", f"X-{base64.urlsafe_b64encode(key.encode()).decode().rstrip('=')}: 1"),
    "in the reason phrase": lambda key: body("x", status=f"200 {key}"),
    "in an error": lambda key: body(f"bad token {key}", status="401 Unauthorized"),
    "base64": lambda key: body("".join(base64.b64encode(b"z" * shift + key.encode()).decode() + "\n" for shift in range(3))),
    "base64url": lambda key: body("".join(base64.urlsafe_b64encode(b"z" * shift + key.encode()).decode() + "\n" for shift in range(3))),
    "percent": lambda key: body(urllib.parse.quote(key) + "\n" + urllib.parse.quote(key, safe="") + "\n" + urllib.parse.quote_plus(key)),
    "json": lambda key: body(json.dumps({"headers": {"authorization": key}})),
    "json with escaped slashes": lambda key: body(json.dumps({"said": key}).replace("/", "\\/")),
    "hexadecimal": lambda key: body(key.encode().hex()),
    "split over chunks": lambda key: chunked(every(f"key={key};", 3)),
    "a trailer": lambda key: chunked([b"x"], trailers=[f"X-Key: {key}"]),
    "an event stream": lambda key: chunked([f"data: {key}\n\n".encode()] * 3, "Content-Type: text/event-stream"),
    "gzip": lambda key: body(gzip.compress(f"gz {key}".encode()), "Content-Encoding: gzip"),
    "gzip over chunks": lambda key: chunked([gzip.compress((f"gz {key} " * 50).encode())[at:at + 5] for at in range(0, 200, 5)], "Content-Encoding: x-gzip"),
    "deflate": lambda key: body(zlib.compress(f"zl {key}".encode()), "Content-Encoding: deflate"),
    "an early hint": lambda key: f"HTTP/1.1 103 Early Hints\r\nLink: <{key}>\r\n\r\n".encode("latin-1") + body("ok"),
    "a redirect": lambda key: body("", f"Location: https://{TRUSTED}/?t={urllib.parse.quote(key)}", status="302 Found"),
}


@pytest.fixture
def origin(authority):
    started = Origin(authority=authority, names=[SEARCHED, TRUSTED])
    yield started
    started.stop()


@pytest.fixture
def ask(postern, origin):
    postern.at(SEARCHED, origin.port).at(TRUSTED, origin.port)
    return lambda key, host, *words: postern.run("curl", "-sSi", "--max-time", "20", *words, f"https://{host}/", policy=policy(), secrets={"KEY": key})


@pytest.mark.parametrize("how", ECHOES)
def test_an_echo_teaches_the_program_nothing(ask, origin, how):
    key = Canary()
    origin.answer = lambda request: ECHOES[how](request.fields["authorization"][0].removeprefix("Bearer "))
    options = ["--compressed"] if how.startswith(("gzip", "deflate")) else []
    if how in ("in the name of a field", "in the reason phrase"):
        options.append("--http1.1")  # HTTP/2 has no phrase, and names in lower case only.
    trusted = ask(key, TRUSTED, *options)
    assert key.found_in(trusted.stdout), f"the origin did not say it: {trusted.stdout!r} {trusted.stderr}"
    run = ask(key, SEARCHED, *options)
    assert run.status == 0, run.stderr
    assert run.stdout.startswith("HTTP/") and not key.found_in(run.stdout), run.stdout
    assert not key.found_in(run.log_text + run.stderr)
    assert [record["reason"] for record in run.records if record["kind"] == "http"] == ["allowed"]
    assert origin.values("authorization") == [f"Bearer {key}"] * 2


def test_what_cannot_be_searched_does_not_arrive(ask, origin):
    key = Canary()
    for answer in (body("x", "Content-Encoding: compress"), body("ca", "Content-Range: bytes 0-1/9", status="206 Partial Content")):
        origin.answer = lambda request, answer=answer: answer
        run = ask(key, SEARCHED, "--range", "0-1")
        assert " 502 " in run.stdout and "x-postern-reason: uninspectable_answer" in run.stdout.lower(), run.stdout
    assert origin.values("range") == [], "a range could cut a secret in two"


def test_a_bomb_is_not_unpacked(ask, origin):
    zeros = b"\0" * (1 << 20)
    packer = zlib.compressobj(9, wbits=31)
    bomb = b"".join(packer.compress(zeros) for _ in range(512)) + packer.flush()
    origin.answer = lambda request: body(bomb, "Content-Encoding: gzip")
    run = ask(Canary(), SEARCHED, "--output", "/dev/null")
    assert run.status != 0, "it was passed on to its end"
    record, = (record for record in run.records if record["kind"] == "http")
    assert record["decision"] == "failed" and record["response_bytes"] < 64 << 20, record
