"""Attacks on a real `postern serve`: by callers of its API, by web pages, and from within its boxes."""

import json
import os
import pathlib
import sqlite3
import subprocess
import threading
import time
import urllib.request

import pytest

import kit
from attacks_support import Canary, Origin, answer_with, eventually
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


def test_a_box_reaches_no_other_box_and_no_metrics(server):  # threat 8
    metrics = kit.free_port()
    server.start("--metrics-listen", f"0.0.0.0:{metrics}")
    one, two = make(server, "one"), make(server, "two")
    run(server, two, "nohup python3 -m http.server --bind 0.0.0.0 8000 >/dev/null 2>&1 & until curl -s -o /dev/null http://127.0.0.1:8000/; do sleep 0.05; done")
    own = subprocess.run(["hostname", "-I"], capture_output=True, text=True).stdout.split()
    for host in ["127.0.0.1", "0.0.0.0", "[::1]", "100.64.0.1", "100.64.0.2", "100.64.1.0", "two", *(address for address in own if ":" not in address)]:
        for port in (metrics, 8000, 2):
            answer = run(server, one, f"curl -sS -m 5 -o - http://{host}:{port}/metrics http://{host}:{port}/")
            assert "postern_" not in answer["stdout"] and "Directory listing" not in answer["stdout"], (host, port, answer)
    assert run(server, two, "curl -sS http://127.0.0.1:8000/ | grep -c listing")["stdout"] != "0\n"


def test_what_a_callback_answered_is_for_one_box_and_one_policy(server, authority):  # threat 89
    def answer(request):
        asked.append(json.loads(request.body)["identity"])
        value = f"canary-{asked[-1]['tenant_id']}-{asked[-1]['sandbox_id']}-{len(asked)}"
        return answer_with("200 OK", json.dumps({"headers": {"Authorization": value}}), "Content-Type: application/json")

    asked = []
    endpoint, origin = Origin(answer, authority=authority, names=["creds.example.test"]), Origin(authority=authority, names=[API])
    try:
        metrics = kit.free_port()
        server.at(API, origin.port).at("creds.example.test", endpoint.port).start("--metrics-listen", f"127.0.0.1:{metrics}")
        foreign = key(server, workspace="other")
        policy = {"callbacks": [{"match_hosts": [API], "url": "https://creds.example.test/issue", "ttl_seconds": 3600}]}
        one, two = make(server, "one", proxy_config=policy), make(server, "two", proxy_config=policy)
        status, third = server.call("POST", "/boxes", {"name": "one", "proxy_config": policy}, key=foreign)
        assert status == 201

        def call(box, with_key=None):
            status, said = server.call("POST", f"/{box['id']}/execute", {"command": f"curl -sS https://{API}/", "timeout": 30}, key=with_key)
            assert (status, said["stdout"]) == (200, "ok"), said
            return origin.values("authorization")[-1]

        first = call(one)
        assert call(one) == first and len(asked) == 1
        answers = [first, call(two), call(third, foreign)]
        assert len(set(answers)) == 3
        for value, box in zip(answers, (one, two, third)):
            assert box["id"] in value, "each was asked about itself"
        assert asked[0]["tenant_id"] == asked[1]["tenant_id"] != asked[2]["tenant_id"]
        # Another version of the policy begins anew, as does a box that was started again.
        assert server.call("PATCH", "/boxes/one", {"proxy_config": policy})[0] == 200
        second = call(one)
        assert second != first and call(two) == answers[1]
        assert server.call("POST", "/boxes/one/stop", {})[0] < 300
        assert call(one) not in (first, second)
        # What the endpoint refuses now was never anybody's.
        endpoint.answer = lambda request: answer_with("403 Forbidden", "{}")
        fourth = make(server, "fourth", proxy_config=policy)
        assert "callback_failed" in run(server, fourth, f"curl -sS https://{API}/")["stdout"]
        assert len(origin.values("authorization")) == 7
        with urllib.request.urlopen(f"http://127.0.0.1:{metrics}/metrics", timeout=WAIT) as answer:
            counted = answer.read().decode()
        for what, count in (("asked", 6), ("failed", 1), ("cached", 2)):
            assert f'postern_credentials_{what}_total{{source="callback"}} {count}\n' in counted, counted
    finally:
        endpoint.stop()
        origin.stop()


