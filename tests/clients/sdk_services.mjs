// Services of a box with the JavaScript SDK; says what it found as one line of JSON.

import { SandboxClient } from "langsmith/sandbox";

const found = {};
const client = new SandboxClient();
const service = await client.serviceUrl("one", { port: 8000 });
const answer = await service.fetch("/hello?a=1");
found.get = [answer.status, (await answer.json()).path];
found.post = (await (await service.fetch("/echo", { method: "POST", body: "x".repeat(300_000) })).text()).length;
found.seen = (await (await service.fetch("/head")).json()).fields;
const short = await client.serviceUrl("one", { port: 8000, expiresInSeconds: 5 });
const first = await short.token();
const until = Date.now() + 20_000;
while ((await short.token()) === first && Date.now() < until) await (await short.fetch("/hello")).text();
found.refreshed = (await short.token()) !== first;
found.nobody = (await (await client.serviceUrl("one", { port: 8999 })).fetch("/")).status;
try {
  await client.serviceUrl("one", { port: 8000, access: "workspace" });
} catch (error) {
  found.login = String(error);
}
console.log(JSON.stringify(found));
process.exit(0);
