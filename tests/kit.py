"""Real parts for the system tests: a CA, nginx origins, scripted origins, and `postern run` with its log.

Everything listens on 127.0.0.1 on ports of the kernel's choosing and is ended by process id.
POSTERN names the binary (default: build/release/src/postern).
"""

import json
import os
import pathlib
import shutil
import socket
import ssl
import subprocess
import tempfile
import threading
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent
POSTERN = os.environ.get("POSTERN", str(ROOT / "build/release/src/postern"))
NGINX = shutil.which("nginx") or "/usr/sbin/nginx"


def visible_tree():
    """Options that show this tree in a sandbox even when it lies in a place that every sandbox has of its own."""
    return ["--ro-bind", str(ROOT)] if str(ROOT).startswith(("/tmp/", "/var/tmp/", "/run/")) else []


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def wait_for_port(port, process=None, seconds=10):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if process is not None and process.poll() is not None:
            raise AssertionError(f"the server ended with {process.returncode}")
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
            return
        except OSError:
            time.sleep(0.02)
    raise AssertionError(f"nothing listens on port {port}")


class Authority:
    """A certificate authority for origins, made with the openssl command."""

    def __init__(self, directory):
        self.directory = pathlib.Path(directory)
        self.directory.mkdir(parents=True, exist_ok=True)
        self.file = self.directory / "ca.pem"
        self.key = self.directory / "ca.key"
        self._openssl("req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-keyout", self.key, "-out", self.file,
                      "-subj", "/CN=Origin Test CA", "-days", "30", "-addext", "keyUsage=critical,keyCertSign")

    def _openssl(self, *words):
        subprocess.run(["openssl", *map(str, words)], check=True, capture_output=True)

    def certificate(self, *names, days=20, extra=""):
        """(certificate file, key file) for these DNS names."""
        base = self.directory / f"{names[0].replace('*', 'star')}-{len(list(self.directory.iterdir()))}"
        key, request, certificate, extensions = (base.with_suffix(end) for end in (".key", ".csr", ".crt", ".ext"))
        extensions.write_text("subjectAltName=" + ",".join(f"DNS:{name}" for name in names) + "\nbasicConstraints=CA:FALSE\n" + extra)
        self._openssl("req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-keyout", key, "-out", request, "-subj", "/CN=origin")
        self._openssl("x509", "-req", "-in", request, "-CA", self.file, "-CAkey", self.key, "-CAcreateserial", "-out", certificate, "-days", days,
                      "-extfile", extensions)
        return certificate, key


