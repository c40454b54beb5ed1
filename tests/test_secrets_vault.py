"""Secrets that are kept in Vault, and references in a policy file, with real parts: a server that speaks KV version 2 over TLS, origins that keep every
byte, and a sandbox. What the server does wrong stops everything before it starts; later on it changes nothing."""

import contextlib
import json
import os
import subprocess

import pytest

import kit
from attacks_support import Canary, Origin, Sandbox, answer_with, eventually
from clients_support import Once

API = "api.example.test"
VAULT = "vault.example.test"
POLICY = {"rules": [{"name": "api", "match_hosts": [API], "headers": [{"name": "Authorization", "type": "workspace_secret", "value": "Bearer {KEY}"}]}]}


class Vault(Origin):
    """Entries by path, each a list of versions; None is a deleted one."""

    def __init__(self, token, **more):
        self.token = str(token)
        self.entries = {}
        self.namespace = None
        super().__init__(self.serve, **more)

    def serve(self, request):
        def say(status, document):
            return answer_with(status, json.dumps(document), "Content-Type: application/json", "Cache-Control: no-store")

        if request.fields.get("x-vault-token") != [self.token]:
            return say("403 Forbidden", {"errors": ["2 errors occurred:\n\t* permission denied\n\t* invalid token\n\n"]})
        if request.fields.get("x-vault-namespace", [None])[0] != self.namespace:
            return say("404 Not Found", {"errors": []})
        path = request.target.removeprefix("/v1/")
        versions = self.entries.get(path, [])
        if request.method != "GET" or not versions:
            return say("404 Not Found", {"errors": []})
        metadata = {"created_time": "2026-11-24T10:00:00Z", "custom_metadata": None, "destroyed": False, "version": len(versions),
                    "deletion_time": "" if versions[-1] else "2026-11-24T11:00:00Z"}
        body = {"request_id": "r", "lease_id": "", "renewable": False, "lease_duration": 0, "data": {"data": versions[-1], "metadata": metadata},
                "wrap_info": None, "warnings": None, "auth": None}
        return say("200 OK" if versions[-1] else "404 Not Found", body)


@pytest.fixture
def parts(postern, authority):
    """(token, a vault, an origin): ends with the test."""
    token = Canary()
    token.value = "hvs." + token.value.replace('"', "x").replace("/", "y")
    with contextlib.ExitStack() as stack:
        vault = Vault(token, authority=authority, names=(VAULT,))
        stack.callback(vault.stop)
        origin = Origin(authority=authority, names=(API,))
        stack.callback(origin.stop)
        postern.at(API, origin.port).at(VAULT, vault.port)
        yield token, vault, origin


def settings(token, **more):
    return {"VAULT_ADDR": f"https://{VAULT}:8200", "VAULT_TOKEN": str(token), **more}


def refused(postern, env, *options, policy=POLICY):
    """What is said when nothing starts."""
    done = postern.run("touch", "started", policy=policy, env=env, options=options)
    assert done.status == 125 and not (postern.work / "started").exists(), done.stderr
    return done.stderr


def test_a_secret_in_vault_is_put_on_requests_and_never_seen_inside(postern, parts):
    token, vault, origin = parts
    key = Canary()
    vault.entries["secret/data/agents/example"] = [{"key": "an older one"}, {"key": str(key), "other": "x"}]
    box = Sandbox(postern, POLICY, {}, env=settings(token), options=["--secret", "KEY=vault:secret/agents/example#key"], canaries=[key, token])
    try:
        box.honest(API)
        assert box.get(API).statuses == [200]
        assert origin.values("authorization") == [f"Bearer {key}"] * 2
        (asked,) = vault.requests
        assert (asked.method, asked.target) == ("GET", "/v1/secret/data/agents/example")
        assert asked.fields["x-vault-request"] == ["true"] and "authorization" not in asked.fields
        # The server is not thereby reachable, and its settings that open it are not in the sandbox.
        assert box.get(VAULT, "/v1/secret/data/agents/example").statuses == [403]
        assert box.python("import os; result = os.environ.get('VAULT_TOKEN')") is None
        box.check_secrecy()
    finally:
        box.end()


