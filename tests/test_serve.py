"""`postern serve` with real boxes and the official SDKs, as root and as an ordinary user."""

import pytest

import kit
from serve_support import deepagents, js_sdk, python_sdk, run_js, run_python, server  # noqa: F401 (fixtures)

API = "api.example.test"


@pytest.fixture
def origin(authority):
    """Says what it was sent."""
    def script(connection, number):
        while head := one.read_head(connection):
            connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(head), head))
    one = kit.Scripted(script, authority, [API])
    yield one
    one.stop()


def secrets(server, **values):
    status, _ = server.call("POST", "//api/v1/workspaces/current/secrets", [{"key": key, "value": value} for key, value in values.items()])
    assert status == 200


def test_the_python_sdk_does_everything_that_people_do(server, python_sdk, origin):
    server.at(API, origin.port).start()
    secrets(server, API_TOKEN="canary-secret-1")
    found = run_python(server, python_sdk, "sdk_boxes.py", API)
    assert found["status"] == "ready"
    assert found["run"] == ["out\nblue\n", "err\n", 3]
    assert found["pieces"] == "1\n2\n3\n" and found["cwd"] == "/tmp" and found["env"] == "one"
    assert found["interactive"] == "got hello\n"
    assert found["first"] == "begun\n" and found["again"] == "begun\nend now\n" and found["terminal"]
    assert found["read"] == "hello\nworld\n" and found["range"] == "world" and found["stat"] == 12
    assert [path.rsplit("/", 1)[-1] for path in found["glob"]] == ["a.txt"] and found["grep"] == [[2, "world"]]
    assert found["missing"] == "ResourceNotFoundError"
    # The origin repeats what it got; the box does not read it.
    assert "authorization: bearer [redacted]" in found["shared"].lower() and "x-own" not in found["shared"].lower()
    assert "x-own: [redacted]" in found["own"].lower() and "authorization" not in found["own"].lower()
    got = origin.everything()
    assert b"authorization: bearer canary-secret-1" in got.lower() and b"x-own: canary-opaque-1" in got.lower()
    assert "canary" not in found["held"] + found["shared"] + found["own"]
    assert found["listed"] == ["first"] and found["stopped"] == "stopped" and found["kept"] == "hello\nworld\n" and found["woken"] == "ready"
    assert found["renamed"] == "second" and found["left"] == []
    assert found["async"] == ["0\n1\n2\n3\n4\n", [0, 255], 1]
    assert server.stop() == 0
    for file in server.data.rglob("*"):  # Nothing at rest in the open, and nothing in any log.
        assert not file.is_file() or b"canary" not in file.read_bytes(), file
    assert "canary" not in (server.directory / "network.jsonl").read_text() + server.said()


def test_the_javascript_sdk_does_everything_that_people_do(server, js_sdk, origin):
    server.at(API, origin.port).start()
    secrets(server, API_TOKEN="canary-secret-2")
    found = run_js(server, js_sdk, "sdk_boxes.mjs", API)
    assert found["status"] == "ready" and found["run"] == ["out\n", "err\n", 3] and found["pieces"] == "1\n2\n3\n"
    assert found["interactive"] == "got hello\n"
    assert found["read"] == "hello\nworld\n" and found["glob"] == ["a.txt"] and found["grep"] == [[2, "world"]] and found["missing"]
    assert "x-shared: [redacted]" in found["shared"].lower() and "x-own: [redacted]" in found["own"].lower()
    got = origin.everything().lower()
    assert b"x-shared: canary-secret-2" in got and b"x-own: canary-opaque-2" in got
    assert found["listed"] == ["first"] and found["stopped"] == "stopped" and found["woken"] == "hello\nworld\n" and found["left"] == 0


def test_deepagents_works_in_a_box(server, deepagents):
    found = run_js(server.start(), deepagents, "deepagents_box.mjs")
    assert found["execute"] == {"output": "hi\n\nerr\n", "exitCode": 4, "truncated": False}
    assert found["write"] == "/home/user/a.txt" and found["edit"] == 1 and "there" in found["read"] and "world" not in found["read"]
    assert found["ls"] == [["/home/user/a.txt", 12]] and found["glob"] == ["a.txt"]
    assert found["grep"] == [{"path": "/home/user/a.txt", "line": 2, "text": "there"}]
    assert found["download"] == [[[0, 255, 1], None], [None, "file_not_found"], [None, "is_directory"]]
    assert found["after"] == "hello\nthere\n" and found["left"] == 0


def test_commands_of_the_python_sdk_over_server_sent_events(server, python_sdk):
    found = run_python(server.start("--access-log", server.directory / "access.jsonl"), python_sdk, "sdk_events.py", env={"LANGSMITH_EXPERIMENTAL_FEATURES": "sandbox_sse_exec"})
    assert found == {"run": ["out\n", "err\n", 3], "pieces": "1\n2\n3\ngrün", "much": 20_000_000, "begun": "begun\n"}
    assert "/execute/stream/start" in (server.directory / "access.jsonl").read_text() and "/execute/ws" not in (server.directory / "access.jsonl").read_text()
