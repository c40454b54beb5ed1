"""`postern log` against a real server."""

import json
import os
import subprocess

import pytest

import kit
from attacks_support import eventually
from clients_support import WAIT
from serve_support import Server, server  # noqa: F401 (fixtures)
from test_network_log import API, call_out, items, make_box, origin, run  # noqa: F401 (fixtures)


def log(server, *words, env=None, input=None):
    environment = {"PATH": os.environ["PATH"], "POSTERN_URL": server.url, "POSTERN_API_KEY": server.key or "", **(env or {})}
    return subprocess.run([kit.POSTERN, "log", *words], env=environment, capture_output=True, text=True, timeout=WAIT)


@pytest.mark.parametrize("server", ["root"], indirect=True)
def test_people_read_a_table_and_programs_the_records(server, origin, tmp_path):
    server.at(API, origin.port).start()
    box = make_box(server, "first")
    call_out(server, box, "/%1b%5b31m")
    call_out(server, box, host="denied.example.test")
    eventually(lambda: any(one["kind"] == "http" for one in items(server, decision="denied")))
    run(server, box, f"curl -sS -X $(printf 'G\\033') https://{API}/x")

    shown = log(server)
    assert shown.returncode == 0 and shown.stderr == ""
    lines = shown.stdout.splitlines()
    assert "first" in lines[0] and "allowed" in lines[0] and API in lines[0] and "api" in lines[0]
    assert all(c == "\n" or " " <= c <= "~" for c in shown.stdout)  # No colours, and nothing that a terminal obeys.
    records = [json.loads(line) for line in log(server, "--json").stdout.splitlines()]
    assert records[::-1] == items(server)
    denied = log(server, "--denied", "--json", "--since", "1h", "--host", "denied.example.test", "--sandbox", "first", "--limit", "1")
    assert [json.loads(line) for line in denied.stdout.splitlines()] == items(server, decision="denied", host="denied.example.test")[:1]

    key = tmp_path / "key"
    key.write_text(server.key + "\n")
    assert log(server, "--api-key-file", key, "--url", server.url, env={"POSTERN_API_KEY": "wrong", "POSTERN_URL": "http://127.0.0.1:1"}).stdout == shown.stdout

    following = subprocess.Popen([kit.POSTERN, "log", "--follow", "--json", "--since", "1h"], env={"LANGSMITH_ENDPOINT": server.url, "LANGSMITH_API_KEY": server.key},
                                 stdout=subprocess.PIPE, text=True)
    before = [json.loads(following.stdout.readline()) for _ in records]
    assert before == records
    call_out(server, box, "/new")
    assert json.loads(following.stdout.readline())["path"] == "/new"
    assert server.stop() == 0 and following.wait(WAIT) == 0


@pytest.mark.parametrize("server", ["root"], indirect=True)
def test_what_goes_wrong_is_one_sentence_and_an_exit_code(server):
    server.start()
    wrong_key = log(server, env={"POSTERN_API_KEY": "postern_wrong"})
    assert wrong_key.returncode == 1 and wrong_key.stderr.startswith("postern: the server refuses: ") and wrong_key.stderr.count("\n") == 1
    assert "postern_wrong" not in wrong_key.stderr
    assert log(server, "--host", "a b").returncode == 1
    assert log(server, "--since", "yesterday").returncode == 2
    assert log(server, "--url", "ftp://127.0.0.1/").returncode == 2
    nobody = log(server, "--url", "http://127.0.0.1:1")
    assert nobody.returncode == 3 and "no answer from http://127.0.0.1:1" in nobody.stderr
    no_key = log(server, env={"POSTERN_API_KEY": ""})
    assert no_key.returncode == 3 and "API key" in no_key.stderr