def test_a_namespace_and_a_file_with_the_token(postern, place, parts):
    token, vault, origin = parts
    vault.namespace = "team"
    vault.entries["secret/data/app"] = [{"key": "real"}]
    file = place / "token"
    file.write_text(f"{token}\n")
    env = {"VAULT_ADDR": f"https://{VAULT}:8200", "VAULT_TOKEN_FILE": str(file), "VAULT_NAMESPACE": "team", "VAULT_TOKEN": ""}
    run = postern.run("sh", "-c", f"curl -sS https://{API}/; cat {file}", policy=POLICY, env=env,
                      options=["--secret", "KEY=vault:secret/data/app#key", "--ro-bind", str(place)])
    assert run.stdout == "ok" and origin.values("authorization") == ["Bearer real"], run.stderr  # The file is empty to the program.
    assert vault.requests[0].fields["x-vault-namespace"] == ["team"]


def test_a_new_version_is_used_and_a_broken_one_replaces_nothing(postern, parts):
    token, vault, origin = parts
    path = "secret/data/app"
    vault.entries[path] = [{"key": "version-one"}]
    box = Sandbox(postern, POLICY, {}, env=settings(token), options=["--secret", "KEY=vault:secret/app#key", "--vault-interval", "1"], canaries=[token])

    def sent():
        box.get(API)
        return origin.values("authorization")[-1]

    try:
        assert sent() == "Bearer version-one"
        vault.entries[path].append({"key": "version-two"})
        assert eventually(lambda: sent() == "Bearer version-two")
        vault.entries[path].append(None)  # Deleted.
        assert eventually(lambda: any("stay as they were" in line for line in box.stderr))
        assert sent() == "Bearer version-two"
        (complaint,) = [line for line in box.stderr if "stay as they were" in line]
        assert "--secret: KEY: vault:secret/data/app: the server answered 404" in complaint
        # While a server hangs the sandbox is served, ends when it wants to, and the next answer is used.
        vault.entries[path].append({"key": "version-four"})
        assert eventually(lambda: sent() == "Bearer version-four")
        asked, over = len(vault.requests), Once()
        vault.answer = lambda request: over.wait()
        assert eventually(lambda: len(vault.requests) > asked)
        assert sent() == "Bearer version-four"
        box.check_secrecy()
        assert box.end() == 0
        over.happened()
    finally:
        box.end()


def body(document, status="200 OK", *lines):
    return lambda request: answer_with(status, document if isinstance(document, str) else json.dumps(document), *lines)


def huge(vault, connection):
    connection.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
    with contextlib.suppress(OSError):
        for _ in range(1 << 12):
            connection.sendall(b" " * (1 << 16))


