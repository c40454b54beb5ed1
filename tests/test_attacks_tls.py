"""Attacks on names, addresses and TLS (docs/security.md 12-24)."""

import shutil
import ssl
import subprocess

import pytest

import kit
from attacks import raw
from attacks_support import Canary, Origin, Sandbox, eventually

API, PLAIN, EVIL, WILD = "api.example.test", "plain.example.test", "evil.example.test", "wild.example.test"


class World:
    def __init__(self, place, authority):
        self.key = Canary()
        self.postern = kit.Postern(place, authority)
        self.api = Origin(authority=authority, names=[API])
        self.plain = Origin(authority=authority, names=[PLAIN])
        self.evil = Origin(authority=authority, names=[EVIL])
        self.raw = Origin()
        self.postern.at(API, self.api.port).at(PLAIN, self.plain.port).at(EVIL, self.evil.port).at("raw.example.test", self.raw.port)
        self.postern.at("ssh.example.test", self.raw.port).at(f"b.{WILD}", self.raw.port)
        self.policy = {"access_control": {"allow_list": [API, PLAIN, "raw.example.test", f"*.{WILD}"]}, "rules": [
            {"name": "api", "match_hosts": [API], "headers": [{"name": "Authorization", "type": "workspace_secret", "value": "Bearer {KEY}"}]},
            {"name": "wild", "match_hosts": [f"*.{WILD}"], "headers": [{"name": "Authorization", "type": "workspace_secret", "value": "{KEY}"}]}]}
        self.sandbox = Sandbox(self.postern, self.policy, {"KEY": self.key}, canaries=[self.key])

    def end(self):
        self.sandbox.end()
        for origin in (self.api, self.plain, self.evil, self.raw):
            origin.stop()


@pytest.fixture(scope="module")
def shared(authority):
    place = kit.temporary_directory()
    world = World(place, authority)
    yield world
    world.end()
    shutil.rmtree(place, ignore_errors=True)


@pytest.fixture
def world(shared):
    yield shared
    shared.sandbox.honest(API)
    assert shared.api.requests[-1].fields["authorization"] == [f"Bearer {shared.key}"]
    shared.sandbox.check_alive(slack=12)
    shared.sandbox.check_secrecy()
    for origin in (shared.plain, shared.evil, shared.raw):
        assert not shared.key.found_in(origin.everything())
    assert shared.evil.connections == 0


GET = f"GET / HTTP/1.1\r\nHost: {API}\r\nConnection: close\r\n\r\n"


# --- addresses and names (12-16)

@pytest.mark.parametrize("address", ["203.0.113.9", "2001:db8::9", "169.254.169.254"])
def test_the_address_that_was_dialled_is_never_where_it_goes(world, address):
    records = len(world.sandbox.records())
    answer = world.sandbox.talk(API, GET, address=address)
    assert answer.statuses == [200], answer
    assert world.sandbox.fresh_records(records)[0]["origin_address"] == f"127.0.0.1:{world.api.port}"


def test_no_credential_travels_in_the_clear(world):
    at_origin, records = len(world.api.requests), len(world.sandbox.records())
    answer = world.sandbox.talk(API, GET, port=80, tls=None)
    assert answer.statuses == [403] and answer.reason == "plaintext_credential", answer
    [record] = world.sandbox.fresh_records(records)
    assert record["decision"] == "denied" and record["credentials"] == [] and len(world.api.requests) == at_origin


@pytest.mark.parametrize("sni, host", [(PLAIN, API), (EVIL, API), (API, PLAIN), (API, EVIL), (f"a.{WILD}", f"b.{WILD}")])
def test_a_name_in_the_handshake_that_is_not_the_dialled_name_is_misdirected(world, sni, host):
    """The synthetic address stands for `host`, the handshake says `sni`, the request names `host` again."""
    address = world.sandbox.python(f"import socket; result = socket.gethostbyname('{host}')")
    at_api = len(world.api.requests)
    tls_records = lambda: [r for r in world.sandbox.records() if r["kind"] != "dns"]
    records = len(tls_records())
    answer = world.sandbox.talk(host, GET.replace(API, host), tls={"sni": sni, "check": False}, address=address)
    assert answer.statuses == [421] and answer.reason == "misdirected_request", answer
    assert eventually(lambda: len(tls_records()) > records)
    [record] = tls_records()[records:]
    assert record["decision"] == "denied" and record["credentials"] == []
    assert len(world.api.requests) == at_api


