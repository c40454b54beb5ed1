"""Accounts and origins that the tests with real clients share.

Every client runs with an environment and a home of its own, so that no setting of the machine's owner (a pip.conf, an
npm registry, trust variables) decides a test. Root also tests an ordinary user, for whom the sandbox is built otherwise.
"""

import socket
import contextlib
import os
import pwd
import shutil
import subprocess
import threading

import pytest

import kit

PYTHON = "/usr/bin/python3"
CACHE = kit.ROOT / "build/clients"  # What is installed for the tests is kept there from one run to the next.


def npm_package(place, name, version):
    """Installs it below `place`, unless it is there. Returns the node_modules."""
    if not (place / "node_modules" / name).exists():
        place.mkdir(parents=True, exist_ok=True)
        subprocess.run(["npm", "install", "--no-audit", "--no-fund", "--no-package-lock", "--ignore-scripts", "--prefix", str(place), f"{name}@{version}"],
                       check=True, timeout=300, capture_output=True)
    return place / "node_modules"


def python_packages(place, module, *packages):
    """Installs them into `place`, for PYTHONPATH, unless `module` (a path) is there. Returns `place`."""
    if not (place / module).exists():
        subprocess.run([PYTHON, "-m", "pip", "install", "-q", "--target", str(place), *packages], check=True, timeout=300, capture_output=True)
    return place


def python_environment(place, module, *packages):
    """Makes a virtual environment with them, unless `module` (a path) is in it. Returns its Python."""
    python = place / "bin/python3"
    if not list(place.glob(f"lib/*/site-packages/{module}")):
        subprocess.run([PYTHON, "-m", "venv", str(place)], check=True, timeout=120)
        subprocess.run([python, "-m", "pip", "install", "-q", *packages], check=True, timeout=300, capture_output=True)
    return python
PROGRAMS = kit.ROOT / "tests/clients"
USER = "postern-test"
ACCOUNTS = ["root", "user"] if os.geteuid() == 0 else ["user"]
CANARY = "canary-51e7c0b9"
SHOWN = kit.shown(CANARY)
WAIT = 20  # Seconds for what takes milliseconds: a bound on a broken run, never an assertion on time.


def ordinary_user():
    if os.geteuid() != 0:
        return pwd.getpwuid(os.geteuid())
    try:
        return pwd.getpwnam(USER)
    except KeyError:
        subprocess.run(["useradd", "--create-home", USER], check=True)
        return pwd.getpwnam(USER)


def become(entry):
    """The words that run a command as this account."""
    if os.geteuid() != 0 or entry.pw_uid == 0:
        return []
    return ["setpriv", f"--reuid={entry.pw_uid}", f"--regid={entry.pw_gid}", "--clear-groups"]


class Client(kit.Postern):
    """`postern run` as an account, with nothing of the caller's environment."""

    def __init__(self, directory, authority, account):
        super().__init__(directory, authority)
        self.home = self.directory / "home"
        self.home.mkdir()
        self.state.mkdir()
        self.entry = ordinary_user() if account == "user" else pwd.getpwuid(os.geteuid())
        # The authority's own directory is private; whoever runs postern reads a copy.
        self.authority = kit.Authority.__new__(kit.Authority)
        self.authority.file = self.directory / "origin-ca.pem"
        shutil.copy(authority.file, self.authority.file)
        self.own()

    def own(self):
        """Everything made so far belongs to the account."""
        if os.geteuid() != 0 or self.entry.pw_uid == 0:
            return
        for top in (self.work, self.home, self.state):
            for path in (top, *top.rglob("*")):
                os.chown(path, self.entry.pw_uid, self.entry.pw_gid, follow_symlinks=False)
        os.chown(self.directory, self.entry.pw_uid, self.entry.pw_gid)

    def arguments(self, *command, **more):
        self.own()
        return super().arguments(*command, **more)

    def environment(self, extra=None):
        node, go, java = (shutil.which(name) for name in ("node", "go", "java"))
        path = [*(os.path.dirname(found) for found in (node, go, java) if found), "/usr/local/bin", "/usr/bin", "/bin", "/usr/sbin", "/sbin"]
        return {"PATH": ":".join(dict.fromkeys(path)), "HOME": str(self.home), "LANG": "C.UTF-8", "PYTHONDONTWRITEBYTECODE": "1",
                "POSTERN_STATE_DIR": str(self.state), **(extra or {})}

    def run(self, *command, prefix=(), **more):
        return super().run(*command, prefix=(*become(self.entry), *prefix), **more)

    def python(self, script, *words, **more):
        """A Python program in the sandbox that finds tests/clients on its path."""
        shutil.copytree(PROGRAMS, self.work / "clients", dirs_exist_ok=True)
        return self.run(PYTHON, "-c", "import sys; sys.path.insert(0, 'clients')\n" + script, *words, **more)


@pytest.fixture(params=ACCOUNTS)
def client(request, place, authority):
    """A sandbox's caller: root, and an ordinary user."""
    place.chmod(0o755)
    return Client(place, authority, request.param)


@pytest.fixture
def caller(place, authority):
    """Whoever runs the tests: for what does not depend on the account."""
    place.chmod(0o755)
    return Client(place, authority, ACCOUNTS[0])


@pytest.fixture(scope="session")
def go_program(tmp_path_factory):
    """tests/clients/client.go, built."""
    go = shutil.which("go") or "/usr/local/go/bin/go"
    directory = tmp_path_factory.mktemp("go")
    shutil.copy(PROGRAMS / "client.go", directory)
    subprocess.run([go, "build", "-trimpath", "-o", "client", "client.go"], cwd=directory, check=True, timeout=300,
                   env={**os.environ, "CGO_ENABLED": "0", "GOFLAGS": "", "GO111MODULE": "off"})
    return directory / "client"


@pytest.fixture
def scripted(authority):
    """Starts scripted origins that end with the test; one that failed fails the test."""
    with contextlib.ExitStack() as stack:
        def start(script, *names, tls=True, context=None):
            origin = kit.Scripted(script, authority if tls and not context else None, names, context)
            stack.callback(origin.stop)
            return origin
        yield start


class Once:
    """Something that must happen in one place before another goes on."""

    def __init__(self):
        self.event = threading.Event()

    def happened(self):
        self.event.set()

    def wait(self):
        if not self.event.wait(WAIT):
            raise TimeoutError("what this waits for never happened")


def simple_answer(body=b"ok", headers=b"", status=b"200 OK"):
    return b"HTTP/1.1 " + status + b"\r\n" + headers + b"Content-Length: %d\r\n\r\n" % len(body) + body


@contextlib.contextmanager
def running(words, **popen):
    """A server of the test's own, ended by its process id."""
    process = subprocess.Popen(list(map(str, words)), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, **popen)
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def ended_by(connection):
    """How the peer ended the connection, after whatever it still sent. Below TLS: Python's shows a reset as an end."""
    with socket.socket(fileno=os.dup(connection.fileno())) as raw:
        raw.settimeout(WAIT)
        try:
            while raw.recv(65536):
                pass
            return "close"
        except ConnectionResetError:
            return "reset"
