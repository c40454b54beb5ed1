import shutil
import signal

import pytest

import kit

# Under nohup, or behind a `&` in a script, some signals are ignored, and so they would be in all that is started here. A handler
# of ours is not inherited: whatever is started has the default.
for _number in (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT):
    if signal.getsignal(_number) == signal.SIG_IGN:
        signal.signal(_number, lambda number, frame: None)


@pytest.fixture
def place():
    """A directory of the test's own, gone afterwards."""
    directory = kit.temporary_directory()
    yield directory
    shutil.rmtree(directory, ignore_errors=True)


@pytest.fixture(scope="session")
def authority(tmp_path_factory):
    return kit.Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture
def postern(place, authority):
    return kit.Postern(place, authority)


@pytest.fixture
def nginx(place, authority):
    server = kit.Nginx(place / "nginx", authority)
    yield server
    server.stop()
