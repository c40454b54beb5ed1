"""What origins see of many clients: few connections, no repeated orders, no credential before they have proved who they are."""

import json
import ssl
import subprocess

import pytest

import kit
from clients_support import CANARY, Once, caller, client, ended_by, scripted, simple_answer  # noqa: F401 (fixtures)

HOST = "api.example.test"
POLICY = kit.header_rule(HOST)
SECRETS = {"KEY": CANARY}


def test_one_origin_connection_serves_many_programs_one_after_another(client, scripted):
    def script(connection, number):
        while head := origin.read_head(connection):
            connection.sendall(simple_answer(head.split()[1]))

    origin = scripted(script, HOST)
    run = client.at(HOST, origin.port).run("sh", "-c", f"for n in 1 2 3 4 5; do curl -sS https://{HOST}/$n; done", policy=POLICY, secrets=SECRETS)
    assert run.stdout == "/1/2/3/4/5", run.stderr
    assert origin.connections == 1


def test_many_programs_at_once_get_each_their_own_answer(caller, scripted):
    def script(connection, number):
        while head := origin.read_head(connection):
            connection.sendall(simple_answer(head.split()[1] + b"\n"))

    origin = scripted(script, HOST)
    script = f"for n in $(seq 40); do curl -sS https://{HOST}/$n > out.$n & done; wait; for n in $(seq 40); do cat out.$n; done"
    run = caller.at(HOST, origin.port).run("sh", "-c", script, policy=POLICY, secrets=SECRETS)
    assert run.stdout.split() == [f"/{n}" for n in range(1, 41)], run.stderr
    assert sum(r["kind"] == "http" for r in run.records) == 40


def stale(scripted, orders):
    """An origin that answers the first request of a connection, and closes it when the second has come."""
    def script(connection, number):
        head = origin.read_head(connection)
        orders.append((number, head.split()[0].decode()))
        connection.sendall(simple_answer(b"answer %d" % number))
        head = origin.read_head(connection)
        if head:
            orders.append((number, head.split()[0].decode() + " unanswered"))

    origin = scripted(script, HOST)
    return origin


def test_a_get_on_a_connection_that_its_origin_just_closed_is_asked_again(client, scripted):
    orders = []
    origin = stale(scripted, orders)
    run = client.at(HOST, origin.port).run("sh", "-c", f"curl -sS https://{HOST}/; curl -sS https://{HOST}/", policy=POLICY, secrets=SECRETS)
    assert run.stdout == "answer 1answer 2", run.stderr
    assert orders == [(1, "GET"), (1, "GET unanswered"), (2, "GET")]


def test_a_post_is_never_sent_twice(caller, scripted):
    """The origin took it and may have acted on it: that must be said, not repeated."""
    orders = []
    origin = stale(scripted, orders)
    run = caller.at(HOST, origin.port).run("sh", "-c", f"curl -sS https://{HOST}/; curl -sS -w '%{{http_code}}' -d order=1 https://{HOST}/",
                                           policy=POLICY, secrets=SECRETS)
    assert run.stdout.startswith("answer 1") and run.stdout.endswith("502"), run.stdout
    assert orders == [(1, "GET"), (1, "POST unanswered")]


@pytest.mark.parametrize("method", ["GET", "POST"])
def test_a_connection_that_was_closed_while_idle_costs_nobody_an_error(caller, scripted, method):
    """The stale keep-alive that turns into a 502 on POST in other proxies."""
    closed = Once()

    def script(connection, number):
        head = origin.read_head(connection)
        if b"GET /closed" in head:
            closed.wait()
            return connection.sendall(simple_answer(b"", b"Connection: close\r\n"))
        connection.sendall(simple_answer(b"answer %d;" % number))
        # With its body unread a connection is not closed but reset, and the answer may be lost with it.
        connection.unwrap() if number == 1 else ended_by(connection)
        connection.close()
        closed.happened()

    origin = scripted(script, HOST)
    run = caller.at(HOST, origin.port).run(
        "sh", "-c", f"curl -sS https://{HOST}/; curl -sS https://{HOST}/closed; curl -sS -w '%{{http_code}}' -X {method} -d order=1 https://{HOST}/",
        policy=POLICY, secrets=SECRETS)
    assert run.stdout.startswith("answer 1;answer ") and run.stdout.endswith(";200"), run.stdout + run.stderr


