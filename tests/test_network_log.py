"""The network log of `postern serve`: kept, asked for, followed, and nobody else's."""

import http.client
import json
import time
import urllib.parse
import urllib.request
import uuid

import pytest

import kit
from attacks_support import eventually
from clients_support import WAIT
from serve_support import Server, server  # noqa: F401 (fixtures)

API = "api.example.test"
LOG = "/network-log"


@pytest.fixture
def origin(authority):
    def script(connection, number):
        while one.read_head(connection):
            connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
    one = kit.Scripted(script, authority, [API])
    yield one
    one.stop()


def make_box(server, name, canary="canary-opaque"):
    policy = {"rules": [{"name": "api", "match_hosts": [API], "headers": [{"name": "X-Key", "type": "opaque", "value": canary}]}],
              "access_control": {"allow_list": [API]}}
    status, box = server.call("POST", "/boxes", {"name": name, "proxy_config": policy})
    assert status == 201, box
    return box["id"]


def run(server, box, command):
    status, done = server.call("POST", f"/{box}/execute", {"command": command})
    assert status == 200, done
    return done


def call_out(server, box, path="/v1?token=canary-query", host=API):
    return run(server, box, f"curl -sS -m 5 https://{host}{path}")


def ask(server, where=LOG, **query):
    status, page = server.call("GET", f"{where}?{urllib.parse.urlencode(query)}")
    assert status == 200, page
    return page


def items(server, where=LOG, **query):
    return ask(server, where, **query)["items"]


class Events:
    """Follows the log."""

    def __init__(self, server, path=LOG, last=None, **query):
        at = urllib.parse.urlsplit(server.url)
        self.connection = http.client.HTTPConnection(at.hostname, at.port, timeout=WAIT)
        headers = {"X-Api-Key": server.key, **({"Last-Event-ID": last} if last else {})}
        self.connection.request("GET", f"/api/v2/sandboxes{path}?{urllib.parse.urlencode({'follow': 'true', **query})}", headers=headers)
        self.answer = self.connection.getresponse()
        assert self.answer.status == 200, self.answer.read()
        assert self.answer.headers["Content-Type"] == "text/event-stream"
        assert self.answer.readline() == b": \n" and self.answer.readline() == b"\n"  # It has begun.

    def next(self):
        """{id, event, data}; None at the end."""
        event = {}
        while line := self.answer.readline().decode():
            line = line.rstrip("\n")
            if not line and event:
                return event
            name, _, value = line.partition(": ")
            if name:
                event[name] = json.loads(value) if name == "data" else value
        return None

    def close(self):
        self.answer.close()
        self.connection.close()


def test_calls_are_kept_and_answered(server, origin):
    server.at(API, origin.port).start()
    first, second = make_box(server, "first"), make_box(server, "second")
    assert call_out(server, first)["stdout"] == "ok"
    call_out(server, second, "/other")
    call_out(server, first, host="denied.example.test")
    eventually(lambda: any(one["kind"] == "http" for one in items(server, decision="denied")))

    # A name that is denied has a record, and the call that was made of it all the same has one.
    found = items(server, "/boxes/first" + LOG)
    assert [one["host"] for one in found] == ["denied.example.test", "denied.example.test", API]
    assert {one["sandbox"] for one in found} == {first}
    assert found[2]["rule"] == "api" and found[2]["path"] == "/v1" and found[2]["credentials"][0]["source"] == "opaque"
    assert [one["sandbox"] for one in items(server, host=API)] == [second, first]
    assert [one["path"] for one in items(server, sandbox="second")] == ["/other"]
    denied = items(server, decision="denied")
    assert denied == found[:2]
    assert items(server, reason=denied[0]["reason"]) == [one for one in denied if one["reason"] == denied[0]["reason"]]
    assert len(items(server, rule="api")) == 2 and items(server, rule="other") == []
    assert items(server, host="*.example.test") == items(server) and items(server, host="*.api.example.test") == []
    assert items(server, since="2199-01-01T00:00:00Z") == [] and items(server, until="2020-01-01T00:00:00Z") == []
    assert items(server, since=denied[-1]["time"]) == denied

    # Page by page it is the same, and the log is what --log got.
    pages, cursor = [], {}
    while cursor is not None:
        page = ask(server, limit=1, **cursor)
        pages += page["items"]
        cursor = {"cursor": page["next_cursor"]} if page["next_cursor"] else None
    assert pages == items(server)
    assert pages[::-1] == server.records()

    # A stopped box has its log, and a removed one is in the workspace's; all of it is there after a restart.
    server.call("POST", "/boxes/first/stop")
    assert items(server, "/boxes/first" + LOG) == found
    assert server.call("DELETE", "/boxes/first")[0] == 204
    assert server.call("GET", "/boxes/first" + LOG)[0] == 404
    assert items(server, sandbox=first) == found
    server.kill()
    server.start("--bootstrap-api-key-file", server.directory / "unused")
    assert items(server) == pages


