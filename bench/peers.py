"""The contenders: how each proxy is configured and started for the same work.

Every one of them ends TLS with a P-256 leaf, verifies the origin's certificate and name, keeps origin connections,
puts `Authorization: Bearer bench-secret` on each request, writes one record per request to a file, and has one
worker. Only loopback is used. A contender lives for one measurement: the others do not even exist meanwhile.
"""

import atexit
import dataclasses
import hashlib
import json
import os
import pathlib
import shutil
import signal
import socket
import subprocess
import tempfile
import time

ORIGIN = "origin.bench.test"  # intercepted
PASSED = "pass.bench.test"  # allowed, covered by no rule: passed through
SECRET = "bench-secret"


@dataclasses.dataclass
class Setting:
    """Where a benchmark run takes place."""

    directory: pathlib.Path
    postern: pathlib.Path
    load: pathlib.Path
    origin_port: int
    proxy_cpu: int
    load_cpu: int
    nginx_modules: pathlib.Path

    def file(self, name: str) -> pathlib.Path:
        return self.directory / name

    def write(self, name: str, text: str) -> pathlib.Path:
        path = self.file(name)
        path.write_text(text)
        return path


def openssl(*words: str) -> None:
    subprocess.run(["openssl", *words], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, timeout=60)


def make_certificates(directory: pathlib.Path) -> None:
    """ca.pem, and leaf.pem + leaf.key (P-256) for both names. The origin and the fixed-certificate proxies share it."""
    at = lambda name: str(directory / name)
    curve = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]
    openssl("req", "-x509", *curve, "-keyout", at("ca.key"), "-out", at("ca.pem"), "-days", "2", "-subj", "/CN=bench CA",
            "-addext", "basicConstraints=critical,CA:TRUE", "-addext", "keyUsage=critical,keyCertSign")
    openssl("req", *curve, "-keyout", at("leaf.key"), "-out", at("leaf.csr"), "-subj", f"/CN={ORIGIN}")
    (directory / "leaf.ext").write_text(
        f"subjectAltName=DNS:{ORIGIN},DNS:{PASSED},DNS:*.bench.test\nbasicConstraints=CA:FALSE\nkeyUsage=digitalSignature\nextendedKeyUsage=serverAuth\n")
    openssl("x509", "-req", "-in", at("leaf.csr"), "-CA", at("ca.pem"), "-CAkey", at("ca.key"), "-CAcreateserial",
            "-out", at("leaf.pem"), "-days", "2", "-extfile", at("leaf.ext"))
    for name in ("leaf", "ca"):
        (directory / f"{name}-bundle.pem").write_text((directory / f"{name}.pem").read_text() + (directory / f"{name}.key").read_text())


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def wait_until_listening(port: int, process: subprocess.Popen, said: pathlib.Path) -> None:
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise RuntimeError(f"{said.stem} ended with status {process.returncode}: {said.read_text()[-500:].strip()}")
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.01)
    raise RuntimeError(f"nothing listens on port {port}")


def end(process: subprocess.Popen) -> None:
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(10)


@dataclasses.dataclass
class Attempt:
    """One load run against one contender: the load's process, and whose clocks and memory to read."""

    load: subprocess.Popen
    proxy_pids: list[int]
    proxy: subprocess.Popen | None = None  # None: the load is the proxy's own child, or there is no proxy

    def finish(self) -> None:
        end(self.load)
        for pipe in (self.load.stdin, self.load.stdout, self.load.stderr):
            try:
                pipe.close()
            except BrokenPipeError:
                pass
        if self.proxy is not None:
            end(self.proxy)


REALTIME: list[str] = []  # with --realtime: nothing else gets the core while a contender or its load wants it


def on_cpu(cpu: int) -> list[str]:
    """All of these programs become what they start, so the process keeps its id. It ends when we are killed."""
    return [*REALTIME, "taskset", "-c", str(cpu), "setpriv", "--pdeathsig", "TERM", "--"]


def start_load(setting: Setting, words: list[str]) -> subprocess.Popen:
    return subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                            cwd=setting.directory)


