"""Every method of the official SDKs' sandbox clients that test_serve.py, test_serve_tunnel.py and their like do not call, with the errors that they make of ours, a connection
that is cut in the middle of a command, and their own proof of a callback's question."""

import json
import socket
import subprocess
import threading

import pytest

from attacks_support import Origin, answer_with
from clients_support import PROGRAMS
from serve_support import js_sdk, python_sdk, run_js, run_python, server  # noqa: F401 (fixtures)

API = "api.example.test"
ENDPOINT = "creds.example.test"
CALLBACK = f"https://{ENDPOINT}/issue"


class Relay:
    """Stands before the server; the first connection on which `mark` comes from there is cut behind it."""

    def __init__(self, url, mark):
        self.target = url.split("//")[1].split(":")
        self.mark, self.cuts = mark, 0
        self.listening = socket.create_server(("127.0.0.1", 0), backlog=64)
        self.url = f"http://127.0.0.1:{self.listening.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self):
        while True:
            try:
                near = self.listening.accept()[0]
            except OSError:
                return
            far = socket.create_connection((self.target[0], int(self.target[1])))
            for source, sink, watched in ((near, far, False), (far, near, True)):
                threading.Thread(target=self._copy, args=(source, sink, watched), daemon=True).start()

    def _copy(self, source, sink, watched):
        try:
            while data := source.recv(65536):
                sink.sendall(data)
                if watched and not self.cuts and self.mark in data:
                    self.cuts += 1
                    break
        except OSError:
            pass
        for end in (source, sink):
            try:
                end.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass

    def stop(self):
        self.listening.close()


class Setting:
    """A server, what its boxes call, and a relay before it."""

    def __init__(self, server, authority):
        self.server = server
        self.origin = Origin(lambda request: answer_with("200 OK", request.head.decode("latin-1")), authority=authority, names=[API])
        self.endpoint = Origin(lambda request: answer_with("200 OK", json.dumps({"headers": {"Authorization": "Bearer canary-granted"}}), "Content-Type: application/json"),
                               authority=authority, names=[ENDPOINT])
        server.at(API, self.origin.port).at(ENDPOINT, self.endpoint.port).start()
        self.relay = Relay(server.url, b"first-half")
        status, _ = server.call("POST", "//api/v1/workspaces/current/secrets", [{"key": "AWS_ID", "value": "AKIACANARYCANARY0000"}])
        assert status == 200

    def stop(self):
        self.relay.stop()
        self.origin.stop()
        self.endpoint.stop()


@pytest.fixture
def setting(server, authority):  # noqa: F811
    made = Setting(server, authority)
    yield made
    made.stop()


def check_common(setting, found):
    assert found["aws"] in ("set set\n", ["set", "set"]) and found["held"] is False
    carried = found["carried"].lower()
    assert "x-new: new" in carried and "x-own: [redacted]" in carried and "authorization: bearer [redacted]" in found["granted"].lower()
    assert setting.origin.values("x-own")[-1] in ("canary-opaque-3", "canary-opaque-4")
    assert "Bearer canary-granted" in setting.origin.values("authorization")
    assert found["drop"] == "first-half\nsecond-half\n" and setting.relay.cuts == 1
    assert found["left"] in ([], ["methods"], 0)


def test_the_python_sdks_other_methods(setting, python_sdk):  # noqa: F811
    found = run_python(setting.server, python_sdk, "sdk_methods.py", API, CALLBACK, env={"LANGSMITH_ENDPOINT": setting.relay.url})
    check_common(setting, found)
    assert found["waited"] == ["clouds", "ready"]
    assert found["ls"] == [["/tmp/list/a", False], ["/tmp/list/b", True]] and found["started"] == "x\n"
    assert found["timeout"] == "CommandTimeoutError"
    assert found["errors"] == {"key": "SandboxAuthenticationError", "missing": "ResourceNotFoundError", "taken": "SandboxClientError", "policy": "ValidationError",
                               "secret": "ValidationError", "snapshot": "SandboxClientError", "rename": "ResourceNameConflictError"}
    assert found["to_async"] == ["async\n", "ready"] and found["scoped"] == "in\n" and found["left"] == ["methods"]
    assert found["exported"] == ["aws_auth", "gcp_auth", "opaque_secret", "workspace_secret"]


def test_the_javascript_sdks_other_methods(setting, js_sdk):  # noqa: F811
    setting.server.url, direct = setting.relay.url, setting.server.url
    found = run_js(setting.server, js_sdk, "sdk_methods.mjs", API, CALLBACK)
    setting.server.url = direct
    check_common(setting, found)
    assert found["waited"] == "ready" and found["started"] == "ready" and found["kept"] == "linked" and found["link"] == "linked" and found["left"] == 0
    assert found["errors"] == {"missing": "LangSmithResourceNotFoundError", "taken": "LangSmithSandboxError", "policy": "LangSmithValidationError",
                               "timeout": "LangSmithCommandTimeoutError", "key": "LangSmithSandboxAuthenticationError"}


def test_a_callbacks_author_can_prove_who_asks(setting, python_sdk):  # noqa: F811
    server = setting.server  # noqa: F811
    status, box = server.call("POST", "/boxes", {"name": "asks", "proxy_config": {"callbacks": [{"match_hosts": [API], "url": CALLBACK, "ttl_seconds": 60}]}})
    assert status == 201
    assert server.call("POST", "/asks/execute", {"command": f"curl -sS https://{API}/"})[1]["exit_code"] == 0
    (asked,) = setting.endpoint.requests
    question = json.dumps({"body": asked.body.decode(), "signature": asked.fields["x-langsmith-signature-jwt"][0], "url": CALLBACK, "issuer": server.url})
    done = subprocess.run([python_sdk, "-B", PROGRAMS / "sdk_verify.py"], input=question, env=server.sdk_environment(), capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["refused"] == [True, True]
    assert (found["host"], found["port"], found["sandbox"]) == (API, 443, box["id"]) and found["tenant"]
