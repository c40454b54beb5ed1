"""What a sandboxed program may touch besides the network (threats 4, 73-81)."""

import os
import pathlib
import signal
import socket
import subprocess
import time

import pytest

from sandbox_support import ACCOUNTS, PYTHON, Place


@pytest.fixture(params=ACCOUNTS)
def place(request):
    place = Place(request.param)
    yield place
    place.clean()


def status(place, *fields):
    lines = place.run("cat", "/proc/self/status").stdout.splitlines()
    found = dict(line.split(":\t", 1) for line in lines if ":\t" in line)
    return [found[field].strip() for field in fields]


# --- rights

def test_a_program_has_no_capability_and_can_gain_none(place):
    none = "0" * 16
    assert status(place, "CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb", "NoNewPrivs", "Seccomp") == [none] * 5 + ["1", "2"]


def test_a_set_uid_program_gains_nothing(place):
    done = place.run("su", "-c", "id", "root", check=False, stdin=subprocess.DEVNULL)
    assert done.returncode != 0 or place.uid == 0
    assert place.run("sh", "-c", "mount -t tmpfs x /mnt || echo refused").stdout.strip() == "refused"


def test_what_belongs_to_the_hosts_root_is_read_only_for_root_too(place):
    """Run by root, the sandbox's user is the kernel's, whose files need no capability. Nothing is changed should this fail."""
    seen = place.python("""
import os
for name in ('kernel/core_pattern', 'kernel/modprobe', 'vm/drop_caches', 'net/ipv4/ip_forward'):
    try: os.close(os.open('/proc/sys/' + name, os.O_WRONLY)); print(name, 'opened')
    except OSError: pass
for name in ('null', 'zero', 'full', 'random', 'urandom', 'tty'):
    path = '/dev/' + name
    try: os.chmod(path, os.stat(path).st_mode & 0o7777); print(path, 'changed')
    except OSError: pass
open('/dev/null', 'w').write('still a device')
print(len(open('/dev/urandom', 'rb').read(4)))
""")
    assert seen == "4"


def test_only_the_three_standard_descriptors_are_there(place):
    read_end, write_end = os.pipe()
    os.set_inheritable(read_end, True)
    try:
        seen = place.python("import os; print(sorted(int(n) for n in os.listdir('/proc/self/fd')))", pass_fds=[read_end, write_end])
    finally:
        os.close(read_end)
        os.close(write_end)
    assert seen == "[0, 1, 2, 3]"  # 3 is the listing itself.


def test_the_sandboxs_first_process_holds_no_descriptor_that_leads_outside(place):
    seen = place.python("""
import os
for name in os.listdir('/proc/1/fd'):
    try: print(os.readlink('/proc/1/fd/' + name).split(':')[0])
    except OSError: pass
""")
    assert set(seen.split()) <= {"pipe", "/dev/null", "anon_inode", "socket"} and "memfd" not in seen


def test_processes_outside_cannot_be_seen(place):
    seen = place.python("import os; print(sorted(int(n) for n in os.listdir('/proc') if n.isdigit()))")
    assert seen == "[1, 2]"


def test_only_signals_that_were_ignored_before_stay_ignored(place):
    [ignored, blocked] = status(place, "SigIgn", "SigBlk")
    assert (int(ignored, 16) & 0x7FFFFFFF, int(blocked, 16)) == (0, 0)
    under_nohup = subprocess.run(
        ["nohup", *place.command(["grep", "SigIgn", "/proc/self/status"])], env=place.environment(), cwd=place.work,
        capture_output=True, text=True, stdin=subprocess.DEVNULL, check=True).stdout
    assert int(under_nohup.split()[1], 16) & 0x7FFFFFFF == 1 << (signal.SIGHUP - 1)


# --- the kernel's other doors

@pytest.mark.parametrize("family", [
    n for n in range(1, 46) if n not in (socket.AF_UNIX, socket.AF_INET, socket.AF_INET6, socket.AF_NETLINK)])
