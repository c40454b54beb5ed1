"""HTTP/2 on one side of Postern, on the other, and on both: the clients that people use, nginx as the origin, and calls whose every step is
decided here. Where the order of events matters, one side waits until the other has seen what went before."""

import collections
import hashlib
import json
import re
import shutil
import subprocess
import sys

import pytest

import kit
from clients_support import CANARY, SHOWN, PROGRAMS, PYTHON, WAIT, Once, caller, client, go_program, running  # noqa: F401 (fixtures)
from test_clients_bulk import measured

sys.path.insert(0, str(PROGRAMS))
import versions  # noqa: E402

HOST = "api.example.test"
OTHER = "other.example.test"
POLICY = kit.header_rule(HOST)
SECRETS = {"KEY": CANARY}
ALPN = {"h1": ["http/1.1"], "h2": ["h2"]}
FORMS = ["h1-h1", "h1-h2", "h2-h1", "h2-h2"]  # Toward the sandbox, toward the origin.
PROTOCOLS = {"h1": "HTTP/1.1", "h2": "HTTP/2"}


def calls(run, **wanted):
    return [r for r in run.records if r["kind"] == "http" and all(r.get(key) == value for key, value in wanted.items())]


# ---- the clients that people use ---------------------------------------------------------------------------

ECHO = """
    location / { return 200 "auth=$http_authorization origin=$server_protocol\\n"; }
    location /file/ { alias %s/; }
    location /post { proxy_pass http://127.0.0.1:%d; proxy_set_header Origin-Protocol $server_protocol; }"""
# Behind the first one, which hands over a body only when it is whole.
LENGTH = 'location / { return 200 "auth=$http_authorization origin=$http_origin_protocol length=$http_content_length\\n"; }'


@pytest.fixture(params=["h1", "h2"])
def origin(request, nginx, place):
    """nginx with and without HTTP/2: the version that it speaks, and its port."""
    files = place / "files"
    files.mkdir()
    (files / "page").write_text("a page\n" * 1000)
    behind = nginx.serve("localhost", locations=LENGTH, tls=False)
    port = nginx.serve(HOST, locations=ECHO % (files, behind), http2=request.param == "h2")
    nginx.start()
    place.chmod(0o755)
    return request.param, port


def answered(caller, origin, *command, **more):
    """The lines that a client printed of nginx's answer, which has the credential and the origin's version in it."""
    version, port = origin
    more = {"policy": POLICY, "secrets": SECRETS, **more}
    run = caller.at(HOST, port).run(*command, **more)
    assert run.status == 0, run.stdout + run.stderr + run.log_text
    served = {"h1": "HTTP/1.1", "h2": "HTTP/2.0"}[version]
    assert f"auth=Bearer {SHOWN} origin={served}" in run.stdout, run.stdout + run.stderr
    assert CANARY not in run.log_text
    return run


@pytest.mark.parametrize("version", ["h1", "h2"])
def test_curl(client, origin, version):
    option, shown = {"h1": ("--http1.1", "1.1"), "h2": ("--http2", "2")}[version]
    run = answered(client, origin, "curl", "-sS", option, "-w", "%{http_version}\n", f"https://{HOST}/a", f"https://{HOST}/b")
    assert run.stdout.splitlines()[1::2] == [shown, shown]
    assert [(r["path"], r["protocol"], r["status"]) for r in calls(run)] == [(path, PROTOCOLS[version], 200) for path in ("/a", "/b")]


HTTPX = """
import httpx, json
with httpx.Client(http2=True) as client:
    for answer in (client.get("https://api.example.test/get"), client.post("https://api.example.test/post", content=b"x" * 100_000)):
        print(answer.http_version, answer.status_code, answer.text, end="")
"""


def test_python_httpx(caller, origin):
    run = answered(caller, origin, PYTHON, "-c", HTTPX)
    assert [line.split()[:2] for line in run.stdout.splitlines()] == [["HTTP/2", "200"]] * 2 and "length=100000" in run.stdout
    assert [r["protocol"] for r in calls(run)] == ["HTTP/2"] * 2
    assert calls(run, path="/post")[0]["request_bytes"] > 100_000


