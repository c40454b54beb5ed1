"""Callbacks with real parts (docs/security.md 39, 40, 86-92): what an endpoint answers is on the request, and nowhere else; whatever else it does,
the request is not sent.

Grants live for a minute at least, so what happens after that time is in callback_test and grants_test, where the clock is moved by hand.
"""

import base64
import contextlib
import hashlib
import json
import os
import pathlib
import re
import ssl
import subprocess
import sys
import threading
import urllib.request

import pytest

import kit
from attacks_support import Canary, Origin, Sandbox, answer_with, eventually
from clients_support import CACHE, CANARY, SHOWN, PROGRAMS, PYTHON, WAIT, Once, caller, client, python_environment, running, scripted  # noqa: F401 (fixtures)
from test_clients_http import CLIENT, SERVER

API = "api.example.test"
OTHER = "other.example.test"
DENIED = "denied.example.test"
ENDPOINT = "creds.example.test"
URL = f"https://{ENDPOINT}/issue"
SAMPLE = kit.ROOT / "examples/callback-server"


def grant(value, name="Authorization"):
    return answer_with("200 OK", json.dumps({"headers": {name: str(value)}}), "Content-Type: application/json")


def callback(hosts=(API,), url=URL, **more):
    return {"match_hosts": list(hosts), "url": url, "ttl_seconds": 60, **more}


@pytest.fixture
def origins(authority):
    """Starts origins that read whole requests, and end with the test."""
    with contextlib.ExitStack() as stack:
        def start(*names, answer=None, **more):
            origin = Origin(answer, **({"authority": authority, "names": names} if names else {}), **more)
            stack.callback(origin.stop)
            return origin
        yield start


@pytest.fixture
def sandbox(postern):
    """Starts sandboxes that do as they are told; what they got, hold and left in the log is searched for canaries at their end."""
    with contextlib.ExitStack() as stack:
        def start(*callbacks, rules=(), allow=None, canaries=(), options=(), **more):
            policy = {"rules": list(rules), "callbacks": list(callbacks)}
            if allow:
                policy["access_control"] = {"allow_list": list(allow)}
            started = Sandbox(postern, policy, {}, options=options, canaries=canaries, **more)
            stack.callback(started.end)
            return started
        yield start


def question(request):
    return json.loads(request.body)


def token_part(request, number):
    text = request.fields["x-langsmith-signature-jwt"][0].split(".")[number]
    return json.loads(base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)))


# ---- one question, and what is answered ---------------------------------------------------------------------


def test_a_cold_call_asks_and_warm_ones_do_not(postern, origins, sandbox):
    token, key = Canary(), Canary()
    endpoint = origins(ENDPOINT, answer=lambda request: grant(f"Bearer {token}"))
    origin = origins(API, OTHER)
    postern.at(API, origin.port).at(OTHER, origin.port).at(ENDPOINT, endpoint.port)
    headers = [{"name": "X-Endpoint-Key", "type": "opaque", "value": str(key)}, {"name": "X-Team", "type": "plaintext", "value": "blue"}]
    box = sandbox(callback([API, OTHER], request_headers=headers), canaries=[token, key])
    for _ in range(5):
        assert box.get(API).statuses == [200]
    assert origin.values("authorization") == [f"Bearer {token}"] * 5
    (asked,) = endpoint.requests
    assert question(asked) == {"host": API, "port": 443, "identity": {"tenant_id": "local", "sandbox_id": "run"}}
    assert (asked.method, asked.target, asked.fields["host"], asked.fields["content-type"]) == ("POST", "/issue", [ENDPOINT], ["application/json"])
    assert (asked.fields["x-endpoint-key"], asked.fields["x-team"]) == ([str(key)], ["blue"])
    assert token_part(asked, 0) == {"alg": "EdDSA", "kid": token_part(asked, 0)["kid"], "typ": "JWT"}
    claims = token_part(asked, 1)
    assert (claims["sub"], claims["aud"], claims["exp"] - claims["iat"]) == ("langsmith-sandbox-callback", URL, 300)
    assert claims["body_sha256"] == hashlib.sha256(asked.body).hexdigest()
    # Another host, another port, another sandbox: each asks for itself.
    assert box.get(OTHER).statuses == [200]
    assert box.talk(API, f"GET / HTTP/1.1\r\nHost: {API}:8443\r\nConnection: close\r\n\r\n", port=8443).statuses == [200]
    assert [(question(asked)["host"], question(asked)["port"]) for asked in endpoint.requests[1:]] == [(OTHER, 443), (API, 8443)]
    assert sandbox(callback()).get(API).statuses == [200]
    assert len(endpoint.requests) == 4 and len({token_part(asked, 1)["jti"] for asked in endpoint.requests}) == 4
    records = box.fresh_records(0, 7)
    assert {(r["decision"], r["status"]) for r in records} == {("allowed", 200)}
    assert {(one["header"], one["source"]) for r in records for one in r["credentials"]} == {("Authorization", f"callback:{ENDPOINT}")}
    assert [r["credentials"][0].get("cached", False) for r in records].count(False) == 3  # The fourth question was another sandbox's.
    box.check_alive(slack=4)
    box.check_secrecy()


