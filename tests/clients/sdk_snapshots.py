"""What people do with snapshots in the Python SDK; says what it found as one line of JSON."""

import asyncio
import json
import sys

from langsmith.sandbox import AsyncSandboxClient, SandboxClient, SandboxClientError

IMAGE = sys.argv[1]
found = {}


def error_of(call, *words, **options):
    try:
        call(*words, **options)
    except SandboxClientError as error:
        return [type(error).__name__, str(error)]
    return None


with SandboxClient() as client:
    box = client.create_sandbox(name="maker", run_config={"env_vars": {"COLOUR": "blue"}, "work_dir": "/srv"})
    box.run("mkdir -p /srv/app && echo hello > /srv/app/a.txt && rm /etc/hostname && echo new > /usr/local/new")
    one = client.capture_snapshot("maker", "tools")
    found["captured"] = [one.status, one.tags, one.name, one.source_sandbox_id == box.id, one.fs_used_bytes > 4096]
    found["run_config"] = [one.run_config.work_dir, one.run_config.env_vars]
    copy = client.create_sandbox(name="copy", snapshot_id=one.id)
    said = copy.run("pwd; echo $COLOUR-$OWN; cat /srv/app/a.txt /usr/local/new; ls /etc/hostname 2>/dev/null; ls /usr/bin/cat")
    found["copy"] = said.stdout
    copy.run("echo changed > /srv/app/a.txt; echo deeper > /deeper; rm /usr/local/new")
    found["apart"] = box.run("cat /srv/app/a.txt").stdout
    two = client.capture_snapshot("copy", "tools", tag="two", run_config={"env_vars": {"COLOUR": "red"}})
    third = client.create_sandbox(name="third", snapshot_name="tools:two")
    found["third"] = third.run("cat /srv/app/a.txt /deeper; ls /usr/local/new /etc/hostname 2>/dev/null; echo $COLOUR").stdout
    found["by_name"] = [client.get_snapshot("tools").id == one.id, client.get_snapshot("tools:two").id == two.id]
    found["tags"] = sorted([tag.tag, tag.snapshot_id] for tag in client.list_snapshot_tags("tools")) == sorted([["latest", one.id], ["two", two.id]])
    found["used"] = [error_of(client.delete_snapshot, one.id)]
    moved = client.capture_snapshot("maker", "tools")
    found["moved"] = [client.get_snapshot("tools").id == moved.id, client.get_snapshot(one.id).tags, moved.tags]
    found["listed"] = [len(client.list_snapshots()), len(client.list_snapshots(limit=2)), len(client.list_snapshots(limit=2, offset=2)), len(client.list_snapshots(name_contains="none"))]
    found["unknown"] = [error_of(client.create_sandbox, snapshot_name="none"), error_of(client.get_snapshot, "none"), error_of(client.capture_snapshot, "none", "x")]
    found["registry"] = error_of(client.create_snapshot, "py", "python:3.12", 1 << 30)

    image = client.create_snapshot("image", IMAGE, 1 << 30, run_config={"env_vars": {"EXTRA": "1"}})
    found["image"] = [image.status, image.docker_image == IMAGE, image.run_config.env_vars.get("EXTRA"), image.run_config.env_vars.get("IMAGE")]
    inside = client.create_sandbox(snapshot=image.id)
    done = inside.run("echo $IMAGE $EXTRA; pwd; cat /etc/greeting; test -e /etc/gone || echo gone; test -e /usr/bin/python3 || echo bare", shell="/bin/sh")
    found["inside"] = done.stdout
    for name in ("maker", "copy", "third", inside.name):
        client.delete_sandbox(name)
    for snapshot in (two.id, one.id, "tools", image.id):
        client.delete_snapshot(snapshot)
    found["left"] = [len(client.list_snapshots()), error_of(client.delete_snapshot, one.id)]


async def twice():
    async with AsyncSandboxClient() as client:
        box = await client.create_sandbox(name="async")
        await box.run("echo async > /root/a")
        snapshot = await client.capture_snapshot("async", "async")
        again = await client.create_sandbox(snapshot_id=snapshot.id)
        return [snapshot.status, (await again.run("cat /root/a")).stdout, len(await client.list_snapshots())]


found["async"] = asyncio.run(twice())
print(json.dumps(found))
