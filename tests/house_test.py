"""The house keeps its shape: which room may lean on which, what is not done here and what is done instead.

Every complaint says what to do about it. Needs nothing but the source tree.
"""

import pathlib
import re
import subprocess

import pytest

ROOT = pathlib.Path(__file__).resolve().parent.parent
SRC = ROOT / "src"

# What a room may include besides itself (ARCHITECTURE.md). Dependencies go down only.
GROUND = {"base", "model"}
STATIONS = {"policy", "credential", "store", "audit", "intake", "origin", "dns", "quota"}
BELOW_PLATFORM = GROUND | STATIONS | {"io", "wire", "transform", "tls", "http2", "sandbox", "box", "proxy", "control"}
LAYERS = {
    "base": set(),
    "model": {"base"},
    "io": GROUND,
    "wire": GROUND,
    "tls": GROUND | {"io", "wire"},
    "http2": GROUND | {"io", "wire"},
    "transform": GROUND | {"wire"},
    "policy": GROUND | {"wire", "transform"},
    "credential": GROUND | {"io", "wire", "transform", "policy"},
    "store": GROUND | {"io", "wire", "transform", "policy", "credential"},
    "audit": GROUND | {"io"},
    "control": GROUND | {"io", "wire", "transform", "policy", "credential"},
    "intake": GROUND | {"io", "wire", "tls"},
    "origin": GROUND | {"io", "wire", "tls", "http2"},
    "dns": GROUND | {"io", "wire"},
    "quota": GROUND | {"wire", "transform", "policy"},
    "sandbox": GROUND | {"io", "wire", "tls"},
    "box": GROUND | {"io", "wire", "tls", "sandbox"},
    "proxy": GROUND | {"io", "wire", "tls", "http2", "transform", "policy", "credential", "audit", "intake", "origin", "dns", "quota"},
    "platform": BELOW_PLATFORM,
    "api": BELOW_PLATFORM | {"platform"},
    "cli": BELOW_PLATFORM | {"platform", "api"},
}

# Third-party headers that stay in .cc files: a header that shows one makes everybody depend on it.
HIDDEN = re.compile(r"#include <(curl|sodium|sqlite3|openssl|nghttp2|ares|idn2|libpsl|yaml-cpp|re2|nftables|libmnl|seccomp|cap-ng|CLI|boost|archive|archive_entry|hs|brotli|zstd|zlib|valijson)[/.]")


def sources(*suffixes, folders=("src", "fuzz", "bench")):
    for folder in folders:
        for path in sorted((ROOT / folder).rglob("*")):
            if path.suffix in suffixes and path.is_file():
                yield path


def name(path):
    return str(path.relative_to(ROOT))


def is_test(path):
    return path.stem.endswith("_test") or "test_kit" in path.stem or path.stem in ("road_harness", "fake_dns")


def code_lines(path):
    """Numbered lines without comments and string contents, so that talking about a thing is not doing it."""
    token = re.compile(r'//[^\n]*|/\*.*?\*/|R"(\w*)\(.*?\)\1"|"(?:\\.|[^"\\\n])*"|\'(?:\\.|[^\'\\\n])\'', re.S)
    text = token.sub(lambda found: '""' + "\n" * found[0].count("\n"), path.read_text())
    return enumerate(text.splitlines(), 1)


def complain(problems):
    assert not problems, "\n" + "\n".join(problems)


def test_code_is_told_from_comments_and_strings(tmp_path):
    sample = tmp_path / "sample.cc"
    sample.write_text('a(); // rand() /* x\nb("rand() // \\" /*"); c(\'"\');\n/* rand()\nrand() */ d();\nR"(rand()\n)"; rand();\n')
    lines = dict(code_lines(sample))
    assert [number for number, line in lines.items() if "rand" in line] == [6]
    assert "a()" in lines[1] and "c(" in lines[2] and "d()" in lines[4]


def test_every_room_is_known():
    rooms = {path.name for path in SRC.iterdir() if path.is_dir()}
    complain([f"src/{room}/ has no place in LAYERS of tests/house_test.py and none in ARCHITECTURE.md" for room in rooms - LAYERS.keys()])
    complain([f"LAYERS of tests/house_test.py knows {room}/, which is gone" for room in LAYERS.keys() - rooms])
    text = (ROOT / "ARCHITECTURE.md").read_text()
    complain([f"ARCHITECTURE.md does not say what {room}/ is for" for room in rooms if f"`{room}/`" not in text])