def test_a_rule_with_headers_is_not_asked_about_and_one_that_denies_neither(postern, origins, sandbox):
    endpoint = origins(ENDPOINT, answer=lambda request: grant("from the endpoint"))
    origin = origins(API)
    postern.at(API, origin.port).at(ENDPOINT, endpoint.port)
    box = sandbox(callback(), rules=[
        {"name": "own", "match_hosts": [API], "match_paths": ["/own/*"], "headers": [{"name": "Authorization", "type": "plaintext", "value": "mine"}]},
        {"name": "closed", "match_hosts": [API], "match_paths": ["/closed/*"], "action": "deny"},
        {"name": "bare", "match_hosts": [API], "match_paths": ["/bare/*"]}])
    assert box.get(API, "/own/x").statuses == [200] and box.get(API, "/closed/x").reason == "denied_by_rule"
    assert box.talk(API, f"GET / HTTP/1.1\r\nHost: {API}\r\nConnection: close\r\n\r\n", port=80, tls=False).reason == "plaintext_credential"
    assert endpoint.requests == []
    assert box.get(API, "/bare/x").statuses == [200] and box.get(API, "/none").statuses == [200]
    assert origin.values("authorization") == ["mine", "from the endpoint", "from the endpoint"] and len(endpoint.requests) == 1


OWN = [["Authorization: Bearer mine"], ["authorization: a"], ["AUTHORIZATION: a", "Authorization: b", "aUthorization: c"],
       ["Authorization: a", "Connection: close, authorization"], ["Connection: authorization, close"], []]


def test_what_was_answered_replaces_the_sandboxs_own_exactly_once(postern, origins, sandbox):
    token = Canary()
    endpoint = origins(ENDPOINT, answer=lambda request: grant(f"Bearer {token}", "aUthorization"))
    origin = origins(API)
    postern.at(API, origin.port).at(ENDPOINT, endpoint.port)
    box = sandbox(callback(), canaries=[token])
    for lines in OWN:
        assert box.get(API, "/", *lines).statuses == [200], lines
        assert origin.requests[-1].fields["authorization"] == [f"Bearer {token}"], lines
        chunked = "\r\n".join(["POST /t HTTP/1.1", f"Host: {API}", "Connection: close", "Transfer-Encoding: chunked", "Trailer: Authorization", *lines,
                               "", "2\r\nhi\r\n0\r\nAuthorization: Bearer trailer\r\n\r\n"])
        assert box.talk(API, chunked).statuses == [200], lines
        assert origin.requests[-1].fields["authorization"] == [f"Bearer {token}"], lines
    assert len(origin.requests) == 2 * len(OWN) and b"Bearer trailer" not in origin.everything() and b"Bearer mine" not in origin.everything()
    box.fresh_records(0, 2 * len(OWN))
    box.check_alive(slack=4)
    box.check_secrecy()


def test_a_placeholder_goes_nowhere_when_there_is_no_credential(postern, origins, sandbox):
    endpoint = origins(ENDPOINT, answer=lambda request: answer_with("503 Busy"))
    origin = origins(API, OTHER)
    postern.at(API, origin.port).at(OTHER, origin.port).at(ENDPOINT, endpoint.port)
    rule = {"name": "placeholder", "match_hosts": [API], "env_vars": {"API_KEY": "placeholder-0000"}}
    box = sandbox(callback(), rules=[rule], allow=[API, OTHER])
    assert box.python("import os; result = os.environ['API_KEY']") == "placeholder-0000"
    own = "Authorization: Bearer placeholder-0000"
    assert box.get(API, "/", own).reason == "callback_failed" and origin.requests == [] and len(endpoint.requests) == 1
    endpoint.answer = lambda request: grant("Bearer real")
    assert box.get(API, "/", own).statuses == [200] and origin.values("authorization") == ["Bearer real"]
    # A host without a callback is not decrypted at all: what it gets is what was sent to it.
    assert box.talk(OTHER, f"GET / HTTP/1.1\r\nHost: {OTHER}\r\n{own}\r\n\r\n", tls={"check": False}, until="ok").statuses == [200]
    assert origin.values("authorization") == ["Bearer real", "Bearer placeholder-0000"]


# ---- every way in and out -----------------------------------------------------------------------------------

ECHO = 'location / { return 200 "auth=$http_authorization origin=$server_protocol\\n"; }'


@pytest.mark.parametrize("outside", ["h1", "h2"])
@pytest.mark.parametrize("inside", ["--http1.1", "--http2"])
def test_curl_and_nginx_in_both_versions(caller, nginx, origins, inside, outside):
    endpoint = origins(ENDPOINT, answer=lambda request: grant(f"Bearer {CANARY}"))
    port = nginx.serve(API, locations=ECHO, http2=outside == "h2")
    nginx.start()
    run = caller.at(API, port).at(ENDPOINT, endpoint.port).run(
        "curl", "-sS", inside, "-H", "Authorization: Bearer mine", "-w", "%{http_version}\n", f"https://{API}/a", f"https://{API}/b",
        policy={"callbacks": [callback()]})
    served = {"h1": "HTTP/1.1", "h2": "HTTP/2.0"}[outside]
    version = {"--http1.1": "1.1", "--http2": "2"}[inside]
    assert run.stdout.splitlines() == [f"auth=Bearer {SHOWN} origin={served}", version] * 2, run.stderr + run.log_text
    assert len(endpoint.requests) == 1 and CANARY not in run.log_text
    assert [r["credentials"][0]["source"] for r in run.records] == [f"callback:{ENDPOINT}"] * 2
    assert sorted(r["credentials"][0].get("cached", False) for r in run.records) == [False, True]


