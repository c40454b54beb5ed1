#!/usr/bin/env python3
"""Kills a `postern serve` again and again, with much going on in it: bench/chaos.py [--kills N]

What it acknowledged must hold after each kill, and nothing of it may stay behind (tests/test_serve_chaos.py, which CI runs with 30 kills). Says how many kills it
stood, and for how long it was at it; ends with the test's own status.
"""

import argparse
import os
import pathlib
import subprocess
import sys
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=200, help="how often (default 200)")
    options = parser.parse_args()
    began = time.monotonic()
    done = subprocess.run([sys.executable, "-B", "-m", "pytest", "-p", "no:cacheprovider", "-q", "-s", ROOT / "tests/test_serve_chaos.py"], cwd=ROOT,
                          env={**os.environ, "POSTERN_CHAOS_KILLS": str(options.kills)})
    if done.returncode == 0:
        print(f"{options.kills} kills: nothing that was acknowledged was lost, nothing stayed behind ({time.monotonic() - began:.0f} s)")
    raise SystemExit(done.returncode)


if __name__ == "__main__":
    main()
