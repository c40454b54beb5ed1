"""The control plane of `postern serve`, by its wire contract: answers, errors, lists, options."""

import json
import os
import socket
import stat
import subprocess

import pytest

import kit
from clients_support import WAIT
from serve_support import Server

POLICY = {"rules": [{"name": "api", "match_hosts": ["api.example.test"], "headers": [{"name": "X-Key", "type": "opaque", "value": "canary-opaque"}]}],
          "access_control": {"allow_list": ["api.example.test"]}, "description": "Only the API."}


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    directory = tmp_path_factory.mktemp("serve")
    made = Server(directory).start()
    yield made
    made.stop()


@pytest.fixture
def box(server):
    status, made = server.call("POST", "/boxes", {"name": "box", "proxy_config": POLICY, "labels": {"team": "a"}})
    assert status == 201, made
    yield made
    server.call("DELETE", "/boxes/box")


def error_of(answer):
    status, body = answer
    detail = body["detail"]
    return status, detail["error"] if isinstance(detail, dict) else [entry["loc"] for entry in detail]


def test_a_box_in_json(server, box):
    assert box["status"] == "ready" and box["stopped_at"] is None and box["labels"] == {"team": "a"}
    assert box["idle_ttl_seconds"] == 600 and box["vcpus"] == 1 and box["persistent"] is True
    assert box["dataplane_url"] == f"{server.url}/api/v2/sandboxes/{box['id']}"
    shown = box["proxy_config"]["rules"][0]["headers"][0]
    assert shown == {"name": "X-Key", "type": "opaque", "is_set": True}
    for name in ("box", box["id"]):
        assert server.call("GET", f"/boxes/{name}") == (200, box)
        assert server.call("GET", f"/boxes/{name}/status") == (200, {"status": "ready", "status_message": None})
    status, again = server.call("GET", "//v2/sandboxes/boxes/box")  # as the Python SDK of August calls it
    assert status == 200 and again["id"] == box["id"]


def test_what_is_wrong_is_named(server, box):
    assert error_of(server.call("POST", "/boxes", {"name": "box"})) == (409, "Conflict")
    assert error_of(server.call("GET", "/boxes/none")) == (404, "NotFound")
    assert error_of(server.call("POST", "/boxes", b"{")) [0] == 400
    assert error_of(server.call("POST", "/boxes", [])) [0] == 422
    assert error_of(server.call("POST", "/boxes", {"idle_ttl_seconds": 61, "mem_bytes": "many", "env_vars": {"A=B": "x"}})) == (
        422, [["body", "idle_ttl_seconds"], ["body", "mem_bytes"], ["body", "env_vars"]])
    assert error_of(server.call("POST", "/boxes", {"proxy_config": {"rules": [{"name": "a"}]}})) == (422, [["body", "proxy_config", "rules", 0]])
    status, wrong = server.call("POST", "/boxes", {"proxy_config": {"access_control": {"allow_list": ["example.com:abc"]}}})
    assert status == 422 and "example.com:abc" in wrong["detail"][0]["msg"]
    assert error_of(server.call("POST", "/boxes", {"volumes": [{"volume": "v", "mount_path": "/v"}]})) == (422, [["body", "volumes"]])
    assert error_of(server.call("PATCH", "/boxes/none", {"name": "x"})) == (404, "NotFound")
    assert error_of(server.call("GET", "/boxes?sort_by=mood"))[0] == 400
    assert error_of(server.call("PUT", "/boxes"))[0] == 405
    assert error_of(server.call("GET", "/registries")) == (501, "NotImplemented")
    assert server.call("POST", "/boxes", {"name": "tolerant", "a field of later": {"x": 1}, "proxy_config": {"later": 1}})[0] == 201
    assert server.call("DELETE", "/boxes/tolerant") == (204, None)


@pytest.mark.parametrize("key", [False, "postern_0000000000000000_" + 43 * "A", "nonsense"])
def test_without_a_good_key_there_is_nothing(server, key):
    for method, path in (("GET", "/boxes"), ("POST", "/boxes"), ("GET", "/boxes/x"), ("GET", "//api/v1/workspaces/current/secrets"), ("POST", "/x/execute"),
                         ("GET", "/snapshots")):
        assert error_of(server.call(method, path, {} if method == "POST" else None, key=key))[0] == 401