def test_an_ordinary_user_and_root_alike(client, nginx, origins):
    endpoint = origins(ENDPOINT, answer=lambda request: grant(f"Bearer {CANARY}"))
    port = nginx.serve(API, locations=ECHO)
    nginx.start()
    run = client.at(API, port).at(ENDPOINT, endpoint.port).run("curl", "-sS", f"https://{API}/", policy={"callbacks": [callback()]})
    assert run.stdout == f"auth=Bearer {SHOWN} origin=HTTP/1.1\n", run.stderr + run.log_text


def test_a_websocket_is_opened_with_what_was_answered(caller, authority, origins):
    endpoint = origins(ENDPOINT, answer=lambda request: grant(f"Bearer {CANARY}"))
    port = kit.free_port()
    with running([PYTHON, "-c", SERVER, port, *authority.certificate(API)]) as server:
        kit.wait_for_port(port, server)
        caller.at(API, port).at(ENDPOINT, endpoint.port)
        run = caller.run(PYTHON, "-c", CLIENT, policy={"callbacks": [callback()]})
        assert run.stdout.splitlines() == [f"auth=Bearer {SHOWN}", "one", "two", "True", "closed 1000"], run.stderr + run.log_text
        # And none is opened without.
        endpoint.answer = lambda request: answer_with("500 No")
        refused = caller.run(PYTHON, "-c", CLIENT, policy={"callbacks": [callback()]})
    assert refused.status != 0 and "502" in refused.stderr and refused.record(kind="http")["reason"] == "callback_failed"


GRPC = """
import grpc
unary = grpc.secure_channel("api.example.test:443", grpc.ssl_channel_credentials()).unary_unary("/test.Service/Unary")
for _ in range(2):
    try:
        answer, call = unary.with_call(b"hello", timeout=20, metadata=[("authorization", "Bearer mine")])
        print(dict(call.trailing_metadata())["seen-authorization"])
    except grpc.RpcError as error:
        print(error.code().name, dict(error.trailing_metadata())["x-postern-reason"], error.details())
"""


def test_grpc_calls_carry_it_and_a_failure_is_a_status_of_grpc(caller, authority, origins):
    answers = iter([answer_with("500 No"), grant(f"Bearer {CANARY}")])
    endpoint = origins(ENDPOINT, answer=lambda request: next(answers))
    port = kit.free_port()
    with running([PYTHON, PROGRAMS / "grpc_server.py", port, *authority.certificate(API)]) as server:
        kit.wait_for_port(port, server)
        run = caller.at(API, port).at(ENDPOINT, endpoint.port).run(PYTHON, "-c", GRPC, policy={"callbacks": [callback()]})
    failed, worked = run.stdout.splitlines()
    assert failed.startswith("UNAVAILABLE callback_failed callback resolution failed"), run.stdout + run.stderr
    assert worked == f"Bearer {SHOWN}"
    assert [r["reason"] for r in run.records] == ["callback_failed", "allowed"]


# ---- full_request -------------------------------------------------------------------------------------------


def dechunked(body):
    whole = b""
    while True:
        size, _, body = body.partition(b"\r\n")
        if not int(size, 16):
            return whole
        whole, body = whole + body[:int(size, 16)], body[int(size, 16) + 2:]


BODIES = {"none": (0, []), "small": (100, []), "chunked": (200_000, ["-H", "Transfer-Encoding: chunked"]),
          "exactly 1 MiB": (1 << 20, []), "3 MiB": (3 << 20, []), "3 MiB chunked": (3 << 20, ["-H", "Transfer-Encoding: chunked"]),
          "expects 100": (70_000, ["-H", "Expect: 100-continue", "--expect100-timeout", "60"])}


@pytest.mark.parametrize("version", ["--http1.1", "--http2"])
@pytest.mark.parametrize("kind", BODIES)
def test_a_request_is_shown_and_then_sent_byte_for_byte(caller, origins, kind, version):
    size, words = BODIES[kind]
    endpoint = origins(ENDPOINT, answer=lambda request: grant(f"Bearer {CANARY}"))
    origin = origins(API)
    data = os.urandom(size)
    (caller.work / "body").write_bytes(data)
    run = caller.at(API, origin.port).at(ENDPOINT, endpoint.port).run(
        "curl", "-sSv", version, "--max-time", "30", *words, "-H", "Authorization: Bearer mine", "-H", "X-Twice: 1", "-H", "X-Twice: 2",
        *(["--data-binary", "@body"] if size else []), f"https://{API}/put/it?q=1&q=2", policy={"callbacks": [callback(full_request=True)]})
    assert run.stdout == "ok", run.stderr + run.log_text
    assert (len(endpoint.requests), len(origin.requests)) == (1, 1), run.stderr + run.log_text
    (asked,), (sent,) = endpoint.requests, origin.requests
    shown = question(asked)["request"]
    assert (shown["method"], shown["url"], shown["scheme"], shown["host"], shown["path"], shown["query"]) == (
        "POST" if size else "GET", f"https://{API}/put/it?q=1&q=2", "https", API, "/put/it", "q=1&q=2")
    fields = {name.lower(): values for name, values in shown["headers"].items()}
    assert fields["x-twice"] == ["1", "2"] and fields["authorization"] == ["Bearer mine"]
    assert base64.b64decode(shown["body_base64"], validate=True) == data[:1 << 20]
    assert shown["body_truncated"] is (size > 1 << 20)
    received = dechunked(sent.body) if "transfer-encoding" in sent.fields else sent.body
    assert hashlib.sha256(received).digest() == hashlib.sha256(data).digest() and len(received) == size
    assert sent.fields["authorization"] == [f"Bearer {CANARY}"] and sent.fields.get("x-twice") == ["1", "2"]
    if kind == "expects 100" and version == "--http1.1":
        assert "< HTTP/1.1 100" in run.stderr
    assert (run.record(kind="http")["status"], run.record(kind="http")["reason"]) == (200, "allowed")


