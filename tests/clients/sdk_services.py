"""Services of a box with the Python SDK, sync and async; says what it found as one line of JSON."""

import asyncio
import json
import time

from langsmith.sandbox import AsyncSandboxClient, SandboxClient

found = {}

with SandboxClient() as client:
    box = client.get_sandbox("one")
    service = box.service(8000)
    answer = service.get("/hello", params={"a": "1"})
    found["get"] = [answer.status_code, answer.json()["path"], answer.headers["x-own"]]
    answer = service.post("echo", content=b"x" * 300_000)
    found["post"] = [answer.status_code, len(answer.content)]
    found["put"] = service.put("/echo", content=b"put").text
    found["patch"] = service.patch("/echo", json={"a": 1}).json()
    found["delete"] = service.delete("/echo").status_code
    seen = service.get("/head", headers={"X-Mine": "kept", "X-Langsmith-User-Id": "forged", "X-Api-Key": client._api_key}).json()["fields"]
    found["seen"] = {name.lower(): value for name, value in seen}
    found["urls"] = [service.service_url, service.browser_url, service.embed_url]
    # Below the SDK's margin of half a minute: each use takes a new one.
    short = box.service(8000, expires_in_seconds=5)
    first = short.token
    until = time.monotonic() + 20
    while short.token == first and time.monotonic() < until:
        assert short.get("/hello").status_code == 200
    found["refreshed"] = short.token != first
    found["nobody"] = [client.service("one", 8999).get("/").status_code, client.service("one", 8999).get("/").json()["detail"]["error"]]
    try:
        client.service("one", 8000, access="restricted")
    except Exception as error:
        found["login"] = str(error)


async def later():
    async with AsyncSandboxClient() as client:
        service = await client.service("one", 8000)
        answers = await asyncio.gather(*[service.get(f"/hello?{i}") for i in range(20)])
        found["async"] = sorted({answer.status_code for answer in answers}), (await service.post("/echo", content=b"hello")).text


asyncio.run(later())
print(json.dumps(found))