def test_web_pages_are_kept_out(server):
    assert server.call("GET", "/boxes", headers={"Origin": "https://evil.example"})[0] == 403
    assert server.call("GET", "/boxes", headers={"Host": "evil.example"})[0] == 421
    assert server.call("GET", "//.well-known/jwks.json", headers={"Host": "evil.example"}, key=False)[0] == 421


def test_lists_filter_sort_and_go_on(server, box):
    for name in ("one", "two", "three"):
        assert server.call("POST", "/boxes", {"name": name, "labels": {"group": "numbers"}, "tag_value_ids": ["t1"] if name != "two" else []})[0] == 201
    names = lambda answer: [entry["name"] for entry in answer[1]["items"]]
    assert sorted(names(server.call("GET", "/boxes"))) == ["box", "one", "three", "two"]
    everything = server.call("GET", "/boxes?sort_by=name&sort_order=asc")[1]
    assert everything["sandboxes"] == everything["items"] and everything["next_cursor"] is None and everything["offset"] == 0
    assert names(server.call("GET", "/boxes?label=group%3Dnumbers&sort_by=name&sort_direction=desc")) == ["two", "three", "one"]
    assert names(server.call("GET", "/boxes?name_contains=o&sort_by=name&sort_order=asc")) == ["box", "one", "two"]
    assert names(server.call("GET", "/boxes?tag_value_id=t1&sort_by=name&sort_order=asc")) == ["one", "three"]
    assert len(names(server.call("GET", "/boxes?created_by=me"))) == 4
    assert names(server.call("GET", "/boxes?status=stopped")) == []
    page = server.call("GET", "/boxes?page_size=3&sort_by=name&sort_order=asc")
    assert names(page) == ["box", "one", "three"]
    rest = server.call("GET", f"/boxes?page_size=3&sort_by=name&sort_order=asc&cursor={page[1]['next_cursor']}")
    assert names(rest) == ["two"] and rest[1]["next_cursor"] is None
    old = server.call("GET", "/boxes?limit=2&offset=1&sort_by=name&sort_order=asc")
    assert names(old) == ["one", "three"] and old[1]["offset"] == 3
    status, done = server.call("POST", "/boxes/batch-delete", {"names": ["one", "two", "three", "four"]})
    assert status == 200 and done == {"deleted": ["one", "two", "three"], "skipped": [{"name": "four", "reason": "not found"}]}


def test_names_may_hold_anything_that_is_text(server):
    assert server.call("POST", "/boxes", {"name": "a/b ü"})[0] == 201
    assert server.call("GET", "/boxes/a%2Fb%20%C3%BC")[1]["name"] == "a/b ü"
    assert server.call("DELETE", "/boxes/a%2Fb%20%C3%BC")[0] == 204


def test_an_update_keeps_what_it_leaves_out(server, box):
    update = {"idle_ttl_seconds": 120, "run_config": {"env_vars": {"A": "1"}}, "proxy_config": {
        "rules": [{"name": "api", "match_hosts": ["api.example.test"], "match_paths": ["/v1/*"], "headers": [{"name": "X-Key", "type": "opaque"}]}]}}
    status, changed = server.call("PATCH", "/boxes/box", update)
    assert status == 200 and changed["idle_ttl_seconds"] == 120 and changed["labels"] == {"team": "a"}
    assert changed["proxy_config"]["rules"][0]["headers"][0]["is_set"] is True and "access_control" not in changed["proxy_config"]
    status, changed = server.call("PATCH", "/boxes/box", {"run_config": {"env_vars": {"B": "2"}}})
    assert changed["run_config"]["env_vars"] == {"A": "1", "B": "2"}
    assert server.call("POST", "/box/execute", {"command": "echo $A$B"})[1]["stdout"] == "12\n"
    moved = {"rules": [{"name": "api", "match_hosts": ["evil.example.test"], "headers": [{"name": "X-Key", "type": "opaque"}]}]}
    assert error_of(server.call("PATCH", "/boxes/box", {"proxy_config": moved}))[0] == 422


def test_start_and_stop(server, box):
    assert server.call("POST", "/boxes/box/stop", {}) == (204, None)
    status, stopped = server.call("GET", "/boxes/box")
    assert stopped["status"] == "stopped" and stopped["stopped_at"]
    assert server.call("POST", "/boxes/box/start")[0] == 202
    assert server.call("GET", "/boxes/box/status")[1]["status"] == "ready"


