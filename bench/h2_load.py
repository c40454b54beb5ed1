#!/usr/bin/python3
"""h2load behind the same door as bench-load: warms up, says START, works, says END, and prints one JSON object.

It runs where bench-load would: in front of a proxy's port, or inside Postern's sandbox.
"""

import argparse
import json
import re
import subprocess
import sys


def seconds(text: str) -> float:
    number, unit = re.match(r"([\d.]+)(us|ms|s)$", text).groups()
    return float(number) * {"us": 1e-6, "ms": 1e-3, "s": 1.0}[unit]


def run(options, requests: int) -> dict:
    host, port = options.connect.rsplit(":", 1)
    authority = options.sni or host
    words = ["taskset", "-c", str(options.cpu)] if options.cpu >= 0 else []
    words += ["h2load", "-c", str(options.connections), "-m", str(options.streams), "-t", "1", "-n", str(requests),
              f"--connect-to={host}:{port}", f"https://{authority}:{port}{options.path}"]
    out = subprocess.run(words, capture_output=True, text=True, timeout=options.limit).stdout
    done = re.search(r"requests: \d+ total, \d+ started, (\d+) done, (\d+) succeeded, (\d+) failed, (\d+) errored", out)
    codes = re.search(r"status codes: (\d+) 2xx", out)
    finished = re.search(r"finished in ([\d.]+(?:us|ms|s)), ([\d.]+) req/s", out)
    mean = re.search(r"time for request: +\S+ +\S+ +(\S+)", out)
    if not (done and codes and finished and mean) or "Application protocol: h2" not in out:
        sys.exit("h2load: " + " / ".join(out.strip().splitlines()[-6:]))
    good = int(codes[1])
    return {"requests": good, "errors": requests - good, "seconds": seconds(finished[1]), "rps": float(finished[2]),
            "p50_us": seconds(mean[1]) * 1e6, "bytes": 0, "resumed": 0}


def mark(word: str, sync: bool) -> None:
    print(word, file=sys.stderr, flush=True)
    if sync:
        sys.stdin.readline()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--connect", required=True)
    parser.add_argument("--sni")
    parser.add_argument("--ca", help="not used: h2load does not verify")
    parser.add_argument("--path", default="/small")
    parser.add_argument("--connections", type=int, default=16)
    parser.add_argument("--streams", type=int, default=32)
    parser.add_argument("--requests", type=int, required=True)
    parser.add_argument("--warmup-requests", type=int, default=0)
    parser.add_argument("--cpu", type=int, default=-1)
    parser.add_argument("--limit", type=int, default=120)
    parser.add_argument("--sync", action="store_true")
    options = parser.parse_args()
    if options.warmup_requests:
        run(options, options.warmup_requests)
    mark("START", options.sync)
    result = run(options, options.requests)
    mark("END", options.sync)
    print(json.dumps(result))


if __name__ == "__main__":
    main()
