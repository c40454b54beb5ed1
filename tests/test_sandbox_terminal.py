"""A program in the sandbox behaves at a terminal as if it ran directly: Ctrl-C, Ctrl-Z, size, job control."""

import fcntl
import os
import pty
import select
import signal
import struct
import termios
import time

import pytest

from sandbox_support import ACCOUNTS, PYTHON, Place

LIMIT = 20  # Seconds; reached only by a failing test.


class Terminal:
    """A command on a pseudo-terminal of its own, in a session of its own."""

    def __init__(self, place, command):
        self.seen = ""
        self.pid, self.fd = pty.fork()
        if self.pid == 0:
            try:
                os.chdir(place.work)
                os.execvpe(command[0], command, place.environment({"PS1": "outer$ ", "TERM": "xterm", "BASH_SILENCE_DEPRECATION_WARNING": "1"}))
            finally:
                os._exit(99)

    def send(self, text):
        os.write(self.fd, text.encode())

    def expect(self, text):
        """Waits until `text` was printed; forgets everything up to there."""
        end = time.monotonic() + LIMIT
        while text not in self.seen:
            left = end - time.monotonic()
            ready, _, _ = select.select([self.fd], [], [], max(left, 0))
            assert ready, f"{text!r} was not printed, but {self.seen!r}"
            try:
                self.seen += os.read(self.fd, 4096).decode()
            except OSError:
                raise AssertionError(f"ended without {text!r}, printed {self.seen!r}") from None
        before, _, self.seen = self.seen.partition(text)
        return before

    def size(self, rows, columns):
        fcntl.ioctl(self.fd, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def wait(self):
        end = time.monotonic() + LIMIT
        while time.monotonic() < end:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self.pid = 0
                return os.waitstatus_to_exitcode(status)
            if select.select([self.fd], [], [], 0.02)[0]:  # Else a full buffer would hold it up.
                try:
                    self.seen += os.read(self.fd, 4096).decode()
                except OSError:
                    pass
        raise AssertionError(f"did not end, printed {self.seen!r}")

    def close(self):
        if self.pid:
            os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)
        os.close(self.fd)


@pytest.fixture(params=ACCOUNTS)
def place(request):
    place = Place(request.param)
    yield place
    place.clean()


@pytest.fixture
def terminal(place):
    opened = []

    def start(*command, shell=False):
        opened.append(Terminal(place, list(command) if shell else place.command(command)))
        return opened[-1]

    yield start
    for one in opened:
        one.close()


def test_ctrl_c_reaches_python_as_keyboard_interrupt_and_the_run_survives_it(terminal):
    t = terminal(PYTHON, "-c", """
import time
def wait_for(word):
    print(word, flush=True)
    time.sleep(60)
try: wait_for('ready')
except KeyboardInterrupt: print('interrupted', flush=True)
try: wait_for('again')
except KeyboardInterrupt: raise SystemExit(9)
""")
    t.expect("ready")
    t.send("\x03")
    t.expect("interrupted")
    t.expect("again")
    t.send("\x03")
    assert t.wait() == 9


def test_ctrl_c_ends_a_program_that_does_not_handle_it_with_the_status_that_a_shell_gives(terminal):
    t = terminal("sh", "-c", "echo ready; exec sleep 60")
    t.expect("ready")
    t.send("\x03")
    assert t.wait() == 128 + signal.SIGINT


def test_ctrl_backslash_ends_the_program_and_not_the_sandbox(terminal):
    t = terminal("sh", "-c", "ulimit -c 0; trap 'echo quit' QUIT; (echo ready; exec sleep 60); echo after; exit 4")
    t.expect("ready")
    t.send("\x1c")
    t.expect("after")
    assert t.wait() == 4


def test_what_is_typed_reaches_the_program_and_end_of_file_too(terminal):
    t = terminal("sh", "-c", "stty -echo; echo ready; read line; echo \"<$line>\"; cat; echo end")
    t.expect("ready")
    t.send("hello there\n")
    t.expect("<hello there>")
    t.send("\x04")
    t.expect("end")
    assert t.wait() == 0


def test_the_program_sees_the_terminal_and_its_size(terminal):
    t = terminal("sh", "-c", "read go; stty size; test -t 0 && test -t 1 && test -t 2 && tty -s && echo tty; : > /dev/tty && echo opened")
    t.size(41, 123)
    t.send("\n")
    t.expect("41 123")
    t.expect("tty")
    t.expect("opened")
    assert t.wait() == 0