def test_no_secret_and_no_query_is_in_it(server, origin):
    server.at(API, origin.port).start()
    server.call("POST", "//api/v1/workspaces/current/secrets", [{"key": "TOKEN", "value": "canary-secret"}])
    box = make_box(server, "first")
    run(server, box, f"curl -sS -H 'Authorization: canary-header' -d canary-body 'https://{API}/v1?canary-query=canary-value'")
    eventually(lambda: items(server))
    assert "canary" not in json.dumps(items(server))
    kept = [file for file in (server.data / "network-log").iterdir() if file.stat().st_size]
    assert kept and all(b"canary" not in file.read_bytes() and file.stat().st_mode & 0o777 == 0o600 for file in kept)


def test_a_secret_is_named_with_its_version(server, origin):
    def versions(known):
        eventually(lambda: len(items(server)) > known)
        return [one["credentials"] for one in items(server)][0]
    server.at(API, origin.port).start()
    secrets = "//api/v1/workspaces/current/secrets"
    server.call("POST", secrets, [{"key": "TOKEN", "value": "canary-first"}])
    rule = {"name": "api", "match_hosts": [API], "headers": [{"name": "X-Key", "type": "workspace_secret", "value": "{TOKEN}"}]}
    status, box = server.call("POST", "/boxes", {"name": "first", "proxy_config": {"rules": [rule]}})
    assert status == 201, box
    call_out(server, "first")
    (first,) = versions(0)
    call_out(server, "first")
    assert versions(1) == [first] and first["source"] == "workspace_secret:TOKEN" and first["version"] > 0
    server.call("POST", secrets, [{"key": "TOKEN", "value": "canary-second"}])
    call_out(server, "first")
    (second,) = versions(2)
    assert second["version"] > first["version"]


def test_another_workspace_sees_nothing(server, origin):
    server.at(API, origin.port).start()
    box = make_box(server, "first")
    call_out(server, box)
    mine = eventually(lambda: items(server))
    assert mine
    elsewhere = {"X-Tenant-Id": str(uuid.uuid4())}
    status, page = server.call("GET", LOG, headers=elsewhere)
    assert status in (200, 403, 404) and not (page or {}).get("items")
    status, page = server.call("GET", f"{LOG}?sandbox={box}", headers=elsewhere)
    assert status in (200, 403, 404) and not (page or {}).get("items")
    assert server.call("GET", f"/boxes/{box}{LOG}", headers=elsewhere)[0] in (403, 404)
    assert server.call("GET", LOG, key=False)[0] == 401


def test_what_is_asked_wrongly_is_refused(server):
    server.start()
    for query in ("limit=0", "limit=x", "cursor=xyz", "cursor=ffff", "decision=maybe", "reason=because", "since=yesterday", "until=2026-13-01T00:00:00Z",
                  "host=a%20b", "follow=yes", "follow=true&limit=3", "follow=true&cursor=0", "follow=true&until=2026-01-01T00:00:00Z"):
        status, error = server.call("GET", f"{LOG}?{query}")
        assert status == 400 and error["detail"]["message"], query
    assert server.call("GET", f"{LOG}?follow=true", headers={"Last-Event-ID": "nonsense"})[0] == 400
    assert server.call("GET", f"{LOG}?limit=9999&since=2026-01-01T00:00:00%2B02:00") == (200, {"items": [], "next_cursor": None})
    assert server.call("GET", "/boxes/nobody" + LOG)[0] == 404