def test_secrets_come_in_and_never_go_out(server):
    path = "//api/v1/workspaces/current/secrets"
    assert server.call("POST", path, [{"key": "A", "value": "canary-a"}, {"key": "B", "value": "canary-b"}])[0] == 200
    status, listed = server.call("GET", path)
    assert [entry["key"] for entry in listed] == ["A", "B"] and "canary" not in json.dumps(listed)
    assert server.call("POST", path, [{"key": "A", "value": None}])[0] == 200
    assert [entry["key"] for entry in server.call("GET", path)[1]] == ["B"]
    for wrong in ({}, [{"key": "A"}], [{"key": "A", "value": ""}], [{"value": "canary-x"}], [{"key": "1 A", "value": "canary-x"}]):
        status, answer = server.call("POST", path, wrong)
        assert status == 422 and "canary" not in json.dumps(answer), wrong


def test_a_policy_is_explained_before_it_is_tried(server, box):
    ask = lambda **question: server.call("POST", "/boxes/box/explain", question)
    status, allowed = ask(method="GET", url="https://api.example.test/v1")
    assert status == 200 and allowed["decision"] == "allowed" and allowed["rule"]["name"] == "api"
    assert allowed["headers"] == [{"name": "X-Key", "type": "opaque"}] and "canary" not in json.dumps(allowed)
    status, denied = ask(url="https://other.example.test/")
    assert denied["decision"] == "denied" and denied["reason"] == "not_in_allow_list"
    assert error_of(ask(method="GET")) == (422, [["body", "url"]])
    status, told = server.call("GET", "/boxes/box/capabilities")
    assert status == 200 and told["description"] == "Only the API." and "api.example.test: gets a credential" in told["text"]


def test_what_a_rule_does_is_explained_too(server, box):
    policy = {"limits": {"requests_per_day": 1000}, "rules": [
        {"name": "mirror", "match_hosts": ["npm.example.test"], "rewrite": {"host": "mirror.example.test", "port": 8443, "path_prefix": "/npm"}},
        {"name": "graph", "match_hosts": ["graph.example.test"], "match_operations": ["mutation createIssue"], "transform": {"request": [{"redact": ["email"]}]},
         "limits": {"requests_per_second": 5}}]}
    status, _ = server.call("PATCH", "/boxes/box", {"proxy_config": policy})
    assert status == 200
    ask = lambda **question: server.call("POST", "/boxes/box/explain", question)[1]
    sent = ask(url="https://npm.example.test/left-pad")
    assert sent["rewritten_to"] == "mirror.example.test:8443" and sent["sent_to"] == "https://mirror.example.test:8443/npm/left-pad"
    assert sent["sandbox_limits"] == "at most 1000 requests a day"
    assert ask(url="https://graph.example.test/", method="POST")["decision"] == "depends"
    told = ask(url="https://graph.example.test/", method="POST", operations=["mutation createIssue"])
    assert told["decision"] == "allowed" and told["rule"]["does"] == ["takes out email", "at most 5 requests a second"]
    assert "rule" not in ask(url="https://graph.example.test/", method="POST", operations=["mutation deleteRepo"])
    text = server.call("GET", "/boxes/box/capabilities")[1]["text"]
    assert "- npm.example.test: is allowed; the rule sends it to https://mirror.example.test:8443/npm\n" in text
    assert "- graph.example.test with the operation mutation createIssue: is allowed; the rule takes out email; at most 5 requests a second\n" in text
    assert "All together: at most 1000 requests a day." in text


def test_keys_are_published_and_stay(server):
    status, keys = server.call("GET", "//.well-known/jwks.json", key=False)
    assert status == 200 and {key["kty"] for key in keys["keys"]} == {"OKP", "RSA"} and not any("d" in key for key in keys["keys"])
    assert server.call("GET", "//.well-known/openid-configuration", key=False)[1]["issuer"] == server.url
    assert server.call("GET", "//health", key=False) == (200, {"status": "ok"})
    assert server.call("GET", "//ready", key=False) == (200, {"status": "ready"})