def test_the_layers_have_no_circle():
    for room, below in LAYERS.items():
        for other in below:
            assert room not in LAYERS[other], f"{room} and {other} lean on each other"
            assert LAYERS[other] <= below, f"{room} leans on {other}, so it may lean on {LAYERS[other] - below} too"


def test_rooms_lean_only_on_rooms_below():
    problems = []
    for path in sources(".h", ".cc", folders=("src",)):
        room = path.relative_to(SRC).parts[0]
        for number, line in enumerate(path.read_text().splitlines(), 1):
            found = re.match(r'#include "([a-z_0-9]+)/', line)
            if not found or found[1] == room or found[1] not in LAYERS:
                continue
            if found[1] not in LAYERS[room]:
                problems.append(
                    f"{name(path)}:{number}: {room}/ includes {found[1]}/, which is not below it. Move what both need "
                    f"further down (model/, base/), pass it in as a value or an interface, or do it in a room above both."
                )
    complain(problems)


def test_wire_and_policy_do_no_io():
    banned = re.compile(r"#include <(sys/socket|sys/epoll|netinet/.*|poll)\.h>")
    complain(
        [
            f"{name(path)}:{number}: {line.strip()}: wire/, transform/ and policy/ turn bytes into values and judge them; whoever calls them reads and writes"
            for room in ("wire", "transform", "policy")
            for path in sources(".h", ".cc", folders=(f"src/{room}",))
            if not is_test(path)
            for number, line in enumerate(path.read_text().splitlines(), 1)
            if banned.match(line)
        ]
    )


def test_third_party_headers_stay_in_cc_files():
    complain(
        [
            f"{name(path)}:{number}: {line}: forward-declare the type and include the header in the .cc file"
            for path in sources(".h", folders=("src",))
            if not is_test(path)
            for number, line in enumerate(path.read_text().splitlines(), 1)
            if HIDDEN.match(line)
        ]
    )


# pattern, what to do instead, files in which it is right (by prefix), also in tests?
BANNED = [
    (r"\bstd::j?thread\b(?!::hardware_concurrency)", "a loop per core lives in DataPlane; post() to a loop instead",
     ("src/proxy/data_plane.", "src/audit/journal.", "src/cli/key_server.", "src/cli/otlp_sender.", "src/control/worker_pool.",
      "src/control/transport.", "src/box/box_loop.", "src/box/trash.", "src/platform/snapshots.", "bench/"), False),
    (r"\bstd::async\b|\bpthread_create\b", "post() to a loop", ("bench/",), False),
    (r"\bthis_thread::sleep_|\b(usleep|nanosleep)\s*\(|(?<![\w.>])sleep\s*\(", "wait for what you wait for: a Timer, Loop::sleep_until, or a ManualClock in tests",
     ("bench/",), True),
    (r"\b(strcpy|strcat|gets)\s*\(", "std::string, or std::memcpy with a length", (), True),
    (r"\b(strncpy|strncat)\s*\(", "std::string, or std::memcpy with a length", (), False),
    (r"\bv?sprintf\s*\(", "fmt::format, or snprintf with a size", (), True),
    (r"(?<![\w.:>])s?rand\s*\(|\bstd::rand\b", "<random> in tests, RAND_bytes or getrandom() where it matters", (), True),
    (r"(?<![\w.>])system\s*\(|\bpopen\s*\(", "fork and execve with a list of arguments: no shell reads what a sandbox wrote", (), False),
    (r"\bato[ifl]\s*\(|\bstrto[a-z]+\s*\(", "std::from_chars, which says what it did not understand", ("bench/", "fuzz/", "src/sandbox/shim/"), False),
    (r"\binet_(aton|addr|ntoa)\s*\(|\bgethostbyname\s*\(|(?<!ares_)\bgetaddrinfo\s*\(", "IpAddress::parse (one strict reading); names are resolved by origin/", ("bench/",), True),
    (r"(?<![\w:])assert\s*\(", "an Error for what can happen; std::abort() with a comment for what cannot", (), False),
    (r"\bcatch\s*\(\s*\.\.\.\s*\)", "expected failures are values (Result); what else throws ends the process", ("bench/",), False),
    (r"\busing namespace std;", "the names that are meant", (), True),
    (r"\bstd::cout\b|\bstd::cerr\b", "the streams that cli/ was given; everybody else returns an Error", ("src/cli/", "bench/"), False),
]