def test_no_other_socket_family_exists(place, family):
    script = f"""
import ctypes, errno, os
libc = ctypes.CDLL(None, use_errno=True)
for value in ({family}, {family} | 1 << 40):  # The kernel reads the low half only.
    for call, kind in ((41, 1), (41, 2), (41, 3), (53, 1)):
        pair = (ctypes.c_int * 2)()
        assert libc.syscall(call, ctypes.c_long(value), kind, 0, pair) == -1, (value, call)
        assert ctypes.get_errno() == errno.EAFNOSUPPORT, (value, call, os.strerror(ctypes.get_errno()))
print('refused')
"""
    if os.uname().machine != "x86_64":
        script = f"""
import socket
for kind in (1, 2, 3):
    try: socket.socket({family}, kind); print('opened')
    except OSError as error: assert error.errno == 97, error
print('refused')
"""
    assert place.python(script) == "refused"


@pytest.mark.skipif(os.uname().machine != "x86_64", reason="the numbers are those of x86-64")
@pytest.mark.parametrize("name, number, error", [
    ("io_uring_setup", 425, "ENOSYS"), ("io_uring_enter", 426, "ENOSYS"), ("io_uring_register", 427, "ENOSYS"), ("bpf", 321, "EPERM"),
    ("perf_event_open", 298, "EPERM"), ("userfaultfd", 323, "EPERM"), ("keyctl", 250, "ENOSYS"), ("add_key", 248, "ENOSYS"),
    ("request_key", 249, "ENOSYS"), ("kexec_load", 246, "EPERM"), ("open_by_handle_at", 304, "EPERM")])
def test_a_system_call_that_no_agent_needs_is_refused_as_programs_expect(place, name, number, error):
    seen = place.python(f"""
import ctypes, errno
libc = ctypes.CDLL(None, use_errno=True)
print(libc.syscall({number}, 0, 0, 0, 0, 0), errno.errorcode[ctypes.get_errno()])
""")
    assert seen == f"-1 {error}"


def test_a_nested_namespace_does_not_bring_the_refused_calls_back(place):
    seen = place.python("""
import ctypes, errno
libc = ctypes.CDLL(None, use_errno=True)
assert libc.unshare(0x10000000 | 0x40000000) == 0
for family in (17, 38, 40, 44):
    assert libc.socket(family, 3, 0) == -1 and ctypes.get_errno() == errno.EAFNOSUPPORT, family
print('refused')
""")
    assert seen == "refused"


@pytest.mark.skipif(os.uname().machine != "x86_64", reason="the numbers are those of x86-64")
def test_a_foreign_system_call_table_ends_the_program(place):
    # x32: bit 30 of the number. Unfiltered it would be another way to socket().
    done = place.run(PYTHON, "-c", "import ctypes; ctypes.CDLL(None).syscall(0x40000000 + 41, 40, 1, 0)", check=False)
    assert done.returncode == 128 + signal.SIGSYS


def test_typing_into_the_callers_terminal_is_refused(place):
    seen = place.python("""
import fcntl, os
main, other = os.openpty()
for request in (0x5412, 0x541C, 0x5412 | 1 << 32):
    try: fcntl.ioctl(other, request & 0xffffffff, b'x'); print('typed')
    except PermissionError: print('refused')
""")
    assert seen == "refused\n" * 2 + "refused"


def test_debugging_ones_own_children_still_works(place):
    assert place.run("sh", "-c", "sleep 0 & wait; echo ok").stdout == "ok\n"
    seen = place.python("""
import ctypes, os
libc = ctypes.CDLL(None)
pid = os.fork()
if pid == 0:
    libc.ptrace(0, 0, 0, 0); os.kill(os.getpid(), 19); os._exit(7)
_, status = os.waitpid(pid, 0); assert os.WIFSTOPPED(status)
libc.ptrace(7, pid, 0, 0); _, status = os.waitpid(pid, 0); print(os.waitstatus_to_exitcode(status))
""")
    assert seen == "7"


# --- sockets of the host

def test_abstract_sockets_of_the_host_do_not_exist(place):
    name = f"\0postern-test-{os.getpid()}"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(name)
        listener.listen()
        with socket.socket(socket.AF_UNIX) as control:
            control.connect(name)  # The positive control: it is there, outside.
        seen = place.python(f"""
import socket
try: socket.socket(socket.AF_UNIX).connect({name!r}); print('reached')
except ConnectionRefusedError: print('refused')
""")
    assert seen == "refused"


