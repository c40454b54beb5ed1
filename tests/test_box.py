"""A box as an ordinary user has it: the unit tests with a real sandbox, which ctest runs as whoever runs the tests."""

import shutil
import subprocess

import pytest

import kit
from clients_support import become, ordinary_user

PROGRAM = kit.ROOT / "build/release/src/box_test"


@pytest.mark.parametrize("cases", ["RealBox.*", "WithAgent.NobodyInTheBoxCanLookIntoTheAgent", "WithKeeper.*:BoxDirectory.*:Userland.*"])
def test_an_ordinary_user_can_have_one(place, cases):
    place.chmod(0o777)
    program = shutil.copy(PROGRAM, place / "box_test")
    done = subprocess.run([*become(ordinary_user()), program, f"--gtest_filter={cases}"], cwd=place, env={"PATH": "/usr/bin:/bin", "HOME": str(place), "TMPDIR": "/tmp"},
                          capture_output=True, text=True, timeout=300)
    assert done.returncode == 0 and "[  PASSED  ]" in done.stdout and " 0 tests" not in done.stdout, done.stdout + done.stderr