def test_a_name_that_is_used_again_inherits_nothing(server, authority):  # threat 95
    canary = Canary()
    origin = Origin(authority=authority, names=[API])
    try:
        server.at(API, origin.port).start()
        foreign = key(server, workspace="other")
        first = make(server, "one", proxy_config=rule({"name": "X-Own", "type": "opaque", "value": str(canary)}), env_vars={"LEFT": "behind"})
        run(server, first, "echo left > file")
        assert run(server, first, f"curl -sS https://{API}/")["stdout"] == "ok"
        link = server.call("POST", "/boxes/one/download-url", {"path": "/home/user/file"})[1]["download_url"].removeprefix(server.url)
        assert server.call("GET", "/" + link, key=False, raw=True) == (200, b"left\n")
        held = []
        thread = threading.Thread(target=lambda: held.append(server.call("POST", f"/{first['id']}/execute", {"command": HELD, "timeout": 30}, raw=True)))
        thread.start()
        assert eventually(lambda: run(server, first, "test -e /tmp/answered; echo $?")["stdout"] == "0\n")
        assert server.call("DELETE", "/boxes/one")[0] == 204
        thread.join(WAIT)
        assert held, "its commands and connections ended with it"
        second = make(server, "one")
        status, third = server.call("POST", "/boxes", {"name": "one"}, key=foreign)
        assert status == 201 and len({first["id"], second["id"], third["id"]}) == 3
        for box, with_key in ((second, None), (third, foreign)):
            status, found = server.call("POST", f"/{box['id']}/execute", {"command": f"ls; echo LEFT=$LEFT; curl -ksS https://{API}/"}, key=with_key)
            assert status == 200 and found["stdout"].split() == ["LEFT=", "ok"], found
            assert server.call("GET", "/boxes/one", key=with_key)[1]["id"] == box["id"]
            hosts = [record["host"] for record in server.call("GET", "/boxes/one/network-log", key=with_key)[1]["items"]]
            assert hosts.count(API) <= 1, "its own call"
        assert origin.values("x-own") == [str(canary)] * 2, "both calls of the first box"
        assert server.call("GET", "/" + link, key=False, raw=True)[0] in (403, 404)
        assert server.call("GET", f"/boxes/{first['id']}")[0] == 404
    finally:
        origin.stop()


def rows(server, statement, *values):
    """In the store of a server that is stopped, as a thief of the disk would."""
    with sqlite3.connect(server.data / "store.db") as store:
        found = store.execute(statement, values).fetchall()
    store.close()
    if server.entry:
        for file in server.data.glob("store.db*"):
            os.chown(file, server.entry.pw_uid, server.entry.pw_gid)
    return found


def test_what_was_moved_or_changed_in_the_store_is_not_used(server, authority):  # threat 99
    origin = Origin(authority=authority, names=[API])
    try:
        server.at(API, origin.port).start()
        set_secret(server, "MINE", "canary-mine")
        set_secret(server, "THEIRS", "canary-theirs")
        make(server, "one", proxy_config=rule({"name": "X-Key", "type": "workspace_secret", "value": "{MINE}"}))
        make(server, "bare")
        assert server.stop() == 0
        before = dict(rows(server, "SELECT key, sealed FROM secrets"))
        assert set(before) == {"MINE", "THEIRS"}
        flipped = bytearray(before["MINE"])
        flipped[len(flipped) // 2] ^= 1
        for wrong in (before["THEIRS"], bytes(flipped), before["MINE"][:-1], b""):
            rows(server, "UPDATE secrets SET sealed = ? WHERE key = 'MINE'", wrong)
            server.start()
            status, answer = server.call("POST", "/one/execute", {"command": f"curl -sS https://{API}/"})
            assert status == 503 and "canary" not in json.dumps(answer), answer
            assert server.call("GET", "/boxes/one")[0] == 200
            assert server.stop() == 0
        assert origin.requests == [] and "canary" not in server.said()
        rows(server, "UPDATE secrets SET sealed = ? WHERE key = 'MINE'", before["MINE"])
        server.start()
        assert server.call("POST", "/one/execute", {"command": f"curl -sS https://{API}/"})[1]["stdout"] == "ok"
        assert origin.values("x-key") == ["canary-mine"]
    finally:
        origin.stop()


def test_a_store_that_was_cut_is_not_served(server):  # threat 99
    server.start()
    make(server, "one")
    assert server.stop() == 0
    store = server.data / "store.db"
    rows(server, "PRAGMA wal_checkpoint(TRUNCATE)")
    whole = store.read_bytes()
    for bad in (whole[: len(whole) // 2], whole[:4096] + os.urandom(4096) + whole[8192:]):
        store.write_bytes(bad)
        with pytest.raises(AssertionError, match="damaged|malformed"):
            server.start()
    store.write_bytes(whole)
    server.start()
    assert server.call("GET", "/boxes/one")[0] == 200


def test_a_lost_master_key_seals_and_the_right_one_opens(server):  # threat 101
    server.start()
    set_secret(server, "TOKEN", "canary")
    make(server, "one", proxy_config=rule({"name": "X-Key", "type": "workspace_secret", "value": "{TOKEN}"}))
    assert server.stop() == 0
    kept = (server.data / "master.key").read_bytes()
    (server.data / "master.key").unlink()
    server.start()
    assert "sealed: " in server.said()
    assert server.call("GET", "//ready") == (503, {"status": "sealed"})
    assert server.call("GET", "/boxes")[1]["sandboxes"][0]["name"] == "one"
    status, answer = server.call("POST", "/one/execute", {"command": "true"})
    assert status == 503, answer
    assert server.call("POST", "//api/v1/workspaces/current/secrets", [{"key": "A", "value": "b"}])[0] == 503
    assert server.stop() == 0
    (server.data / "master.key").write_bytes(kept)
    server.start()
    assert server.call("POST", "/one/execute", {"command": "true"})[0] == 200
