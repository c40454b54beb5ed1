"""Snapshots of `postern serve`: with the official SDKs, of images that hostile people made, and when a server is killed meanwhile."""

import gzip
import hashlib
import io
import json
import os
import re
import subprocess
import tarfile
import time

import pytest

from attacks_support import eventually
from clients_support import WAIT
from serve_support import js_sdk, python_sdk, run_js, run_python, server  # noqa: F401 (fixtures)


def closure(*programs):
    """The programs and the libraries that they load."""
    files = set()
    for program in programs:
        path = os.path.realpath(subprocess.run(["which", program], capture_output=True, text=True, check=True).stdout.strip())
        files.add(path)
        files |= set(re.findall(r"(/\S+) \(0x", subprocess.run(["ldd", path], capture_output=True, text=True, check=True).stdout))
    return files


def add(tar, name, content=b"", **more):
    info = tarfile.TarInfo(name)
    for key, value in {"mode": 0o644, "size": len(content), **more}.items():
        setattr(info, key, value)
    tar.addfile(info, io.BytesIO(content))


def small_system():
    """A root file system with a shell and little else."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for path in closure("bash", "cat", "ls"):
            add(tar, path.lstrip("/"), open(path, "rb").read(), mode=0o755)
        add(tar, "bin/sh", type=tarfile.SYMTYPE, linkname=os.path.realpath("/bin/bash")) if os.path.realpath("/bin/sh") else None
        for name in ("bash", "cat", "ls"):
            real = os.path.realpath(f"/bin/{name}")
            if real != f"/bin/{name}":
                add(tar, f"bin/{name}", type=tarfile.SYMTYPE, linkname=real)
        add(tar, "etc/gone", b"of the lower layer")
    return out.getvalue()


def upper_layer():
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        add(tar, "etc/greeting", b"hello from an image\n")
        add(tar, "etc/.wh.gone")
    return out.getvalue()


def write_layout(place, layers, tag="latest"):
    blobs = place / "blobs/sha256"
    blobs.mkdir(parents=True)

    def blob(content):
        digest = hashlib.sha256(content).hexdigest()
        (blobs / digest).write_bytes(content)
        return {"mediaType": "application/vnd.oci.image.layer.v1.tar+gzip", "digest": f"sha256:{digest}", "size": len(content)}

    config = blob(json.dumps({"config": {"Env": ["PATH=/usr/bin:/bin", "IMAGE=yes"], "WorkingDir": "/etc"}}).encode())
    manifest = blob(json.dumps({"schemaVersion": 2, "config": config, "layers": [blob(gzip.compress(layer, 1)) for layer in layers]}).encode())
    manifest |= {"mediaType": "application/vnd.oci.image.manifest.v1+json", "annotations": {"org.opencontainers.image.ref.name": tag}}
    (place / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": [manifest]}))
    (place / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')


@pytest.fixture(scope="session")
def system():
    return small_system()


@pytest.fixture
def images(server, system):
    """A directory that the operator opens; as private as the server's own may be."""
    place = server.directory / "images"
    place.mkdir()
    write_layout(place / "small", [system, upper_layer()])
    (place / "small.tar.gz").write_bytes(gzip.compress(system, 1))
    if server.entry:
        for path in (place, *place.rglob("*")):
            os.chown(path, server.entry.pw_uid, server.entry.pw_gid)
    return place


def wait_for(server, snapshot):
    end = time.monotonic() + WAIT
    while time.monotonic() < end:
        status, found = server.call("GET", f"/snapshots/{snapshot['id']}")
        if status != 200 or found["status"] != "building":
            return found
    raise AssertionError("it is still building")


def build(server, name, image, **more):
    status, made = server.call("POST", "/snapshots", {"name": name, "docker_image": image, "fs_capacity_bytes": 1 << 30, **more})
    assert status == 201 and made["status"] == "building", made
    return wait_for(server, made)


def run(server, box, command):
    status, done = server.call("POST", f"/{box}/execute", {"command": command, "shell": "/bin/sh", "timeout": 60})
    assert status == 200, done
    return done["stdout"] + done["stderr"]


