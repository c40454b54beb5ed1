"""What a rule makes of requests on their way out (docs/transformation.md): redacted, blocked, held to conditions, over both versions of HTTP."""

import gzip
import json
import random
import re

import pytest

import kit
from attacks_support import Origin, answer_with

HOST = "api.example.test"
JSON = "Content-Type: application/json"
TEXT = "Content-Type: text/plain"


def rule(*steps, **more):
    return {"rules": [{"name": "r", "match_hosts": [HOST], "transform": {"request": [*steps]}, **more}]}


@pytest.fixture
def origin(authority):
    started = Origin(authority=authority, names=[HOST])
    yield started
    started.stop()


@pytest.fixture
def ask(postern, origin):
    """curl from a sandbox under these steps; `body` from a file."""
    postern.at(HOST, origin.port)

    def ask(policy, *words, body=None, path="/"):
        if body is not None:
            (postern.work / "body").write_bytes(body if isinstance(body, bytes) else body.encode())
            words = ("--data-binary", f"@{postern.work / 'body'}", *words)
        return postern.run("curl", "-sSi", "--max-time", "30", *words, f"https://{HOST}{path}", policy=policy)

    return ask


def refused(run):
    """Status and reason that the program read."""
    return int(re.findall(r"^HTTP/\S+ (\d+)", run.stdout, re.M)[-1]), re.search(r"x-postern-reason: (\w+)", run.stdout, re.I)[1]


def exchange(run):
    record, = (record for record in run.records if record["kind"] == "http")
    return record


@pytest.mark.parametrize("version", ["--http1.1", "--http2"])
def test_personal_data_stays_here(ask, origin, version):
    policy = rule({"redact": ["email", {"pattern": "ACME-[0-9]{6}", "replace": "[ticket]"}]})
    run = ask(policy, version, "-H", JSON, "-H", "X-From: jane@example.com", path="/v1?who=jane%40example.com&page=2",
              body=json.dumps({"text": "joe@example.org about ACME-123456", "n": 1}))
    assert "200" in run.stdout.splitlines()[0], run.stdout + run.stderr
    request, = origin.requests
    assert request.target == "/v1?who=%5Bemail%5D&page=2" and request.fields["x-from"] == ["[email]"]
    assert json.loads(request.body) == {"text": "[email] about [ticket]", "n": 1}
    assert request.fields["content-length"] == [str(len(request.body))], "it is short: its length is known"
    assert {one["detector"]: one["count"] for one in exchange(run)["redactions"]} == {"email": 3, "pattern": 1}
    assert "jane" not in run.log_text and "joe@" not in run.log_text


def test_a_long_body_streams_and_nothing_else_of_it_changes(ask, origin):
    chance = random.Random(6)
    words = ["".join(chance.choices("abcdefghijklm nopqrstuvwxyz\n{}\":,", k=chance.randrange(1, 900))) for _ in range(6000)]
    body = " \njane@example.com \n".join(words)
    run = ask(rule({"redact": ["email"]}), "-H", TEXT, body=body)
    assert "200" in run.stdout, run.stdout[:300] + run.stderr
    request, = origin.requests
    assert "transfer-encoding" in request.fields and "content-length" not in request.fields
    assert unchunked(request.body).decode() == body.replace("jane@example.com", "[email]")
    assert exchange(run)["redactions"] == [{"detector": "email", "count": len(words) - 1}]


def unchunked(data):
    out = b""
    while True:
        size, _, data = data.partition(b"\r\n")
        if int(size, 16) == 0:
            return out
        out, data = out + data[:int(size, 16)], data[int(size, 16) + 2:]


