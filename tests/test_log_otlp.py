"""`--log-otlp`: records at a collector of OpenTelemetry, as the protocol's own definitions read them; and collectors that are slow or down."""

import http.server
import json
import socket
import subprocess
import threading
import urllib.request

import pytest

import kit
from attacks_support import Origin, eventually
from clients_support import CACHE, WAIT, python_environment
from serve_support import Server, server  # noqa: F401 (fixtures)
from test_network_log import call_out, make_box
from test_network_log import origin as box_origin  # noqa: F401 (fixture)

API = "api.example.test"


class Collector:
    """Keeps what it is told; `answer(number) -> (status, body)`."""

    def __init__(self, answer=lambda number: (200, b"{}")):
        self.requests = []
        collector = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self):
                body = self.rfile.read(int(self.headers["Content-Length"]))
                collector.requests.append((self.path, dict(self.headers), body))
                status, text = answer(len(collector.requests))
                self.send_response(status)
                self.send_header("Content-Length", str(len(text)))
                self.end_headers()
                self.wfile.write(text)

            def log_message(self, *words):
                pass
        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_port}/v1/logs"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def records(self):
        """All that it was told, in order."""
        return [record for _, _, body in self.requests for of in json.loads(body)["resourceLogs"] for scope in of["scopeLogs"] for record in scope["logRecords"]]

    def stop(self):
        self.server.shutdown()
        self.server.server_close()


@pytest.fixture
def collector():
    made = []

    def start(*words):
        made.append(Collector(*words))
        return made[-1]
    yield start
    for one in made:
        one.stop()


@pytest.fixture
def postern(place, authority):
    origin = Origin(authority=authority, names=[API])
    yield kit.Postern(place, authority).at(API, origin.port)
    origin.stop()


def attributes(record):
    return {one["key"]: next(iter(one["value"].values())) for one in record["attributes"]}


def calls(postern, collector_url, *paths, options=(), env=None):
    return postern.run("curl", "-sS", *[f"https://{API}{path}" for path in paths], policy=kit.header_rule(API), secrets={"KEY": "canary-key"},
                       options=["--log-otlp", collector_url, *options], env=env)


PARSE = """
import sys
from google.protobuf import json_format
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
request = json_format.Parse(sys.stdin.read(), ExportLogsServiceRequest())
(logs,) = request.resource_logs
print({one.key: one.value.string_value for one in logs.resource.attributes}["service.name"], logs.scope_logs[0].scope.name)
for record in logs.scope_logs[0].log_records:
    said = {one.key: one.value for one in record.attributes}
    print(record.time_unix_nano > 1700000000 * 10**9, record.severity_text, record.body.string_value, said["server.port"].int_value,
          said["http.response.status_code"].int_value, said["postern.duration_ms"].double_value >= 0, said["postern.intercepted"].bool_value,
          [pair.value.string_value for pair in said["postern.credentials"].array_value.values[0].kvlist_value.values])
"""


def test_the_protocols_own_definitions_read_it(postern, collector):
    python = python_environment(CACHE / "otlp", "opentelemetry/proto", "opentelemetry-proto==1.*")
    told = collector()
    run = calls(postern, told.url, "/a?canary-query=1", "/b")
    assert run.status == 0 and run.stderr == ""
    assert len(told.requests) == 1
    path, fields, body = told.requests[0]
    assert (path, fields["Content-Type"]) == ("/v1/logs", "application/json")
    assert b"canary" not in body
    read = subprocess.run([python, "-c", PARSE], input=body.decode(), capture_output=True, text=True, timeout=WAIT)
    assert read.stderr == ""
    row = "True INFO GET {}{}: allowed 443 200 True True ['Authorization', 'workspace_secret:KEY']"
    assert read.stdout.splitlines() == ["postern postern.audit", row.format(API, "/a"), row.format(API, "/b")]


