"""The listener of --callback-jwks: it says one thing, whoever asks how, and nothing that is done to it touches the run."""

import base64
import json
import os
import socket
import subprocess
import urllib.request

import pytest

import kit
from attacks_support import Origin, Sandbox, eventually

API = "api.example.test"
PATH = "/.well-known/jwks.json"
CONNECTIONS_MAX = 64  # cli/key_server.h


@pytest.fixture
def origin(authority):
    started = Origin(authority=authority, names=[API])
    yield started
    started.stop()


@pytest.fixture
def box(postern, origin):
    """(a sandbox whose run publishes its key, the port)"""
    port = kit.free_port()
    started = Sandbox(postern.at(API, origin.port), kit.header_rule(API), {"KEY": "k"}, options=["--callback-jwks", f"127.0.0.1:{port}"])
    yield started, port
    started.end()


def ask(port, data, address="127.0.0.1"):
    """All that comes back until the other side ends it."""
    with socket.create_connection((address, port), 10) as connection:
        connection.sendall(data)
        received = b""
        try:
            while piece := connection.recv(65536):
                received += piece
        except ConnectionResetError:  # It had said what it had to say, and there was more to read.
            pass
    return received.decode("latin-1")


def get(port, method="GET", path=PATH, address="127.0.0.1"):
    head, _, body = ask(port, f"{method} {path} HTTP/1.1\r\nHost: keys\r\n\r\n".encode(), address).partition("\r\n\r\n")
    return head, body


def published(port, address="127.0.0.1"):
    head, body = get(port, address=address)
    assert head.startswith("HTTP/1.1 200 OK\r\n"), head
    return json.loads(body)


def test_it_publishes_one_ed25519_key_and_no_private_part(box):
    sandbox, port = box
    (key,) = published(port)["keys"]
    assert (key["kty"], key["crv"], key["alg"], key["use"]) == ("OKP", "Ed25519", "EdDSA", "sig") and key["kid"]
    assert len(base64.urlsafe_b64decode(key["x"] + "=")) == 32 and not {"d", "k", "p"} & set(key)
    with urllib.request.urlopen(f"http://127.0.0.1:{port}{PATH}", timeout=10) as answer:
        assert answer.headers["Content-Type"] == "application/json" and json.load(answer) == {"keys": [key]}
    assert published(port) == json.loads(get(port, path=PATH + "?x")[1])


def test_head_has_the_length_and_no_body_and_other_methods_and_paths_are_refused(box):
    sandbox, port = box
    head, body = get(port, "HEAD")
    length = len(get(port)[1])
    assert head.startswith("HTTP/1.1 200 OK\r\n") and f"Content-Length: {length}" in head and body == ""
    for method in ("POST", "PUT", "DELETE", "OPTIONS", "PATCH", "get"):
        assert get(port, method)[0].startswith("HTTP/1.1 405 "), method
    for path in ("/", "/.well-known/jwks.jsonx", "/.well-known/", PATH + "/", "/x" + PATH, "/.well-known/%6awks.json", "/../../etc/passwd", "/callback.pem"):
        head, body = get(port, path=path)
        assert head.startswith("HTTP/1.1 404 ") and "Ed25519" not in body, path


@pytest.mark.parametrize("data", [
    b"\r\n\r\n", b"\0" * 100 + b"\r\n\r\n", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", b"GET\r\n\r\n", b"GET / HTTP/9.9\r\n\r\n", b"SSH-2.0-x\r\n\r\n",
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", b"GET " + PATH.encode() + b" HTTP/1.1\r\nA b: c\r\n\r\n", b"GET " + PATH.encode() + b" HTTP/1.1\r\n folded\r\n\r\n",
    b"GET /" + b"a" * (1 << 20) + b" HTTP/1.1\r\n\r\n", b"GET / HTTP/1.1\r\n" + b"A: b\r\n" * 100_000 + b"\r\n"], ids=lambda data: repr(data[:24]))
def test_what_is_no_request_is_answered_with_400_or_not_at_all(box, data):
    sandbox, port = box
    try:
        answer = ask(port, data)
    except (ConnectionResetError, BrokenPipeError):
        answer = ""
    assert answer == "" or answer.startswith("HTTP/1.1 400 "), answer
    assert published(port)["keys"] and sandbox.get(API).statuses == [200]


def test_who_never_finishes_takes_a_bounded_place_and_the_run_goes_on(box):
    sandbox, port = box
    published(port)
    before = sandbox.descriptors()
    slow = [socket.create_connection(("127.0.0.1", port), 10) for _ in range(CONNECTIONS_MAX + 40)]
    for connection in slow:
        try:
            connection.sendall(b"GET /")
        except OSError:  # One too many.
            pass
    # The listener has its own thread: calls of the sandbox do not notice.
    for _ in range(5):
        assert sandbox.get(API).statuses == [200]
    if os.geteuid() == 0:
        assert sandbox.descriptors() <= before + CONNECTIONS_MAX + 10

    def served():
        try:
            return published(port)
        except (OSError, AssertionError):
            return None
    for connection in slow[:CONNECTIONS_MAX]:
        connection.close()
    assert eventually(served)["keys"]
    # And whoever stays is sent away: five seconds for a request.
    for connection in slow[CONNECTIONS_MAX:]:
        connection.settimeout(20)
        try:
            assert connection.recv(1) == b""
        except ConnectionResetError:
            pass
        connection.close()
    sandbox.check_alive(slack=4)


def test_a_request_may_come_byte_by_byte(box):
    sandbox, port = box
    with socket.create_connection(("127.0.0.1", port), 10) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for byte in f"GET {PATH} HTTP/1.1\r\nHost: keys\r\n\r\n".encode():
            connection.sendall(bytes([byte]))
        assert connection.makefile("rb").readline() == b"HTTP/1.1 200 OK\r\n"