class Nginx:
    """A real nginx: one HTTPS (or HTTP) server per call of serve(), its configuration given by `locations`."""

    def __init__(self, directory, authority):
        self.directory = pathlib.Path(directory)
        self.directory.mkdir(parents=True, exist_ok=True)
        self.authority = authority
        self.servers = []
        self.process = None

    def serve(self, *names, locations="", tls=True, http2=False, extra=""):
        """Adds a server and returns its port; before start()."""
        port = free_port()
        lines = [f"listen 127.0.0.1:{port}{' ssl' if tls else ''}{' http2' if http2 else ''};", f"server_name {' '.join(names)};", extra]
        if tls:
            certificate, key = self.authority.certificate(*names)
            lines += [f"ssl_certificate {certificate};", f"ssl_certificate_key {key};"]
        self.servers.append("server {" + "\n".join(lines) + "\n" + locations + "}")
        return port

    def start(self):
        temporary = "\n".join(f"{kind}_temp_path {self.directory}/{kind};" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi"))
        user = "user root;" if os.geteuid() == 0 else ""
        (self.directory / "nginx.conf").write_text(
            f"{user} daemon off; pid {self.directory}/pid; error_log {self.directory}/error.log; worker_processes 1;\n"
            "events { worker_connections 4096; }\n"
            f"http {{ access_log {self.directory}/access.log; {temporary} client_max_body_size 0; default_type application/octet-stream;\n"
            + "\n".join(self.servers) + "\n}\n")
        self.process = subprocess.Popen([NGINX, "-p", str(self.directory), "-c", str(self.directory / "nginx.conf")],
                                        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        for server in self.servers:
            wait_for_port(int(server.split("127.0.0.1:")[1].split(";")[0].split()[0]), self.process)
        return self

    def access_log(self):
        return (self.directory / "access.log").read_text()

    def stop(self):
        if self.process and self.process.poll() is None:
            self.process.terminate()
            self.process.wait(10)


def end_listener(listener):
    """Whoever waits in accept() learns of it. Closing alone does not wake it, and when the kernel starts the call again (after SIGCONT, say), the
    descriptor's number may be that of another test's listener."""
    try:
        listener.shutdown(socket.SHUT_RDWR)
    except OSError:  # Closed before.
        pass
    listener.close()


class Scripted:
    """An origin whose every byte a test decides: `script(connection, number)` runs in a thread per connection.

    All that arrives through Scripted.read() is kept in `received`, so that a test can search it for canaries.
    """

    def __init__(self, script, authority=None, names=(), context=None):
        self.script = script
        self.received = []
        self.connections = 0
        self.listener = socket.create_server(("127.0.0.1", 0), backlog=128)
        self.port = self.listener.getsockname()[1]
        self.context = context
        if authority and not context:
            self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            self.context.load_cert_chain(*map(str, authority.certificate(*names)))
        self.errors = []
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self):
        while True:
            try:
                connection, _ = self.listener.accept()
            except OSError:
                return
            self.connections += 1
            threading.Thread(target=self._serve, args=(connection, self.connections), daemon=True).start()

    def _serve(self, connection, number):
        try:
            connection.settimeout(20)
            if self.context:
                connection = self.context.wrap_socket(connection, server_side=True)
            self.script(connection, number)
        except (OSError, ssl.SSLError) as error:
            self.errors.append(error)
        finally:
            try:
                connection.close()
            except OSError:
                pass

    def read(self, connection, size=65536):
        data = connection.recv(size)
        self.received.append(data)
        return data

    def read_head(self, connection):
        data = b""
        while b"\r\n\r\n" not in data:
            piece = self.read(connection)
            if not piece:
                break
            data += piece
        return data

    def everything(self):
        return b"".join(self.received)

    def stop(self):
        end_listener(self.listener)


class Run:
    """What a finished `postern run` left behind."""

    def __init__(self, completed, log):
        self.status = completed.returncode
        self.stdout = completed.stdout
        self.stderr = completed.stderr
        self.log_text = log.read_text() if log.exists() else ""
        self.records = [json.loads(line) for line in self.log_text.splitlines()]

    def record(self, **wanted):
        """The only record that has these values."""
        found = [r for r in self.records if all(r.get(key) == value for key, value in wanted.items())]
        assert len(found) == 1, f"{len(found)} records with {wanted} among {self.records}"
        return found[0]


class Postern:
    """Builds `postern run` calls. state is a directory of its own, so runs share a CA but nothing with the user."""

    def __init__(self, directory, authority=None):
        self.directory = pathlib.Path(directory)
        self.work = self.directory / "work"
        self.work.mkdir(parents=True, exist_ok=True)
        self.state = self.directory / "state"
        self.authority = authority
        self.resolve = []
        self.serial = 0

    def at(self, name, port):
        """The name leads to this port of 127.0.0.1."""
        self.resolve.append(f"{name}=127.0.0.1:{port}")
        return self

    def arguments(self, *command, policy=None, secrets=None, options=()):
        self.serial += 1
        log = self.directory / f"log-{self.serial}.jsonl"
        words = [POSTERN, "run", "--quiet", "--log", str(log), *visible_tree()]
        if self.authority:
            words += ["--origin-ca", str(self.authority.file)]
        for entry in self.resolve:
            words += ["--resolve", entry]
        if policy is not None:
            file = self.directory / f"policy-{self.serial}.yaml"
            file.write_text(policy if isinstance(policy, str) else json.dumps(policy))
            words += ["--policy", str(file)]
        for key, value in (secrets or {}).items():
            words += ["--secret", f"{key}={value}"]
        return words + list(map(str, options)) + ["--", *map(str, command)], log

    def environment(self, extra=None):
        environment = {key: value for key, value in os.environ.items() if not key.lower().endswith("_proxy")}
        return {**environment, "POSTERN_STATE_DIR": str(self.state), **(extra or {})}

    def run(self, *command, policy=None, secrets=None, options=(), env=None, timeout=60, input=None, prefix=()):
        """`prefix` goes before postern itself, for example setpriv to become an ordinary user."""
        words, log = self.arguments(*command, policy=policy, secrets=secrets, options=options)
        completed = subprocess.run([*prefix, *words], cwd=self.work, env=self.environment(env), capture_output=True, text=True,
                                   timeout=timeout, input=input, errors="replace")
        return Run(completed, log)

    def start(self, *command, policy=None, secrets=None, options=(), env=None, **popen):
        """A run that the test ends itself: (process, log path)."""
        words, log = self.arguments(*command, policy=policy, secrets=secrets, options=options)
        process = subprocess.Popen(words, cwd=self.work, env=self.environment(env), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                                   **popen)
        return process, log


def shown(secret):
    """What a program reads of a credential that an origin repeats: written over, to the same length."""
    return "[redacted]" + "*" * (len(secret) - 10) if len(secret) >= 10 else "*" * len(secret)


def header_rule(host, header="Authorization", value="Bearer {KEY}", name="rule", **more):
    """The usual policy: one rule that injects one header on one host."""
    return {"rules": [{"name": name, "match_hosts": [host], "headers": [{"name": header, "type": "workspace_secret", "value": value}], **more}]}


# What a rule says whose origin is trusted with its answers: they are not searched, and may be anything.
UNSEARCHED = {"transform": {"response": {"scrub_secrets": False}}}


def temporary_directory():
    """Outside /tmp, which every sandbox replaces by its own: the working directory must be the host's."""
    base = pathlib.Path(os.environ.get("POSTERN_TEST_DIR", "/var/lib/postern-test" if os.geteuid() == 0 else pathlib.Path.home()))
    base.mkdir(parents=True, exist_ok=True)
    os.chmod(base, 0o755)
    return pathlib.Path(tempfile.mkdtemp(dir=base))
