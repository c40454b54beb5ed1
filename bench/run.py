#!/usr/bin/env python3
"""Postern against nginx and HAProxy, doing the same work on the same machine in the same minutes.

The load generator and the origin run on one core, one proxy alone on another, the others do not run meanwhile. Rounds
are interleaved, every figure is a median, and what counts is the ratio to nginx in the same round: absolute figures
change with the machine and its mood. What is measured is the proxy's own CPU time (/proc/PID/task/*/schedstat of all
its threads), sampled while nothing moves (see load.cc).

A run is void, and says so, when a request arrived without its credential, or anything failed.
"""

import argparse
import dataclasses
import json
import os
import pathlib
import resource
import select
import shutil
import signal
import statistics
import subprocess
import sys
import time
from typing import Callable

import peers

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parent
BUILD = ROOT / "build" / "bench"
MARK_SECONDS_MAX = 120


class Void(Exception):
    """This measurement must not be counted; the text says why."""


# Whatever breaks one measurement leaves the others standing.
FAILURES = (Void, RuntimeError, OSError, ValueError, subprocess.SubprocessError)


# ----------------------------------------------------------------------------------------------------------------------
# Clocks and memory


def cpu_and_wait_ns(pids: list[int]) -> tuple[int, int]:
    """CPU time, and time spent ready but not running (another program was on the core), of all threads."""
    cpu = wait = 0
    for pid in pids:
        for task in pathlib.Path(f"/proc/{pid}/task").iterdir():
            on_cpu, ready, _ = (task / "schedstat").read_text().split()
            cpu += int(on_cpu)
            wait += int(ready)
    return cpu, wait


def kb_of(pids: list[int], what: str) -> int:
    """VmRSS: what is resident. VmHWM: the most that was since forget_peak()."""
    total = 0
    for pid in pids:
        for line in pathlib.Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith(f"{what}:"):
                total += int(line.split()[1])
    return total


def forget_peak(pids: list[int]) -> None:
    for pid in pids:
        pathlib.Path(f"/proc/{pid}/clear_refs").write_text("5")


@dataclasses.dataclass
class Sample:
    cpu_ns: int
    wait_ns: int
    kb: int
    at: float

    @classmethod
    def take(cls, pids: list[int]) -> "Sample":
        cpu, wait = cpu_and_wait_ns(pids)
        return cls(cpu, wait, kb_of(pids, "VmRSS"), time.monotonic())


@dataclasses.dataclass
class Measurement:
    load: dict  # what bench-load printed
    origin: dict  # what the origin counted
    cpu_ns: int
    wait_ns: int
    kb: int
    wall_s: float
    peak_kb: int  # above what was resident before
    refused: bool = False  # the proxy itself answers: no origin sees these requests

    def as_json(self) -> dict:
        return dataclasses.asdict(self)


# ----------------------------------------------------------------------------------------------------------------------
# One run of the load against one contender