class Direct:
    """No proxy: what the load generator and the origin need by themselves."""

    name = "direct"

    def missing(self, setting: Setting, passing: bool) -> str | None:
        return None

    def start(self, setting: Setting, passing: bool, load_options: list[str]) -> Attempt:
        name = PASSED if passing else ORIGIN
        words = [str(setting.load), "--connect", f"127.0.0.1:{setting.origin_port}", "--sni", name,
                 "--ca", str(setting.file("ca.pem")), *load_options]
        return Attempt(start_load(setting, [*REALTIME, *words]), [])


class FixedPort:
    """A proxy that listens on a port of its own. `command` and `configuration` are the subclasses' work."""

    name = ""
    program = ""

    def configuration(self, setting: Setting, port: int) -> str:
        raise NotImplementedError

    def passing_configuration(self, setting: Setting, port: int) -> str:
        raise NotImplementedError

    def command(self, setting: Setting, path: pathlib.Path) -> list[str]:
        raise NotImplementedError

    def entrance(self, setting: Setting, port: int, name: str) -> list[str]:
        return ["--connect", f"127.0.0.1:{port}", "--sni", name, "--ca", str(setting.file("ca.pem"))]

    def missing(self, setting: Setting, passing: bool) -> str | None:
        return None if shutil.which(self.program) else f"{self.program} is not installed"

    def start(self, setting: Setting, passing: bool, load_options: list[str]) -> Attempt:
        port = free_port()
        text = self.passing_configuration(setting, port) if passing else self.configuration(setting, port)
        path = setting.write(f"{self.name}.conf", text)
        with open(setting.file(f"{self.name}.out"), "w") as out:
            proxy = subprocess.Popen([*on_cpu(setting.proxy_cpu), *self.command(setting, path)],
                                     stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.STDOUT)
        try:
            wait_until_listening(port, proxy, setting.file(f"{self.name}.out"))
            words = [*REALTIME, str(setting.load), *self.entrance(setting, port, PASSED if passing else ORIGIN), *load_options]
            return Attempt(start_load(setting, words), [proxy.pid, *children(proxy.pid)], proxy)
        except BaseException:
            end(proxy)
            raise


class Nginx(FixedPort):
    name = "nginx"
    program = "nginx"
    listens = "ssl"

    def missing(self, setting, passing):
        if passing and not self.stream_module(setting).exists():
            return "nginx's stream module (libnginx-mod-stream) is not installed"
        return super().missing(setting, passing)

    def stream_module(self, setting):
        return setting.nginx_modules / "ngx_stream_module.so"

    def command(self, setting, path):
        return ["nginx", "-c", str(path), "-p", str(setting.directory), "-e", str(setting.file("nginx.err"))]

    def configuration(self, setting, port):
        return f"""
daemon off;
user root;
worker_processes 1;
pid {setting.file("nginx.pid")};
events {{ worker_connections 8192; }}
http {{
  log_format record escape=json '{{"time":"$time_iso8601","host":"$host","method":"$request_method","path":"$uri",'
    '"status":$status,"received":$request_length,"sent":$bytes_sent,"seconds":$request_time,"origin":"$upstream_addr"}}';
  access_log {setting.file("nginx.log")} record buffer=64k flush=1s;
  upstream origin {{
    server 127.0.0.1:{setting.origin_port};
    keepalive 1024;
    keepalive_requests 100000000;
    keepalive_timeout 600s;
  }}
  server {{
    listen 127.0.0.1:{port} {self.listens} backlog=4096;
    server_name {ORIGIN};
    ssl_certificate {setting.file("leaf.pem")};
    ssl_certificate_key {setting.file("leaf.key")};
    ssl_protocols TLSv1.2 TLSv1.3;
    ssl_session_cache shared:tls:10m;
    keepalive_requests 100000000;
    keepalive_timeout 600s;
    client_max_body_size 0;
    location / {{
      proxy_pass https://origin;
      proxy_http_version 1.1;
      proxy_set_header Host {ORIGIN};
      proxy_set_header Connection "";
      proxy_set_header Authorization "Bearer {SECRET}";
      proxy_ssl_server_name on;
      proxy_ssl_name {ORIGIN};
      proxy_ssl_verify on;
      proxy_ssl_trusted_certificate {setting.file("ca.pem")};
      proxy_ssl_protocols TLSv1.2 TLSv1.3;
      proxy_ssl_session_reuse on;
      proxy_request_buffering off;
      proxy_max_temp_file_size 0;
      # Of the sizes tried here the one with which nginx does best: its defaults cost it some 6 % on downloads.
      proxy_buffers 8 64k;
      proxy_buffer_size 64k;
      proxy_busy_buffers_size 128k;
    }}
  }}
}}
"""

    def passing_configuration(self, setting, port):
        return f"""
load_module {self.stream_module(setting)};
daemon off;
user root;
worker_processes 1;
pid {setting.file("nginx.pid")};
events {{ worker_connections 8192; }}
stream {{
  log_format record '{{"time":"$time_iso8601","name":"$ssl_preread_server_name","status":$status,"sent":$bytes_sent}}';
  access_log {setting.file("nginx.log")} record buffer=64k flush=1s;
  map $ssl_preread_server_name $origin {{ {PASSED} 127.0.0.1:{setting.origin_port}; }}
  server {{
    listen 127.0.0.1:{port} backlog=4096;
    ssl_preread on;
    proxy_pass $origin;
    proxy_buffer_size 256k;
  }}
}}
"""