@pytest.mark.parametrize("host", [PLAIN, EVIL, f"b.{WILD}"])
def test_a_request_for_another_host_than_the_handshakes_is_misdirected(world, host):
    """No synthetic address says anything here: the handshake alone named the host (fronting)."""
    records, at_api = len(world.sandbox.records()), len(world.api.requests)
    answer = world.sandbox.talk(API, GET.replace(API, host), address="203.0.113.9")
    assert answer.statuses == [421] and answer.reason == "misdirected_request", answer
    [record] = world.sandbox.fresh_records(records)
    assert record["host"] == host and len(world.api.requests) == at_api


def test_without_a_server_name_nothing_is_reached_and_it_says_so(world):
    records = len(world.sandbox.records())
    answer = world.sandbox.talk(API, GET, address="203.0.113.9", tls={"sni": None, "check": False})
    assert answer.statuses == [403] and answer.reason == "no_server_name", answer
    [record] = world.sandbox.fresh_records(records)
    assert record["decision"] == "denied"


def hello_with_name(name):
    """A real ClientHello whose server name is these bytes."""
    labels = [b"x" * 49] * (len(name) // 50)
    placeholder = b".".join([*labels, b"x" * (len(name) % 50)]) if labels else b"x" * len(name)
    hello = raw.client_hello(placeholder.decode())
    assert hello.count(placeholder) == 1 and len(placeholder) == len(name)
    return hello.replace(placeholder, name).decode("latin-1")


@pytest.mark.parametrize("name", [b"203.0.113.9", b"[2001:db8::1]", b"api.example\0.test", b"api.example.test\0", b"api.example.t\xc3\xa9st", b"api_.exa mple.test",
                                  b"0x7f000001", b"2130706433", b"-api.example.test.", b"..", b"api.example.test/x", b"evil@api.example.test", b"%61pi.example.test"])
def test_a_server_name_that_is_no_host_name_is_refused(world, name):
    records, connections = len(world.sandbox.records()), world.api.connections
    answer = world.sandbox.talk(API, hello_with_name(name), address="203.0.113.9", tls=None, half_close=True)
    assert answer.statuses == [], answer
    [record] = world.sandbox.fresh_records(records)
    assert record["decision"] == "denied", record
    assert world.api.connections == connections


def test_a_server_name_of_255_bytes_is_refused(world):
    records = len(world.sandbox.records())
    name = b".".join([b"y" * 49] * 5) + b".yyyyy"
    assert len(name) == 255
    world.sandbox.talk(API, hello_with_name(name), address="203.0.113.9", tls=None, half_close=True)
    [record] = world.sandbox.fresh_records(records)
    assert record["decision"] == "denied", record


def test_the_outer_name_of_an_encrypted_client_hello_is_what_is_judged(world):
    """A ClientHello with an ECH extension (65037) whose outer name is not allowed, and one whose is."""
    def with_ech(name):
        hello = raw.client_hello(name)
        body = hello[9:]  # Record header, handshake header.
        at = 34
        at += 1 + body[at]
        at += 2 + int.from_bytes(body[at:at + 2], "big")
        at += 1 + body[at]
        extensions = bytes([0xFE, 0x0D, 0, 8]) + bytes(8) + body[at + 2:]
        body = body[:at] + len(extensions).to_bytes(2, "big") + extensions
        return (hello[:3] + (len(body) + 4).to_bytes(2, "big") + b"\1" + len(body).to_bytes(3, "big") + body).decode("latin-1")

    for name, decision in ((EVIL, "denied"), (API, "failed")):  # Allowed, then the handshake is not continued by this test.
        records = len(world.sandbox.records())
        world.sandbox.talk(name, with_ech(name), address="203.0.113.9", tls=None, half_close=True)
        [record] = world.sandbox.fresh_records(records)
        assert (record["host"], record["decision"]) == (name, decision), record


# --- the handshake (19-24)

@pytest.mark.parametrize("record, step", [(1, 0), (1, 1), (7, 3), (0, 1), (100, 33)])
def test_a_client_hello_in_pieces_is_the_same_client_hello(world, record, step):
    answer = world.sandbox.talk(API, GET, address="203.0.113.9", tls={"record": record, "step": step})
    assert answer.statuses == [200], answer
    answer = world.sandbox.talk(EVIL, GET.replace(API, EVIL), address="203.0.113.9", tls={"record": record, "step": step})
    assert answer.statuses == [403] and answer.reason == "not_in_allow_list", answer


def test_old_tls_is_not_spoken(world):
    records = len(world.sandbox.records())
    answer = world.sandbox.talk(API, GET, tls={"lowest": "TLSv1", "highest": "TLSv1_1"})
    assert answer.statuses == [] and answer.end.startswith("tls"), answer
    world.sandbox.fresh_records(records)


@pytest.mark.parametrize("port, send, reason", [
    (80, "\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + "x" * 32, None), (80, "SSH-2.0-OpenSSH_9.2\r\n\r\n", None), (80, "\0\0\0\x08\x04\xd2\x16\x2f", None),
    (443, "GET / HTTP/1.1\r\nHost: plain.example.test\r\n\r\n", None), (443, "SSH-2.0-OpenSSH_9.2\r\n", None), (443, "\x80\x2e\x01\0\2\0\x15\0\0\0\x10", None),
])
def test_only_http_is_spoken_on_80_and_only_tls_on_443(world, port, send, reason):
    records, connections = len(world.sandbox.records()), world.plain.connections
    answer = world.sandbox.talk(PLAIN, send, port=port, tls=None, half_close=True)
    assert answer.statuses in ([], [400]), answer
    [record] = world.sandbox.fresh_records(records)
    assert record["decision"] in ("denied", "failed") and record["reason"] not in ("allowed", "internal", "abandoned"), record
    assert world.plain.connections == connections


def test_a_denied_name_on_another_port_is_reset_before_anything_is_dialled(world):
    records, connections = len(world.sandbox.records()), world.raw.connections
    assert world.sandbox.talk("raw.example.test", GET, port=2222, tls=None, until="ok").end == "enough"
    assert world.raw.connections == connections + 1  # The positive control.
    answer = world.sandbox.talk("ssh.example.test", "hello\r\n", port=2222, tls=None)
    assert answer.end == "reset" and world.raw.connections == connections + 1
    denied = lambda: [r["reason"] for r in world.sandbox.records()[records:] if r["host"] == "ssh.example.test" and r["kind"] == "tcp"]
    assert eventually(denied) == ["not_in_allow_list"]


@pytest.mark.parametrize("address", ["203.0.113.9", "169.254.169.254", "10.0.0.1", "100.64.0.2", "2001:db8::9"])
@pytest.mark.parametrize("port", [22, 2, 8080])
def test_a_literal_address_is_reset(world, address, port):
    records = len(world.sandbox.records())
    assert world.sandbox.talk("x", "hello\r\n", address=address, port=port, tls=None).end == "reset"
    [record] = world.sandbox.fresh_records(records)
    assert (record["decision"], record["reason"]) == ("denied", "literal_address")


def context(authority, place, kind):
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    if kind == "wrong name":
        files = authority.certificate("elsewhere.example.test")
    elif kind == "self-signed":
        files = kit.Authority(place / "another").certificate(API)
    elif kind == "expired":
        files = expired(authority, place)
    else:
        files = authority.certificate(API)
    made.load_cert_chain(*map(str, files))
    if kind == "old TLS":
        made.set_ciphers("ALL:@SECLEVEL=0")
        made.minimum_version = made.maximum_version = ssl.TLSVersion.TLSv1_1
    return made


def expired(authority, place):
    directory = place / "expired"
    directory.mkdir()
    (directory / "index").write_text("")
    (directory / "serial").write_text("77\n")
    (directory / "config").write_text(f"[ca]\ndefault_ca=d\n[d]\ndatabase={directory}/index\nserial={directory}/serial\nnew_certs_dir={directory}\n"
                                      "default_md=sha256\npolicy=p\nx509_extensions=e\n[p]\ncommonName=supplied\n[e]\n"
                                      f"subjectAltName=DNS:{API}\nbasicConstraints=CA:FALSE\n")
    key, request, certificate = (directory / name for name in ("key", "request", "certificate"))
    authority._openssl("req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-keyout", key, "-out", request, "-subj", f"/CN={API}")
    authority._openssl("ca", "-batch", "-config", directory / "config", "-in", request, "-out", certificate, "-notext", "-cert", authority.file,
                       "-keyfile", authority.key, "-startdate", "20200101000000Z", "-enddate", "20210101000000Z")
    return certificate, key


@pytest.mark.parametrize("kind", ["good", "wrong name", "self-signed", "expired", "old TLS", "not TLS"])
def test_an_origin_that_cannot_prove_its_name_gets_nothing(place, authority, kind):
    key = Canary()
    if kind == "not TLS":  # Keeps what arrives, and answers it in the clear.
        origin = kit.Scripted(lambda connection, _: (origin.read(connection), connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")))
        origin.requests = []
    else:
        origin = Origin(context=context(authority, place, kind))
    postern = kit.Postern(place, authority).at(API, origin.port)
    run = postern.run("curl", "-sS", "-w", "%{http_code}", f"https://{API}/", policy=kit.header_rule(API), secrets={"KEY": str(key)})
    origin.stop()
    record = run.record(host=API)
    if kind == "good":  # The positive control.
        assert run.stdout == "ok200" and origin.requests[-1].fields["authorization"] == [f"Bearer {key}"]
        return
    assert run.stdout.endswith("502"), run.stdout
    assert record["reason"] == ("origin_tls_failed" if kind in ("old TLS", "not TLS") else "origin_certificate_invalid")
    assert record["credentials"] == [] and not origin.requests
    assert not key.found_in(origin.everything()) and not key.found_in(run.stdout + run.stderr + run.log_text)


def test_a_session_of_one_sandbox_is_nothing_to_another(place, authority):
    """Two sandboxes of one workspace share the CA and the working directory, and no ticket."""
    origin = Origin(authority=authority, names=[API])
    postern = kit.Postern(place, authority).at(API, origin.port)
    request = f'printf "GET / HTTP/1.1\\r\\nHost: {API}\\r\\nConnection: close\\r\\n\\r\\n"'
    talk = lambda way: f'{request} | openssl s_client -connect {API}:443 -servername {API} -ign_eof -sess_{way} session 2>&1 | grep -oE "^(New|Reused),"'
    again = lambda: postern.run("sh", "-c", talk("in"), policy=kit.header_rule(API), secrets={"KEY": "k" * 20})
    first = postern.run("sh", "-c", talk("out") + "; " + talk("in"), policy=kit.header_rule(API), secrets={"KEY": "k" * 20})
    assert first.stdout.split() == ["New,", "Reused,"], first.stdout  # The second is the positive control.
    assert (postern.work / "session").stat().st_size > 100
    assert again().stdout.split() == ["New,"]
    # Nor may it carry early data (a replay of a request with a credential).
    text = subprocess.run(["openssl", "sess_id", "-in", str(postern.work / "session"), "-noout", "-text"], capture_output=True, text=True, check=True).stdout
    assert "Max Early Data: 0" in text
    origin.stop()


def test_thousands_of_random_names_cost_bounded_memory_and_reach_nobody(world):
    world.sandbox.do("many_names", count=100, below="warm.invalid", address="203.0.113.9")
    before = world.sandbox.resident_kilobytes()
    denied = world.sandbox.do("many_names", count=1500, below="evil.invalid", address="203.0.113.9")["statuses"]
    assert denied == {"HTTP/1.1 403": 1500}
    after = world.sandbox.resident_kilobytes()
    assert after - before < 40_000, (before, after)
    assert world.evil.connections == 0