def test_with_full_request_no_answer_is_used_twice_and_a_refusal_is_the_endpoints_word(caller, origins):
    numbers = iter(range(10))

    def decide(request):
        return answer_with("403 No") if question(request)["request"]["path"] == "/no" else grant(f"number {next(numbers)}")

    endpoint = origins(ENDPOINT, answer=decide)
    origin = origins(API)
    run = caller.at(API, origin.port).at(ENDPOINT, endpoint.port).run(
        "curl", "-sS", "-o", "/dev/null", "-w", "%{http_code}\n", f"https://{API}/a", "--next", "-o", "/dev/null", "-w", "%{http_code}\n", f"https://{API}/no",
        "--next", "-o", "/dev/null", "-w", "%{http_code}\n", f"https://{API}/b", policy={"callbacks": [callback(full_request=True)]})
    assert run.stdout.split() == ["200", "502", "200"], run.stderr
    assert [(r.target, r.fields["authorization"]) for r in origin.requests] == [("/a", ["number 0"]), ("/b", ["number 1"])]
    assert len(endpoint.requests) == 3


# ---- failing closed -----------------------------------------------------------------------------------------

def text(body, status="200 OK", *lines):
    return lambda request: answer_with(status, body, *lines)


def endless(framing):
    """A gibibyte, as far as it is taken."""
    def send(endpoint, connection):
        piece = b" " * (1 << 16)
        head = {"length": b"Content-Length: %d\r\n\r\n" % (1 << 30), "chunked": b"Transfer-Encoding: chunked\r\n\r\n", "close": b"\r\n"}[framing]
        connection.sendall(b"HTTP/1.1 200 OK\r\n" + head)
        for _ in range(1 << 14):
            connection.sendall(b"10000\r\n" + piece + b"\r\n" if framing == "chunked" else piece)
            endpoint.sent = getattr(endpoint, "sent", 0) + len(piece)
    return lambda request: send


def header(value, name="Authorization"):
    return text(json.dumps({"headers": {name: value}}))


FAILURES = {
    "500": text("", "500 Broken"), "404": text("", "404 None"), "401 with headers": text('{"headers": {"Authorization": "x"}}', "401 Who"),
    "redirect": text("", "302 There", "Location: https://elsewhere.example.test/issue"),
    "redirect 307": text('{"headers": {"Authorization": "x"}}', "307 There", "Location: https://127.0.0.1/issue"),
    "no JSON": text("Bearer x"), "an empty body": text(""), "half of JSON": text('{"headers": {"Authorization": "x"'), "a list": text("[]"),
    "no headers": text("{}"), "headers that are a list": text('{"headers": []}'), "two documents": text('{"headers": {}}{"headers": {}}'),
    "a key twice": text('{"headers": {"A": "x", "A": "y"}}'), "a name twice": text('{"headers": {"A": "x", "a": "y"}}'),
    "a number": header(7), "null": header(None), "a list of values": header(["x"]), "a split head": header("x\r\nEvil: y"), "NUL": header("x\0y"),
    "Host": header("evil.example.test", "Host"), "Content-Length": header("0", "Content-Length"), "Connection": header("close", "Connection"),
    "Transfer-Encoding": header("chunked", "Transfer-Encoding"), "a name that is none": header("x", "A B"), "an empty name": header("x", ""),
    "65 headers": text(json.dumps({"headers": {f"H{number}": "x" for number in range(65)}})),
    "not UTF-8": lambda request: b"HTTP/1.1 200 OK\r\nContent-Length: 29\r\n\r\n" + b'{"headers": {"A": "\xff\xfe\xfd\xfc\xfb\xfa"}}  ',
    "gzip": text("x", "200 OK", "Content-Encoding: gzip"), "no HTTP": lambda request: b"SSH-2.0-OpenSSH_9.2\r\n\r\n", "closes": lambda request: None,
    "two lengths": lambda request: b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\n{}",
    "cut short": lambda request: lambda endpoint, connection: connection.sendall(b'HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n{"headers": {}}'),
    "informational flood": lambda request: lambda endpoint, connection: connection.sendall(b"HTTP/1.1 103 Early\r\n\r\n" * 1000),
    "switches": text("", "101 Switching", "Upgrade: websocket", "Connection: Upgrade"),
    "1 GiB": endless("length"), "1 GiB in chunks": endless("chunked"), "1 GiB until the end": endless("close"),
    "a header of 1 MiB": lambda request: lambda endpoint, connection: connection.sendall(b"HTTP/1.1 200 OK\r\nA: " + b"a" * (1 << 20) + b"\r\n\r\n"),
}


def curl(box, version, url):
    """curl in the sandbox: (status, what it read)."""
    words = ["curl", "-sS", version, "--max-time", "30", "-H", "Authorization: Bearer mine", "-w", "\n%{http_code}", url]
    read, _, status = box.python(f"import subprocess; result = subprocess.run({words!r}, capture_output=True, text=True).stdout").rpartition("\n")
    return int(status), read