def test_it_is_told_what_the_log_says(postern, collector):
    told = collector()
    run = calls(postern, told.url, "/a", "/b", "/c")
    assert [attributes(record)["url.path"] for record in told.records()] == [record["path"] for record in run.records] == ["/a", "/b", "/c"]
    ours = set(run.records[0]) - {"time", "method", "status", "scheme", "path", "host", "port", "detail"}
    assert {f"postern.{name}" for name in ours} <= set(attributes(told.records()[0]))


def test_its_headers_come_from_files_and_variables(postern, collector, tmp_path):
    told = collector()
    (tmp_path / "token").write_text("Bearer canary-token\n")
    run = calls(postern, told.url, "/a", env={"CANARY_KEY": "canary-variable"},
                options=["--log-otlp-header", f"Authorization=file:{tmp_path}/token", "--log-otlp-header", "X-Key=env:CANARY_KEY", "--log-otlp-header", "X-Team=blue"])
    assert run.status == 0
    fields = told.requests[0][1]
    assert (fields["Authorization"], fields["X-Key"], fields["X-Team"]) == ("Bearer canary-token", "canary-variable", "blue")
    for bad, why in [("X-Key=env:NOBODY_SETS_IT", "not set"), ("nonsense", "no name or no value"), ("X-Key=file:/nonexistent", "cannot be read"),
                     ("X Y=canary-z", "no name")]:
        refused = calls(postern, told.url, "/a", options=["--log-otlp-header", bad])
        assert refused.status == 125 and why in refused.stderr and "canary-z" not in refused.stderr
    assert calls(postern, "ftp://127.0.0.1/", "/a").status == 125


def test_what_may_be_tried_again_is_and_what_may_not_is_not(postern, collector):
    told = collector(lambda number: (503, b"") if number == 1 else (200, b"{}"))
    run = calls(postern, told.url, "/a")
    assert run.status == 0 and len(told.requests) == 2 and "answers 503; it is tried again" in run.stderr
    refusing = collector(lambda number: (400, b"no"))
    run = calls(postern, refusing.url, "/a")
    assert run.status == 0 and len(refusing.requests) == 1
    assert "answers 400; these records are dropped" in run.stderr and "1 record did not reach the collector" in run.stderr
    partly = collector(lambda number: (200, b'{"partialSuccess":{"rejectedLogRecords":"1","errorMessage":"full"}}'))
    run = calls(postern, partly.url, "/a", "/b")
    assert "1 record did not reach the collector" in run.stderr
    assert len(run.records) == 2  # The log has them all.


def test_one_that_does_not_answer_holds_up_nobody(postern):
    silent = socket.create_server(("127.0.0.1", 0))
    down = socket.create_server(("127.0.0.1", 0))
    url = f"http://127.0.0.1:{down.getsockname()[1]}/v1/logs"
    down.close()
    for where in (url, f"http://127.0.0.1:{silent.getsockname()[1]}/v1/logs"):
        run = calls(postern, where, *[f"/{i}" for i in range(5)])
        assert run.status == 0 and len(run.records) == 5 and "5 records did not reach the collector" in run.stderr, run.stderr
        assert "cannot be reached" in run.stderr
    silent.close()


@pytest.mark.parametrize("server", ["root"], indirect=True)
def test_a_server_counts_what_it_told(server, box_origin, collector):
    told = collector()
    port = kit.free_port()
    server.at(API, box_origin.port).start("--log-otlp", told.url, "--metrics-listen", f"127.0.0.1:{port}")
    make_box(server, "first")
    assert call_out(server, "first")["stdout"] == "ok"
    assert eventually(told.records)

    def metrics():
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=WAIT) as answer:
            return dict(line.rsplit(" ", 1) for line in answer.read().decode().splitlines() if not line.startswith("#"))
    assert eventually(lambda: metrics()["postern_log_otlp_sent_total"] != "0")
    assert metrics()["postern_log_otlp_dropped_total"] == "0" and metrics()["postern_log_otlp_queued"] == "0"
    assert metrics()['postern_requests_total{decision="failed",reason="audit_unavailable"}'] == "0"
