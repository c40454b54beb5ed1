import shutil

import pytest

import kit


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