def test_the_python_sdk_makes_and_uses_snapshots(server, images, python_sdk):
    found = run_python(server.start("--images", images), python_sdk, "sdk_snapshots.py", "oci:small")
    assert found["captured"] == ["ready", ["latest"], "tools", True, True]
    assert found["run_config"] == ["/srv", {"COLOUR": "blue"}]
    assert found["copy"] == "/srv\nblue-\nhello\nnew\n/usr/bin/cat\n"
    assert found["apart"] == "hello\n" and found["third"] == "changed\ndeeper\nred\n"
    assert found["by_name"] == [True, True] and found["tags"]
    assert found["used"][0] and "the sandbox 'copy'" in found["used"][0][1] and "the snapshot 'tools'" in found["used"][0][1]
    assert found["moved"] == [True, [], ["latest"]]
    assert found["listed"] == [3, 2, 1, 0]
    assert "no such snapshot" in found["unknown"][0][1] and found["unknown"][1][0] == found["unknown"][2][0] == "ResourceNotFoundError"
    assert "--images" in found["registry"][1] and "registry" in found["registry"][1]
    assert found["image"] == ["ready", True, "1", "yes"]
    assert found["inside"] == "yes 1\n/etc\nhello from an image\ngone\nbare\n"
    assert found["left"][0] == 0 and found["left"][1][0] == "ResourceNotFoundError"
    assert found["async"] == ["ready", "async\n", 1]
    assert len(list((server.data / "snapshots").iterdir())) == 1


def test_the_javascript_sdk_makes_and_uses_snapshots(server, images, js_sdk):
    found = run_js(server.start("--images", images), js_sdk, "sdk_snapshots.mjs", "oci:small")
    assert found["captured"] == ["ready", "tools"] and found["copy"] == "hello\n" and found["image"] == ["ready", "ready"]
    assert found["listed"] == ["image", "tools"] and "is used by the sandbox" in found["used"] and found["left"] == 0


def test_images_of_every_form(server, images):
    server.start("--images", images)
    with tarfile.open(images / "layout.tar", "w") as tar:
        tar.add(images / "small", ".")
    with tarfile.open(images / "small.tar.gz") as tar:
        tar.extractall(images / "tree")
    for name, image in (("a", "tar:small.tar.gz"), ("b", "oci:layout.tar:latest"), ("c", "dir:tree"), ("d", "oci:small:latest")):
        made = build(server, name, image)
        assert made["status"] == "ready", made
        status, box = server.call("POST", "/boxes", {"name": name, "snapshot": name})
        assert status == 201 and box["snapshot_id"] == made["id"], box
        assert run(server, name, "test -e /etc/gone && echo there; ls /usr/bin/cat; id -u 2>/dev/null; echo $UID").split() == (["there"] if name in "ac" else []) + ["/usr/bin/cat", "0"]
        assert server.call("DELETE", f"/boxes/{name}")[0] == 204


def test_only_what_the_operator_opened_is_read(server, images):
    (server.directory / "secret.tar").write_bytes(small_system()[:10240])
    os.symlink("../secret.tar", images / "link.tar")
    os.symlink("small", images / "inside")
    server.start("--images", images)
    for image in ("tar:../secret.tar", f"tar:{server.directory}/secret.tar", "tar:link.tar", "tar:", "dir:..", "dir:/", "oci:/proc/self/root", "tar:none", "python:3.12", "", "other://x"):
        status, refused = server.call("POST", "/snapshots", {"name": "x", "docker_image": image, "fs_capacity_bytes": 1 << 30})
        assert status == 422 and "--images" in refused["detail"][0]["msg"] and "docker_image" in refused["detail"][0]["loc"], (image, refused)
    assert server.call("GET", "/snapshots")[1]["items"] == []
    assert build(server, "inside", "oci:inside")["status"] == "ready"


def test_without_images_none_is_read(server):
    server.start()
    status, refused = server.call("POST", "/snapshots", {"name": "x", "docker_image": "tar:etc/passwd", "fs_capacity_bytes": 1 << 30})
    assert status == 422 and "`postern serve --images DIR`" in refused["detail"][0]["msg"]


def test_hostile_images_fail_and_leave_nothing(server, images):
    server.start("--images", images)
    canary = server.directory / "canary"

    def archive(name, *entries):
        with tarfile.open(images / name, "w") as tar:
            for entry, more in entries:
                content = more.pop("content", b"")
                add(tar, entry, content, **more)

    archive("up.tar", ("../../canary", {"content": b"x"}))
    archive("link.tar", ("out", {"type": tarfile.SYMTYPE, "linkname": str(server.directory)}), ("out/canary", {"content": b"x"}))
    archive("hard.tar", ("out", {"type": tarfile.LNKTYPE, "linkname": "../../store.db"}))
    archive("big.tar", ("big", {"content": bytes(2 << 20)}))
    (images / "bad.tar").write_bytes(b"\x1f\x8b\x08\x00" + bytes(100))
    (images / "cut.tar.gz").write_bytes((images / "small.tar.gz").read_bytes()[:200_000])
    write_layout(images / "forged", [upper_layer()])
    for blob in (images / "forged/blobs/sha256").iterdir():
        blob.write_bytes(blob.read_bytes() + b" ")
    for image in ("tar:up.tar", "tar:link.tar", "tar:hard.tar", "tar:bad.tar", "tar:cut.tar.gz", "oci:forged", "oci:up.tar", "tar:small", "oci:small:none"):
        made = build(server, "hostile", image)
        assert made["status"] == "failed" and made["status_message"], made
        assert str(server.data) not in made["status_message"]
        assert server.call("POST", "/boxes", {"snapshot_id": made["id"]})[0] == 400
    made = build(server, "big", "tar:big.tar", fs_capacity_bytes=1 << 20)
    assert made["status"] == "failed" and "fs_capacity_bytes" in made["status_message"]
    assert not canary.exists() and list((server.data / "snapshots").iterdir()) == []