@pytest.mark.parametrize("version", ["--http1.1", "--http2"])
@pytest.mark.parametrize("full_request", [False, True], ids=["cached", "full_request"])
def test_whatever_the_endpoint_does_wrong_nothing_is_sent_and_it_recovers_at_once(postern, origins, sandbox, version, full_request):
    token = Canary()
    hosts = [f"api{number}.example.test" for number in range(len(FAILURES))]  # Each has a cold grant of its own.
    endpoint = origins(ENDPOINT)
    elsewhere = origins("elsewhere.example.test", answer=lambda request: grant("elsewhere"))
    origin = origins(*hosts)
    postern.at(ENDPOINT, endpoint.port).at("elsewhere.example.test", elsewhere.port)
    for host in hosts:
        postern.at(host, origin.port)
    box = sandbox(callback(hosts, full_request=full_request), canaries=[token])
    memory = None
    for host, (name, failure) in zip(hosts, FAILURES.items()):
        for answer in (failure, failure, lambda request: grant(f"Bearer {token}")):
            asked, reached, recorded = len(endpoint.requests), len(origin.requests), len(box.records())
            endpoint.answer = answer
            status, read = curl(box, version, f"https://{host}/{len(name)}")
            (record,) = box.fresh_records(recorded)
            # Neither remembered nor tried again, but for a kept connection that turned out to be gone.
            assert len(endpoint.requests) - asked in ([1, 2] if name == "closes" else [1]), name
            if answer is failure:
                assert status == 502 and "callback resolution failed" in read, (name, read)
                assert (record["decision"], record["reason"], record["status"]) == ("failed", "callback_failed", 502), name
                assert record["detail"] and record["credentials"] == [] and "Evil" not in json.dumps(record), name
                assert len(origin.requests) == reached, name
            else:
                assert (status, record["reason"]) == (200, "allowed"), (name, read, record)
                assert origin.requests[-1].fields["authorization"] == [f"Bearer {token}"], name
        memory = memory or box.resident_kilobytes()
    assert box.resident_kilobytes() < memory + 24 * 1024
    assert endpoint.sent < 8 * (64 << 20)  # What the kernel had taken before the connection was closed, six times.
    assert elsewhere.connections == 0
    box.check_alive(slack=4 + len(hosts))
    box.check_secrecy()


def test_one_that_never_answers_fails_in_time_and_keeps_nobody_else_waiting(postern, origins, sandbox):
    over = Once()
    hanging = origins(ENDPOINT, answer=lambda request: over.wait())
    endpoint = origins("good.example.test", answer=lambda request: grant("Bearer good"))
    origin = origins(API, OTHER)
    postern.at(API, origin.port).at(OTHER, origin.port).at(ENDPOINT, hanging.port).at("good.example.test", endpoint.port)
    box = sandbox(callback(), callback([OTHER], url="https://good.example.test/issue"))
    # Twenty wait for the same question, and the other host is served meanwhile.
    code = f"""
import threading
answers = []
waiting = [threading.Thread(target=lambda: answers.append(raw.talk(order))) for order in [{{
    "host": "{API}", "port": 443, "tls": {{}}, "send": ["GET / HTTP/1.1\\r\\nHost: {API}\\r\\nConnection: close\\r\\n\\r\\n"]}}] for _ in range(20)]
for one in waiting: one.start()
other = raw.talk({{"host": "{OTHER}", "port": 443, "tls": {{}}, "send": ["GET / HTTP/1.1\\r\\nHost: {OTHER}\\r\\nConnection: close\\r\\n\\r\\n"]}})
early = len(answers)
for one in waiting: one.join()
result = [other["received"], early, [answer["received"] for answer in answers]]
"""
    other, early, answers = box.python(code)
    assert other.startswith("HTTP/1.1 200") and early == 0
    assert len(answers) == 20 and all(answer.startswith("HTTP/1.1 502") and "callback resolution failed" in answer for answer in answers)
    assert len(hanging.requests) == 1
    assert origin.values("host") == [OTHER] and origin.values("authorization") == ["Bearer good"]
    assert [r["reason"] for r in box.fresh_records(0, 21)].count("callback_failed") == 20
    over.happened()
    hanging.answer = lambda request: grant("Bearer back")
    assert box.get(API).statuses == [200] and origin.requests[-1].fields["authorization"] == ["Bearer back"]
    box.check_alive(slack=5)


@pytest.mark.parametrize("what", ["another name", "an authority of its own", "no TLS", "nobody listens"])
def test_an_endpoint_that_cannot_prove_its_name_is_told_nothing(postern, authority, origins, sandbox, place, what):
    key = Canary()
    origin = origins(API)
    honest = origins("honest.example.test", ENDPOINT, answer=lambda request: grant("Bearer honest"))
    fake = {"another name": lambda: origins("evil.example.test"), "no TLS": lambda: kit.Scripted(lambda connection, number: connection.sendall(b"HTTP/1.1 400 Bad\r\n\r\n")), "nobody listens": lambda: None,
            "an authority of its own": lambda: Origin(authority=kit.Authority(place / "evil"), names=[ENDPOINT])}[what]()
    postern.at(API, origin.port).at(OTHER, origin.port).at("honest.example.test", honest.port).at(ENDPOINT, fake.port if fake else kit.free_port())
    headers = [{"name": "X-Endpoint-Key", "type": "opaque", "value": str(key)}]
    box = sandbox(callback(request_headers=headers), canaries=[key])
    assert box.get(API).reason == "callback_failed"
    (record,) = box.fresh_records(0)
    assert record["status"] == 502 and origin.requests == []
    if fake:
        assert fake.connections and not getattr(fake, "requests", []) and not key.found_in(fake.everything())
        fake.stop()
    good = sandbox(callback(url="https://honest.example.test/issue", request_headers=headers), canaries=[key])
    assert good.get(API).statuses == [200] and honest.values("x-endpoint-key") == [str(key)]
    box.check_secrecy()