def test_the_sandbox_cannot_reach_it(box, origin):
    sandbox, port = box
    asked = f"GET {PATH} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nConnection: close\r\n\r\n"
    for address in ("127.0.0.1", "127.0.0.2", "::1", "100.64.0.1", "100.64.0.2", "10.0.0.1", "0.0.0.0"):
        answer = sandbox.talk(API, asked, address=address, port=port, tls=False)
        assert "Ed25519" not in answer.text and 200 not in answer.statuses, (address, answer)
    for name in ("localhost", "keys.example.test"):
        answer = sandbox.talk(name, asked, port=port, tls=False)
        assert "Ed25519" not in answer.text and 200 not in answer.statuses, (name, answer)
    # A name that leads there is refused like every other that leads inside.
    assert published(port)["keys"]


def run(postern, *options, command=("true",)):
    return postern.run(*command, options=options)


def test_an_ipv6_address_and_a_port_of_the_kernels_choosing(postern, origin):
    with socket.socket(socket.AF_INET6) as probe:
        probe.bind(("::1", 0))
        port = probe.getsockname()[1]
    process, _ = postern.start("sh", "-c", "echo up; read line", options=["--callback-jwks", f"[::1]:{port}"], stdin=subprocess.PIPE)
    try:
        assert process.stdout.readline() == "up\n"
        assert published(port, "::1")["keys"]
    finally:
        process.communicate("\n", timeout=20)
    assert process.returncode == 0
    assert run(postern, "--callback-jwks", "127.0.0.1:0").status == 0
    # With the run it is gone.
    with pytest.raises(OSError):
        socket.create_connection(("::1", port), 5)


@pytest.mark.parametrize("address", ["8090", "localhost:8090", "127.0.0.1", "127.0.0.1:", "127.0.0.1:x", "127.0.0.1:65536", "::1:8090", "[::1]", "example.com:80", "/run/x"])
def test_what_is_no_address_and_port_is_refused_before_anything_starts(postern, address):
    done = run(postern, "--callback-jwks", address, command=("touch", "started"))
    assert done.status == 125 and f"--callback-jwks '{address}' is not ADDRESS:PORT" in done.stderr, done.stderr
    assert not (postern.work / "started").exists()


def test_a_port_in_use_and_an_address_of_another_machine_are_told(postern):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = run(postern, "--callback-jwks", f"127.0.0.1:{port}", command=("touch", "started"))
    assert done.status == 125 and f"--callback-jwks 127.0.0.1:{port}: Address already in use" in done.stderr, done.stderr
    done = run(postern, "--callback-jwks", "192.0.2.1:8090", command=("touch", "started"))
    assert done.status == 125 and "Cannot assign requested address" in done.stderr
    assert not (postern.work / "started").exists()


@pytest.mark.parametrize("issuer", ["postern.example.com", "https://postern.example.com/", "https://postern.example.com/path", "https://user@example.com", "ftp://x"])
def test_an_issuer_that_is_no_origin_is_refused(postern, issuer):
    done = run(postern, "--callback-jwks", "127.0.0.1:0", "--callback-issuer", issuer)
    assert done.status == 125 and "--callback-issuer" in done.stderr, done.stderr
    assert run(postern, "--callback-jwks", "127.0.0.1:0", "--callback-issuer", "https://postern.example.com").status == 0


# ---- the key ------------------------------------------------------------------------------------------------


def key_id(postern):
    port = kit.free_port()
    process, _ = postern.start("sh", "-c", "echo up; read line", options=["--callback-jwks", f"127.0.0.1:{port}"], stdin=subprocess.PIPE)
    try:
        assert process.stdout.readline() == "up\n", process.stderr.read()
        return published(port)["keys"][0]
    finally:
        process.communicate("\n", timeout=20)


def test_the_key_is_made_once_and_only_its_owner_can_read_it(postern):
    first = key_id(postern)
    file = postern.state / "workspaces/local/callback.pem"
    assert file.stat().st_mode & 0o7777 == 0o600 and "PRIVATE KEY" in file.read_text()
    kept = file.read_text()
    assert key_id(postern) == first and file.read_text() == kept
    # Hidden from the program, as all of the state is.
    assert "PRIVATE" not in run(postern, "--callback-jwks", "127.0.0.1:0", "--ro-bind", str(postern.state), command=("sh", "-c", f"cat {file}")).stdout
    file.unlink()
    assert key_id(postern)["kid"] != first["kid"]


@pytest.mark.parametrize("what", ["a symbolic link", "open to others", "open to the group", "another kind of key", "no key", "empty", "a directory", "too large"])
def test_a_key_file_that_is_not_as_it_was_made_is_refused(postern, place, what):
    first = key_id(postern)
    file = postern.state / "workspaces/local/callback.pem"
    if what == "a symbolic link":
        file.rename(place / "elsewhere.pem")
        file.symlink_to(place / "elsewhere.pem")
    elif what == "a directory":
        file.unlink()
        file.mkdir()
    elif what.startswith("open to"):
        file.chmod(0o604 if what == "open to others" else 0o640)
    else:
        file.write_text({"another kind of key": lambda: subprocess.run(
            ["openssl", "genpkey", "-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:2048"], capture_output=True, text=True, check=True).stdout,
            "no key": lambda: "PRIVATE KEY\n", "empty": lambda: "", "too large": lambda: "x" * 100_000}[what]())
    done = run(postern, "--callback-jwks", "127.0.0.1:0", command=("touch", "started"))
    assert done.status == 125 and "callback.pem" in done.stderr and "PRIVATE" not in done.stderr, done.stderr
    assert not (postern.work / "started").exists()
    assert first