def test_a_server_that_is_started_again_knows_everything(place):
    server = Server(place).start()
    server.call("POST", "//api/v1/workspaces/current/secrets", [{"key": "TOKEN", "value": "canary"}])
    box = server.call("POST", "/boxes", {"name": "kept", "proxy_config": POLICY})[1]
    server.call("POST", "/kept/execute", {"command": "echo here > /home/user/file"})
    keys = server.call("GET", "//.well-known/jwks.json", key=False)[1]
    assert server.stop() == 0
    server.start()
    assert server.call("GET", "//.well-known/jwks.json", key=False)[1] == keys
    found = server.call("GET", "/boxes/kept")[1]
    assert found["status"] == "stopped" and found["status_message"] == "the server was stopped" and found["proxy_config"] == box["proxy_config"]
    assert server.call("POST", "/kept/execute", {"command": "cat file"})[1]["stdout"] == "here\n"
    server.kill()
    server.start()
    assert server.call("GET", "/boxes/kept")[1]["status_message"] == "the server was restarted"
    assert server.call("POST", "/kept/execute", {"command": "cat file"})[1]["stdout"] == "here\n"
    server.stop()


def test_without_its_master_key_a_server_starts_sealed_and_says_so(place):
    server = Server(place).start()
    assert server.call("POST", "/boxes", {"name": "box", "proxy_config": POLICY})[0] == 201
    server.stop()
    server.start("--master-key", "none")
    assert "sealed: there is no master key" in server.said()
    assert server.call("GET", "//ready", key=False) == (503, {"status": "sealed"})
    assert server.call("GET", "/boxes/box")[1]["status"] == "stopped"
    assert error_of(server.call("POST", "/boxes/box/start")) == (503, "Sealed")
    assert error_of(server.call("POST", "/boxes", {"name": "other"})) == (503, "Sealed")
    server.stop()
    server.start("--master-key", "cmd:echo " + 64 * "a")
    assert "the master key is not the one" in server.said()
    server.stop()
    server.start()
    assert server.call("POST", "/boxes/box/start")[0] == 202
    server.stop()


def test_the_first_key_can_go_to_a_file(place):
    file = place / "key"
    server = Server(place).start("--bootstrap-api-key-file", str(file))
    server.key = file.read_text().strip()
    assert stat.S_IMODE(file.stat().st_mode) == 0o600 and server.call("GET", "/boxes")[0] == 200
    assert "postern_" not in server.said()
    server.stop()


def test_a_start_that_fails_does_not_use_the_first_key_up(place):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        environment = {**os.environ, "POSTERN_STATE_DIR": str(place / "state")}
        words = [kit.POSTERN, "serve", "--listen", f"127.0.0.1:{taken.getsockname()[1]}"]
        (place / "state").mkdir()
        done = subprocess.run(words, env=environment, capture_output=True, text=True, timeout=WAIT)
    assert done.returncode == 1 and "in use" in done.stderr and "postern_" not in done.stdout, done.stderr
    done = subprocess.run([*words[:2], "--listen", "127.0.0.1:0", "--bootstrap-api-key-file", place / "none/key"], env=environment, capture_output=True, text=True, timeout=WAIT)
    assert done.returncode == 1 and "none/key' cannot be written" in done.stderr
    server = Server(place).start()
    assert server.call("GET", "/boxes")[0] == 200
    server.stop()


def test_options_come_from_a_file_and_the_environment_and_the_command_line(place):
    config = place / "serve.yaml"
    port = kit.free_port()
    config.write_text(f"public-url: http://file.example.test:1\nlisten: 127.0.0.1:{port}\nhost: [other.example.test, third.example.test]\n")
    server = Server(place)
    server.start("--config", config, env={"POSTERN_PUBLIC_URL": "http://variable.example.test:2"}, listen="127.0.0.1:0")
    assert server.url == "http://variable.example.test:2"
    server.stop()
    words = [kit.POSTERN, "serve", "--config", config]
    environment = {**os.environ, "POSTERN_STATE_DIR": str(place / "state")}
    for text, wanted in (("lisen: x\n", "serve.yaml:1:1: lisen: is no option (accepted: listen"), ("listen: [a, b]\n", "serve.yaml:1:9: listen: must be a string"),
                         ("listen: here\n", "--listen 'here' is not ADDRESS:PORT"), ("a: &b c\n", "serve.yaml:1")):
        config.write_text(text)
        done = subprocess.run(words, env=environment, capture_output=True, text=True, timeout=WAIT)
        assert done.returncode == 1 and wanted in done.stderr, done.stderr
    done = subprocess.run([kit.POSTERN, "serve", "--listen", f"127.0.0.1:{port}", "--master-key", "canary"], env=environment, capture_output=True, text=True, timeout=WAIT)
    assert done.returncode == 1 and "--master-key must be file:PATH" in done.stderr and "canary" not in done.stderr
