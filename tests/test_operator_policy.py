"""`postern serve --operator-policy`: rules of the operator's own, before those of every box, which no caller changes or reads."""

import json
import os
import signal
import subprocess

import pytest

import kit
from attacks_support import Origin, eventually
from clients_support import WAIT
from serve_support import Server, server  # noqa: F401 (fixtures)

NPM, MIRROR, API = "npm.example.test", "mirror.example.test", "api.example.test"
TOKEN = "canary-operator-token"
OWN = "canary-of-the-caller"
REMAP = f"""
rules:
  - name: npm
    match_hosts: [{NPM}]
    rewrite: {{host: {MIRROR}, path_prefix: /npm}}
  - name: mirror
    match_hosts: [{MIRROR}]
    headers: [{{name: Authorization, type: opaque, value: Bearer {TOKEN}}}]
"""

pytestmark = pytest.mark.parametrize("server", ["root"], indirect=True)


@pytest.fixture
def origin(authority):
    started = Origin(authority=authority, names=[NPM, MIRROR, API])
    yield started
    started.stop()


@pytest.fixture
def start(server, origin):
    for name in (NPM, MIRROR, API):
        server.at(name, origin.port)

    def start(text, *options):
        write(server, text)
        return server.start("--operator-policy", server.directory / "operator.yaml", *options)

    return start


def write(server, text, name="operator.yaml"):
    file = server.directory / name
    file.write_text(text)
    file.chmod(0o644)
    return file


def make_box(server, name, policy=None, key=None):
    status, box = server.call("POST", "/boxes", {"name": name, **({"proxy_config": policy} if policy is not None else {})}, key=key)
    assert status == 201, box
    return box


def fetch(server, box, url, key=None):
    """(status that the box read, reason)"""
    status, done = server.call("POST", f"/{box['id']}/execute", {"command": f"curl -sS -o /dev/null -w '%{{http_code}} %header{{x-postern-reason}}' -m 10 {url}"}, key=key)
    assert status == 200, done
    code, _, reason = done["stdout"].partition(" ")
    return int(code), reason.strip()


def key_of(server, workspace):
    made = subprocess.run([kit.POSTERN, "key", "create", "--data", server.data, "--workspace", workspace], capture_output=True, text=True, timeout=WAIT)
    assert made.returncode == 0, made.stderr
    return made.stdout.split()[0]


def hang_up(server, sentence):
    before = server.said().count(sentence)
    os.kill(server.process.pid, signal.SIGHUP)
    eventually(lambda: server.said().count(sentence) > before)


def test_a_remap_holds_for_every_box_and_shows_nobody_its_token(server, origin, start):
    start(REMAP)
    own = {"rules": [{"name": "npm", "match_hosts": [NPM], "headers": [{"name": "X-Own", "type": "opaque", "value": OWN}]}], "access_control": {"allow_list": [NPM]}}
    boxes = [make_box(server, "open"), make_box(server, "narrow", own)]
    for box in boxes:
        assert fetch(server, box, f"https://{NPM}/left-pad") == (200, "")
    assert [one.target for one in origin.requests] == ["/npm/left-pad"] * 2
    assert [one.fields["authorization"] for one in origin.requests] == [[f"Bearer {TOKEN}"]] * 2
    assert all(one.fields["host"] == [MIRROR] and "x-own" not in one.fields for one in origin.requests)

    records = eventually(lambda: [one for one in server.records() if one.get("rewritten_to")])
    assert {one["rule"] for one in records} == {"operator/npm"}
    # What callers get back is what they sent.
    status, got = server.call("GET", "/boxes/narrow")
    assert [rule["name"] for rule in got["proxy_config"]["rules"]] == ["npm"] and MIRROR not in json.dumps(got["proxy_config"])
    assert not server.call("GET", "/boxes/open")[1].get("proxy_config", {}).get("rules")
    explained = server.call("POST", "/boxes/narrow/explain", {"url": f"https://{NPM}/left-pad"})[1]
    assert explained["rule"] == {"name": "operator/npm", "operator": True, "does": [f"sends it to https://{MIRROR}/npm"]}
    assert explained["headers"] == [{"name": "Authorization", "type": "opaque"}] and explained["credentials_of"] == "operator/mirror"
    told = server.call("GET", "/boxes/narrow/capabilities")[1]
    everything = json.dumps([got, explained, told, server.call("GET", "/network-log")[1], server.records()]) + server.said()
    assert TOKEN not in everything
    for file in (server.data).rglob("*"):  # Nor is it kept anywhere.
        assert not file.is_file() or TOKEN.encode() not in file.read_bytes(), file