def test_it_is_followed_as_it_grows(server, origin):
    server.at(API, origin.port).start()
    box = make_box(server, "first")
    call_out(server, box, "/before")
    eventually(lambda: items(server))
    events, denials = Events(server), Events(server, "/boxes/first" + LOG, decision="denied")
    for path in ("/one", "/two"):
        call_out(server, box, path)
        done = time.monotonic()
        event = events.next()
        assert time.monotonic() - done < 1
        assert event["data"]["path"] == path and event["data"]["sandbox"] == box
    call_out(server, box, host="denied.example.test")
    last = None
    for _ in range(2):
        last = events.next()
        assert denials.next()["data"] == last["data"] and last["data"]["host"] == "denied.example.test"
    events.close()

    # Who comes again has missed nothing, and gets nothing twice.
    call_out(server, box, "/three")
    again = Events(server, last=last["id"])
    assert again.next()["data"]["path"] == "/three"
    # From a time on, what was there comes first.
    whole = Events(server, since="2020-01-01T00:00:00Z")
    assert [whole.next()["data"].get("path") for _ in range(3)] == ["/before", "/one", "/two"]

    # It ends in order when the server does, and at once.
    stopping = time.monotonic()
    server.process.terminate()
    assert again.next() is None and denials.next() is None
    assert server.process.wait(WAIT) == 0
    assert time.monotonic() - stopping < 5


def test_who_follows_too_much_is_refused(server):
    server.start()
    open_ones = [Events(server) for _ in range(32)]
    status, error = server.call("GET", f"{LOG}?follow=true")
    assert status == 503 and "follow" in error["detail"]["message"]
    open_ones.pop().close()
    assert eventually(lambda: Events(server) if server.call("GET", "//health")[0] == 200 else None)


def test_what_retention_took_is_told(server):
    server.start("--log-retention-bytes", 16777216)
    status, page = server.call("GET", LOG)
    assert status == 200
    gap = Events(server, last="ffffffffffff")  # of a log that was longer
    assert gap.next() == {"event": "gap", "data": {}}


def test_metrics_count_what_happened_and_name_nobody(server, origin):
    port = kit.free_port()
    server.at(API, origin.port).start("--metrics-listen", f"127.0.0.1:{port}")
    box = make_box(server, "first")
    call_out(server, box)
    call_out(server, box, host="denied.example.test")

    def metrics():
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=WAIT) as answer:
            assert answer.headers["Content-Type"].startswith("text/plain")
            text = answer.read().decode()
        return text, dict(line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#"))

    assert eventually(lambda: metrics()[1]['postern_requests_total{decision="allowed",reason="allowed"}'] == "1")
    text, values = metrics()
    assert any(int(value) > 0 for name, value in values.items() if 'decision="denied"' in name)
    assert values["postern_boxes_created_total"] == "1" and values["postern_boxes_failed_total"] == "0"
    assert values["postern_box_start_duration_seconds_count"] == values['postern_box_start_duration_seconds_bucket{le="+Inf"}'] == "1"
    assert float(values["postern_box_start_duration_seconds_sum"]) > 0 and values['postern_credentials_asked_total{source="callback"}'] == "0"
    assert values["postern_boxes_running"] == "1" and values["postern_journal_queued"] == "0"
    assert int(values["postern_response_bytes_total"]) > 0 and int(values["postern_network_log_bytes"]) > 0
    made = 'route="/api/v2/sandboxes/boxes",method="POST",status="2xx"'
    assert values[f"postern_api_request_duration_seconds_count{{{made}}}"] == "1"
    assert values[f'postern_api_request_duration_seconds_bucket{{{made},le="+Inf"}}'] == "1"
    assert int(values["process_resident_memory_bytes"]) > 1_000_000 and int(values["process_open_fds"]) > 3
    for name in (box, server.key, "canary", "example.test"):
        assert name not in text
    size = len(text)
    for number in range(20):
        server.call("GET", f"/nothing/{number}/x")
        server.call("GET", f"/boxes/nobody-{number}")
    assert len(metrics()[0]) < size + 3000  # Two rows more, whoever asks for what.
