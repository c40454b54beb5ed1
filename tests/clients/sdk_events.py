"""Commands of the Python SDK over server-sent events instead of a WebSocket; says what it found as one line of JSON."""

import json

from langsmith.sandbox import SandboxClient

found = {}
with SandboxClient() as client, client.sandbox(name="events") as box:
    done = box.run("echo out; echo err >&2; exit 3")
    found["run"] = [done.stdout, done.stderr, done.exit_code]
    pieces = []
    box.run("for i in 1 2 3; do echo $i; done; printf 'gr\\303\\274n'", on_stdout=pieces.append)
    found["pieces"] = "".join(pieces)
    found["much"] = len(box.run("head -c 20000000 /dev/zero | tr '\\0' x", timeout=60).stdout)
    handle = box.run("echo begun; sleep 300", wait=False)
    found["begun"] = next(iter(handle)).data  # It ends with the box.
print(json.dumps(found))