# ---- where the endpoint is (86, 92) -------------------------------------------------------------------------


def test_a_private_endpoint_is_asked_only_where_the_operator_opened_it(postern, origins, sandbox):
    endpoint = origins(answer=lambda request: grant("Bearer local"))
    hosts = {"a.example.test": "127.0.0.1", "b.example.test": "127.1.2.3", "c.example.test": "[::1]", "d.example.test": "[::ffff:127.0.0.1]",
             "e.example.test": "localhost"}
    origin = origins(*hosts)
    for host in hosts:
        postern.at(host, origin.port)
    callbacks = [callback([host], url=f"http://{address}:{endpoint.port}/issue") for host, address in hosts.items()]
    closed = sandbox(*callbacks)
    for host in hosts:
        assert closed.get(host).reason == "callback_failed", host
    assert [r["status"] for r in closed.fresh_records(0, len(hosts))] == [502] * len(hosts)
    assert (endpoint.connections, origin.requests) == (0, [])
    opened = sandbox(*callbacks, options=["--allow-private", "127.0.0.1/32"])
    assert opened.get("a.example.test").statuses == [200] and origin.values("authorization") == ["Bearer local"]
    assert opened.get("b.example.test").reason == "callback_failed" and len(origin.requests) == 1


INSIDE = ["169.254.169.254", "10.0.0.1", "192.168.0.1", "172.16.0.1", "100.64.0.1", "0.0.0.0", "224.0.0.1", "[fd00::1]", "[fe80::1]", "[64:ff9b::a00:1]"]


def test_an_endpoint_inside_is_not_even_dialled(postern, origins, sandbox):
    hosts = {f"h{number}.example.test": address for number, address in enumerate(INSIDE)}
    origin = origins(*hosts)
    for host in hosts:
        postern.at(host, origin.port)
    box = sandbox(*(callback([host], url=f"https://{address}/issue") for host, address in hosts.items()))
    for host in hosts:
        assert box.get(host).reason == "callback_failed"
    for record in box.fresh_records(0, len(hosts)):
        assert record["detail"].startswith("private_address"), record
    assert origin.requests == []


def test_naming_an_endpoint_does_not_let_the_sandbox_reach_it(postern, origins, sandbox):
    endpoint = origins(ENDPOINT, answer=lambda request: grant("Bearer x"))
    origin = origins(API)
    postern.at(API, origin.port).at(ENDPOINT, endpoint.port)
    box = sandbox(callback())
    assert box.get(API).statuses == [200] and len(endpoint.requests) == 1
    taken = endpoint.connections
    box.fresh_records(0)
    assert box.get(ENDPOINT, "/issue", tls={"check": False}).reason == "not_in_allow_list"
    assert box.talk(ENDPOINT, f"GET /issue HTTP/1.1\r\nHost: {ENDPOINT}\r\nConnection: close\r\n\r\n", port=80, tls=False).reason == "not_in_allow_list"
    # Nor by another name's connection, on its port, or at its real address.
    assert box.talk(API, f"GET /issue HTTP/1.1\r\nHost: {ENDPOINT}\r\nConnection: close\r\n\r\n").statuses in ([421], [403])
    for address in ("127.0.0.1", "127.9.9.9", "10.0.0.1"):
        assert not box.talk(API, "GET / HTTP/1.0\r\n\r\n", address=address, port=endpoint.port, tls=False).text.startswith("HTTP/1.1 200")
    assert (len(endpoint.requests), endpoint.connections) == (1, taken)
    assert all(r["decision"] == "denied" for r in box.records()[1:])


def test_a_question_is_not_itself_asked_about(postern, origins, sandbox):
    """The endpoint's own host has a callback, and that is for the sandbox's requests only."""
    endpoint = origins(ENDPOINT, answer=lambda request: grant("Bearer x"))
    origin = origins(API)
    postern.at(API, origin.port).at(ENDPOINT, endpoint.port)
    box = sandbox(callback([API, ENDPOINT]))
    assert box.get(API).statuses == [200]
    assert [question(request)["host"] for request in endpoint.requests] == [API]
    assert "authorization" not in endpoint.requests[0].fields
    box.end()
    assert len(box.records()) == 1  # Questions are no exchanges of the sandbox.


# ---- many at once -------------------------------------------------------------------------------------------

CROWD = """
import socket, ssl, sys
context, crowd = ssl.create_default_context(), []
for _ in range(200):
    one = context.wrap_socket(socket.create_connection(("api.example.test", 443), 30), server_hostname="api.example.test")
    one.sendall(b"GET / HTTP/1.1\\r\\nHost: api.example.test\\r\\nConnection: close\\r\\n\\r\\n")
    crowd.append(one)
print("all have asked", flush=True)
statuses = []
for one in crowd:
    one.settimeout(30)
    statuses.append(one.makefile("rb").readline().split()[1].decode())
print({status: statuses.count(status) for status in statuses})
"""


