"""WebSockets in every form: an Upgrade of HTTP/1.1 or an extended CONNECT of HTTP/2 (RFC 8441), on either side of Postern."""

import sys

import pytest

import kit
from clients_support import CANARY, SHOWN, PROGRAMS, PYTHON, Once, caller, running  # noqa: F401 (fixtures)
from test_clients_http import CLIENT, SERVER
from test_clients_http2 import FORMS, HOST, POLICY, PROTOCOLS, SECRETS, both, calls, serving, split  # noqa: F401 (fixtures)

sys.path.insert(0, str(PROGRAMS))
import frames  # noqa: E402
import versions  # noqa: E402

WEBSOCKETS = {versions.CONNECT_PROTOCOL: 1}


@pytest.fixture
def socket_origin(serving):  # noqa: F811
    """An origin of WebSockets; other calls go to `beside`."""
    def start(version, script, beside=lambda call: call.respond(404, [], b"nothing here")):
        def serve(call):
            return script(frames.accept(call, version)) if call.path == "/socket" else beside(call)
        return serving(version, serve, settings=WEBSOCKETS)
    return start


def after(**marks):
    """What calls beside the WebSocket wait for: a path for each mark."""
    def beside(call):
        marks[call.path[1:]].wait()
        call.respond(200, [], b"ok")
    return beside


@pytest.mark.parametrize("form", FORMS)
def test_messages_of_every_kind_are_echoed_and_the_client_closes(caller, socket_origin, form):
    sandbox, outside = split(form)
    closed = []

    def script(socket):
        frames.echo(socket)
        closed.append(socket.close_code)

    origin = socket_origin(outside, script)
    run = both(caller, origin, """
import frames, os
socket = frames.open_socket(connect(HOST, VERSION), VERSION, fields=[("authorization", "Bearer mine")])
socket.text("grüße")
tell(text=socket.next())
for size in (0, 1, 125, 126, 65535, 65536, 1 << 20):
    data = os.urandom(size)
    socket.binary(data)
    tell(size=size, same=socket.next() == data)
socket.ping(b"there?")
tell(pong=socket.next())
socket.close(1000, "enough")
tell(end=socket.next(), code=socket.close_code)
socket.call.end()
""", version=sandbox)
    sizes = [{"size": size, "same": True} for size in (0, 1, 125, 126, 65535, 65536, 1 << 20)]
    assert run.told == [{"text": "grüße"}, *sizes, {"pong": "there?"}, {"end": None, "code": 1000}]
    assert closed == [1000]
    assert [call.field("authorization") for call in origin.calls] == [f"Bearer {CANARY}"]
    record = run.record(kind="http", path="/socket")
    assert (record["status"], record["reason"], record["protocol"], record["method"]) == (101, "allowed", PROTOCOLS[sandbox], "GET"), record
    assert record["request_bytes"] > 1 << 20 and record["response_bytes"] > 1 << 20


@pytest.mark.parametrize("form", FORMS)
def test_the_origin_speaks_and_closes_while_the_client_is_silent(caller, socket_origin, form):
    sandbox, outside = split(form)
    told = Once()

    def script(socket):
        socket.text("at once")
        told.wait()
        socket.text("and later")
        socket.close(1001, "going")
        assert socket.next() is None

    def beside(call):
        told.happened()
        call.respond(200, [], b"ok")

    origin = socket_origin(outside, script, beside)
    run = both(caller, origin, """
import frames
socket = frames.open_socket(connect(HOST, VERSION), VERSION)
tell(first=socket.next())
get(HOST, "/told")
tell(later=socket.next())
tell(end=socket.next(), code=socket.close_code)
""", version=sandbox)
    assert run.told == [{"first": "at once"}, {"later": "and later"}, {"end": None, "code": 1001}]
    assert run.record(kind="http", path="/socket")["status"] == 101


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("status", [200, 403])
def test_an_origin_that_does_not_switch_makes_no_tunnel(caller, serving, form, status):  # noqa: F811
    """200 means yes in HTTP/2 and no in HTTP/1.1: neither side may take the other's word for its own."""
    sandbox, outside = split(form)
    if outside == "h2" and status == 200:
        return  # That is a yes.

    origin = serving(outside, lambda call: call.respond(status, [], b"no sockets here"), settings=WEBSOCKETS)
    run = both(caller, origin, """
import frames
status, body = frames.ask(connect(HOST, VERSION), VERSION, "/socket").answer()
tell(status=status, body=body)
""", version=sandbox)
    if sandbox == "h2" and status == 200:
        assert run.told[0]["status"] >= 400, run.told
    else:
        assert run.told == [{"status": status, "body": "no sockets here"}]