def test_a_box_of_hostile_files_is_copied_as_it_is(server):
    server.start()
    server.call("POST", "/boxes", {"name": "evil"})
    run(server, "evil", f"ln -s {server.data} /out; ln -s / /root/all; mkdir -p /a/b; chmod 000 /a; mkfifo /pipe; ln -s loop /loop; truncate -s 1T /sparse; rm -rf /var/lib")
    status, made = server.call("POST", "/boxes/evil/snapshot", {"name": "evil"})
    assert status == 201
    assert wait_for(server, made)["status"] == "ready"
    server.call("POST", "/boxes", {"name": "again", "snapshot_name": "evil"})
    assert run(server, "again", "readlink /out; ls /out/ 2>/dev/null; stat -c %s /sparse; ls /var/lib 2>/dev/null; stat -c %a /a") == f"{server.data}\n{1 << 40}\n0\n"


def test_what_cannot_be_captured_is_said(server):
    server.start()
    server.call("POST", "/boxes", {"name": "one"})
    for more in ({"docker_image": "built:here"}, {"include_memory": True}, {"include": ["mounts"]}, {"image_config": {"cmd": ["x"]}}, {"tag": "a:b"}, {"name": ""}):
        assert server.call("POST", "/boxes/one/snapshot", {"name": "x", **more})[0] in (400, 422), more
    assert server.call("POST", "/boxes/none/snapshot", {"name": "x"})[0] == 404
    assert server.call("POST", "/boxes", {"snapshot_id": "a", "snapshot_name": "b"})[0] == 422
    assert server.call("GET", "/snapshots")[1]["items"] == []


def test_another_workspaces_snapshots_are_not_there(server):
    server.start()
    server.call("POST", "/boxes", {"name": "one"})
    made = wait_for(server, server.call("POST", "/boxes/one/snapshot", {"name": "mine"})[1])
    assert server.call("GET", f"/snapshots/{made['id']}", key="postern_0000000000000000_" + 43 * "A")[0] == 401
    missing = "00000000-0000-4000-8000-000000000000"
    assert server.call("GET", f"/snapshots/{missing}")[0] == 404 and server.call("DELETE", f"/snapshots/{missing}")[0] == 404
    assert server.call("POST", "/boxes", {"snapshot_id": missing})[0] == 400
    assert server.call("GET", "/snapshots-by-name/none")[0] == 404
    assert server.call("GET", "/snapshots-by-name/mine")[1] == {"name": "mine", "tags": [{"tag": "latest", "snapshot_id": made["id"]}]}


def test_a_server_that_is_killed_while_it_builds(server, images):
    with tarfile.open(images / "long.tar", "w") as tar:
        for number in range(60_000):
            add(tar, f"d{number % 97}/f{number}", b"x")
    server.start("--images", images)
    status, made = server.call("POST", "/snapshots", {"name": "long", "docker_image": "tar:long.tar", "fs_capacity_bytes": 1 << 30})
    end = time.monotonic() + WAIT
    while not any((server.data / "snapshots").glob("*/root/d*")) and time.monotonic() < end:
        pass
    server.kill()
    server.start("--images", images)
    found = server.call("GET", f"/snapshots/{made['id']}")[1]
    assert found["status"] == "failed" and "restarted" in found["status_message"]
    assert eventually(lambda: not list((server.data / "snapshots").iterdir()))  # When the process that made it has ended.
    assert server.call("DELETE", f"/snapshots/{made['id']}")[0] == 204
    status, made = server.call("POST", "/snapshots", {"name": "long", "docker_image": "tar:long.tar", "fs_capacity_bytes": 1 << 30})
    assert server.call("DELETE", f"/snapshots/{made['id']}")[0] == 204  # While it is built.
    assert list((server.data / "snapshots").iterdir()) == []
    assert build(server, "after", "oci:small")["status"] == "ready"


def test_snapshots_outlive_their_server(server):
    server.start()
    server.call("POST", "/boxes", {"name": "one"})
    run(server, "one", "echo kept > /root/a")
    made = wait_for(server, server.call("POST", "/boxes/one/snapshot", {"name": "kept"})[1])
    server.call("POST", "/boxes", {"name": "two", "snapshot_id": made["id"]})
    server.stop()
    server.start()
    assert run(server, "two", "cat /root/a") == "kept\n"
    assert server.call("DELETE", f"/snapshots/{made['id']}")[0] == 400