def test_two_hundred_at_once_ask_one_question(caller, origins):
    crowded = Once()

    def answer(request):
        crowded.wait()
        return grant(f"Bearer {CANARY}")

    endpoint = origins(ENDPOINT, answer=answer)
    origin = origins(API)
    process, log = caller.at(API, origin.port).at(ENDPOINT, endpoint.port).start(PYTHON, "-c", CROWD, policy={"callbacks": [callback()]})
    assert process.stdout.readline() == "all have asked\n", process.stderr.read()
    crowded.happened()
    out, err = process.communicate(timeout=60)
    assert out == "{'200': 200}\n", err
    assert len(endpoint.requests) == 1 and origin.values("authorization") == [f"Bearer {CANARY}"] * 200
    assert len(log.read_text().splitlines()) == 200 and CANARY not in log.read_text()


# curl reads all authorities again for each connection: with 200 at once that takes so long that it looks like a slow client.
@pytest.mark.parametrize("version, at_once", [("--http1.1", 20), ("--http2", 200)])
def test_two_hundred_calls_of_curl_in_parallel_ask_one_question(caller, nginx, origins, version, at_once):
    endpoint = origins(ENDPOINT, answer=lambda request: grant(f"Bearer {CANARY}"))
    port = nginx.serve(API, locations=ECHO)
    nginx.start()
    run = caller.at(API, port).at(ENDPOINT, endpoint.port).run(
        "curl", "-sS", version, "--parallel", "--parallel-max", str(at_once), f"https://{API}/[1-200]", policy={"callbacks": [callback()]})
    assert run.stdout.splitlines() == [f"auth=Bearer {SHOWN} origin=HTTP/1.1"] * 200, run.stderr[-2000:]
    assert len(endpoint.requests) == 1 and len(run.records) == 200


# ---- the signature, as others verify it (87) ----------------------------------------------------------------


@pytest.fixture(scope="session")
def sdk():
    """The published SDK with its verifier, kept in build/ from one run to the next."""
    return python_environment(CACHE / "langsmith", "jwt", "-r", str(SAMPLE / "requirements.txt"))


VERIFY = r"""
import base64, hashlib, hmac, json, sys, time
sys.path.insert(0, sys.argv[1])
import jwt, signature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_private_key
from langsmith.sandbox import SandboxTokenVerificationError, SandboxTokenVerifier

given = json.load(sys.stdin)
body, token, url, issuer = given["body"].encode(), given["token"], given["url"], given["issuer"]
own, stranger = load_pem_private_key(given["pem"].encode(), None), Ed25519PrivateKey.generate()
header, claims = jwt.get_unverified_header(token), jwt.decode(token, options={"verify_signature": False})
public = own.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)

def made(key=own, algorithm="EdDSA", head={}, **changed):
    return jwt.encode({**claims, **changed}, key, algorithm, {**header, **head})

def cut(part, change):
    parts = token.split(".")
    parts[part] = change(parts[part])
    return ".".join(parts)

def flipped(text):
    return text[:20] + ("A" if text[20] != "A" else "B") + text[21:]

def none(text):
    return base64.urlsafe_b64encode(json.dumps({"alg": "none", "kid": header["kid"], "typ": "JWT"}).encode()).rstrip(b"=").decode()

def hmac_of(key):
    head = base64.urlsafe_b64encode(json.dumps({"alg": "HS256", "kid": header["kid"], "typ": "JWT"}).encode()).rstrip(b"=").decode()
    signed = head + "." + token.split(".")[1]
    return signed + "." + base64.urlsafe_b64encode(hmac.new(key, signed.encode(), hashlib.sha256).digest()).rstrip(b"=").decode()

now = int(time.time())
questions = {
    "ours": (body, token), "made like ours": (body, made()),
    "another body": (body + b" ", token), "another host": (body.replace(b"api.example.test", b"evil.example.test"), token), "no body": (b"", token),
    "forged": (body, made(stranger)), "an unknown kid": (body, made(head={"kid": "nobody"})), "no kid": (body, made(head={"kid": ""})),
    "claims changed": (body, cut(1, flipped)), "signature changed": (body, cut(2, flipped)), "no signature": (body, cut(2, lambda text: "")),
    "alg none": (body, cut(0, none)), "alg none and no signature": (body, none("") + token[token.index("."):token.rindex(".") + 1]),
    "HMAC with the public key": (body, hmac_of(public)),
    "expired": (body, made(iat=now - 600, nbf=now - 600, exp=now - 300)), "too early": (body, made(iat=now + 600, nbf=now + 600, exp=now + 900)),
    "another audience": (body, made(aud=url + "/")), "another subject": (body, made(sub="user")), "another issuer": (body, made(iss="https://evil.example.test")),
    "no hash": (body, made(body_sha256=None)), "empty": (body, ""), "no token": (body, "x"), "half a token": (body, token[:len(token) // 2]),
}
verifiers = {
    "sdk": (lambda body, token: SDK.verify_callback(body=body, signature=token, aud=url, issuer=issuer), SandboxTokenVerificationError),
    "own": (lambda body, token: OWN.verify(body, token), signature.Refused)}
SDK, OWN = SandboxTokenVerifier(jwks_url=given["jwks"]), signature.Verifier(given["jwks"], url, issuer)
for name, (verify, refusal) in verifiers.items():
    accepted = []
    for question, (asked, signed) in questions.items():
        try:
            verify(asked, signed)
            accepted.append(question)
        except refusal:
            pass
    print(name, accepted)
elsewhere = SandboxTokenVerifier(jwks_url=given["jwks"])
for what, words in (("aud", {"aud": url + "x", "issuer": issuer}), ("issuer", {"aud": url, "issuer": issuer + "x"})):
    try:
        elsewhere.verify_callback(body=body, signature=token, **words)
        print("accepted another", what)
    except SandboxTokenVerificationError:
        pass
seen = SDK.verify_callback(body=body, signature=token, aud=url, issuer=issuer)
print(seen.host, seen.port, seen.identity.tenant_id, seen.identity.sandbox_id, seen.request.method, seen.request.path, seen.request.body, seen.request.body_truncated)
"""