NODE = """
const http2 = require('http2');
const session = http2.connect('https://api.example.test');
let left = 50, bodies = [];
for (let number = 0; number < left; ++number) {
  const stream = session.request({':path': (number % 2 ? '/post' : '/') + number, ':method': number % 2 ? 'POST' : 'GET'});
  let body = '';
  stream.setEncoding('utf8').on('data', piece => body += piece).on('end', () => {
    bodies.push(body);
    if (--left == 0) { session.close(); console.log(bodies.length, new Set(bodies).size); console.log([...new Set(bodies)].join('')); }
  });
  stream.end(number % 2 ? Buffer.alloc(40000) : undefined);
}
"""


def test_node_http2(caller, origin):
    run = answered(caller, origin, "node", "-e", NODE)
    assert run.stdout.startswith("50 2\n") and "length=40000" in run.stdout, run.stdout
    assert collections.Counter(r["path"] for r in calls(run, protocol="HTTP/2", status=200)) == {
        f"/post{number}" if number % 2 else f"/{number}": 1 for number in range(50)}


def test_node_fetch(caller, origin):
    """Node's own fetch speaks HTTP/1.1 only, whatever the origin does."""
    run = answered(caller, origin, "node", "-e", f"fetch('https://{HOST}/').then(a => a.text()).then(t => console.log(t))")
    assert calls(run)[0]["protocol"] == "HTTP/1.1"


def test_go_speaks_http_2_without_being_told(caller, origin, go_program):
    shutil.copy(go_program, caller.work / "client")
    run = answered(caller, origin, "./client", f"https://{HOST}/")
    assert calls(run)[0]["protocol"] == "HTTP/2"


def test_nghttp_and_h2load_ask_for_much_at_once(caller, origin):
    _, port = origin
    run = caller.at(HOST, port).run(
        "sh", "-c", f"head -c 300000 /dev/zero > body; nghttp -n -s https://{HOST}/file/page https://{HOST}/one | tail -4;"
        f"h2load -n 600 -c 3 -m 40 https://{HOST}/load && h2load -n 60 -c 2 -m 20 -d body https://{HOST}/post; nghttp -v https://{HOST}/seen",
        policy=POLICY, secrets=SECRETS)
    assert "600 done, 600 succeeded, 0 failed, 0 errored, 0 timeout" in run.stdout, run.stdout + run.stderr
    assert "60 done, 60 succeeded, 0 failed, 0 errored, 0 timeout" in run.stdout, run.stdout + run.stderr
    assert f"auth=Bearer {SHOWN}" in run.stdout
    assert collections.Counter(r["path"] for r in calls(run, protocol="HTTP/2", status=200)) == {
        "/file/page": 1, "/one": 1, "/load": 600, "/post": 60, "/seen": 1}
    assert all(r["request_bytes"] > 300_000 for r in calls(run, path="/post"))


# ---- refusals ----------------------------------------------------------------------------------------------

def test_a_denied_host_is_readable_whatever_is_offered(client):
    run = client.run("sh", "-c", "for option in --http2 --http1.1; do curl -sS $option -w ' %{http_code}\\n' https://denied.example.test/x; done",
                     policy=POLICY, secrets=SECRETS)
    assert re.findall(r'"reason":"(\w+)"', run.stdout) == ["not_in_allow_list"] * 2, run.stdout + run.stderr
    assert [line for line in run.stdout.splitlines() if line.startswith(" ")] == [" 403", " 403"]
    assert [(r["reason"], r["path"], r["status"]) for r in calls(run, host="denied.example.test")] == [("not_in_allow_list", "/x", 403)] * 2


def both(caller, origin, script, policy=POLICY, secrets=SECRETS, **more):
    """The JSON lines of a program in the sandbox that speaks either version by tests/clients/versions.py."""
    run = caller.at(HOST, origin.port).python(
        "import sys\nfrom versions import connect, get, Reset\nfrom talk import tell\nHOST = 'api.example.test'\n"
        + f"VERSION = {more.pop('version', 'h2')!r}\n" + script, policy=policy, secrets=secrets, **more)
    assert run.status == 0, f"{run.stderr}\norigin: {origin.errors}\n{run.log_text}"
    assert not origin.errors
    run.told = [json.loads(line) for line in run.stdout.splitlines()]
    return run


