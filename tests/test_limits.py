"""Limits of rules and of sandboxes (docs/limits.md), with real clients: what is refused and how that reads, by whatever version of HTTP and however
many connections, and what is still known after a new policy and a restart of the server."""

import json
import sqlite3
import threading
import time

import pytest

from clients_support import WAIT
from https_service import HttpsService
from serve_support import server  # noqa: F401 (a fixture)
from test_serve_attacks import make, run

API, FREE = "api.example.test", "free.example.test"
USAGE = {"prompt_tokens": 40, "completion_tokens": 20, "total_tokens": 60}
CURL = "curl -sS --max-time 30"


class Model(HttpsService):
    """Speaks like a language model on /v1/..., and lets whoever asks for /hold wait for `let_go`."""

    def __init__(self, authority):
        self.let_go = threading.Event()
        self.served = 0
        super().__init__(authority, [API, FREE])

    def serve(self, handler):
        self.served += 1
        asked = self.body(handler)
        kind, text = "application/json", json.dumps({"choices": [{"message": {"content": "hello"}}], "usage": USAGE})
        if handler.path.startswith("/hold"):
            self.let_go.wait(WAIT)
        elif handler.path.startswith("/silent"):
            text = "x" * 400
        elif b'"stream": true' in asked:
            events = [{"choices": [{"delta": {"content": "hello"}}], "usage": None}, {"choices": [], "usage": USAGE}]
            kind, text = "text/event-stream", "".join(f"data: {json.dumps(event)}\n\n" for event in events) + "data: [DONE]\n\n"
        self.reply(handler, 200, {"Content-Type": kind}, text.encode())

    @staticmethod
    def body(handler):
        if "chunked" not in handler.headers.get("Transfer-Encoding", ""):
            return handler.rfile.read(int(handler.headers.get("Content-Length", 0)))
        data = b""
        while size := int(handler.rfile.readline(), 16):
            data += handler.rfile.read(size + 2)[:-2]
        handler.rfile.readline()
        return data


@pytest.fixture
def model(authority):
    one = Model(authority)
    yield one
    one.let_go.set()
    one.stop()


def policy(limits, of_sandbox=None, name="llm"):
    rules = [{"name": name, "match_hosts": [API], "limits": limits}, {"name": "free", "match_hosts": [FREE]}]
    return {"rules": rules, **({"limits": of_sandbox} if of_sandbox else {})}


def answers(postern, model, script, limits, of_sandbox=None):
    """What a shell script in the sandbox says, line by line, and the records."""
    ran = postern.at(API, model.port).at(FREE, model.port).run("sh", "-c", script, policy=policy(limits, of_sandbox))
    assert ran.status == 0, (ran.stdout, ran.stderr)
    return ran.stdout.splitlines(), ran.records


def status_of(host=API, path="/", *words):
    return f"{CURL} -o /dev/null -w '%{{http_code}}\\n' {' '.join(words)} https://{host}{path}"


def test_a_refusal_says_which_limit_and_when_to_come_again(postern, model):
    lines, records = answers(postern, model, f"{status_of()}; {CURL} -i https://{API}/", {"requests_per_day": 1})
    assert lines[0] == "200"
    text = "\n".join(lines[1:]).lower()
    assert " 429" in lines[1] and "x-postern-reason: limit_exceeded" in text
    seconds = int(text.partition("retry-after: ")[2].split()[0])
    assert 1 <= seconds <= 86400
    assert "requests_per_day of the rule 'llm' (1)" in json.loads(lines[-1])["error"]["message"]
    assert model.served == 1
    assert [(one["reason"], one.get("limit")) for one in records] == [("allowed", None), ("limit_exceeded", "requests_per_day")]


@pytest.mark.parametrize("spelling", ["API.example.test", "api.Example.TEST.", "api.example.test:443"])
def test_another_spelling_of_the_host_is_the_same_rule(postern, model, spelling):
    lines, _ = answers(postern, model, f"{status_of()}; {status_of(spelling)}", {"requests_per_day": 1})
    assert lines[0] == "200" and lines[1] != "200"
    assert model.served == 1


@pytest.mark.parametrize("version", ["--http1.1", "--http2"])
def test_connections_and_streams_are_no_way_around_the_rate(postern, model, version):
    many = f"{CURL} {version} -Z --parallel-max 20 -o /dev/null -w '%{{http_code}}\\n' 'https://{API}/?[1-20]'"
    lines, _ = answers(postern, model, many, {"requests_per_second": 3, "requests_per_day": 5})
    assert len(lines) == 20
    assert 3 <= lines.count("200") == model.served <= 5
    assert lines.count("429") == 20 - model.served


