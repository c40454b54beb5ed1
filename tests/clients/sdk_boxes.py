"""What people do with the Python SDK, from the first sandbox to the last; says what it found as one line of JSON."""

import asyncio
import json
import sys

from langsmith.sandbox import AsyncSandboxClient, ResourceNotFoundError, SandboxClient, opaque_secret, proxy_config

API = sys.argv[1]
found = {}
policy = proxy_config(rules=[
    {"name": "shared", "match_hosts": [API], "match_paths": ["/shared/*"],
     "headers": [{"name": "Authorization", "type": "workspace_secret", "value": "Bearer {API_TOKEN}"}]},
    {"name": "own", "match_hosts": [API], "headers": [{"name": "X-Own", **opaque_secret("canary-opaque-1")}]},
])

with SandboxClient() as client:
    box = client.create_sandbox(name="first", proxy_config=policy, labels={"team": "a"}, run_config={"env_vars": {"COLOUR": "blue"}}, idle_ttl_seconds=120)
    found["status"] = box.status
    done = box.run("echo out; echo err >&2; echo $COLOUR; exit 3")
    found["run"] = [done.stdout, done.stderr, done.exit_code]
    pieces = []
    box.run("for i in 1 2 3; do echo $i; done", on_stdout=pieces.append)
    found["pieces"] = "".join(pieces)
    found["cwd"] = box.run("pwd", cwd="/tmp").stdout.strip()
    found["env"] = box.run("echo $A", env={"A": "one"}).stdout.strip()

    handle = box.run("read line; echo got $line; exec sleep 300", wait=False, close_input=False)
    handle.send_input("hello\n")
    for chunk in handle:
        found["interactive"] = chunk.data
        break
    handle.kill()
    later = box.run("echo begun; read x; echo end $x", wait=False, close_input=False)
    iterator = iter(later)
    found["first"] = next(iterator).data
    again = box.reconnect(later.command_id, stdout_offset=0, stderr_offset=0)
    later.send_input("now\n")
    found["again"] = again.result.stdout
    found["terminal"] = "tty" in box.run("test -t 1 && echo tty", pty=True).stdout

    box.write("notes/a.txt", "hello\nworld\n")
    found["read"] = box.read("notes/a.txt").decode()
    found["range"] = box.read_range("notes/a.txt", start=6, end=10).content.decode()
    found["stat"] = box.stat("notes/a.txt").size_bytes
    found["glob"] = [match.path for match in box.glob("**/*.txt", path="notes").matches]
    found["grep"] = [(match.line, match.text) for match in box.grep("wor", path="notes").matches]
    try:
        box.read("nothing.txt")
    except ResourceNotFoundError as error:
        found["missing"] = type(error).__name__

    def ask(path):
        return box.run(f"curl -sS https://{API}{path}").stdout

    found["shared"] = ask("/shared/x")
    found["own"] = ask("/other")
    found["held"] = box.run("env; cat /proc/[0-9]*/environ 2>/dev/null; grep -rs canary /etc /run /tmp /var /home /root /workspace /dev/shm").stdout

    shown = client.get_sandbox("first")
    found["listed"] = [one.name for one in client.list_sandboxes()]
    box.stop()
    found["stopped"] = client.get_sandbox_status("first").status
    found["kept"] = box.read("notes/a.txt").decode()  # wakes it
    found["woken"] = client.get_sandbox_status("first").status
    client.stop_sandbox("first")
    client.start_sandbox("first")
    found["renamed"] = client.update_sandbox("first", new_name="second").name
    client.delete_sandbox("second")
    found["left"] = [one.name for one in client.list_sandboxes()]


async def with_async():
    async with AsyncSandboxClient() as client:
        async with await client.sandbox(name="async") as box:
            many = await asyncio.gather(*(box.run(f"echo {number}") for number in range(5)))
            await box.write("/tmp/x", b"\x00\xff")
            return ["".join(one.stdout for one in many), list(await box.read("/tmp/x")), len(await client.list_sandboxes())]


found["async"] = asyncio.run(with_async())
print(json.dumps(found))