@pytest.fixture
def serving(authority):
    """Starts origins that speak the version that is asked for and end with the test."""
    started = []

    def start(version, script, names=(HOST,), **more):
        origin = versions.Origin(script, authority.certificate(*names), ALPN[version], **more)
        started.append(origin)
        return origin
    yield start
    for origin in started:
        origin.stop()


def test_each_stream_of_a_connection_has_its_own_verdict(caller, serving):
    """Denied by a rule, allowed, another host's name, and again allowed, all on one connection."""
    origin = serving("h2", lambda call: call.respond(200, [], b"welcome"))
    policy = kit.header_rule(HOST)
    policy["rules"].insert(0, {"name": "no orders", "match_hosts": [HOST], "match_paths": ["/orders/*"], "action": "deny"})
    run = both(caller, origin, f"""
connection = connect(HOST, "h2")
asked = [connection.call("/a"), connection.call("/orders/7"), connection.call("/b", authority="{OTHER}"), connection.call("/c")]
for call in asked:
    status, body = call.answer()
    tell(status=status, reason=call.field("x-postern-reason"), body=body)
""", policy=policy)
    assert [(line["status"], line["reason"]) for line in run.told] == [
        (200, ""), (403, "denied_by_rule"), (421, "misdirected_request"), (200, "")]
    assert "no orders" in json.loads(run.told[1]["body"])["error"]["message"]
    assert {(r["path"], r["reason"], r["protocol"], r["host"]) for r in calls(run)} == {
        ("/a", "allowed", "HTTP/2", HOST), ("/orders/7", "denied_by_rule", "HTTP/2", HOST),
        ("/b", "misdirected_request", "HTTP/2", OTHER), ("/c", "allowed", "HTTP/2", HOST)}
    assert len(calls(run)) == 4
    assert {call.path for call in origin.calls} == {"/a", "/c"} and {call.field("authorization") for call in origin.calls} == {f"Bearer {CANARY}"}


def test_a_client_that_speaks_only_http_2_reads_why_its_host_is_denied(caller, serving):
    origin = serving("h2", lambda call: call.respond(200, [], b"unseen"))
    run = both(caller, origin, """
connection = connect("denied.example.test", "h2")
for path in ("/x", "/y"):
    call = connection.call(path)
    status, body = call.answer()
    tell(status=status, reason=call.field("x-postern-reason"), body=body)
""")
    assert [(line["status"], line["reason"]) for line in run.told] == [(403, "not_in_allow_list")] * 2
    assert HOST in json.loads(run.told[0]["body"])["error"]["message"]
    assert [r["path"] for r in calls(run, host="denied.example.test", decision="denied")] == ["/x", "/y"] and len(calls(run)) == 2


def test_an_origin_that_fails_is_told_to_each_stream(caller, serving):
    origin = serving("h2", lambda call: call.abort(2) if call.path == "/bad" else call.respond(200, [], b"good"))
    run = both(caller, origin, """
connection = connect(HOST, "h2")
for path in ("/bad", "/good"):
    call = connection.call(path)
    status, body = call.answer()
    tell(status=status, reason=call.field("x-postern-reason"))
""")
    assert [(line["status"], line["reason"]) for line in run.told] == [(502, "origin_closed"), (200, "")]


# ---- streaming, in every form ------------------------------------------------------------------------------

