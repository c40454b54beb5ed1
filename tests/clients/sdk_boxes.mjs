// What people do with the JavaScript SDK; says what it found as one line of JSON.

import { LangSmithResourceNotFoundError, SandboxClient, opaqueSecret, proxyConfig, workspaceSecret } from "langsmith/sandbox";

const api = process.argv[2];
const found = {};
const client = new SandboxClient();
const box = await client.createSandbox(undefined, {
  name: "first",
  proxyConfig: proxyConfig({
    rules: [
      { name: "shared", match_hosts: [api], match_paths: ["/shared/*"],
        headers: [{ name: "X-Shared", ...workspaceSecret("API_TOKEN") }] },
      { name: "own", match_hosts: [api], headers: [{ name: "X-Own", ...opaqueSecret("canary-opaque-2") }] },
    ],
  }),
});
found.status = box.status;
const done = await box.run("echo out; echo err >&2; exit 3");
found.run = [done.stdout, done.stderr, done.exit_code];
const pieces = [];
await box.run("for i in 1 2 3; do echo $i; done", { onStdout: (piece) => pieces.push(piece) });
found.pieces = pieces.join("");

const handle = await box.run("read line; echo got $line; exec sleep 300", { wait: false, closeInput: false });
handle.sendInput("hello\n");
for await (const chunk of handle) {
  found.interactive = chunk.data;
  break;
}
handle.kill();

await box.write("notes/a.txt", "hello\nworld\n");
found.read = new TextDecoder().decode(await box.read("notes/a.txt"));
found.glob = (await box.glob("*.txt", "notes")).matches.map((match) => match.path.split("/").pop());
found.grep = (await box.grep("wor", "notes")).matches.map((match) => [match.line, match.text]);
try {
  await box.read("nothing.txt");
} catch (error) {
  found.missing = error instanceof LangSmithResourceNotFoundError;
}
found.shared = (await box.run(`curl -sS https://${api}/shared/x`)).stdout;
found.own = (await box.run(`curl -sS https://${api}/other`)).stdout;
found.listed = (await client.listSandboxes()).map((one) => one.name);
await box.stop();
found.stopped = (await client.getSandboxStatus("first")).status;
found.woken = (await box.run("cat notes/a.txt")).stdout;
await client.updateSandbox("first", "second");
await client.deleteSandbox("second");
found.left = (await client.listSandboxes()).length;
console.log(JSON.stringify(found));
process.exit(0);