@pytest.mark.parametrize("version", ["--http1.1", "--http2"])
@pytest.mark.parametrize("size", [0, 3 << 20])
def test_what_is_blocked_never_arrives(ask, origin, version, size):
    key = "AKIAIOSFODNN7EXAMPLE"
    run = ask(rule({"block": ["aws_access_key"]}), version, "-H", TEXT, body="x " * (size // 2) + f" {key} and more")
    assert refused(run) == (403, "content_blocked"), run.stdout
    assert "aws_access_key" in run.stdout and key not in run.stdout
    assert origin.requests == [], "the origin took a part for the whole"
    assert exchange(run)["reason"] == "content_blocked" and key not in run.log_text
    if size == 0:
        assert origin.connections == 0, "a short body is read before anybody is asked"


def test_a_field_or_a_query_is_blocked_too(ask, origin):
    policy = rule({"block": ["email"]})
    for words, path in ((["-H", "X-A: jane@example.com"], "/"), ([], "/?a=jane%40example.com"), (["-H", "Cookie: a=b; c=jane@example.com"], "/")):
        run = ask(policy, *words, path=path)
        assert refused(run) == (403, "content_blocked"), (words, path)
    assert "200" in ask(policy, path="/jane").stdout and len(origin.requests) == 1


def test_what_is_required(ask, origin):
    schema = {"type": "object", "required": ["model"], "properties": {"model": {"enum": ["small"]}, "n": {"maximum": 4}}}
    policy = rule({"require": {"max_body_bytes": 100, "content_types": ["application/json"], "json_schema": schema}})
    good = json.dumps({"model": "small", "n": 4})
    assert "200" in ask(policy, "-H", JSON, body=good).stdout
    assert origin.requests[0].body.decode() == good
    for words, body, expected, said in (
            (["-H", JSON], "x" * 101, (413, "body_too_large"), "100 bytes"),
            (["-H", JSON, "-H", "Transfer-Encoding: chunked"], "x" * 101, (413, "body_too_large"), "100 bytes"),
            (["-H", TEXT], good, (415, "unsupported_content"), "application/json"),
            (["-H", JSON], '{"model": "large"}', (422, "schema_violation"), "at /model"),
            (["-H", JSON], '{"model": "small", "model": "large"}', (422, "schema_violation"), "twice"),
            (["-H", JSON], "{", (422, "schema_violation"), "")):
        run = ask(policy, *words, body=body)
        assert refused(run) == expected and said in run.stdout, run.stdout
        assert "large" not in run.stdout.split("\n\n")[-1].replace("too_large", "").replace("too large", ""), "no word of the body is repeated"
    assert len(origin.requests) == 1


def test_a_compressed_body_is_looked_into_or_refused(ask, origin):
    packed = gzip.compress(b"to jane@example.com and on")
    run = ask(rule({"redact": ["email"]}), "-H", TEXT, "-H", "Content-Encoding: gzip", body=packed)
    assert "200" in run.stdout
    assert origin.requests[0].body == b"to [email] and on" and "content-encoding" not in origin.requests[0].fields
    run = ask(rule({"redact": ["email"]}), "-H", TEXT, "-H", "Content-Encoding: lzma", body=packed)
    assert refused(run) == (415, "unsupported_content")
    bomb = gzip.compress(b"\0" * (64 << 20), 9)
    run = ask(rule({"block": ["email"]}), "-H", TEXT, "-H", "Content-Encoding: gzip", body=bomb)
    assert refused(run)[1] == "body_too_large", "64 MiB out of 64 KiB"
    assert len(origin.requests) == 1


def test_a_signature_of_the_programs_own_is_not_broken(ask, origin):
    signed = ["-H", "Authorization: AWS4-HMAC-SHA256 Credential=AKIDEXAMPLE/20260101/x/y/aws4_request, SignedHeaders=host, Signature=ab", "-H", TEXT]
    policy = rule({"redact": ["email"]})
    assert "200" in ask(policy, *signed, body="nothing to be found").stdout
    assert origin.requests[0].body == b"nothing to be found"
    assert refused(ask(policy, *signed, body="to jane@example.com")) == (403, "content_blocked")
    assert refused(ask(policy, *signed, "-H", "X-A: jane@example.com")) == (403, "content_blocked")
    assert len(origin.requests) == 1


def test_no_way_around_by_another_protocol_or_a_trailer(postern, authority, ask, origin):
    policy = rule({"block": ["email"]})
    upgrade = ["--http1.1", "-H", "Connection: Upgrade", "-H", "Upgrade: websocket", "-H", "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==", "-H", "Sec-WebSocket-Version: 13"]
    assert refused(ask(policy, *upgrade)) == (415, "unsupported_content")
    assert origin.requests == []
    code = f"""
import socket, ssl
context = ssl.create_default_context()
with context.wrap_socket(socket.create_connection(("{HOST}", 443)), server_hostname="{HOST}") as tls:
    tls.sendall(b"POST / HTTP/1.1\\r\\nHost: {HOST}\\r\\nContent-Type: text/plain\\r\\nTransfer-Encoding: chunked\\r\\n"
                b"Connection: close\\r\\n\\r\\n2\\r\\nok\\r\\n0\\r\\nX-Mail: jane@example.com\\r\\nX-Sum: fine\\r\\n\\r\\n")
    print(tls.recv(1000).decode())
"""
    run = postern.run("/usr/bin/python3", "-c", code, policy=policy)
    assert "200 OK" in run.stdout, run.stdout + run.stderr
    request, = origin.requests
    assert b"jane" not in request.body and "x-mail" not in request.fields


def test_the_rules_own_credential_is_not_looked_at(postern, origin):
    # Detectors are for what the program sends: its placeholder is replaced, and what replaces it is ours.
    policy = kit.header_rule(HOST)
    policy["rules"][0]["transform"] = {"request": [{"block": ["github_token"]}]}
    postern.at(HOST, origin.port)
    token = "ghp_" + "a1B2c3D4e5" * 3 + "f6G7h8"
    run = postern.run("curl", "-sSi", "-H", f"Authorization: Bearer {token}", f"https://{HOST}/", policy=policy, secrets={"KEY": token})
    assert "200" in run.stdout, run.stdout
    assert origin.values("authorization") == [f"Bearer {token}"]