def split(form):
    return form.split("-")


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("kind", ["text/event-stream", "application/x-ndjson"])
def test_every_piece_of_an_answer_arrives_before_the_next_is_sent(caller, serving, form, kind):
    sandbox, outside = split(form)
    got = [Once() for _ in range(3)]

    def script(call):
        if call.path.startswith("/got/"):
            got[int(call.path[5:])].happened()
            return call.respond(200, [], b"ok")
        call.respond(200, [("content-type", kind)])
        for number in range(3):
            call.send(b"data: %d\n\n" % number)
            got[number].wait()
        call.send(b"last words", last=True)

    origin = serving(outside, script)
    run = both(caller, origin, """
call = connect(HOST, VERSION).call("/events", fields=[("accept", "text/event-stream")])
call.head()
for number in range(3):
    tell(event=call.until(b"\\n\\n"))
    get(HOST, f"/got/{number}")
tell(rest=call.rest())
""", version=sandbox)
    assert run.told == [*({"event": f"data: {number}\n\n"} for number in range(3)), {"rest": "last words"}]
    record = run.record(kind="http", path="/events")
    assert record["protocol"] == PROTOCOLS[sandbox] and record["reason"] == "allowed"


@pytest.mark.parametrize("form", FORMS)
def test_both_directions_stream_at_once(caller, serving, form):
    """Each piece of the request waits for the answer to the one before: neither direction is held back by anybody."""
    sandbox, outside = split(form)

    def script(call):
        call.respond(200, [])
        for number in range(3):
            call.until(b"ask %d\n" % number)
            call.send(b"reply %d\n" % number)
        assert call.rest() == b"good bye"
        assert dict(call.trailers)["x-sum"] == "up-7" and "authorization" not in dict(call.trailers)
        call.end([("x-sum", "down-7")])

    origin = serving(outside, script)
    run = both(caller, origin, """
call = connect(HOST, VERSION).call("/both", "POST", [("te", "trailers"), ("trailer", "x-sum")])
call.send(b"ask 0\\n")
call.head()
for number in range(3):
    tell(reply=call.until(b"\\n"))
    call.send(b"ask %d\\n" % (number + 1) if number < 2 else b"good bye")
call.end([("x-sum", "up-7"), ("authorization", "Bearer mine")])
tell(rest=call.rest(), trailers=dict(call.trailers))
""", version=sandbox)
    assert run.told == [*({"reply": f"reply {number}\n"} for number in range(3)), {"rest": "", "trailers": {"x-sum": "down-7"}}]


@pytest.mark.parametrize("form", FORMS)
def test_an_origin_that_breaks_off_is_not_taken_for_whole(caller, serving, form):
    sandbox, outside = split(form)
    got = Once()

    def script(call):
        if call.path == "/got":
            got.happened()
            return call.respond(200, [], b"ok")
        call.respond(200, [])
        call.send(b"what there was")
        got.wait()
        call.abort()

    origin = serving(outside, script)
    run = both(caller, origin, """
call = connect(HOST, VERSION).call("/cut")
call.head()
tell(body=call.exactly(14))
get(HOST, "/got")
try:
    tell(rest=call.rest())
except Reset as reset:
    tell(reset=True)
""", version=sandbox)
    assert run.told == [{"body": "what there was"}, {"reset": True}]
    assert run.record(kind="http", path="/cut")["reason"] == "origin_closed"


@pytest.mark.parametrize("form", FORMS)
def test_a_client_that_cancels_is_seen_by_the_origin(caller, serving, form):
    sandbox, outside = split(form)
    done, ended = Once(), []

    def script(call):
        if call.path == "/done":
            done.wait()
            return call.respond(200, [], b"ok")
        call.respond(200, [])
        call.send(b"first")
        ended.append(call.how_it_ended())
        done.happened()

    origin = serving(outside, script)
    run = both(caller, origin, """
call = connect(HOST, VERSION).call("/model")
call.head()
call.exactly(5)
call.abort()
get(HOST, "/done")
""", version=sandbox)
    assert ended == ["reset"]
    assert run.record(kind="http", path="/model")["reason"] == "sandbox_closed"


@pytest.mark.parametrize("form", FORMS)
def test_a_client_that_cancels_before_the_answer_is_seen_too(caller, serving, form):
    sandbox, outside = split(form)
    asked, done, ended = Once(), Once(), []

    def script(call):
        if call.path in ("/asked", "/done"):
            (asked if call.path == "/asked" else done).wait()
            return call.respond(200, [], b"ok")
        asked.happened()
        ended.append(call.how_it_ended())
        done.happened()

    origin = serving(outside, script)
    run = both(caller, origin, """
call = connect(HOST, VERSION).call("/model")
get(HOST, "/asked")
call.abort()
get(HOST, "/done")
""", version=sandbox)
    assert ended == ["reset"]
    assert run.record(kind="http", path="/model")["reason"] == "sandbox_closed"


