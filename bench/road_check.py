#!/usr/bin/env python3
"""What Postern's own code costs, in instructions: counted by valgrind, the same on every machine, compared with what was recorded.

Wall time on a shared machine cannot tell 10 % from noise; instructions can. Counted is what runs on the loop's thread
(see road_cost.cc), and in Postern's own program only: libcrypto takes other ways on other processors. Beside them stand
the allocations that OpenSSL does not make for itself, and the system calls, which are what most of the time goes to.
Of a connection at rest it is the bytes that it holds.

    bench/road_check.py              compare; fails when a figure is more than 10 % above the recorded one
    bench/road_check.py --update     record what was measured
    bench/road_check.py --profile    and show where the instructions are
"""

import argparse
import collections
import dataclasses
import json
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile

HERE = pathlib.Path(__file__).resolve().parent
PROGRAM = HERE.parent / "build" / "release" / "bench" / "road" / "road_cost"
RECORDED = HERE / "road_cost.json"
TOLERANCE = 1.10
COUNTED = ("postern::io::Loop::run_once*", "*measured(*")

SYSTEM_CALLS = {
    "recv", "recvfrom", "recvmsg", "read", "readv", "send", "sendto", "sendmsg", "write", "writev", "epoll_wait", "epoll_pwait2", "epoll_ctl", "accept4",
    "close", "shutdown", "setsockopt", "getsockopt", "getsockname", "socket", "connect", "bind", "open", "open64", "poll", "splice", "pipe2", "eventfd_write",
}
ALLOCATIONS = {"malloc", "calloc", "realloc", "posix_memalign", "aligned_alloc"}


@dataclasses.dataclass
class Cost:
    """Of one case, per repetition."""

    instructions: float = 0  # in Postern's own program
    allocations: float = 0  # OpenSSL's own are not in it
    system_calls: float = 0
    everything: float = 0  # instructions of all objects: for the reader, not compared
    bytes: int | None = None  # what is held; such a case has no other figures
    functions: collections.Counter = dataclasses.field(default_factory=collections.Counter)
    calls: collections.Counter = dataclasses.field(default_factory=collections.Counter)

    def figures(self) -> dict:
        if self.bytes is not None:
            return {"bytes": self.bytes}
        return {"instructions": round(self.instructions), "allocations": round(self.allocations, 2), "system_calls": round(self.system_calls, 2)}


class Names:
    """callgrind's name compression: `(7) name` once, `(7)` afterwards."""

    def __init__(self):
        self.known: dict[str, str] = {}

    def read(self, text: str) -> str:
        found = re.match(r"(\(\d+\))(?: (.*))?$", text)
        if not found:
            return text
        if found[2] is not None:
            self.known[found[1]] = found[2]
        return self.known.get(found[1], "?")


def read_dump(path: pathlib.Path, program: str) -> tuple[str | None, Cost]:
    """The name of the case, and what it cost in all."""
    case, cost = None, Cost()
    objects, functions = Names(), Names()
    ob = fn = cob = cfn = ""
    inclusive = False  # the next line of numbers is what a call cost inside, which is counted where it happened
    for line in path.read_text(errors="replace").splitlines():
        if line.startswith("desc: Trigger: Client Request: "):
            case = line.rsplit(" ", 1)[1]
        elif line.startswith("ob="):
            ob = objects.read(line[3:])
        elif line.startswith("fn="):
            fn, cob = functions.read(line[3:]), ob
        elif line.startswith("cob="):
            cob = objects.read(line[4:])
        elif line.startswith("cfn="):
            cfn = functions.read(line[4:])
        elif line.startswith("calls="):
            count, name = int(line[6:].split()[0]), cfn.split("'")[0].split("@")[0].removeprefix("__")
            if name in ALLOCATIONS and not re.search(r"lib(crypto|ssl|c)[.-]", ob):
                cost.allocations += count
                cost.calls[f"{name} from {pathlib.Path(ob).name}"] += count
            if name in SYSTEM_CALLS and "libc" not in pathlib.Path(ob).name.split(".")[0]:
                cost.system_calls += count
                cost.calls[name] += count
            inclusive, cob = True, ob
        elif re.match(r"[+*\-\d]", line):
            if inclusive:
                inclusive = False
                continue
            words = line.split()
            count = int(words[1]) if len(words) > 1 else 0
            cost.everything += count
            if ob == program:
                cost.instructions += count
                cost.functions[fn.split("'")[0]] += count
    return case, cost