class NginxH2(Nginx):
    """HTTP/2 toward the client only: nginx has none toward origins."""

    listens = "ssl http2"

    def configuration(self, setting, port):
        return super().configuration(setting, port).replace("client_max_body_size", "http2_max_concurrent_streams 256;\n    client_max_body_size")


class HAProxy(FixedPort):
    name = "haproxy"
    program = "haproxy"
    alpn = "http/1.1"
    origin_alpn = ""

    def command(self, setting, path):
        return ["haproxy", "-db", "-f", str(path)]

    def configuration(self, setting, port):
        return f"""
{self.ground()}
  mode http
  http-reuse always
  log-format '{{"time":"%t","host":"%[var(txn.host)]","method":"%HM","path":"%HP","status":%ST,"received":%U,"sent":%B,"ms":%Ta,"origin":"%si:%sp"}}'
frontend sandbox
  bind 127.0.0.1:{port} backlog 4096 ssl crt {setting.file("leaf-bundle.pem")} alpn {self.alpn} ssl-min-ver TLSv1.2
  http-request set-var(txn.host) req.hdr(host)
  http-request set-header Authorization "Bearer {SECRET}"
  default_backend origin
backend origin
  server origin 127.0.0.1:{setting.origin_port} ssl verify required ca-file {setting.file("ca.pem")} sni str({ORIGIN}) verifyhost {ORIGIN} ssl-min-ver TLSv1.2 pool-max-conn 1024 {self.origin_alpn}
"""

    def passing_configuration(self, setting, port):
        return f"""
{self.ground()}
  mode tcp
  log-format '{{"time":"%t","received":%U,"sent":%B,"ms":%Tt,"origin":"%si:%sp"}}'
frontend sandbox
  bind 127.0.0.1:{port} backlog 4096
  tcp-request inspect-delay 5s
  tcp-request content accept if {{ req.ssl_sni -i {PASSED} }}
  tcp-request content reject
  default_backend origin
backend origin
  server origin 127.0.0.1:{setting.origin_port}
"""

    def ground(self):
        return """
global
  nbthread 1
  maxconn 8192
  log stdout format raw local0
defaults
  log global
  timeout client 600s
  timeout server 600s
  timeout connect 10s
  timeout http-request 30s
  timeout http-keep-alive 600s"""


class HAProxyH2(HAProxy):
    alpn = "h2"

    def __init__(self, origin_h2: bool = False):
        self.origin_alpn = "alpn h2" if origin_h2 else ""


class Nghttpx(FixedPort):
    name = "nghttpx"
    program = "nghttpx"

    def __init__(self, origin_h2: bool = False):
        self.protocol = "proto=h2" if origin_h2 else "proto=http/1.1"

    def command(self, setting, path):
        return ["nghttpx", f"--conf={path}"]

    def configuration(self, setting, port):
        return f"""
frontend=127.0.0.1,{port}
backend=127.0.0.1,{setting.origin_port};;{self.protocol};tls;sni={ORIGIN}
private-key-file={setting.file("leaf.key")}
certificate-file={setting.file("leaf.pem")}
cacert={setting.file("ca.pem")}
add-request-header=Authorization: Bearer {SECRET}
accesslog-file={setting.file("nghttpx.log")}
errorlog-file={setting.file("nghttpx.err")}
workers=1
single-process=yes
no-ocsp=yes
no-server-push=yes
"""