@pytest.mark.parametrize("form", FORMS)
def test_an_upload_that_breaks_off_never_looks_complete(caller, serving, form):
    sandbox, outside = split(form)
    seen, done, ended = Once(), Once(), []

    def script(call):
        if call.path in ("/seen", "/done"):
            (seen if call.path == "/seen" else done).wait()
            return call.respond(200, [], b"ok")
        call.exactly(5)
        seen.happened()
        try:
            ended.append(call.rest())
        except versions.Reset:
            ended.append("reset")
        done.happened()

    origin = serving(outside, script)
    run = both(caller, origin, """
call = connect(HOST, VERSION).call("/up", "POST")
call.send(b"first")
get(HOST, "/seen")
call.abort()
get(HOST, "/done")
""", version=sandbox)
    assert ended == ["reset"]
    assert run.record(kind="http", path="/up")["reason"] == "sandbox_closed"


# ---- the answers before the answer, and those that come early ----------------------------------------------

@pytest.mark.parametrize("form", FORMS)
def test_early_hints_arrive_before_the_origin_has_its_answer(caller, serving, form):
    sandbox, outside = split(form)
    hinted = Once()

    def script(call):
        if call.path == "/hinted":
            hinted.happened()
            return call.respond(200, [], b"ok")
        call.inform(103, [("link", "</style.css>; rel=preload")])
        hinted.wait()
        call.respond(200, [], b"page")

    origin = serving(outside, script)
    run = both(caller, origin, """
call = connect(HOST, VERSION).call("/page")
tell(status=call.head(), link=call.field("link"))
get(HOST, "/hinted")
status, body = call.answer()
tell(status=status, body=body)
""", version=sandbox)
    assert run.told == [{"status": 103, "link": "</style.css>; rel=preload"}, {"status": 200, "body": "page"}]


@pytest.mark.parametrize("form", FORMS)
def test_a_client_that_waits_for_100_continue_is_told_to_go_on(caller, serving, form):
    sandbox, outside = split(form)

    def script(call):
        call.respond(200, [], b"got " + call.exactly(4))

    origin = serving(outside, script)
    run = both(caller, origin, """
call = connect(HOST, VERSION).call("/up", "POST", [("expect", "100-continue"), ("content-length", "4")])
tell(status=call.head())
call.send(b"body", last=True)
status, body = call.answer()
tell(status=status, body=body)
""", version=sandbox)
    assert run.told == [{"status": 100}, {"status": 200, "body": "got body"}]
    assert not any(call.field("expect") for call in origin.calls)


@pytest.mark.parametrize("form", FORMS)
def test_an_answer_that_comes_before_the_upload_is_over_is_read(caller, serving, form):
    sandbox, outside = split(form)

    def script(call):
        call.respond(413, [], b"too large for me")
        call.how_it_ended()

    origin = serving(outside, script)
    run = both(caller, origin, """
call = connect(HOST, VERSION).call("/up", "POST", [("content-length", "50000000")])
call.send(bytes(30000))
status, body = call.answer()
tell(status=status, body=body)
""", version=sandbox)
    assert run.told == [{"status": 413, "body": "too large for me"}]
    assert run.record(kind="http", path="/up")["status"] == 413


# ---- large bodies, and readers that stop -------------------------------------------------------------------

SIZE = 1024 ** 3
GROWTH_KIB_MAX = 32 * 1024  # A stream's window grows to 4 MiB where it is read from swiftly, and lies in memory up to twice.
LARGE_FORMS = ["h2-h1", "h1-h2", "h2-h2"]
CURL = {"h1": "curl -sS --http1.1", "h2": "curl -sS --http2"}