def measure(program: pathlib.Path, cases: list[str]) -> tuple[str, dict[str, Cost]]:
    with tempfile.TemporaryDirectory(prefix="road-cost-") as directory:
        # Calls are counted by pairs of functions, whether collected or not: with their callers before them those of the
        # ends of the road, which allocate too, are others.
        toggles = ["--separate-callers=12", *[f"--toggle-collect={name}" for name in COUNTED]]
        done = subprocess.run(
            ["valgrind", "-q", "--tool=callgrind", "--instr-atstart=no", "--collect-atstart=no", "--separate-threads=yes", *toggles,
             f"--callgrind-out-file={directory}/out", "--compress-pos=no", str(program), *cases],
            capture_output=True, text=True, timeout=600)
        if done.returncode != 0:
            sys.exit(f"road_cost ended with {done.returncode}: {done.stderr.strip()[-1000:]}")
        said = [json.loads(line) for line in done.stdout.splitlines()]
        times = {line["case"]: line["times"] for line in said if "times" in line}
        costs: dict[str, Cost] = {line["case"]: Cost(bytes=line["bytes"]) for line in said if "bytes" in line}
        for path in pathlib.Path(directory).glob("out.*-01"):
            case, cost = read_dump(path, str(program))
            if case in times:
                for field in ("instructions", "allocations", "system_calls", "everything"):
                    setattr(cost, field, getattr(cost, field) / times[case])
                for counter in (cost.functions, cost.calls):
                    for name in counter:
                        counter[name] /= times[case]
                costs[case] = cost
        if missing := times.keys() - costs.keys():
            sys.exit(f"callgrind has no figures of {', '.join(sorted(missing))}")
        if empty := [case for case, cost in costs.items() if not cost.instructions and not cost.bytes]:
            sys.exit(f"nothing was counted in {', '.join(empty)}: have the functions of COUNTED other names now?")
        return next(line["compiler"] for line in said if "compiler" in line), costs


# How often a relay turns depends on when the kernel hands over what it has: repeated runs differ by 15 %.
SHOWN_ONLY = {"pass_through"}


def compare(case: str, measured: dict, recorded: dict) -> list[str]:
    """What became worse. A whole allocation per repetition is worse even where it is less than 10 %."""
    problems = []
    if case in SHOWN_ONLY:
        return problems
    for what, value in measured.items():
        if what == "system_calls":  # Shown, not judged: the kernel decides in how many pieces bytes arrive.
            continue
        limit = recorded[what] * TOLERANCE
        if what == "allocations":
            limit = max(min(limit, recorded[what] + 0.9), 0.1)
        if value > limit:
            problems.append(f"{case}: {value:,} {what.replace('_', ' ')}, {recorded[what]:,} were recorded")
    return problems


def show(costs: dict[str, Cost], recorded: dict, profile: bool) -> None:
    print(f"{'case':14}{'instructions':>14}{'recorded':>12}{'ratio':>7}{'allocations':>13}{'system calls':>14}{'with libraries':>16}")
    for case, cost in sorted(costs.items()):
        if cost.bytes is not None:
            before = recorded.get(case, {}).get("bytes")
            print(f"{case:14}{cost.bytes:8,.0f} bytes{before or 0:12,}{cost.bytes / before if before else 0:7.2f}")
            continue
        before = recorded.get(case, {}).get("instructions")
        ratio = f"{cost.instructions / before:.2f}" if before else "–"
        print(f"{case:14}{cost.instructions:14,.0f}{before or 0:12,}{ratio:>7}{cost.allocations:13.2f}{cost.system_calls:14.2f}{cost.everything:16,.0f}")
    if not profile:
        return
    for case, cost in sorted(costs.items()):
        print(f"\n{case}")
        for name, count in cost.functions.most_common(40):
            print(f"  {count:10,.0f}  {name[:150]}")
        for name, count in cost.calls.most_common():
            print(f"  {count:10.2f}  calls of {name}")


def main() -> int:
    parser = argparse.ArgumentParser(description="Counts instructions of the road and compares them with what was recorded.")
    parser.add_argument("cases", nargs="*", help="all of road_cost's unless named")
    parser.add_argument("--update", action="store_true", help="record what was measured")
    parser.add_argument("--profile", action="store_true", help="show functions and calls")
    parser.add_argument("--program", type=pathlib.Path, default=PROGRAM)
    options = parser.parse_args()
    if not shutil.which("valgrind"):
        sys.exit("valgrind is not installed")
    compiler, costs = measure(options.program.resolve(), options.cases)
    everything = json.loads(RECORDED.read_text()) if RECORDED.exists() else {}
    recorded = everything.get(compiler, {})
    show(costs, recorded, options.profile)
    if options.update:
        everything[compiler] = dict(sorted((recorded | {case: cost.figures() for case, cost in costs.items()}).items()))
        RECORDED.write_text(json.dumps(everything, indent=1) + "\n")
        return 0
    if not recorded:
        print(f"nothing was recorded for {compiler} (bench/road_check.py --update)")
        return 0
    problems = [f"{case}: nothing was recorded (bench/road_check.py --update {case})" for case in costs if case not in recorded]
    for case, cost in costs.items():
        if case in recorded:
            problems += compare(case, cost.figures(), recorded[case])
    for problem in problems:
        print(f"WORSE {problem}")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