# ---- who the origin is -------------------------------------------------------------------------------------

def context(certificate, key):
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    made.load_cert_chain(str(certificate), str(key))
    return made


def another_authority(tmp_path):
    return kit.Authority(tmp_path / "stranger")


@pytest.mark.parametrize("fault", ["another name", "a stranger's authority", "expired"])
def test_an_origin_that_is_not_who_it_should_be_gets_no_credential_and_the_client_reads_why(client, scripted, authority, tmp_path, fault):
    if fault == "another name":
        pair = authority.certificate("other.example.test")
    elif fault == "expired":
        pair = authority.certificate(HOST, days=0)
    else:
        pair = another_authority(tmp_path).certificate(HOST)

    def script(connection, number):
        origin.read_head(connection)
        connection.sendall(simple_answer(b"trust me"))

    origin = scripted(script, context=context(*pair))
    run = client.at(HOST, origin.port).run("curl", "-sS", "-i", "-H", f"X-Mine: {CANARY}-mine", f"https://{HOST}/", policy=POLICY, secrets=SECRETS)
    head, _, body = run.stdout.partition("\n\n")
    assert head.startswith("HTTP/2 502 ") and "x-postern-reason: origin_certificate_invalid" in head, run.stdout + run.stderr
    assert "could not be verified" in json.loads(body)["error"]["message"]
    assert origin.connections >= 1 and CANARY.encode() not in origin.everything()
    assert run.record(kind="http", host=HOST)["reason"] == "origin_certificate_invalid"


def test_the_same_origin_with_a_good_certificate_gets_the_credential(client, scripted):
    """The control of the test above."""
    def script(connection, number):
        origin.read_head(connection)
        connection.sendall(simple_answer(b"thank you"))

    origin = scripted(script, HOST)
    run = client.at(HOST, origin.port).run("curl", "-sS", f"https://{HOST}/", policy=POLICY, secrets=SECRETS)
    assert run.stdout == "thank you" and f"Bearer {CANARY}".encode() in origin.everything()


def fingerprint(certificate):
    return subprocess.run(["openssl", "x509", "-noout", "-fingerprint", "-sha256", "-in", str(certificate)], check=True, capture_output=True,
                          text=True).stdout.strip()


def test_a_host_without_a_rule_shows_its_own_certificate_to_the_client(client, authority, scripted):
    pair = authority.certificate("plain.example.test")

    def script(connection, number):
        origin.read_head(connection)
        connection.sendall(simple_answer(b"untouched"))

    origin = scripted(script, context=context(*pair))
    # The sandbox does not know this test's authority; a real origin's is in the bundle.
    script = ("openssl s_client -connect plain.example.test:443 -servername plain.example.test < /dev/null 2>/dev/null | openssl x509 -noout -fingerprint -sha256;"
              f"curl -sS --cacert {client.authority.file} https://plain.example.test/")
    run = client.at("plain.example.test", origin.port).run("sh", "-c", script, policy=POLICY, secrets=SECRETS, options=["--allow", "plain.example.test"])
    assert run.stdout.splitlines() == [fingerprint(pair[0]), "untouched"], run.stderr
    passed = [r for r in run.records if r["host"] == "plain.example.test" and r["kind"] != "dns"]
    assert len(passed) == 2 and all(r["kind"] == "tls" and not r["intercepted"] and r["credentials"] == [] for r in passed)


def test_an_untouched_host_may_speak_http_2(caller, nginx, place):
    """What passes through keeps its own ALPN."""
    port = nginx.serve("plain.example.test", locations="location / { return 200 '$server_protocol'; }",
                       extra="http2_max_concurrent_streams 8;")
    nginx.servers[-1] = nginx.servers[-1].replace(" ssl;", " ssl http2;", 1)
    nginx.start()
    run = caller.at("plain.example.test", port).run("curl", "-sS", "--http2", "--cacert", caller.authority.file, "https://plain.example.test/",
                                                    options=["--allow", "plain.example.test"])
    assert run.stdout == "HTTP/2.0", run.stderr