@pytest.mark.parametrize("version", ["--http1.1", "--http2"])
def test_so_many_at_the_same_time_and_no_more(postern, model, version):
    many = f"{CURL} {version} -Z -o /dev/null -w '%{{http_code}}\\n' 'https://{API}/hold?[1-4]'"
    postern.at(API, model.port).at(FREE, model.port)
    process, log = postern.start("sh", "-c", f"{many}; {status_of()}", policy=policy({"concurrent_requests": 2}))
    end = time.monotonic() + WAIT
    while not log.exists() or log.read_text().count("concurrent_requests") < 2:
        assert process.poll() is None and time.monotonic() < end, process.communicate()
        time.sleep(0.02)
    model.let_go.set()
    out, errors = process.communicate(timeout=WAIT)
    lines = out.splitlines()
    assert sorted(lines[:4]) == ["200", "200", "429", "429"], (out, errors)
    assert lines[4] == "200"


def test_a_body_is_counted_however_it_comes(postern, model):
    post = f"head -c 600 /dev/zero | {CURL} -o /dev/null -w '%{{http_code}}\\n'"
    script = "; ".join([
        f"{post} --data-binary @- https://{API}/",
        f"{post} --data-binary @- https://{API}/",
        f"{post} -T - https://{API}/ || echo cut",
        status_of(FREE),
    ])
    lines, records = answers(postern, model, script, {"request_bytes_per_day": 1000})
    assert lines[:2] == ["200", "429"] and lines[2] == "429" and lines[-1] == "200"
    assert [one.get("limit") for one in records[:3]] == [None, "request_bytes_per_day", "request_bytes_per_day"]


def test_the_sandbox_has_limits_of_its_own(postern, model):
    lines, _ = answers(postern, model, "; ".join([status_of(), status_of(FREE), status_of(FREE)]), {"requests_per_day": 9}, {"requests_per_day": 2})
    assert lines == ["200", "200", "429"]


def chat(**more):
    return status_of(API, "/v1/chat/completions", "-H 'Content-Type: application/json'", f"""-d '{json.dumps({"model": "m", **more})}'""")


@pytest.mark.parametrize("ask", [chat(), chat(stream=True), f"{chat()} --compressed"], ids=["json", "stream", "compressed"])
def test_tokens_are_those_that_answers_report(postern, model, ask):
    lines, records = answers(postern, model, "; ".join([ask] * 4), {"tokens_per_day": 121})
    assert lines == ["200", "200", "200", "429"], "60, 120, 180: one over"
    assert records[-1]["limit"] == "tokens_per_day"


def test_without_a_report_bytes_count(postern, model):
    lines, _ = answers(postern, model, "; ".join([status_of(API, "/silent")] * 3), {"tokens_per_day": 150})
    assert lines == ["200", "200", "429"], "a quarter of 400 bytes each"


def asked(server, box):
    """The status that a request from the box gets."""
    return run(server, box, status_of())["stdout"].strip()


def kept(server):
    """The counts on disk, as another program sees them."""
    with sqlite3.connect(f"file:{server.data / 'store.db'}?mode=ro", uri=True) as store:
        return dict(store.execute("SELECT rule, requests FROM limit_counts"))


def wait_until_kept(server, wanted):
    end = time.monotonic() + WAIT
    while kept(server) != wanted:
        assert time.monotonic() < end, (kept(server), server.said())
        time.sleep(0.05)


def test_a_server_counts_on_after_new_policies_and_restarts(server, model):
    server.at(API, model.port).at(FREE, model.port).start()
    box = make(server, "one", proxy_config=policy({"requests_per_day": 3}))
    assert asked(server, box) == "200"
    assert server.call("PATCH", "/boxes/one", {"proxy_config": policy({"requests_per_day": 3, "requests_per_second": 50})})[0] == 200
    assert asked(server, box) == "200"
    server.stop()  # What the last second counted is written down at the end.
    server.start()
    assert kept(server) == {"llm": 2}
    assert server.call("POST", "/boxes/one/start", {})[0] == 202
    assert asked(server, box) == "200"
    assert asked(server, box) == "429"
    wait_until_kept(server, {"llm": 3})
    server.kill()
    server.start()
    assert server.call("POST", "/boxes/one/start", {})[0] == 202
    assert asked(server, box) == "429"
    assert asked(server, make(server, "two", proxy_config=policy({"requests_per_day": 3}))) == "200", "another box has its own"
    assert server.call("DELETE", "/boxes/one")[0] in (200, 204)
    wait_until_kept(server, {"llm": 1})