@pytest.mark.parametrize("pattern, instead, right_in, in_tests", BANNED, ids=[entry[0] for entry in BANNED])
def test_what_is_not_done_here(pattern, instead, right_in, in_tests):
    wanted = re.compile(pattern)
    complain(
        [
            f"{name(path)}:{number}: {line.strip()}\n    instead: {instead}"
            for path in sources(".h", ".cc")
            if not name(path).startswith(right_in or ("-",)) and (in_tests or not is_test(path))
            for number, line in code_lines(path)
            if wanted.search(line)
        ]
    )


def test_no_argument_of_a_co_await_is_chosen_in_place():
    """g++ 12 copies a conditional temporary inside a co_await expression bit by bit and destroys both copies: a
    double free that a sandbox could trigger. Name the value first."""
    problems = []
    for path in sources(".cc", ".h", folders=("src",)):
        text = "\n".join(line for _, line in code_lines(path))
        for statement in re.findall(r"[^;{}]*\bco_await\b[^;]*;", text):
            if re.search(r"\bco_await\b[^;]*\([^;]*\?[^;]*:", statement):
                problems.append(f"{name(path)}: {' '.join(statement.split())[:120]}")
    complain(problems)


def test_no_condition_awaits():
    """g++ 12 keeps what a bare condition awaits on the stack and not in the coroutine's frame: after the wait it is gone. Name the result first, or
    declare it in the condition."""
    problems = []
    for path in sources(".cc", ".h", folders=("src",)):
        text = "\n".join(line for _, line in code_lines(path))
        for start in re.finditer(r"\b(?:if|while|switch) \(", text):
            depth, end = 1, start.end()
            while depth and end < len(text):
                depth += {"(": 1, ")": -1}.get(text[end], 0)
                end += 1
            condition = text[start.end():end - 1].rpartition(";")[2]
            if "co_await" in condition:
                problems.append(f"{name(path)}: {' '.join(condition.split())[:120]}")
    complain(problems)


def test_secrets_are_unwrapped_in_credential_only():
    complain(
        [
            f"{name(path)}:{number}: unwrap() outside credential/: hand the Secret over and let append_header_line() write it"
            for path in sources(".h", ".cc")
            if not name(path).startswith(("src/credential/", "src/base/secret"))
            for number, line in code_lines(path)
            if re.search(r"\bunwrap\s*\(\s*\)", line)
        ]
    )


def test_secrets_are_revealed_to_tests_only():
    complain(
        [
            f"{name(path)}:{number}: secret_test_kit.h is for tests"
            for path in sources(".h", ".cc")
            if not is_test(path)
            for number, line in enumerate(path.read_text().splitlines(), 1)
            if re.match(r'#include "credential/secret_test_kit.h"', line)
        ]
    )


def test_nothing_is_left_for_later():
    marker = re.compile(r"\b(" + "|".join(("TO" + "DO", "FIX" + "ME", "X" * 3, "HA" + "CK")) + r")\b")
    complain(
        [
            f"{name(path)}:{number}: {line.strip()}: do it now, or open an issue"
            for path in sources(".h", ".cc", ".py", ".txt", ".cmake", ".sh", ".md", folders=("src", "fuzz", "bench", "tests", "cmake", "demo"))
            if "corpus" not in path.parts
            for number, line in enumerate(path.read_text(errors="replace").splitlines(), 1)
            if marker.search(line)
        ]
    )


def test_headers_open_with_pragma_once():
    complain(
        [
            f"{name(path)}: the first line of a header is #pragma once"
            for path in sources(".h")
            if not path.read_text().startswith("#pragma once\n")
        ]
    )


def test_a_file_includes_its_own_header_first():
    problems = []
    for path in sources(".cc", folders=("src",)):
        stem = path.stem.removesuffix("_test")
        own = path.with_name(stem + ".h")
        first = re.search(r'^#include [<"](.*)[>"]', path.read_text(), re.M)
        if own.exists() and (not first or first[1] != str(own.relative_to(SRC))):
            problems.append(f'{name(path)}: include "{own.relative_to(SRC)}" first, so that it is known to stand alone')
    complain(problems)