class Interceptor(FixedPort):
    """A tool that mints leaves: it is asked for a tunnel by CONNECT and breaks into it."""

    def entrance(self, setting, port, name):
        return ["--connect", f"{name}:{setting.origin_port}", "--through", f"127.0.0.1:{port}", "--sni", name, "--ca", str(setting.file("ca.pem"))]


class Squid(Interceptor):
    name = "squid"
    program = "squid"
    helper = pathlib.Path("/usr/lib/squid/security_file_certgen")

    def missing(self, setting, passing):
        return super().missing(setting, passing) or (None if self.helper.exists() else "squid has no ssl_bump (squid-openssl)")

    def command(self, setting, path):
        return ["squid", "-N", "-f", str(path)]

    def configuration(self, setting, port):
        # Squid gives up root, so what it writes lies where its user may go.
        own = pathlib.Path(tempfile.mkdtemp(prefix="bench-squid-"))
        atexit.register(shutil.rmtree, own, ignore_errors=True)
        subprocess.run([str(self.helper), "-c", "-s", str(own / "certificates"), "-M", "4MB"], check=True, stdout=subprocess.DEVNULL, timeout=30)
        (own / "hosts").write_text(f"127.0.0.1 {ORIGIN}\n")
        for name in ("ca-bundle.pem", "ca.pem"):
            shutil.copy(setting.file(name), own / name)
        subprocess.run(["chown", "-R", "proxy:proxy", str(own)], check=True)
        return f"""
http_port 127.0.0.1:{port} ssl-bump tls-cert={own}/ca-bundle.pem generate-host-certificates=on dynamic_cert_mem_cache_size=4MB
sslcrtd_program {self.helper} -s {own}/certificates -M 4MB
sslcrtd_children 1 startup=1
ssl_bump bump all
hosts_file {own}/hosts
tls_outgoing_options cafile={own}/ca.pem
request_header_add Authorization "Bearer {SECRET}" all
http_access allow all
cache deny all
cache_mem 8 MB
access_log stdio:{own}/access.log
cache_log {own}/cache.log
pid_filename none
pinger_enable off
shutdown_lifetime 0 seconds
max_filedescriptors 8192
coredump_dir {own}
"""


class Mitmproxy(Interceptor):
    name = "mitmproxy"
    program = "mitmdump"

    def command(self, setting, path):
        return ["mitmdump", "--listen-host", "127.0.0.1", "-p", path.read_text().split()[1], "--set", f"confdir={path.parent / 'mitmproxy'}",
                "--set", f"ssl_verify_upstream_trusted_ca={setting.file('ca.pem')}", "--set", "termlog_verbosity=error", "--set", "http2=false",
                "--set", "connection_strategy=lazy", "--set", "flow_detail=0", "-s", str(path)]

    def configuration(self, setting, port):
        own = setting.file("mitmproxy")
        own.mkdir(exist_ok=True)
        (own / "mitmproxy-ca.pem").write_text(setting.file("ca.key").read_text() + setting.file("ca.pem").read_text())
        return f"""# {port}
import json

records = open({str(setting.file("mitmproxy.log"))!r}, "a", buffering=65536)


def server_connect(data):
    data.server.address = ("127.0.0.1", {setting.origin_port})


def request(flow):
    flow.request.headers["Authorization"] = "Bearer {SECRET}"


def response(flow):
    records.write(json.dumps({{"host": flow.request.host, "method": flow.request.method, "path": flow.request.path, "status": flow.response.status_code}}) + "\\n")
"""