def test_a_caller_can_neither_override_nor_take_anything(server, origin, start):
    start(REMAP + f"  - {{name: closed, match_hosts: [{API}], match_paths: [/admin/*], action: deny}}\n"
          "access_control: {deny_list: [never.example.test]}\n")
    box = make_box(server, "box", {"access_control": {"allow_list": [API, "never.example.test"]}, "rules": [{"name": "mine", "match_hosts": [API]}]})
    assert fetch(server, box, f"https://{API}/admin/x") == (403, "denied_by_rule")
    assert fetch(server, box, f"https://{API}/v1") == (200, "")
    assert fetch(server, box, "https://never.example.test/") == (403, "in_deny_list")
    change = lambda rule: server.call("PATCH", "/boxes/box", {"proxy_config": {"rules": [rule]}})
    opaque = [{"name": "Authorization", "type": "opaque"}]
    for rule in ({"name": "operator/mirror", "match_hosts": [API]},
                 {"name": "operator/mirror", "match_hosts": [MIRROR], "headers": opaque},
                 {"name": "mirror", "match_hosts": [MIRROR], "headers": opaque},  # Nothing is carried over from the operator's.
                 {"name": "mirror", "match_hosts": [API], "headers": [{**opaque[0], "from": "operator:0:rules[1].headers[0]"}]}):
        status, answer = change(rule)
        assert status == 422 and answer["detail"][0]["loc"][:2] == ["body", "proxy_config"] and TOKEN not in json.dumps(answer), (rule, answer)
        assert "rules" in answer["detail"][0]["loc"] and 0 in answer["detail"][0]["loc"], answer
    # A rule of its own for the mirror comes too late, and gets no more than the mirror does.
    assert change({"name": "theft", "match_hosts": [MIRROR], "rewrite": {"host": API}})[0] == 200
    origin.requests.clear()
    assert fetch(server, box, f"https://{MIRROR}/x") == (200, "")
    assert [(one.fields["host"], one.fields["authorization"]) for one in origin.requests] == [([MIRROR], [f"Bearer {TOKEN}"])]


def test_one_workspace_has_rules_that_another_has_not(server, origin):
    for name in (NPM, MIRROR, API):
        server.at(name, origin.port)
    server.start()
    other = key_of(server, "other")
    assert server.stop() == 0
    file = write(server, REMAP.replace("type: opaque, value: Bearer " + TOKEN, "type: workspace_secret, value: 'Bearer {MIRROR_TOKEN}'"))
    mine = server.key
    config = write(server, json.dumps({"operator-policy": [f"other={file}"]}), "config.json")
    server.start("--config", config)
    here, there = make_box(server, "here", key=mine), make_box(server, "there", key=other)
    # Its secret is looked for in the workspace of the box, and without it nothing passes.
    assert fetch(server, there, f"https://{NPM}/a", key=other) == (403, "denied_by_rule")
    assert "the rule operator/mirror denies in the workspace" in server.said() and "MIRROR_TOKEN" in server.said()
    assert server.call("POST", "//api/v1/workspaces/current/secrets", [{"key": "MIRROR_TOKEN", "value": TOKEN}], key=other)[0] == 200
    assert fetch(server, there, f"https://{NPM}/b", key=other) == (200, "")
    assert fetch(server, here, f"-k https://{NPM}/c", key=mine) == (200, "")  # Passed through: the certificate is the origin's own.
    assert [(one.target, one.fields["host"]) for one in origin.requests] == [("/npm/b", [MIRROR]), ("/c", [NPM])]
    assert origin.requests[0].fields["authorization"] == [f"Bearer {TOKEN}"]


def test_a_file_is_read_again_and_a_broken_one_replaces_nothing(server, origin, start):
    start(REMAP)
    box = make_box(server, "box")
    write(server, REMAP.replace("path_prefix: /npm", "path_prefix: [1"))
    hang_up(server, "the operator's policies stay as they were")
    assert fetch(server, box, f"https://{NPM}/a") == (200, "")
    token = write(server, "another-" + TOKEN + "\n", "token")
    write(server, REMAP.replace("/npm", "/new").replace(f"value: Bearer {TOKEN}", f"from: 'file:{token}'"))
    hang_up(server, "the operator's policies were read again")
    assert fetch(server, box, f"https://{NPM}/b") == (200, "")
    assert [one.target for one in origin.requests] == ["/npm/a", "/new/b"]
    assert origin.requests[1].fields["authorization"] == ["another-" + TOKEN]


@pytest.mark.parametrize("options, text, sentence", [
    (["{file}"], "rules: [{name: a, match_hosts: [a.example.test], rewrites: {}}]", "operator.yaml:1:"),
    (["{file}"], "rules: [{name: a, match_hosts: [a.example.test], headers: [{name: A, type: opaque}]}]", "no value is set"),
    (["{file}"], "rules: [{name: a, match_hosts: [a.example.test], headers: [{name: A, type: opaque, from: 'file:nowhere'}]}]", "file:nowhere"),
    (["nobody={file}"], "rules: []", "there is no such workspace"),
    (["{file}", "{file}"], "rules: []", "said twice for all workspaces"),
    (["{file}", "default={file}"], "rules: [{name: a, match_hosts: [a.example.test]}]", "has the name of a rule in"),
    (["={file}"], "rules: []", "is not FILE or WORKSPACE=FILE"),
    (["/nowhere.yaml"], "", "/nowhere.yaml: cannot be read"),
])
def test_what_is_wrong_is_said_at_the_start(server, options, text, sentence):
    file = write(server, text)
    words = [word for option in options for word in ("--operator-policy", option.format(file=file))]
    with pytest.raises(AssertionError, match="did not start"):
        server.start(*words)
    assert sentence in server.said() and server.process.returncode == 1
