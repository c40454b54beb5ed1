"""`--log-strict`: no credential leaves before a record of it is on disk (docs/security.md 97, 98). Every attack has a control: the
same without the option, where the origin is reached."""

import contextlib
import fcntl
import json
import os
import resource
import subprocess
import time

import pytest

import kit
from attacks_support import Canary, Origin, Sandbox, eventually
from serve_support import Server, server  # noqa: F401 (fixtures)
from test_network_log import call_out, items
from test_network_log import origin as box_origin  # noqa: F401 (fixture)

API, FREE = "api.example.test", "free.example.test"
POLICY = {"rules": kit.header_rule(API)["rules"] + [{"name": "free", "match_hosts": [FREE], "headers": []}]}


@pytest.fixture
def origins(authority):
    started = [Origin(authority=authority, names=[name]) for name in (API, FREE)]
    yield started
    for origin in started:
        origin.stop()


@pytest.fixture
def sandbox(place, authority, origins):
    """Starts one whose log is there; strict or not."""
    with contextlib.ExitStack() as all_of_them:
        def start(log, strict=True):
            postern = kit.Postern(place, authority).at(API, origins[0].port).at(FREE, origins[1].port)
            plain = postern.arguments

            def arguments(*words, **more):
                made, own = plain(*words, **more)
                made[made.index("--log") + 1] = str(log)
                return made, log
            postern.arguments = arguments
            key = Canary()
            started = Sandbox(postern, POLICY, {"KEY": key}, options=["--log-strict"] if strict else [], canaries=[key])
            all_of_them.callback(started.end)
            return started
        yield start


def said(sandbox, text):
    return eventually(lambda: text in "".join(sandbox.stderr))


def refused(sandbox, origin):
    """Calls that would carry a credential are refused, and their origin sees none. The next connection is not even accepted."""
    before = len(origin.requests)
    answer = sandbox.get(API)
    assert (answer.statuses, answer.reason) == ([503], "audit_unavailable"), answer
    assert sandbox.get(API).statuses in ([], [503]) and len(origin.requests) == before


def test_a_record_is_there_before_the_origin_is(sandbox, origins, place):
    log = place / "calls.jsonl"
    there = []
    origins[0].answer = lambda request: there.append(log.read_text()) or b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
    box = sandbox(log)
    assert box.get(API, "/v1/x?canary-query").statuses == [200] and box.get(FREE).statuses == [200]
    (begin,) = map(json.loads, there[0].splitlines())
    assert (begin["phase"], begin["path"], begin["host"], begin["rule"]) == ("begin", "/v1/x", API, "rule")
    assert begin["credentials"] == [{"header": "Authorization", "source": "workspace_secret:KEY"}] and "canary-query" not in there[0]
    assert eventually(lambda: len(box.records()) == 3)
    end, free = box.records()[1:]
    assert (end["phase"], end["exchange"], end["status"], end["credentials"]) == ("end", begin["exchange"], 200, begin["credentials"])
    assert "phase" not in free and free["host"] == FREE  # Without a credential there is nothing to announce.
    box.check_alive()
    box.check_secrecy()


def test_without_the_option_there_is_one_record(sandbox, place):
    box = sandbox(place / "calls.jsonl", strict=False)
    assert box.get(API).statuses == [200]
    assert eventually(lambda: box.records()) and [r for r in box.records() if "phase" in r or "exchange" in r] == []


@pytest.fixture
def small_disk(place):
    """A file system of 64 KiB, and how it is filled and emptied."""
    assert os.geteuid() == 0, "mounting needs root"
    disk = place / "disk"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", disk], check=True)
    yield disk
    subprocess.run(["umount", "-l", disk], check=True)


def fill(disk):
    with open(disk / "filler", "wb", buffering=0) as file, contextlib.suppress(OSError):
        while file.write(b"x" * 512):
            pass


def test_a_full_disk_lets_no_credential_out(sandbox, origins, small_disk):
    log = small_disk / "calls.jsonl"
    box = sandbox(log)
    assert box.get(API).statuses == [200]
    fill(small_disk)
    log_had = log.stat().st_size
    for _ in range(20):  # The last page of the log has room for some records.
        seen = len(origins[0].requests)
        answer = box.get(API)
        if answer.statuses != [200]:
            break
    # Refused before it was sent, or not even accepted, since the record of the call before found the disk full.
    assert answer.reason in (None, "audit_unavailable") and answer.statuses in ([], [503]) and len(origins[0].requests) == seen
    assert box.get(API).statuses in ([], [503])
    assert log.stat().st_size - log_had <= 4096 and said(box, "the log cannot be written (No space left on device)")
    (small_disk / "filler").unlink()
    assert eventually(lambda: box.get(API).statuses == [200])
    box.check_alive()
    # Whatever was sent is on record, and whatever was refused says so.
    origins_saw = len(origins[0].requests)
    assert eventually(lambda: sum(r.get("phase") == "end" and r["status"] == 200 for r in box.records()) == origins_saw)
    begun = {r["exchange"] for r in box.records() if r.get("phase") == "begin"}
    assert {r["exchange"] for r in box.records() if r.get("phase") == "end" and r["status"] == 200} <= begun