def test_an_origin_that_speaks_only_http_2_and_no_websockets_is_named(caller, serving):  # noqa: F811
    origin = serving("h2", lambda call: call.respond(500, [], b"unseen"))
    for version in ("h1", "h2"):
        run = both(caller, origin, """
import frames
call = frames.ask(connect(HOST, VERSION), VERSION, "/socket")
status, body = call.answer()
tell(status=status, reason=call.field("x-postern-reason"))
""", version=version)
        assert run.told == [{"status": 502, "reason": "origin_tls_failed"}]
    assert not origin.calls


@pytest.mark.parametrize("form", FORMS)
def test_a_client_that_is_gone_is_seen_by_the_origin(caller, socket_origin, form):
    sandbox, outside = split(form)
    done, ended = Once(), []

    def script(socket):
        socket.text("here")
        ended.append(socket.call.how_it_ended())
        done.happened()

    origin = socket_origin(outside, script, after(done=done))
    both(caller, origin, """
import frames
socket = frames.open_socket(connect(HOST, VERSION), VERSION)
socket.next()
socket.call.abort()
get(HOST, "/done")
""", version=sandbox)
    assert ended == ["reset"]


@pytest.mark.parametrize("form", FORMS)
def test_an_origin_that_is_gone_is_seen_by_the_client(caller, socket_origin, form):
    sandbox, outside = split(form)
    ready = Once()

    def script(socket):
        socket.text("here")
        ready.wait()
        socket.call.abort()

    def beside(call):
        ready.happened()
        call.respond(200, [], b"ok")

    origin = socket_origin(outside, script, beside)
    run = both(caller, origin, """
import frames
socket = frames.open_socket(connect(HOST, VERSION), VERSION)
tell(first=socket.next())
get(HOST, "/ready")
tell(ended=socket.call.how_it_ended())
""", version=sandbox)
    assert run.told == [{"first": "here"}, {"ended": "reset"}]


@pytest.mark.parametrize("outside", ["h1", "h2"])
def test_a_client_of_http_2_may_end_its_direction_alone(caller, socket_origin, outside):
    def script(socket):
        while socket.call.read():
            pass
        socket.call.send(b"after your end", last=True)

    origin = socket_origin(outside, script)
    run = both(caller, origin, """
import frames
socket = frames.open_socket(connect(HOST, VERSION), VERSION)
socket.text("last words")
socket.call.end()
tell(rest=socket.call.rest())
""", policy=kit.header_rule(HOST, **kit.UNSEARCHED))
    assert run.told == [{"rest": "after your end"}]


@pytest.mark.parametrize("sandbox", ["h1", "h2"])
def test_an_origin_of_http_2_may_end_its_direction_alone(caller, socket_origin, sandbox):
    heard, seen = [], Once()

    def script(socket):
        socket.call.send(b"my last words", last=True)
        heard.append(socket.call.exactly(13))
        seen.happened()

    origin = socket_origin("h2", script, after(seen=seen))
    run = both(caller, origin, """
import frames
socket = frames.open_socket(connect(HOST, VERSION), VERSION)
tell(rest=socket.call.rest())
socket.call.send(b"after your end")
get(HOST, "/seen")
""", version=sandbox, policy=kit.header_rule(HOST, **kit.UNSEARCHED))
    assert run.told == [{"rest": "my last words"}]
    assert heard == [b"after your end"[:13]]


def test_a_client_library_of_http_1_1_reaches_an_origin_that_speaks_only_http_2(caller, socket_origin):
    def script(socket):
        socket.text("auth=" + socket.call.field("authorization"))
        frames.echo(socket)

    origin = socket_origin("h2", script)
    run = caller.at(HOST, origin.port).run(
        PYTHON, "-c", CLIENT.replace("max_size=None", "max_size=None, subprotocols=['chat'], compression=None"), policy=POLICY, secrets=SECRETS)
    assert run.stdout.splitlines() == [f"auth=Bearer {SHOWN}", "one", "two", "True", "closed 1000"], run.stderr
    assert run.record(kind="http", path="/socket")["status"] == 101 and origin.versions == ["h2"] and not origin.errors


def test_a_client_of_http_2_reaches_a_server_library_of_http_1_1(caller, authority, serving):  # noqa: F811
    port = kit.free_port()
    program = SERVER.replace("max_size=None", "max_size=None, subprotocols=['chat']")
    with running([PYTHON, "-c", program, port, *authority.certificate(HOST)]) as server:
        kit.wait_for_port(port, server)
        caller.at(HOST, port)
        run = caller.python("""
import frames, os
from versions import connect
socket = frames.open_socket(connect("api.example.test", "h2"), "h2")
print(socket.next())
socket.text("one")
print(socket.next())
large = os.urandom(3_000_000)
socket.binary(large)
print(socket.next() == large)
socket.close()
print(socket.next(), socket.close_code)
""", policy=POLICY, secrets=SECRETS)
    assert run.stdout.splitlines() == [f"auth=Bearer {SHOWN}", "one", "True", "None 1000"], run.stderr
    assert [r["protocol"] for r in calls(run)] == ["HTTP/2"]
