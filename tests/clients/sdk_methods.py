"""The methods of the Python SDK that sdk_boxes.py does not call, and its errors; says what they gave as one line of JSON."""

import asyncio
import json
import sys

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from langsmith import sandbox
from langsmith.sandbox import SandboxClient, aws_auth, gcp_auth, opaque_secret, proxy_config, workspace_secret

API, CALLBACK = sys.argv[1:3]
found = {}


def error_of(call):
    try:
        call()
    except Exception as error:
        return type(error).__name__
    return None


def service_account():
    key = rsa.generate_private_key(65537, 2048).private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    return json.dumps({"type": "service_account", "client_email": "a@b.iam.gserviceaccount.com", "private_key_id": "canary-id", "private_key": key.decode(),
                       "token_uri": "https://oauth2.googleapis.com/token"})


with SandboxClient() as client:
    clouds = proxy_config(rules=[aws_auth(access_key_id=workspace_secret("{AWS_ID}"), secret_access_key=opaque_secret("canary-aws")),
                                 gcp_auth(service_account_json=opaque_secret(service_account()), scopes=["https://www.googleapis.com/auth/cloud-platform"])])
    early = client.create_sandbox(name="clouds", proxy_config=clouds, wait_for_ready=False)
    box = client.wait_for_sandbox("clouds", timeout=60)
    found["waited"] = [early.name, box.status]
    found["aws"] = box.run("echo ${AWS_ACCESS_KEY_ID:+set} ${AWS_SECRET_ACCESS_KEY:+set} $CLOUDSDK_AUTH_ACCESS_TOKEN").stdout.split()[:2]
    found["held"] = "canary" in box.run("env").stdout
    box.delete()

    carried = [{"name": "own", "match_hosts": [API], "headers": [{"name": "X-Own", **opaque_secret("canary-opaque-3")}]}]
    box = client.create_sandbox(name="methods", proxy_config=proxy_config(rules=carried))
    del carried[0]["headers"][0]["value"]
    carried[0]["headers"].append({"name": "X-New", "type": "plaintext", "value": "new"})
    client.update_sandbox("methods", proxy_config={"rules": carried})
    found["carried"] = box.run(f"curl -sS https://{API}/").stdout

    asked = [{"match_hosts": [API], "url": CALLBACK, "ttl_seconds": 60}]
    client.update_sandbox("methods", proxy_config={"callbacks": asked})
    found["granted"] = box.run(f"curl -sS https://{API}/").stdout

    box.run("mkdir -p /tmp/list/b && echo x > /tmp/list/a")
    found["ls"] = [(one.path, one.is_dir) for one in box.ls("/tmp/list").matches]
    box.stop()
    box.start()
    found["started"] = box.run("cat /tmp/list/a").stdout
    found["drop"] = box.run("echo first-half; sleep 1; echo second-half").stdout  # The connection is cut between.
    found["timeout"] = error_of(lambda: box.run("sleep 60", timeout=1))

    found["errors"] = {
        "key": error_of(lambda: SandboxClient(api_key="postern_0000000000000000_" + "0" * 43).list_sandboxes()),
        "missing": error_of(lambda: client.get_sandbox("nobody")),
        "taken": error_of(lambda: client.create_sandbox(name="methods")),
        "policy": error_of(lambda: client.create_sandbox(name="other", proxy_config={"rules": [{"match_hosts": ["x y"]}]})),
        "secret": error_of(lambda: client.create_sandbox(name="other", proxy_config=proxy_config(rules=[
            {"name": "r", "match_hosts": [API], "headers": [{"name": "X", **workspace_secret("{NO_SUCH_KEY}")}]}]))),
        "snapshot": error_of(lambda: client.create_sandbox(name="other", snapshot_id="00000000-0000-4000-8000-000000000000")),
    }
    client.create_sandbox(name="neighbour")
    found["errors"]["rename"] = error_of(lambda: client.update_sandbox("neighbour", new_name="methods"))
    client.delete_sandbox("neighbour")

    async def as_async():
        async with client.to_async() as other:
            same = box.to_async(client=other)
            return [(await same.run("echo async")).stdout, (await other.get_sandbox_status("methods")).status]

    found["to_async"] = asyncio.run(as_async())
    with client.sandbox(name="scoped") as scoped:
        found["scoped"] = scoped.run("echo in").stdout
    found["left"] = [one.name for one in client.list_sandboxes()]
    box.delete()
found["exported"] = sorted(name for name in sandbox.__all__ if name.endswith("_auth") or name.endswith("_secret"))
print(json.dumps(found))
