"""Runs programs in real sandboxes, as root and as an ordinary user.

The program under test is `sandbox-probe` (src/sandbox/probe): the sandbox and its capture, with a stand-in for the proxy that
answers each connection with the address it was dialled at. POSTERN_BUILD names the build directory.
"""

import os
import pathlib
import pwd
import shutil
import subprocess
import tempfile

ROOT = pathlib.Path(__file__).resolve().parent.parent
BUILD = pathlib.Path(os.environ.get("POSTERN_BUILD", ROOT / "build" / "release"))
PROBE = BUILD / "src" / "sandbox" / "probe" / "sandbox-probe"
PYTHON = "/usr/bin/python3"
USER = "postern-test"

# Whoever runs the tests is tested; root also tests an ordinary user, for whom the way in is another one.
ACCOUNTS = ["root", "user"] if os.geteuid() == 0 else ["user"]


def _account():
    if os.geteuid() != 0:
        return pwd.getpwuid(os.geteuid())
    try:
        return pwd.getpwnam(USER)
    except KeyError:
        subprocess.run(["useradd", "--create-home", USER], check=True)
        return pwd.getpwnam(USER)


class Place:
    """A working directory and a home of an account, and how to run things in them."""

    def __init__(self, account):
        assert PROBE.exists(), f"{PROBE} is not built (target sandbox_probe)"
        self.top = pathlib.Path(tempfile.mkdtemp(prefix="postern-sandbox-"))
        self.top.chmod(0o755)
        self.work = self.top / "work"
        self.home = self.top / "home"
        self.state = self.top / "state"
        self.switch = []
        for directory in (self.work, self.home, self.state):
            directory.mkdir()
        if account == "user":
            entry = _account()
            self.uid = entry.pw_uid
            if os.geteuid() == 0:
                self.switch = ["setpriv", f"--reuid={entry.pw_uid}", f"--regid={entry.pw_gid}", "--clear-groups"]
                for directory in (self.top, self.work, self.home, self.state):
                    os.chown(directory, entry.pw_uid, entry.pw_gid)
        else:
            self.uid = 0

    def write(self, path, text):
        path = pathlib.Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        while path != self.top:
            os.chown(path, self.uid, -1)
            path = path.parent
        return text

    def environment(self, extra=None):
        kept = {"PATH": "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin", "HOME": str(self.home), "LANG": "C.UTF-8"}
        return kept | (extra or {})

    def command(self, command, options=()):
        return [*self.switch, str(PROBE), "--state", str(self.state), *map(str, options), "--", *command]

    def run(self, *command, options=(), env=None, cwd=None, check=True, **more):
        done = subprocess.run(
            self.command(command, options), cwd=cwd or self.work, env=self.environment(env), capture_output=True, text=True,
            errors="replace", timeout=60, **more)
        if check:
            assert done.returncode == 0, done.stderr + done.stdout
        return done

    def python(self, script, **more):
        """What a Python program in the sandbox prints."""
        return self.run(PYTHON, "-c", script, **more).stdout.strip()

    def clean(self):
        shutil.rmtree(self.top, ignore_errors=True)