@pytest.mark.parametrize("form", LARGE_FORMS)
def test_a_download_of_a_gigabyte_is_whole_and_memory_stays_flat(caller, place, nginx, form):
    sandbox, outside = split(form)
    with open(place / "large", "wb") as file:
        file.truncate(SIZE)
    place.chmod(0o755)
    port = nginx.serve(HOST, locations=f"location = /large {{ root {place}; sendfile on; }} location = /small {{ return 200 small; }}",
                       http2=outside == "h2")
    nginx.start()
    printed, growth = measured(caller, port, HOST, f"{CURL[sandbox]} https://{HOST}/large -o /dev/null -w '%{{size_download}}\\n'",
                               policy=POLICY, secrets=SECRETS)
    assert printed == f"{SIZE}\n"
    assert growth < GROWTH_KIB_MAX


COUNTING = """
const [certificate, key, version, port] = process.argv.slice(1), fs = require('fs');
const options = {cert: fs.readFileSync(certificate), key: fs.readFileSync(key), settings: {initialWindowSize: 1 << 24}};
const serve = (request, answer) => {
  let count = 0;
  request.on('data', piece => count += piece.length).on('end', () => answer.end(count + '\\n'));
};
(version == 'h2' ? require('http2').createSecureServer(options, serve) : require('https').createServer(options, serve)).listen(port, '127.0.0.1');
"""


@pytest.mark.parametrize("form", LARGE_FORMS)
def test_an_upload_of_a_gigabyte_is_whole_and_memory_stays_flat(caller, authority, form):
    sandbox, outside = split(form)
    with open(caller.work / "large", "wb") as file:
        file.truncate(SIZE)
    port = kit.free_port()
    with running(["node", "-e", COUNTING, *authority.certificate(HOST), outside, port]) as server:
        kit.wait_for_port(port, server)
        printed, growth = measured(caller, port, HOST, f"{CURL[sandbox]} -T large https://{HOST}/up", policy=POLICY, secrets=SECRETS)
    assert printed == f"{SIZE}\n"
    assert growth < GROWTH_KIB_MAX


# What is on its way when nobody reads: Postern's windows and buffers, and the kernel's.
UNREAD_MAX = 32 * 1024 * 1024
PIECE = 1 << 20


@pytest.mark.parametrize("form", ["h2-h2", "h1-h2"])
def test_a_client_that_does_not_read_stops_the_origin(caller, serving, form):
    """The origin sends until its window is closed for good: as long as the client has read nothing, it does not open again."""
    sandbox, outside = split(form)
    stopped, sent = Once(), []

    def script(call):
        if call.path == "/stopped":
            stopped.wait()
            return call.respond(200, [], b"ok")
        call.respond(200, [])
        while call.sent < UNREAD_MAX and call.send_what_fits(bytes(PIECE)):
            pass
        sent.append(call.sent)
        stopped.happened()
        call.send(b"the end", last=True)

    origin = serving(outside, script)
    run = both(caller, origin, """
call = connect(HOST, VERSION).call("/endless")
call.head()
get(HOST, "/stopped")
tell(size=len(call.rest()))
""", version=sandbox)
    assert 0 < sent[0] < UNREAD_MAX
    assert run.told == [{"size": sent[0] + len(b"the end")}]


@pytest.mark.parametrize("form", ["h2-h2", "h2-h1"])
def test_an_origin_that_does_not_read_stops_the_client(caller, serving, form):
    sandbox, outside = split(form)
    stopped = Once()

    def script(call):
        if call.path == "/stopped":
            stopped.happened()
            return call.respond(200, [], b"ok")
        stopped.wait()
        call.respond(200, [], b"%d" % len(call.rest()))

    origin = serving(outside, script)
    run = both(caller, origin, f"""
call = connect(HOST, VERSION).call("/up", "POST")
while call.sent < {UNREAD_MAX} and call.send_what_fits(bytes({PIECE})):
    pass
tell(sent=call.sent)
get(HOST, "/stopped")
call.end()
tell(body=call.answer()[1])
""", version=sandbox)
    sent = run.told[0]["sent"]
    assert 0 < sent < UNREAD_MAX and run.told[1]["body"] == str(sent)