class Origin:
    def __init__(self, directory: pathlib.Path, cpu: int, *more: str):
        self.process = subprocess.Popen(
            [*peers.REALTIME, str(BUILD / "bench-origin"), "--cert", str(directory / "leaf.pem"), "--key", str(directory / "leaf.key"),
             "--secret", peers.SECRET, "--cpu", str(cpu), "--limit", "7200", *more],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.port = int(self.process.stdout.readline())

    def counts(self) -> dict:
        """Since the last time this was asked."""
        self.process.stdin.write("counts\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())

    def end(self) -> None:
        self.process.stdin.close()
        self.process.stdout.close()
        peers.end(self.process)


class Http2Origin:
    """nginx as an origin of HTTP/2. It refuses what comes without the credential, so it needs no counters."""

    def __init__(self, directory: pathlib.Path, cpu: int):
        self.port = peers.free_port()
        configuration = directory / "h2-origin.conf"
        configuration.write_text(f"""
daemon off;
user root;
worker_processes 1;
pid {directory}/h2-origin.pid;
events {{ worker_connections 4096; }}
http {{
  access_log off;
  keepalive_requests 100000000;
  http2_max_concurrent_streams 512;
  server {{
    listen 127.0.0.1:{self.port} ssl http2;
    ssl_certificate {directory}/leaf.pem;
    ssl_certificate_key {directory}/leaf.key;
    default_type application/json;
    location /small {{
      if ($http_authorization != "Bearer {peers.SECRET}") {{ return 403; }}
      return 200 "{'a' * 512}";
    }}
  }}
}}
""")
        self.process = subprocess.Popen([*peers.REALTIME, "taskset", "-c", str(cpu), "setpriv", "--pdeathsig", "TERM", "--", "nginx", "-c", str(configuration),
                                         "-p", str(directory), "-e", str(directory / "h2-origin.err")], stdin=subprocess.DEVNULL)
        peers.wait_until_listening(self.port, self.process, configuration)

    def counts(self) -> None:
        return None

    def end(self) -> None:
        peers.end(self.process)


def wait_for_mark(load: subprocess.Popen, mark: str, said: list[str]) -> None:
    deadline = time.monotonic() + MARK_SECONDS_MAX
    while time.monotonic() < deadline:
        if not select.select([load.stderr], [], [], 1)[0]:
            continue
        line = load.stderr.readline()
        if line.strip() == mark:
            return
        if not line:
            break
        said.append(line.rstrip())
    raise Void(f"no {mark} from the load: {' / '.join(said[-4:]) or 'it said nothing'}")


def go_on(load: subprocess.Popen) -> None:
    try:
        load.stdin.write("\n")
        load.stdin.flush()
    except BrokenPipeError:
        pass


def measure(setting: peers.Setting, origin: Origin, contender, passing: bool, options: list[str]) -> Measurement:
    origin.counts()
    attempt = contender.start(setting, passing, [*options, "--sync", "--cpu", str(setting.load_cpu)])
    said: list[str] = []
    try:
        wait_for_mark(attempt.load, "START", said)
        forget_peak(attempt.proxy_pids)
        before = Sample.take(attempt.proxy_pids)
        go_on(attempt.load)
        wait_for_mark(attempt.load, "END", said)
        after = Sample.take(attempt.proxy_pids)
        peak = kb_of(attempt.proxy_pids, "VmHWM") - before.kb
        go_on(attempt.load)
        out, rest = attempt.load.communicate(timeout=60)
        if attempt.load.returncode != 0:
            raise Void(f"the load ended with {attempt.load.returncode}: {' / '.join([*said, rest.strip()][-4:])}")
        result = Measurement(json.loads(out), origin.counts(), after.cpu_ns - before.cpu_ns, after.wait_ns - before.wait_ns,
                             after.kb - before.kb, after.at - before.at, peak, "--expect" in options)
    finally:
        attempt.finish()
    check(result, said)
    return result


def check(result: Measurement, said: list[str]) -> None:
    told = f" ({' / '.join(said[-3:])})" if said else ""
    if result.load["errors"]:
        raise Void(f"{result.load['errors']} requests failed{told}")
    if result.origin is None:
        return
    if result.origin["missing"]:
        raise Void(f"{result.origin['missing']} of {result.origin['requests']} requests had no credential")
    if result.origin["unexpected"]:
        raise Void(f"{result.origin['unexpected']} passed-through requests had a credential")
    if result.origin["errors"]:
        raise Void(f"the origin met {result.origin['errors']} errors")
    if result.origin["requests"] < result.load["requests"] and not result.refused:
        raise Void(f"only {result.origin['requests']} of {result.load['requests']} requests reached the origin")


# ----------------------------------------------------------------------------------------------------------------------
# Scenarios


def cpu_us_per_request(m: Measurement) -> float:
    return m.cpu_ns / 1e3 / m.load["requests"]


def cpu_s_per_gb(m: Measurement) -> float:
    return m.cpu_ns / m.load["bytes"]


def median_latency_us(m: Measurement) -> float:
    return m.load["p50_us"]


def kb_per_connection(m: Measurement) -> float:
    return m.kb / m.load["requests"]


def peak_mb(m: Measurement) -> float:
    return m.peak_kb / 1024


@dataclasses.dataclass
class Scenario:
    name: str
    title: str
    unit: str
    value: Callable[[Measurement], float]
    options: Callable[[bool], list[str]]  # of bench-load, given --quick
    contenders: list
    origin: str = "h1"  # which of the origins: h1, h2, cold (full handshakes only)
    load: str = "bench-load"
    base: str = "nginx"
    passing: bool = False
    relative_to_direct: bool = False  # the value is what is added to "direct" in the same round


PROXIES = [peers.Nginx(), peers.HAProxy(), peers.Postern()]
MB = 1 << 20


def keepalive(quick: bool) -> list[str]:
    return ["--mode", "keepalive", "--connections", "64", "--warmup-seconds", "0.5", "--seconds", "1.5" if quick else "4"]


def new_connections(*more: str) -> Callable[[bool], list[str]]:
    return lambda quick: ["--mode", "newconn", "--connections", "16", "--warmup-requests", "200",
                          "--requests", "800" if quick else "3000", *more]


def transfer(mode: str, path: str) -> Callable[[bool], list[str]]:
    """1 GB (quick: a quarter) in pieces of 64 MiB, after one to warm up."""
    return lambda quick: ["--mode", mode, "--connections", "1", "--path", path, "--body-bytes", str(64 * MB),
                          "--warmup-requests", "1", "--requests", "4" if quick else "16"]


def paced(quick: bool) -> list[str]:
    # /open/: what goes directly carries no credential, and through a proxy the same path would be refused as having one.
    return ["--mode", "latency", "--connections", "1", "--rate", "2000", "--warmup-seconds", "0.3", "--seconds", "1.5" if quick else "4"]


def idle(quick: bool) -> list[str]:
    return ["--mode", "idle", "--connections", "300" if quick else "1000", "--warmup-requests", "100", "--hold", "1.0"]


def http2(quick: bool) -> list[str]:
    return ["--connections", "16", "--streams", "32", "--warmup-requests", "3000", "--requests", "20000" if quick else "100000"]


def slow_tools(quick: bool) -> list[str]:
    """So few connections and requests that mitmproxy is through in time."""
    return ["--mode", "keepalive", "--connections", "16", "--warmup-requests", "100", "--requests", "1500" if quick else "4000"]


def refused(*more: str) -> Callable[[bool], list[str]]:
    half = str(peers.MINTED // 2)
    return lambda quick: ["--mode", "newconn", "--connections", "8", "--no-resume", "--path", "/closed", "--expect", "403",
                          "--warmup-requests", half, "--requests", half, *more]


def cold(path: str) -> Callable[[bool], list[str]]:
    return lambda quick: ["--mode", "keepalive", "--connections", "16", "--path", path, "--warmup-requests", "200", "--requests", "1000" if quick else "4000"]


def events(quick: bool) -> list[str]:
    return ["--mode", "sse", "--connections", "4", "--path", "/sse/50", "--warmup-requests", "4", "--requests", "8" if quick else "40"]


def small_posts(quick: bool) -> list[str]:
    return ["--mode", "upload", "--path", "/sink", "--body-bytes", "600", "--connections", "64", "--warmup-seconds", "0.5", "--seconds", "1.5" if quick else "4"]


def huge(mode: str) -> Callable[[bool], list[str]]:
    """One body of 2 GB (quick: an eighth)."""
    def options(quick: bool) -> list[str]:
        size = str((256 if quick else 2048) * MB)
        path = "/sink" if mode == "upload" else f"/bytes/{size}"
        return ["--mode", mode, "--connections", "1", "--path", path, "--body-bytes", size, "--warmup-requests", "0", "--requests", "1"]
    return options


def milliseconds_late(m: Measurement) -> float:
    return m.load["p50_us"] / 1000


class DirectWithCredential(peers.Direct):
    """The direct path asks for /open/small: nobody injects there."""

    def start(self, setting, passing, load_options):
        return super().start(setting, passing, [*load_options, "--path", "/open/small"])


class DirectSse(peers.Direct):
    def start(self, setting, passing, load_options):
        return super().start(setting, passing, [word.replace("/sse/", "/open/sse/") for word in load_options])


NEW_NAMES = [f"n{number}.bench.test" for number in range(peers.MINTED)]

# What looking into answers and requests costs. The first of each looks into nothing.
UNSEARCHED = peers.Postern("postern, nothing searched", peers.unsearched_policy())
SEARCHING = [UNSEARCHED, peers.Postern("postern"), peers.Postern("postern, 100 secrets", peers.policy_of_secrets(100))]
DETECTING = [UNSEARCHED, peers.Postern("postern, all detectors", peers.detecting_policy())]

SCENARIOS = [
    Scenario("keepalive", "small request, keep-alive, 64 connections", "µs CPU/request", cpu_us_per_request, keepalive, PROXIES),
    Scenario("newconn", "new connection, full handshake, one request", "µs CPU/connection", cpu_us_per_request, new_connections("--no-resume"), PROXIES),
    Scenario("resumed", "new connection, resumed, one request", "µs CPU/connection", cpu_us_per_request, new_connections("--resume"), PROXIES),
    Scenario("download", "download, intercepted", "s CPU/GB", cpu_s_per_gb, transfer("download", f"/bytes/{64 * MB}"), PROXIES),
    Scenario("upload", "upload, intercepted", "s CPU/GB", cpu_s_per_gb, transfer("upload", "/sink"), PROXIES),
    Scenario("latency", "latency added to the direct path, one connection, 2,000/s, median", "µs", median_latency_us, paced,
             [DirectWithCredential(), *PROXIES], relative_to_direct=True),
    Scenario("idle", "memory of an idle intercepted connection", "KB RSS", kb_per_connection, idle, PROXIES),
    Scenario("pass-download", "download, passed through by SNI", "s CPU/GB", cpu_s_per_gb, transfer("download", f"/open/bytes/{64 * MB}"), PROXIES, passing=True),
    Scenario("pass-newconn", "new connection, passed through by SNI, one request", "µs CPU/connection", cpu_us_per_request,
             new_connections("--no-resume", "--path", "/open/small"), PROXIES, passing=True),
    Scenario("tools", "small request, keep-alive, 16 connections, interception tools", "µs CPU/request", cpu_us_per_request, slow_tools,
             [peers.Postern(), peers.Squid(), peers.Mitmproxy()], base="postern"),
    Scenario("h2", "HTTP/2 request, 16 connections of 32 streams, origin HTTP/1.1", "µs CPU/request", cpu_us_per_request, http2,
             [peers.NginxH2(), peers.HAProxyH2(), peers.Nghttpx(), peers.Postern()], load="h2_load", base="nghttpx"),
    Scenario("h2-h2", "HTTP/2 request, 16 connections of 32 streams, origin HTTP/2", "µs CPU/request", cpu_us_per_request, http2,
             [peers.HAProxyH2(True), peers.Nghttpx(True), peers.Postern()], origin="h2", load="h2_load", base="nghttpx"),
    Scenario("minted", "new connection, refused request: the leaf is cached", "µs CPU/connection", cpu_us_per_request, refused("--hosts", "1"),
             [peers.Postern("postern", peers.minting_policy(), NEW_NAMES, "n%u.bench.test:443")], base="postern"),
    Scenario("mint", "the same for a host that was never seen: the leaf is minted", "µs CPU/connection", cpu_us_per_request, refused("--hosts", str(peers.MINTED)),
             [peers.Postern("postern", peers.minting_policy(), NEW_NAMES, "n%u.bench.test:443")], base="postern"),
    Scenario("origin-warm", "request on a kept origin connection, 16 connections", "µs CPU/request", cpu_us_per_request, cold("/small"),
             [peers.Nginx(), peers.Postern()]),
    Scenario("origin-resumed", "request on a new origin connection, resumed", "µs CPU/request", cpu_us_per_request, cold("/close/small"),
             [peers.Nginx(), peers.Postern()]),
    Scenario("origin-full", "request on a new origin connection, full handshake", "µs CPU/request", cpu_us_per_request, cold("/close/small"),
             [peers.Nginx(), peers.Postern()], origin="cold"),
    Scenario("sse", "server-sent event, 100/s on each of 4 connections, from its writing to its reading, median", "ms", milliseconds_late, events,
             [DirectSse(), peers.Nginx(), peers.HAProxy(), peers.Postern(), UNSEARCHED]),
    Scenario("search", "small request, keep-alive, its answer searched for secrets", "µs CPU/request", cpu_us_per_request, keepalive, SEARCHING, base=UNSEARCHED.name),
    Scenario("search-download", "download, searched for secrets", "s CPU/GB", cpu_s_per_gb, transfer("download", f"/bytes/{64 * MB}"), SEARCHING, base=UNSEARCHED.name),
    Scenario("detect", "small JSON posted, keep-alive, by detectors", "µs CPU/request", cpu_us_per_request, small_posts, DETECTING, base=UNSEARCHED.name),
    Scenario("detect-upload", "upload of text, by detectors", "s CPU/GB", cpu_s_per_gb, transfer("upload", "/sink"), DETECTING, base=UNSEARCHED.name),
    Scenario("huge-download", "memory for one body of 2 GB that comes down, at its peak", "MB RSS", peak_mb, huge("download"), SEARCHING, base=UNSEARCHED.name),
    Scenario("huge-upload", "memory for one body of 2 GB that goes up, at its peak", "MB RSS", peak_mb, huge("upload"), DETECTING, base=UNSEARCHED.name),
    Scenario("rules", "small request, keep-alive, policies with many rules", "µs CPU/request", cpu_us_per_request, keepalive,
             [peers.Nginx(), peers.Postern(), peers.Postern("postern, 1,000 hosts", peers.rules_of_other_hosts(1000)),
              peers.Postern("postern, 1,000 paths", peers.rules_of_other_paths(1000)),
              peers.Postern("postern, 100,000 hosts", peers.rules_of_other_hosts(100000)),
              peers.Postern("postern, 100,000 paths", peers.rules_of_other_paths(100000))]),
    # Not faster than one core can: on two cores the load needs one. Work that loops make for each other would show.
    Scenario("loops", "small request, 64 connections, 6,000/s in all, one loop and two", "µs CPU/request", cpu_us_per_request,
             lambda quick: ["--mode", "latency", "--connections", "64", "--rate", "6000", "--warmup-seconds", "0.5", "--seconds", "1.5" if quick else "4"],
             [peers.Postern("postern, one loop"), peers.PosternOnTwoCores("postern, two loops")], base="postern, one loop"),
]
STARTUP, NOISY, SANDBOXES, CREDENTIALS = "startup", "noisy", "sandboxes", "credentials"


# ----------------------------------------------------------------------------------------------------------------------
# Rounds


@dataclasses.dataclass
class Result:
    scenario: str
    title: str
    contender: str
    unit: str
    values: list[float]
    ratios: list[float]  # to the base contender, round by round
    base: str | None
    notes: list[str]
    measurements: list[dict]

    def median(self) -> float | None:
        return statistics.median(self.values) if self.values else None

    def ratio(self) -> float | None:
        return statistics.median(self.ratios) if self.ratios else None


def rotated(items: list, by: int) -> list:
    by %= len(items)
    return items[by:] + items[:by]


def run_rounds(scenario: Scenario, setting, origins: dict, rounds: int, quick: bool):
    """Per contender, per round: a Measurement, or None where it was void. Also what went wrong."""
    if scenario.load == "h2_load" and not shutil.which("h2load"):
        return {}, {c.name: ["h2load (nghttp2-client) is not installed"] for c in scenario.contenders}
    origin = origins[scenario.origin]
    setting = dataclasses.replace(setting, origin_port=origin.port, load=HERE / "h2_load.py" if scenario.load == "h2_load" else setting.load)
    notes: dict[str, list[str]] = {c.name: [] for c in scenario.contenders}
    able = []
    for contender in scenario.contenders:
        lacking = contender.missing(setting, scenario.passing)
        if lacking:
            notes[contender.name].append(lacking)
        else:
            able.append(contender)
    measured: dict[str, list[Measurement | None]] = {c.name: [] for c in able}
    for number in range(rounds):
        for contender in rotated(able, number):
            try:
                measured[contender.name].append(measure(setting, origin, contender, scenario.passing, scenario.options(quick)))
            except FAILURES as reason:
                measured[contender.name].append(None)
                notes[contender.name].append(f"round {number + 1} void: {reason}")
            progress(f"  {scenario.name} round {number + 1}/{rounds} {contender.name}")
    return measured, notes


def summarise(scenario: Scenario, measured: dict, notes: dict) -> list[Result]:
    values: dict[str, list[float | None]] = {}
    for name, rounds in measured.items():
        values[name] = [scenario.value(m) if m else None for m in rounds]
    if scenario.relative_to_direct:
        direct = values["direct"]
        for name in values:
            if name != "direct":
                values[name] = [v - d if v is not None and d is not None else None for v, d in zip(values[name], direct)]
    base = next((name for name in (scenario.base, "nginx", "haproxy") if any(v is not None for v in values.get(name, []))), None)
    results = []
    for contender in scenario.contenders:
        mine = values.get(contender.name, [])
        pairs = zip(mine, values[base]) if base else []
        ratios = [v / b for v, b in pairs if v is not None and b]
        if contender.name in ("direct", base):
            ratios = []
        results.append(Result(scenario.name, scenario.title, contender.name, scenario.unit, [v for v in mine if v is not None], ratios, base,
                              notes[contender.name] + crowded(measured.get(contender.name, [])),
                              [m.as_json() for m in measured.get(contender.name, []) if m]))
    return results


def crowded(rounds: list[Measurement | None]) -> list[str]:
    """Another program on the proxy's core spoils its caches, and so its CPU time. A proxy's own threads may meet there too."""
    shares = [m.wait_ns / (m.wall_s * 1e9) for m in rounds if m and m.wall_s > 0]
    return [f"its threads waited for their core {max(shares):.0%} of a round"] if shares and max(shares) > 0.05 else []


# ----------------------------------------------------------------------------------------------------------------------
# Starting


def bare_bubblewrap() -> list[str]:
    """The same kind of sandbox without Postern: what the isolation itself costs."""
    return ["bwrap", "--unshare-all", "--unshare-user", "--cap-drop", "ALL", "--die-with-parent", "--ro-bind", "/", "/", "--dev", "/dev",
            "--proc", "/proc", "--tmpfs", "/tmp", "--tmpfs", "/run", "--"]


def wall_and_cpu_ms(command: list[str], directory: pathlib.Path) -> tuple[float, float]:
    """CPU time is that of everything the command started: steadier than wall time on a busy machine."""
    used = lambda: sum(resource.getrusage(resource.RUSAGE_CHILDREN)[:2]) * 1000
    start, used_before = time.monotonic(), used()
    done = subprocess.run(command, cwd=directory, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, timeout=30, text=True)
    elapsed = (time.monotonic() - start) * 1000
    if done.returncode != 0:
        raise Void(f"{command[0]} ended with {done.returncode}: {done.stderr.strip()[-300:]}")
    return elapsed, used() - used_before


def run_startup(setting, quick: bool) -> list[Result]:
    base = "bubblewrap alone"
    commands = {base: [*bare_bubblewrap(), "true"]}
    postern = peers.Postern()
    many = peers.Postern("postern, 1,000 rules", peers.rules_of_other_hosts(1000))
    title = "start to end of `true` in a sandbox (wall time)"
    results = {name: Result(STARTUP, title, name, "ms", [], [], base, [], []) for name in commands}
    for contender in (postern, many):
        results[contender.name] = Result(STARTUP, title, contender.name, "ms", [], [], base, [], [])
        if lacking := contender.missing(setting, False):
            results[contender.name].notes.append(lacking)
        else:
            commands[contender.name] = [*contender.command(setting), "true"]
    cpu: dict[str, list[float]] = {name: [] for name in commands}
    try:
        for command in commands.values():
            wall_and_cpu_ms(command, setting.directory)  # the first one makes the CA and fills the page cache
        for number in range(10 if quick else 30):
            times = {name: wall_and_cpu_ms(commands[name], setting.directory) for name in rotated(list(commands), number)}
            for name, (wall, used) in times.items():
                results[name].values.append(wall)
                results[name].ratios.append(wall / times[base][0])
                cpu[name].append(used)
    except FAILURES as reason:
        results[postern.name].notes.append(f"void: {reason}")
    progress("  startup")
    for name, used in cpu.items():
        if used:
            results[name].notes.append(f"{statistics.median(used):.1f} ms CPU, {min(results[name].values):.1f} ms at best")
            if name != base:
                results[name].notes.append(f"adds {results[name].median() - results[base].median():.1f} ms")
    results[base].ratios = []
    return list(results.values())


# ----------------------------------------------------------------------------------------------------------------------
# What takes many sandboxes: Postern's own loop in a program of its own, since `postern run` has one sandbox


def run_program(setting, name: str, *words: str) -> dict:
    program = setting.postern.parent.parent / "bench" / "road" / name
    done = subprocess.run([*peers.REALTIME, str(program), *words], capture_output=True, text=True, timeout=600)
    progress(f"  {name} {' '.join(words)}")
    if done.returncode != 0:
        raise Void(f"{name} ended with {done.returncode}: {done.stderr.strip()[-300:]}")
    return json.loads(done.stdout)


def run_noisy(setting, quick: bool) -> list[Result]:
    base = "without noise"
    title = "requests of 200 quiet sandboxes, 1,000/s, beside one that floods: 99 of 100 are faster"
    results = [Result(NOISY, title, base, "µs", [], [], base, [], [])]
    for kind in ("connections", "requests", "downloads", "streams"):
        results.append(Result(NOISY, title, f"beside {kind}", "µs", [], [], base, [], []))
        try:
            out = run_program(setting, "noisy_sandbox", kind, "1" if quick else "3")
        except FAILURES as reason:
            results[-1].notes.append(f"void: {reason}")
            continue
        results[0].values.append(out["quiet"]["p99_us"])
        results[-1].values.append(out["noisy"]["p99_us"])
        results[-1].ratios.append(out["p99_ratio"])
        results[-1].notes.append(f"median {out['quiet']['p50_us']:.0f} → {out['noisy']['p50_us']:.0f} µs")
        results[-1].measurements.append(out)
    return results


def run_sandboxes(setting, quick: bool) -> list[Result]:
    one = Result(SANDBOXES, "small request, plain HTTP, 64 connections, sandbox networks that are live", "1", "µs CPU/request", [], [], "1", [], [])
    many = dataclasses.replace(one, contender="many", values=[], ratios=[], notes=[], measurements=[])
    memory = Result(SANDBOXES, "memory of an idle sandbox", "postern", "KB RSS", [], [], None, [], [])
    ready = Result(SANDBOXES, "network of a sandbox made: namespace, routes, rules, sockets (wall time)", "postern", "ms", [], [], None, [], [])
    try:
        out = run_program(setting, "sandbox_cost", "ready", "50" if quick else "300")
        ready.values.append(out["ready_ms"]["p50"])
        ready.notes.append(f"{out['ready_ms']['min']:.2f} at best, 99 of 100 below {out['ready_ms']['p99']:.2f}; without the namespace {out['capture_ms']['p50']:.2f}")
        out = run_program(setting, "sandbox_cost", "live", "500" if quick else "5000")
        many.contender = f"{out['count']:,}"
        one.values.append(out["us_with_one"])
        many.values.append(out["us_with_all"])
        many.ratios += out["ratios"]
        many.measurements.append(out)
        memory.values.append(out["bytes_each"] / 1024)
    except FAILURES as reason:
        ready.notes.append(f"void: {reason}")
    return [one, many, memory, ready]


def run_credentials(setting, quick: bool) -> list[Result]:
    """The median request of each kind, rounds interleaved request by request."""
    kinds = {"plain": "no credential", "injected": "a header with a secret", "callback_cached": "a callback's answer, cached",
             "callback_asked": "a callback that is asked for every request", "aws_sigv4": "signed for AWS (S3, unsigned payload)"}
    title = "small request, keep-alive, one at a time: what its credential costs"
    results = {kind: Result(CREDENTIALS, title, name, "µs CPU/request", [], [], kinds["plain"], [], []) for kind, name in kinds.items()}
    chunk = Result(CREDENTIALS, "a chunk of 64 KiB, signed again on its way to S3", "postern", "µs CPU/chunk", [], [], None, [], [])
    try:
        for _ in range(3):
            out = run_program(setting, "credential_cost", "2000" if quick else "10000")
            chunk.values.append(out["aws_chunk_64k"])
            for kind, result in results.items():
                result.values.append(out[kind])
                if kind != "plain":
                    result.ratios.append(out[kind] / out["plain"])
    except FAILURES as reason:
        chunk.notes.append(f"void: {reason}")
    return [*results.values(), chunk]


# ----------------------------------------------------------------------------------------------------------------------
# Report


def figure(value: float | None) -> str:
    if value is None:
        return "–"
    return f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def spread(values: list[float]) -> str:
    return f"{figure(min(values))}–{figure(max(values))}" if len(values) > 1 else "–"


def table(results: list[Result]) -> str:
    lines = ["| what | proxy | median | unit | × base | ratio's range | notes |", "|---|---|--:|---|--:|---|---|"]
    last = None
    for r in results:
        what = f"**{r.title}**" if r.title != last else ""
        last = r.title
        ratio = "1" if r.contender == r.base else "–" if r.ratio() is None else f"{r.ratio():.2f}"
        if r.base and r.ratio() is not None and r.base != "nginx":
            ratio += f" ({r.base})"
        lines.append(f"| {what} | {r.contender} | {figure(r.median())} | {r.unit} | {ratio} | {spread(r.ratios)} | {'; '.join(r.notes)} |")
    return "\n".join(lines)


def version_of(*command: str) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10)
        return (done.stdout + done.stderr).strip().splitlines()[0]
    except (OSError, subprocess.TimeoutExpired, IndexError):
        return "not installed"


def machine() -> dict:
    model = next((line.split(":", 1)[1].strip() for line in pathlib.Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")), "unknown")
    return {"cpu": model, "cores": os.cpu_count(), "kernel": os.uname().release, "load_before": round(os.getloadavg()[0], 1),
            "openssl": version_of("openssl", "version"), "nginx": version_of("nginx", "-v"), "haproxy": version_of("haproxy", "-v"), "bubblewrap": version_of("bwrap", "--version")}


def progress(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


# ----------------------------------------------------------------------------------------------------------------------


def build() -> None:
    generator = ["-G", "Ninja"] if shutil.which("ninja") else []
    subprocess.run(["cmake", "-S", str(HERE), "-B", str(BUILD), *generator, "-DCMAKE_BUILD_TYPE=Release"], check=True, stdout=subprocess.DEVNULL)
    subprocess.run(["cmake", "--build", str(BUILD)], check=True, stdout=subprocess.DEVNULL)


def arguments() -> argparse.Namespace:
    names = [s.name for s in SCENARIOS] + [STARTUP, NOISY, SANDBOXES, CREDENTIALS]
    parser = argparse.ArgumentParser(description="Measures Postern against nginx and HAProxy.", epilog="scenarios: " + ", ".join(names))
    parser.add_argument("--quick", action="store_true", help="shorter, three rounds: for a first impression")
    parser.add_argument("--only", action="append", metavar="NAME", choices=names, help="one scenario (may be repeated)")
    parser.add_argument("--rounds", type=int, help="rounds per scenario (5; quick: 3)")
    release = ROOT / "build" / "release"
    built = next((path for path in (release / "postern", release / "src" / "postern") if path.exists()), release / "postern")
    parser.add_argument("--postern", type=pathlib.Path, default=built, help="the program to measure")
    parser.add_argument("--json", type=pathlib.Path, default=BUILD / "results.json", help="where the figures go")
    parser.add_argument("--nginx-modules", type=pathlib.Path, default=pathlib.Path("/usr/lib/nginx/modules"), help="where ngx_stream_module.so is")
    parser.add_argument("--realtime", action="store_true",
                        help="real-time priority for the contender, the load and the origin: for a machine that does something else too")
    parser.add_argument("--keep", action="store_true", help="keep the run's directory with configurations and logs")
    return parser.parse_args()


def prepare(options: argparse.Namespace) -> tuple[peers.Setting, dict]:
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) < 2:
        sys.exit("bench: two cores are needed: one for the proxy, one for the load and the origin")
    load_cpu, proxy_cpu = cores[0], cores[1]
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    if options.realtime:
        peers.REALTIME = ["chrt", "--rr", "10"]
    build()
    # Not in /tmp: the sandbox has a /tmp of its own and could not read the load's files there.
    directory = BUILD / f"run-{os.getpid()}"
    directory.mkdir(parents=True)
    peers.make_certificates(directory)
    origins = {"h1": Origin(directory, load_cpu), "cold": Origin(directory, load_cpu, "--no-resume")}
    if shutil.which("nginx"):
        origins["h2"] = Http2Origin(directory, load_cpu)
    setting = peers.Setting(directory, options.postern.resolve(), BUILD / "bench-load", origins["h1"].port, proxy_cpu, load_cpu, options.nginx_modules)
    peers.environment_for_runs(setting)
    return setting, origins


def run_all(options: argparse.Namespace, setting: peers.Setting, origins: dict) -> list[Result]:
    rounds = options.rounds or (3 if options.quick else 5)
    wanted = options.only or [s.name for s in SCENARIOS] + [STARTUP, NOISY, SANDBOXES, CREDENTIALS]
    results: list[Result] = []
    for scenario in SCENARIOS:
        if scenario.name in wanted:
            results += summarise(scenario, *run_rounds(scenario, setting, origins, rounds, options.quick))
    os.sched_setaffinity(0, {setting.load_cpu, setting.proxy_cpu})
    for name, run in ((STARTUP, run_startup), (NOISY, run_noisy), (SANDBOXES, run_sandboxes), (CREDENTIALS, run_credentials)):
        if name in wanted:
            results += run(setting, options.quick)
    return results


def main() -> int:
    options = arguments()
    # So that the `finally`s end what was started also when someone ends us.
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    setting, origins = prepare(options)
    about = machine()
    # We only wait and sample, but where we do that must not be the proxy's core.
    os.sched_setaffinity(0, {setting.load_cpu})
    try:
        results = run_all(options, setting, origins)
    finally:
        for origin in origins.values():
            origin.end()
        if not options.keep:
            shutil.rmtree(setting.directory, ignore_errors=True)
    options.json.parent.mkdir(parents=True, exist_ok=True)
    rows = [dataclasses.asdict(r) | {"median": r.median(), "ratio": r.ratio()} for r in results]
    options.json.write_text(json.dumps({"machine": about, "quick": options.quick, "results": rows}, indent=1))
    print(" · ".join(f"{key} {value}" for key, value in about.items()), end="\n\n")
    print(table(results))
    return 1 if any("void" in note for r in results for note in r.notes) else 0


if __name__ == "__main__":
    sys.exit(main())