class Postern:
    """`postern run` with the load generator inside: through the real capture, by name."""

    program = "postern"

    def __init__(self, name: str = "postern", policy: dict | None = None, more_names: list[str] | None = None, connect: str | None = None):
        self.connect = connect
        self.name = name
        self.policy = policy or {"rules": [injecting_rule("bench")]}
        self.more_names = more_names or []

    def missing(self, setting, passing):
        return None if setting.postern.exists() else f"{setting.postern} is not built"

    def command(self, setting: Setting) -> list[str]:
        policy = setting.write(f"{self.name}.json", json.dumps(self.policy))
        target = f"127.0.0.1:{setting.origin_port}"
        return [str(setting.postern), "run", "--policy", str(policy), "--secret", f"BENCH_KEY={SECRET}",
                "--allow", PASSED, *(word for name in (ORIGIN, PASSED, *self.more_names) for word in ("--resolve", f"{name}={target}")),
                "--origin-ca", str(setting.file("ca.pem")), "--log", str(setting.file("postern.log")), "--quiet", "--"]

    def cores(self, setting: Setting) -> list[str]:
        return on_cpu(setting.proxy_cpu)

    def start(self, setting, passing, load_options):
        name = PASSED if passing else ORIGIN
        # Through a passed-through connection the sandbox sees the origin's own certificate.
        trust = ["--ca", str(setting.file("ca.pem"))] if passing else []
        words = [*self.cores(setting), *self.command(setting), str(setting.load), "--connect", self.connect or f"{name}:443", *trust, *load_options]
        setting.file("postern.log").unlink(missing_ok=True)
        load = start_load(setting, words)
        return Attempt(load, [load.pid])


class PosternOnTwoCores(Postern):
    """Two loops: it has one for each core. The second one is the load's too."""

    def cores(self, setting):
        return [*REALTIME, "taskset", "-c", f"{setting.load_cpu},{setting.proxy_cpu}", "setpriv", "--pdeathsig", "TERM", "--"]


def injecting_rule(name: str, **fields) -> dict:
    header = {"name": "Authorization", "type": "workspace_secret", "value": "Bearer {BENCH_KEY}"}
    return {"name": name, "match_hosts": [ORIGIN], "headers": [header], **fields}


def rules_of_other_hosts(count: int) -> dict:
    others = [injecting_rule(f"other-{i}", match_hosts=[f"api{i}.service{i % 97}.example.com"]) for i in range(count - 1)]
    return {"rules": [*others, injecting_rule("bench")]}


def rules_of_other_paths(count: int) -> dict:
    """All on the one host, the last one matches: the worst order."""
    others = [injecting_rule(f"other-{i}", match_paths=[f"/v{i % 7}/resource-{i}/*"]) for i in range(count - 1)]
    return {"rules": [*others, injecting_rule("bench")]}


def unsearched_policy() -> dict:
    return {"rules": [injecting_rule("bench", transform={"response": {"scrub_secrets": False}})]}


def policy_of_secrets(count: int) -> dict:
    """All of them may be put on requests to the one host, so that its answers are searched for all."""
    others = [injecting_rule(f"other-{i}", match_paths=[f"/other/{i}"],
                             headers=[{"name": "Authorization", "type": "opaque", "value": "Bearer " + hashlib.sha256(b"%d" % i).hexdigest()[:43]}])
              for i in range(count - 1)]
    return {"rules": [*others, injecting_rule("bench")]}


def detecting_policy() -> dict:
    detectors = ["email", "phone", "credit_card", "us_ssn", "iban", "ipv4", "aws_access_key", "github_token", "private_key", "jwt"]
    return {"rules": [injecting_rule("bench", transform={"request": [{"block": detectors}], "response": {"scrub_secrets": False}})]}


MINTED = 600  # names; each is dialled once to warm up or once while the clock runs


def minting_policy() -> dict:
    """Everything below bench.test is covered, and refused before an origin is asked: what is left is the leaf."""
    return {"rules": [{"name": "closed", "match_hosts": ["*.bench.test"], "match_paths": ["/closed"], "action": "deny"},
                      injecting_rule("bench", match_hosts=["*.bench.test"])]}


def children(pid: int) -> list[int]:
    """nginx's worker; waits a moment for it, since the master listens first."""
    path = pathlib.Path(f"/proc/{pid}/task/{pid}/children")
    if "nginx" not in pathlib.Path(f"/proc/{pid}/comm").read_text():
        return []
    deadline = time.monotonic() + 5
    while time.monotonic() < deadline:
        found = [int(word) for word in path.read_text().split()]
        if found:
            return found
        time.sleep(0.005)
    raise RuntimeError("nginx has no worker")


def environment_for_runs(setting: Setting) -> None:
    """Postern's CA and state belong to this run, not to whoever runs the benchmark."""
    os.environ["POSTERN_STATE_DIR"] = str(setting.file("state"))