def test_a_change_of_size_is_signalled(terminal):
    t = terminal(PYTHON, "-c", """
import os, signal
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGWINCH])
print('ready', flush=True)
signal.sigwait([signal.SIGWINCH])
print('now', *os.get_terminal_size(), flush=True)
""")
    t.expect("ready")
    t.size(33, 77)
    t.expect("now 77 33")


def shell_line(place, *command):
    """A line for an interactive shell. Its words must not show in what the shell echoes before the program prints them."""
    return " ".join("'" + word.replace("'", "'\\''") + "'" for word in place.command(command)) + "\n"


def test_ctrl_z_stops_the_program_and_fg_goes_on_with_it(place, terminal):
    t = terminal("bash", "--norc", "--noprofile", "-i", shell=True)
    t.expect("outer$ ")
    t.send("stty -echo\n")
    t.expect("outer$ ")
    t.send(shell_line(place, "sh", "-c", "echo re''ady; read line; echo \"got <$line>\"; exit 6"))
    t.expect("ready")
    t.send("\x1a")
    t.expect("Stopped")
    t.expect("outer$ ")
    time.sleep(0.2)  # The shell waited for Postern to stop; the program, reading, stops a moment later on a busy machine.
    t.send("echo still $((40 + 2))\n")
    t.expect("still 42")
    t.expect("outer$ ")
    t.send("fg\n")
    t.expect("sandbox-probe")  # The shell prints the line that it continues.
    t.send("typed\n")
    t.expect("got <typed>")
    t.expect("outer$ ")
    t.send("echo status $?\n")
    t.expect("status 6")


def test_a_stopped_program_goes_on_in_the_background_with_bg(place, terminal):
    t = terminal("bash", "--norc", "--noprofile", "-i", shell=True)
    t.expect("outer$ ")
    t.send("stty -echo\n")
    t.expect("outer$ ")
    t.send(shell_line(place, "sh", "-c", "echo re''ady; i=0; while [ $i -lt 300 ]; do sleep 0.01; i=$((i + 1)); done; echo do''ne"))
    t.expect("ready")
    t.send("\x1a")
    t.expect("Stopped")
    t.send("bg\n")
    t.expect("done")


def test_an_interactive_shell_inside_has_job_control_of_its_own(place, terminal):
    t = terminal("bash", "--norc", "--noprofile", "-i")
    t.expect("outer$ ")
    assert "job control" not in t.seen and "process group" not in t.seen
    t.send("stty -echo; sleep 60; echo first $?\n")
    time.sleep(0.2)  # The sleep must be in the foreground; there is nothing to wait for that shows it.
    t.send("\x1a")
    t.expect("Stopped")
    t.send("jobs; fg\n")
    t.expect("sleep 60")
    time.sleep(0.2)
    t.send("\x03")
    t.expect("outer$ ")
    t.send("exit 8\n")
    assert t.wait() == 8


def test_a_shell_that_started_a_sandboxed_shell_has_its_terminal_back_afterwards(place, terminal):
    t = terminal("bash", "--norc", "--noprofile", "-i", shell=True)
    t.expect("outer$ ")
    t.send("stty -echo\n")
    t.expect("outer$ ")
    t.send(shell_line(place, "bash", "--norc", "--noprofile", "-i"))
    t.expect("outer$ ")
    t.send("sleep 0; exit 3\n")
    t.expect("exit")
    t.expect("outer$ ")
    t.send("echo status $?; read x; echo \"read <$x>\"\n")
    t.expect("status 3")
    t.send("mine\n")
    t.expect("read <mine>")


def test_a_closed_terminal_ends_everything(place, terminal):
    t = terminal("sh", "-c", "echo ready; exec sleep 60")
    t.expect("ready")
    os.close(t.fd)
    t.fd = os.open("/dev/null", os.O_RDONLY)
    end = time.monotonic() + LIMIT
    while time.monotonic() < end:
        pid, _ = os.waitpid(t.pid, os.WNOHANG)
        if pid:
            t.pid = 0
            return
        time.sleep(0.01)
    raise AssertionError("the sandbox outlived its terminal")