def test_without_the_option_the_first_call_on_a_full_disk_is_made(sandbox, origins, small_disk):
    box = sandbox(small_disk / "calls.jsonl", strict=False)
    assert box.get(API).statuses == [200]
    fill(small_disk)
    for made in range(40):
        if box.get(API).statuses != [200]:
            break
    assert len(origins[0].requests) == made + 1 and len(box.records()) < made + 1  # Called, and not on record.
    assert said(box, "the log cannot be written")


@pytest.mark.parametrize("device, why", [("/dev/full", "No space left on device"), ("/proc/version", "Input/output error")])
def test_a_device_that_takes_nothing(sandbox, origins, device, why):
    box = sandbox(device)
    refused(box, origins[0])
    assert origins[0].requests == [] and said(box, f"the log cannot be written ({why})")


def test_a_pipe_that_nobody_reads(sandbox, origins, place):
    pipe = place / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    box = sandbox(pipe)
    assert box.get(API).statuses == [200]  # It takes some.
    writer = os.open(pipe, os.O_WRONLY | os.O_NONBLOCK)
    with contextlib.suppress(BlockingIOError):
        while os.write(writer, b"x" * 512):
            pass
    with contextlib.suppress(BlockingIOError):
        while os.write(writer, b"x"):
            pass
    before = time.monotonic()
    answer = box.get(API)
    assert (answer.statuses, answer.reason, len(origins[0].requests)) == ([503], "audit_unavailable", 1)
    assert time.monotonic() - before < 10
    with contextlib.suppress(BlockingIOError):
        while os.read(reader, 65536):
            pass
    assert eventually(lambda: box.get(API).statuses == [200])
    fcntl.fcntl(reader, fcntl.F_SETFL, 0)
    for end in (writer, reader):
        os.close(end)


def test_it_needs_a_log_and_one_that_can_be_written(place, small_disk):
    environment = {"PATH": os.environ["PATH"], "HOME": str(place), "POSTERN_STATE_DIR": str(place / "state")}

    def call(*options):
        return subprocess.run([kit.POSTERN, "run", *options, "--", "true"], cwd=place, env=environment, capture_output=True, text=True, timeout=60)
    lacking = call("--log-strict")
    assert lacking.returncode == 125 and "--log-strict needs --log FILE" in lacking.stderr
    subprocess.run(["mount", "-o", "remount,ro", small_disk], check=True)
    unwritable = call("--log-strict", "--log", small_disk / "calls.jsonl")
    assert unwritable.returncode == 125 and "cannot be opened: Read-only file system" in unwritable.stderr


@pytest.mark.parametrize("server", ["root"], indirect=True)
def test_a_server_is_as_strict(server, box_origin):
    server.at(API, box_origin.port).start("--log-strict")
    status, box = server.call("POST", "/boxes", {"name": "first", "proxy_config": {
        "rules": [{"name": "api", "match_hosts": [API], "headers": [{"name": "X-Key", "type": "opaque", "value": "canary-opaque"}]}]}})
    assert status == 201, box
    assert call_out(server, "first")["stdout"] == "ok"
    assert eventually(lambda: items(server))
    (shown,) = items(server)  # People are shown what became of it.
    assert shown["phase"] == "end" and [r["phase"] for r in server.records() if r["kind"] == "http"] == ["begin", "end"]
    # As a disk that takes nothing more: a file may not grow.
    _, hard = resource.prlimit(server.process.pid, resource.RLIMIT_FSIZE)
    resource.prlimit(server.process.pid, resource.RLIMIT_FSIZE, (1, hard))
    connections = box_origin.connections
    said_503 = call_out(server, "first")["stdout"]
    assert "audit_unavailable" in said_503
    assert box_origin.everything().count(b"X-Key") == 1 and box_origin.connections <= connections + 1
    resource.prlimit(server.process.pid, resource.RLIMIT_FSIZE, (hard, hard))
    assert eventually(lambda: call_out(server, "first")["stdout"] == "ok")
    assert server.stop() == 0


@pytest.mark.parametrize("outside", ["h1", "h2"])
@pytest.mark.parametrize("inside", ["--http1.1", "--http2"])
def test_many_at_once_have_two_records_each(place, authority, nginx, inside, outside):
    port = nginx.serve(API, locations='location / { if ($http_authorization = "Bearer canary-key") { return 200 "good\\n"; } return 200 "bad\\n"; }', http2=outside == "h2")
    nginx.start()
    urls = [f"https://{API}/{number}" for number in range(60)]
    run = kit.Postern(place, authority).at(API, port).run("curl", "-sS", "-Z", "--parallel-max", "30", inside, *urls, policy=kit.header_rule(API),
                                                           secrets={"KEY": "canary-key"}, options=["--log-strict", "--log-chain"])
    assert run.stdout.splitlines() == ["good"] * 60, run.stderr + run.stdout
    records = [record for record in run.records if record["kind"] == "http"]
    begun = {record["exchange"]: record["path"] for record in records if record["phase"] == "begin"}
    ended = {record["exchange"]: record["path"] for record in records if record["phase"] == "end"}
    assert begun == ended and len(begun) == 60 and len(records) == 120
    seen = [(record["exchange"], record["phase"]) for record in records]
    assert all(seen.index((name, "begin")) < seen.index((name, "end")) for name in begun)