GOOD = {"data": {"data": {"key": "real-canary"}, "metadata": {"version": 1}}}
WRONG = {
    "a redirect": (body("", "307 There", "Location: https://elsewhere.example.test/v1/secret/data/app"), "redirects are not followed"),
    "a redirect with the secret": (body(GOOD, "302 There", "Location: /"), "redirects are not followed"),
    "too much": (lambda request: huge, "too large"),
    "a length of too much": (lambda request: b"HTTP/1.1 200 OK\r\nContent-Length: 1073741824\r\n\r\n" + b" " * (2 << 20), "too large"),
    "no JSON": (body("hello-canary"), "not JSON"),
    "half of JSON": (body(json.dumps(GOOD)[:-3]), "not JSON"),
    "a key twice": (body('{"data": {"data": {"key": "a", "key": "real-canary"}, "metadata": {}}}'), "not JSON"),
    "KV version 1": (body({"data": {"key": "real-canary"}}), "KV engine of version 2"),
    "a list": (body([GOOD]), "KV engine of version 2"),
    "a number": (body({"data": {"data": {"key": 12345678}, "metadata": {}}}), "no text"),
    "an empty value": (body({"data": {"data": {"key": ""}, "metadata": {}}}), "no text"),
    "another field": (body({"data": {"data": {"yek": "real-canary"}, "metadata": {}}}), "no field of that name"),
    "a deleted version": (body({"data": {"data": None, "metadata": {"destroyed": True}}}), "deleted"),
    "forbidden": (body({"errors": ["permission denied: real-canary"]}, "403 Forbidden"), "may not read this path"),
    "sealed": (body({"errors": ["Vault is sealed"]}, "503 Unavailable"), "sealed"),
    "encoded": (body(GOOD, "200 OK", "Content-Encoding: gzip"), "encoded"),
    "closes": (lambda request: None, "cannot be asked"),
    "cut short": (lambda request: lambda vault, connection: connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 999\r\n\r\n{"), "ended before"),
    "no HTTP": (lambda request: b"SSH-2.0-OpenSSH_9.2\r\n\r\n", "cannot be asked"),
    "a value that splits a head": (body({"data": {"data": {"key": "x\r\nEvil: real-canary"}, "metadata": {}}}), "no header can"),
}


def test_whatever_the_server_does_wrong_nothing_starts_and_the_reason_is_told(postern, authority, parts):
    token, vault, origin = parts
    elsewhere = Origin(body(GOOD), authority=authority, names=("elsewhere.example.test",))
    postern.at("elsewhere.example.test", elsewhere.port)
    option = ["--secret", "KEY=vault:secret/app#key"]
    for name, (answer, meaning) in WRONG.items():
        vault.answer = answer
        said = refused(postern, settings(token), *option)
        assert meaning in said, (name, said)
        assert "canary" not in said and not token.found_in(said), (name, said)
        assert len(said) < 1000, (name, said)
    assert elsewhere.connections == 0 and origin.requests == []
    elsewhere.stop()
    vault.answer = body(GOOD)  # And what is right works.
    assert postern.run("curl", "-sS", f"https://{API}/", policy=POLICY, env=settings(token), options=option).stdout == "ok"
    assert origin.values("authorization") == ["Bearer real-canary"]


def test_one_that_hangs_is_given_up(postern, parts):
    token, vault, _ = parts
    over = Once()
    vault.answer = lambda request: over.wait()
    said = refused(postern, settings(token), "--secret", "KEY=vault:secret/app#key")
    over.happened()
    assert "vault:secret/data/app: the server cannot be asked: origin_timeout" in said and not token.found_in(said), said


def test_the_server_must_prove_its_name_before_it_gets_the_token(postern, parts, place, tmp_path):
    token, vault, _ = parts
    other = kit.Authority(tmp_path / "other")
    impostor = Origin(body(GOOD), authority=other, names=(VAULT,))
    misnamed = Origin(body(GOOD), authority=postern.authority, names=("another.example.test",))
    plain = Origin(body(GOOD))
    for server in (impostor, misnamed):
        postern.resolve = [f"{VAULT}=127.0.0.1:{server.port}"]
        assert "cannot be asked: origin_certificate" in refused(postern, settings(token), "--secret", "KEY=vault:secret/app#key")
        assert not token.found_in(server.everything())
    # VAULT_CACERT is what makes it one of ours.
    postern.resolve = [f"{VAULT}=127.0.0.1:{impostor.port}"]
    run = postern.run("true", policy=POLICY, env=settings(token, VAULT_CACERT=str(other.file)), options=["--secret", "KEY=vault:secret/app#key"])
    assert run.status == 0 and token.found_in(impostor.everything()), run.stderr
    # Over plain HTTP only to an address inside; TLS is not fallen back from.
    assert "VAULT_ADDR must begin with" in refused(postern, settings(token, VAULT_ADDR=f"ftp://{VAULT}"), "--secret", "KEY=vault:secret/app#key")
    run = postern.run("true", policy=POLICY, env=settings(token, VAULT_ADDR=f"http://127.0.0.1:{plain.port}"), options=["--secret", "KEY=vault:secret/app#key"])
    assert run.status == 0, run.stderr
    for server in (impostor, misnamed, plain):
        server.stop()


@pytest.mark.parametrize("said, meaning", [
    ("KEY=vault:secret", "is not PATH#FIELD"), ("KEY=vault:secret/../../sys/seal#x", "is not PATH#FIELD"), ("KEY=vault:secret/a?version=1#x", "is not PATH#FIELD"),
    ("KEY=file:absent.txt", "absent.txt: cannot be read"), ("KEY=file:", "needs a path"), ("KEY=cmd:", "needs a command"), ("KEY=cmd:exit 3", "status 3"),
    ("KEY", "KEY is not set")])
def test_what_cannot_be_read_names_the_key_and_what_is_accepted(postern, parts, said, meaning):
    token, vault, _ = parts
    text = refused(postern, settings(token), "--secret", said)
    assert "--secret: KEY: " in text and meaning in text and "accepted: KEY=VALUE, KEY=file:PATH, KEY=cmd:COMMAND, KEY=vault:PATH#FIELD" in text
    assert vault.requests == []


# ---- references in files ------------------------------------------------------------------------------------


def test_a_file_of_secrets_may_say_where_they_are(postern, place, parts):
    token, vault, origin = parts
    vault.entries["secret/data/app"] = [{"key": "from-vault"}]
    (place / "key.txt").write_text("from-the-file\n")
    (place / "secrets.env").write_text("A=vault:secret/app#key\nB=file:key.txt\nC='cmd:echo from-the-command'\nD=value:file:literal\n")
    policy = {"rules": [{"name": "api", "match_hosts": [API], "headers": [{"name": f"X-{key}", "type": "workspace_secret", "value": "{%s}" % key} for key in "ABCD"]}]}
    run = postern.run("curl", "-sS", f"https://{API}/", policy=policy, env=settings(token), options=["--secrets", str(place / "secrets.env")])
    assert run.stdout == "ok", run.stderr
    assert [origin.values(f"x-{key}")[0] for key in "abcd"] == ["from-vault", "from-the-file", "from-the-command", "file:literal"]
    (place / "secrets.env").write_text("A=vault:secret/absent#key\n")
    said = refused(postern, settings(token), "--secrets", str(place / "secrets.env"))
    assert f"--secrets {place}/secrets.env:1: A: vault:secret/data/absent: the server answered 404" in said, said


def opaque(reference, host=API):
    return {"rules": [{"name": "api", "match_hosts": [host], "headers": [{"name": "X-Key", "type": "opaque", "from": reference}]}]}


def test_a_policy_file_may_say_where_an_opaque_value_is(postern, place, parts):
    token, vault, origin = parts
    keys = {"vault": Canary(), "file": Canary(), "cmd": Canary()}
    vault.entries["secret/data/app"] = [{"key": str(keys["vault"])}]
    (place / "key.txt").write_text(str(keys["file"]) + "\n")
    (place / "command.txt").write_text(str(keys["cmd"]) + "\n")
    references = {"vault": "vault:secret/app#key", "file": "file:key.txt", "cmd": f"cmd:cat {place}/command.txt"}
    for kind, reference in references.items():
        run = postern.run("sh", "-c", f"curl -sS https://{API}/; cat {place}/policy-*.yaml {place}/key.txt", policy=opaque(reference), env=settings(token),
                          options=["--ro-bind", str(place / "key.txt")])
        assert run.stdout.startswith("ok"), run.stderr
        assert origin.values("x-key")[-1] == str(keys[kind])
        assert not keys[kind].found_in(run.stdout + run.stderr + run.log_text)
        assert run.record(kind="http")["credentials"] == [{"header": "X-Key", "source": "opaque"}]


def test_a_file_that_a_policy_names_is_read_again(postern, place, parts):
    token, _, origin = parts
    file = place / "key.txt"
    file.write_text("one-one-one\n")
    box = Sandbox(postern, opaque("file:key.txt"), {}, env=settings(token))
    try:
        box.get(API)
        file.write_text("two-two-two-two\n")
        assert eventually(lambda: box.get(API) and origin.values("x-key")[-1] == "two-two-two-two")
        assert origin.values("x-key")[0] == "one-one-one"
    finally:
        box.end()


@pytest.mark.parametrize("reference, meaning", [
    ("file:absent.txt", "absent.txt: cannot be read"), ("http://evil.example/", "is not file:PATH, cmd:COMMAND or vault:PATH#FIELD"),
    ("file:", "is not file:PATH"), ("key.txt", "is not file:PATH"), ("value:x", "is not file:PATH"), ("vault:x", "is not PATH#FIELD"),
    ("cmd:echo hunter2 >&2; exit 4", "status 4")])
def test_a_reference_that_leads_nowhere_names_file_and_field(postern, parts, reference, meaning):
    token, _, _ = parts
    said = refused(postern, settings(token), policy=opaque(reference))
    assert "policy-1.yaml:1:" in said and "rules[0].headers[0].from" in said and meaning in said, said
    assert "echo hunter2" not in said


def test_what_others_may_write_refers_to_nothing(postern, place, parts):
    token, _, origin = parts
    (place / "key.txt").write_text("real-canary\n")
    words, _ = postern.arguments("touch", "started", policy=opaque("cmd:touch ran; echo real-canary"))
    file = place / "policy-1.yaml"

    def run():
        return subprocess.run(words, cwd=postern.work, env=postern.environment(settings(token)), capture_output=True, text=True, timeout=60)

    spoilt = [(lambda: file.chmod(0o666), lambda: file.chmod(0o644)), (lambda: file.chmod(0o664), lambda: file.chmod(0o644))]
    if os.geteuid() == 0:
        spoilt.append((lambda: os.chown(file, 12345, 12345), lambda: os.chown(file, 0, 0)))
    for spoil, mend in spoilt:
        spoil()
        done = run()
        assert done.returncode == 125 and "nobody else may write" in done.stderr, done.stderr
        assert not (postern.work / "ran").exists() and not (postern.work / "started").exists()
        mend()
    assert run().returncode == 0 and (postern.work / "ran").exists() and (postern.work / "started").exists()