def tracked_files():
    listed = subprocess.run(["git", "-C", ROOT, "ls-files", "-z"], capture_output=True, check=False)
    if listed.returncode != 0:  # an unpacked tarball
        return [path for path in ROOT.rglob("*") if path.is_file() and "build" not in path.relative_to(ROOT).parts]
    return [ROOT / entry for entry in listed.stdout.decode().split("\0") if entry and (ROOT / entry).is_file()]


def test_no_file_points_outside_the_project():
    # Where the authors happened to work is nothing to anybody else.
    # A class of one letter matches that letter, and keeps this file from naming such a place itself.
    outside = re.compile(r"/[w]ork/|\.\./[s]hared|/home/[a-z]+/|/Users/|\.\./\.\./\.\./")
    problems = []
    for path in tracked_files():
        if path.suffix in (".png", ".bin", ".der", ".pem") or "corpus" in path.parts:
            continue
        if path.parent.name == ".ci":  # knows the machine that it runs on
            continue
        for number, line in enumerate(path.read_text(errors="replace").splitlines(), 1):
            # A user's directory in an example or a test's fixture is text, not a place.
            found = outside.search(line)
            if found and not (found[0].startswith(("/home/", "/Users/")) and ("test" in path.name or path.suffix == ".md" or "kit" in path.name)):
                problems.append(f"{name(path)}:{number}: '{found[0]}' is not part of the project")
    complain(problems)


def test_every_fuzz_target_has_seeds():
    problems = []
    for target in sorted((ROOT / "fuzz").glob("*_fuzz.cc")):
        corpus = ROOT / "fuzz" / "corpus" / target.stem.removesuffix("_fuzz")
        if not corpus.is_dir() or not any(corpus.iterdir()):
            problems.append(f"{name(target)}: put a few small inputs into {corpus.relative_to(ROOT)}/")
    known = {target.stem.removesuffix("_fuzz") for target in (ROOT / "fuzz").glob("*_fuzz.cc")}
    problems += [f"fuzz/corpus/{folder.name}/ belongs to no target" for folder in (ROOT / "fuzz" / "corpus").iterdir() if folder.name not in known]
    complain(problems)


def test_every_test_file_is_found_by_its_runner():
    problems = []
    for path in sources(".cc", folders=("src",)):
        holds_tests = re.search(r"^(TEST|TEST_F|TEST_P)\(", path.read_text(), re.M)
        if holds_tests and not path.stem.endswith("_test"):
            problems.append(f"{name(path)}: tests live in files named *_test.cc, or they are built into the program")
        if path.stem.endswith("_test") and not holds_tests:
            problems.append(f"{name(path)}: holds no test")
    for path in sorted((ROOT / "tests").rglob("*.py")):
        holds_tests = re.search(r"^(async )?def test_|^class Test", path.read_text(), re.M)
        if holds_tests and not re.fullmatch(r"test_.*\.py|.*_test\.py", path.name):
            problems.append(f"{name(path)}: pytest looks into test_*.py and *_test.py only")
    complain(problems)


def test_every_test_says_what_is_true():
    """TEST(Policy, ADeniedHostNeverReachesTheOrigin): a sentence, not a label."""
    problems = []
    for path in sources(".cc", folders=("src",)):
        for suite, sentence in re.findall(r"^TEST(?:_F|_P)?\((\w+),\s*(\w+)\)", path.read_text(), re.M):
            if re.match(r"(Disabled|DISABLED|Test|test)", sentence) or re.search(r"\d+$", sentence) and len(sentence) < 8:
                problems.append(f"{name(path)}: {suite}.{sentence}: name what is true when it passes")
    complain(problems)


def test_road_cases_are_complete():
    problems = []
    for path in sorted((SRC / "proxy" / "road_cases").glob("*.txt")):
        text = path.read_text()
        if not text.startswith("# "):
            problems.append(f"{name(path)}: the first line says what the case shows, as a comment")
        if not re.search(r"^== record\n\{", text, re.M):
            problems.append(f"{name(path)}: a case ends with its records (run with POSTERN_UPDATE_CASES=1)")
    complain(problems)