def test_the_published_verifier_and_ours_accept_a_question_and_no_other_form_of_it(postern, origins, sandbox, sdk):
    endpoint = origins(ENDPOINT, answer=lambda request: grant("Bearer x"))
    origin = origins(API)
    postern.at(API, origin.port).at(ENDPOINT, endpoint.port)
    issuer = f"http://127.0.0.1:{kit.free_port()}"
    box = sandbox(callback(full_request=True), options=["--callback-jwks", issuer.removeprefix("http://")])
    assert box.talk(API, f"POST /p?q HTTP/1.1\r\nHost: {API}\r\nContent-Length: 3\r\nConnection: close\r\n\r\nhey").statuses == [200]
    (asked,) = endpoint.requests
    given = {"body": asked.body.decode(), "token": asked.fields["x-langsmith-signature-jwt"][0], "url": URL, "issuer": issuer,
             "jwks": issuer + "/.well-known/jwks.json", "pem": (postern.state / "workspaces/local/callback.pem").read_text()}
    done = subprocess.run([sdk, "-B", "-c", VERIFY, SAMPLE], input=json.dumps(given), capture_output=True, text=True, timeout=60)
    assert done.stdout.splitlines() == [
        "sdk ['ours', 'made like ours']", "own ['ours', 'made like ours']", f"{API} 443 local run POST /p b'hey' False"], done.stdout + done.stderr


@pytest.mark.parametrize("verifier", ["own", "sdk"])
def test_the_sample_server_issues_once_for_whom_it_knows(caller, authority, origins, nginx, place, request, verifier):
    python = request.getfixturevalue("sdk") if verifier == "sdk" else PYTHON
    port, keys, origin = kit.free_port(), kit.free_port(), nginx.serve(API, locations=ECHO)
    nginx.start()
    certificate, key = authority.certificate(ENDPOINT)
    overheard = []
    words = [python, "-B", SAMPLE / "server.py", "--verifier", verifier, "--listen", f"127.0.0.1:{port}", "--audience", URL,
             "--jwks", f"http://127.0.0.1:{keys}/.well-known/jwks.json", "--certificate", certificate, "--key", key]
    caller.at(API, origin).at(ENDPOINT, port)
    trusted = {"name": "trusted", "match_hosts": [API], "headers": [], **kit.UNSEARCHED}
    policy, options = {"callbacks": [callback()], "rules": [trusted]}, ["--callback-jwks", f"127.0.0.1:{keys}"]
    with running([*words, "--sandbox", "local/run"]) as server:
        kit.wait_for_port(port, server)
        run = caller.run("curl", "-sS", f"https://{API}/", f"https://{API}/", policy=policy, options=options)
        first, second = run.stdout.splitlines()
        issued = re.fullmatch(r"auth=Bearer ([\w-]+)\.[0-9a-f]{64} origin=HTTP/1.1", first)
        assert issued and first == second, run.stdout + run.stderr + run.log_text
        claims = json.loads(base64.urlsafe_b64decode(issued[1] + "==="))
        assert (claims["for"], claims["sandbox"]) == (API, "run")

        # Asked by hand: overheard words are no use, nor are none.
        listener = origins(ENDPOINT, answer=lambda request: overheard.append(request) or answer_with("500 No"))
        spy = kit.Postern.__new__(kit.Postern)
        spy.__dict__ = {**caller.__dict__, "serial": 100, "resolve": [f"{API}=127.0.0.1:{origin}", f"{ENDPOINT}=127.0.0.1:{listener.port}"]}
        process, _ = spy.start("sh", "-c", f"curl -sS https://{API}/; read line", policy=policy, options=options, stdin=subprocess.PIPE)
        assert eventually(lambda: overheard)
        token = overheard[0].fields["x-langsmith-signature-jwt"][0]

        def ask(body, **headers):
            context = ssl.create_default_context(cafile=str(authority.file))
            context.check_hostname = False
            call = urllib.request.Request(f"https://127.0.0.1:{port}/issue", body, headers)
            try:
                return urllib.request.urlopen(call, context=context, timeout=WAIT).status
            except urllib.error.HTTPError as error:
                return error.code

        body = overheard[0].body
        # The key is the same from run to run, and so it is from whoever publishes it now.
        assert [ask(body), ask(body, **{"X-LangSmith-Signature-JWT": token + "x"}), ask(body + b" ", **{"X-LangSmith-Signature-JWT": token})] == [401] * 3
        assert [ask(body, **{"X-LangSmith-Signature-JWT": token}) for _ in range(3)] == [200, 401, 401]
        process.communicate("\n", timeout=WAIT)
    with running([*words, "--sandbox", "local/another"]) as server:
        kit.wait_for_port(port, server)
        run = caller.run("curl", "-sS", f"https://{API}/", policy=policy, options=options)
        assert "callback resolution failed" in run.stdout and run.record(kind="http")["detail"] == "the callback answered 403"
