"""The files in packaging/ do what they are there for."""

import re
import shlex
import shutil
import subprocess

import pytest

import kit

UNIT = kit.ROOT / "packaging/systemd/postern.service"


def settings():
    found = {}
    for line in UNIT.read_text().splitlines():
        if line and not line.startswith(("#", "[")):
            name, _, value = line.partition("=")
            found.setdefault(name, []).append(value)
    return found


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="no systemd here")
def test_systemd_understands_the_unit(tmp_path):
    unit = tmp_path / UNIT.name
    # What it starts is looked for where it will be installed.
    unit.write_text(UNIT.read_text().replace("/usr/local/bin/postern", str(kit.POSTERN)))
    done = subprocess.run(["systemd-analyze", "verify", "--man=no", unit], capture_output=True, text=True)
    said = [line for line in (done.stdout + done.stderr).splitlines() if unit.name in line]
    assert done.returncode == 0 and said == [], done.stderr


def test_the_units_command_is_one_that_postern_knows(tmp_path):
    (command,) = settings()["ExecStart"]
    words = [word.replace("%S", str(tmp_path)).replace("%d", str(tmp_path)) for word in shlex.split(command)]
    assert words[:2] == ["/usr/local/bin/postern", "serve"]
    offered = set(re.findall(r"(--[a-z-]+)", subprocess.run([kit.POSTERN, "serve", "--help"], capture_output=True, text=True, check=True).stdout))
    assert {word for word in words if word.startswith("--")} <= offered
    # Parsed as it stands: what is wrong with it is found only when its key is looked for.
    done = subprocess.run([kit.POSTERN, *words[1:], "--listen", "127.0.0.1:0"], capture_output=True, text=True, timeout=60)
    assert done.returncode == 1 and "master.key: cannot be read" in done.stderr, done.stderr


def test_the_unit_keeps_what_boxes_need_and_takes_the_rest():
    found = settings()
    for harmful in ("RestrictNamespaces", "PrivateUsers", "ProtectKernelTunables", "ProtectKernelLogs", "ProtectProc", "ProcSubset", "ProtectControlGroups",
                    "ProtectKernelModules", "MemoryDenyWriteExecute", "SystemCallFilter"):
        assert harmful not in found, "boxes do not start with it"
    assert found["NoNewPrivileges"] == ["yes"] and found["CapabilityBoundingSet"] == [""] and found["LimitCORE"] == ["0"]
    assert found["StateDirectory"] == ["postern"] and found["StateDirectoryMode"] == ["0700"]
    families = set(found["RestrictAddressFamilies"][0].split())
    assert families == {"AF_UNIX", "AF_INET", "AF_INET6", "AF_NETLINK"}
