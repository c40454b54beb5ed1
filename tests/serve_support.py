"""`postern serve` for tests, and the real SDKs that speak to it."""

import json
import os
import re
import shutil
import subprocess
import urllib.error
import urllib.request

import pytest

import kit
import openapi_support
from clients_support import ACCOUNTS, CACHE, PROGRAMS, WAIT, become, npm_package, ordinary_user, python_environment

PYTHON_SDK = "0.15.1"
JS_SDK = "0.12.0"
JS_WS = "8.18.0"
DEEPAGENTS = "1.14.1"


class Server:
    """A server of its own, started by `account`; keys as they are printed."""

    def __init__(self, directory, authority=None, account="root"):
        self.directory = directory
        if authority:  # Its own directory is private.
            self.authority = directory / "origin-ca.pem"
            shutil.copy(authority.file, self.authority)
        else:
            self.authority = None
        self.entry = ordinary_user() if account == "user" else None
        self.resolve = []
        self.process = None
        self.key = None
        self.data = directory / "state/server"
        (directory / "state").mkdir(exist_ok=True)
        if self.entry:
            for path in (directory, directory / "state"):
                os.chown(path, self.entry.pw_uid, self.entry.pw_gid)

    def at(self, name, port):
        self.resolve += ["--resolve", f"{name}=127.0.0.1:{port}"]
        return self

    def start(self, *options, listen="127.0.0.1:0", env=None):
        words = [kit.POSTERN, "serve", "--listen", listen, "--log", self.directory / "network.jsonl", *self.resolve, *options]
        if self.authority:
            words += ["--origin-ca", self.authority]
        environment = {"PATH": os.environ["PATH"], "HOME": str(self.directory), "POSTERN_STATE_DIR": str(self.directory / "state"), **(env or {})}
        prefix = become(self.entry) if self.entry else []
        self.errors = open(self.directory / "errors.txt", "a+")
        self.process = subprocess.Popen([*prefix, *map(str, words)], cwd=self.directory, env=environment, stdout=subprocess.PIPE, stderr=self.errors, text=True)
        ready = self.process.stdout.readline()
        found = re.search(r"ready: (http\S+)", ready)
        if not found:
            self.process.wait(WAIT)
            raise AssertionError(f"the server did not start: {ready!r} {self.said()}")
        self.url = found[1]
        if self.key is None and "--bootstrap-api-key-file" not in options:
            self.key = self.process.stdout.readline().split()[-1]
        return self

    def said(self):
        self.errors.flush()
        return (self.directory / "errors.txt").read_text()

    def stop(self):
        if self.process and self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(30)
            except subprocess.TimeoutExpired:
                self.process.kill()
                raise
        return self.process.returncode if self.process else None

    def kill(self):
        self.process.kill()
        self.process.wait(WAIT)

    def records(self):
        file = self.directory / "network.jsonl"
        return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []

    def call(self, method, path, body=None, key=None, headers=None, raw=False):
        """(status, JSON or bytes), of an answer that fits the document of the API. `path` below /api/v2/sandboxes unless it begins with two slashes."""
        url = self.url + (path[1:] if path.startswith("//") else "/api/v2/sandboxes" + path)
        data = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
        asked = urllib.request.Request(url, data=data, method=method)
        if key is not False:
            asked.add_header("X-Api-Key", key or self.key)
        if data is not None:
            asked.add_header("Content-Type", "application/json")
        for name, value in (headers or {}).items():
            asked.add_header(name, value)
        try:
            with urllib.request.urlopen(asked, timeout=WAIT) as answer:
                status, text, kind = answer.status, answer.read(), answer.headers["Content-Type"]
        except urllib.error.HTTPError as error:
            status, text, kind = error.code, error.read(), error.headers["Content-Type"]
        openapi_support.check_answer(method, url.removeprefix(self.url), status, kind, text)
        return status, text if raw else json.loads(text) if text else None

    def sdk_environment(self):
        return {"PATH": os.environ["PATH"], "HOME": str(self.directory), "LANGSMITH_ENDPOINT": self.url, "LANGSMITH_API_KEY": self.key,
                "LANGSMITH_TRACING": "false", "LANGCHAIN_TRACING_V2": "false"}


@pytest.fixture(params=ACCOUNTS)
def server(request, place, authority):
    """Not started yet."""
    place.chmod(0o755)
    made = Server(place, authority, request.param)
    yield made
    made.stop()


@pytest.fixture(scope="session")
def python_sdk():
    return python_environment(CACHE / "langsmith", "jwt", f"langsmith[sandbox,sandbox-auth]=={PYTHON_SDK}")


@pytest.fixture(scope="session")
def js_sdk():
    npm_package(CACHE / "langsmith-js", "ws", JS_WS)
    return npm_package(CACHE / "langsmith-js", "langsmith", JS_SDK)


@pytest.fixture(scope="session")
def deepagents():
    npm_package(CACHE / "deepagents", "ws", JS_WS)
    return npm_package(CACHE / "deepagents", "deepagents", DEEPAGENTS)


def run_python(server, python, program, *words, timeout=120, env=None):
    """A program of tests/clients with the Python SDK. It says what it found as JSON."""
    done = subprocess.run([python, "-B", PROGRAMS / program, *map(str, words)], env={**server.sdk_environment(), **(env or {})}, capture_output=True, text=True, timeout=timeout)
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}\n{server.said()}"
    return json.loads(done.stdout.splitlines()[-1])


def run_js(server, modules, program, *words, timeout=120):
    copy = modules.parent / program  # Modules are looked for beside the program.
    copy.write_text((PROGRAMS / program).read_text())
    done = subprocess.run(["node", copy, *map(str, words)], env=server.sdk_environment(), capture_output=True, text=True, timeout=timeout)
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}\n{server.said()}"
    return json.loads(done.stdout.splitlines()[-1])
