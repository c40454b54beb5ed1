"""gRPC as its own libraries speak it: every kind of call, what ends one before its time, and refusals that say what they are."""

import json
import os
import shutil
import subprocess

import pytest

import kit
from clients_support import CACHE, CANARY, SHOWN, PROGRAMS, PYTHON, Client, caller, npm_package, running  # noqa: F401 (fixtures)

HOST = "grpc.example.test"
GRPC_GO = "google.golang.org/grpc@v1.56.3"  # Builds with the Go of Debian 12, which is 1.19, and with newer ones.


@pytest.fixture(scope="module")
def server(authority):
    port = kit.free_port()
    with running([PYTHON, PROGRAMS / "grpc_server.py", port, *authority.certificate(HOST)]) as process:
        kit.wait_for_port(port, process)
        yield port


@pytest.fixture(scope="session")
def node_modules():
    """grpc-js, kept in build/ from one run to the next."""
    return npm_package(CACHE / "node", "@grpc/grpc-js", "1")


@pytest.fixture(scope="session")
def go_program():
    """The client with grpc-go, built outside; kept in build/ from one run to the next."""
    place = CACHE / "go"
    place.mkdir(parents=True, exist_ok=True)
    shutil.copy(PROGRAMS / "grpc_client.go", place)
    go = shutil.which("go") or "/usr/local/go/bin/go"
    environment = {**os.environ, "CGO_ENABLED": "0", "GOFLAGS": "-mod=mod"}

    def tool(*words):
        done = subprocess.run([go, *words], cwd=place, env=environment, timeout=400, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr

    if not (place / "go.mod").exists():
        tool("mod", "init", "example.test/client")
        tool("get", GRPC_GO)
    tool("build", "-o", "grpc_client", "grpc_client.go")
    return place / "grpc_client"


def language(name, request, caller):
    """The words that start this language's client, in the caller's working directory."""
    if name == "go":
        shutil.copy(request.getfixturevalue("go_program"), caller.work)
        return ["./grpc_client"]
    shutil.copy(PROGRAMS / f"grpc_client.{name}", caller.work)
    if name == "py":
        return [PYTHON, "grpc_client.py"]
    shutil.copytree(request.getfixturevalue("node_modules"), caller.work / "node_modules")
    return ["node", "grpc_client.js"]


POLICY = {"rules": [{"name": "closed service", "match_hosts": [HOST], "match_paths": ["/test.Closed/*"], "action": "deny"},
                    *kit.header_rule(HOST)["rules"], *kit.header_rule("gone.example.test", name="gone")["rules"]]}


@pytest.mark.parametrize("name", ["py", "js", "go"])
def test_every_kind_of_call_of_a_grpc_library(caller, server, request, name):
    command = language(name, request, caller)
    run = caller.at(HOST, server).at("gone.example.test", kit.free_port()).run(*command, policy=POLICY, secrets={"KEY": CANARY}, timeout=120)
    told = [json.loads(line) for line in run.stdout.splitlines()]
    shown = run.stdout + run.stderr + run.log_text[-3000:]
    assert run.status == 0, shown
    assert told[:13] == [
        {"unary": "hello", "authorization": f"Bearer {SHOWN}", "binary": "00ff"},
        {"count": ["0", "1", "2", "3", "4"], "counts": "up"},
        {"total": 100_000},
        {"chat": "heard 0"}, {"chat": "heard 1"}, {"chat": "heard 2"}, {"rest": []},
        {"failed": {"code": 9, "message": "nicht möglich: 100%"}, "hint": "ask later"},
        {"unknown": 12},
        {"cancelled": "yes"},
        {"deadline": 4, "cancelled": "yes"},
        {"large": True},
        {"parallel": True}], shown
    denied, unreachable, rule = told[13:]
    assert denied["denied"]["code"] == 7 and "it is not on its allow list" in denied["denied"]["message"] and denied["reason"] == "not_in_allow_list"
    assert unreachable["unreachable"]["code"] == 14 and "gone.example.test" in unreachable["unreachable"]["message"], unreachable
    assert rule["rule"]["code"] == 7 and "closed service" in rule["rule"]["message"] and rule["reason"] == "denied_by_rule"
    records = [r for r in run.records if r["kind"] == "http" and r["host"] == HOST]
    assert {r["protocol"] for r in records} == {"HTTP/2"}
    paths = [r["path"].rpartition("/")[2] for r in records]
    assert {path: paths.count(path) for path in set(paths)} == {
        "Unary": 202, "Count": 1, "Total": 1, "Chat": 1, "Fail": 1, "Nothing": 1, "Wait": 2, "WasCancelled": 2, "Call": 1}
    assert [r["reason"] for r in records if r["path"].endswith("/Wait")][0] == "sandbox_closed"  # The server knows deadlines too.