@pytest.mark.parametrize("where", ["work", "home", "/tmp", "/run", "/var/lib"])
def test_named_sockets_of_the_host_cannot_be_reached(place, where):
    if where in ("/run", "/var/lib") and os.geteuid() != 0:
        pytest.skip("only root can put a socket there")
    directory = {"work": place.work, "home": place.home}.get(where, pathlib.Path(where))
    path = directory / f"agent-{os.getpid()}.sock"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()
        try:
            path.chmod(0o777)
            with socket.socket(socket.AF_UNIX) as control:
                control.connect(str(path))
            seen = place.python(f"""
import socket
try: socket.socket(socket.AF_UNIX).connect({str(path)!r}); print('reached')
except OSError: print('refused')
""")
        finally:
            path.unlink()
    assert seen == "refused"


# --- life and death

@pytest.mark.parametrize("command, code", [
    (["true"], 0), (["sh", "-c", "exit 3"], 3), (["sh", "-c", "exit 255"], 255), (["sh", "-c", "kill -TERM $$"], 143),
    (["sh", "-c", "kill -KILL $$"], 137), (["no-such-program"], 127), (["/no/such/program"], 127), (["/etc"], 126)])
def test_the_exit_status_is_the_programs_own(place, command, code):
    done = place.run(*command, check=False)
    assert done.returncode == code
    if code in (126, 127):
        reason = "Permission denied" if code == 126 else "No such file or directory"
        assert done.stderr == f"postern: cannot run '{command[0]}': {reason}\n"


def test_a_sandbox_that_cannot_be_made_is_not_mistaken_for_the_programs_failure(place):
    done = place.run("true", options=["--hide", "/no/such/place"], check=False)
    assert (done.returncode, done.stderr) == (125, "sandbox-probe: '/no/such/place' does not exist\n")


def find_inside(marker):
    """Processes whose command line holds the marker, seen from outside. The sandbox's helpers hold it too."""
    found = []
    for entry in pathlib.Path("/proc").iterdir():
        try:
            words = (entry / "cmdline").read_bytes().split(b"\0")
        except OSError:
            continue
        if words[:2] == [b"sleep", marker.encode()]:
            found.append(int(entry.name))
    return found


def eventually(condition):
    for _ in range(500):
        if condition():
            return True
        time.sleep(0.01)
    return False


def probe_of(process, place):
    """setpriv executes in place, so the process that was started is the probe itself."""
    assert eventually(lambda: pathlib.Path(f"/proc/{process.pid}/comm").read_text().strip() == "sandbox-probe")
    return process.pid


def test_if_postern_is_killed_the_program_and_its_children_die(place):
    marker = f"98{os.getpid()}{place.uid}"
    process = subprocess.Popen(
        place.command(["sh", "-c", f"(setsid sleep {marker} &) ; sleep {marker}"]), env=place.environment(), cwd=place.work)
    assert eventually(lambda: len(find_inside(marker)) == 2)
    os.kill(probe_of(process, place), signal.SIGKILL)
    process.wait()
    assert eventually(lambda: find_inside(marker) == [])


def test_when_the_program_ends_what_it_left_behind_ends_too(place):
    marker = f"97{os.getpid()}{place.uid}"
    place.run("sh", "-c", f"setsid sleep {marker} >/dev/null 2>&1 </dev/null & exit 0")
    assert eventually(lambda: find_inside(marker) == [])


def test_a_forwarded_signal_reaches_the_program(place):
    # Not a shell script: dash loses a signal that falls into its vfork().
    process = subprocess.Popen(place.command([PYTHON, "-c", """
import os, signal
def got_it(*_): os.write(1, b'got it\\n'); os._exit(5)  # print() is not to be interrupted by itself.
signal.signal(signal.SIGTERM, got_it)
print('ready', flush=True)
while True: signal.pause()
"""]), env=place.environment(), cwd=place.work, stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "ready\n"
    os.kill(probe_of(process, place), signal.SIGTERM)
    assert process.communicate(timeout=30) == ("got it\n", None)
    assert process.returncode == 5


def test_without_a_terminal_a_signal_to_the_own_group_stays_inside(place):
    done = subprocess.run(
        ["setsid", "sh", "-c", '"$@"; echo "ended with $?"', "sh", *place.command(["sh", "-c", "kill -KILL 0"])],
        env=place.environment(), cwd=place.work, capture_output=True, text=True, timeout=30)
    assert done.stdout == "ended with 137\n"
