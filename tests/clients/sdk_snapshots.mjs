// What people do with snapshots in the JavaScript SDK; says what it found as one line of JSON.
import { SandboxClient } from "langsmith/sandbox";

const image = process.argv[2];
const client = new SandboxClient();
const found = {};
const box = await client.createSandbox({ name: "maker" });
await box.run("echo hello > /srv/a.txt; rm /etc/hostname");
const one = await client.captureSnapshot("maker", "tools");
found.captured = [one.status, one.name];
const copy = await client.createSandbox(one.id);
found.copy = (await copy.run("cat /srv/a.txt; ls /etc/hostname 2>/dev/null; true")).stdout;
const made = await client.createSnapshot("image", image, 1 << 30);
found.image = [made.status, (await client.getSnapshot(made.id)).status];
found.listed = (await client.listSnapshots()).map((each) => each.name).sort();
try { await client.deleteSnapshot(one.id); } catch (error) { found.used = String(error.message); }
await client.deleteSandbox("maker");
await client.deleteSandbox(copy.name);
await client.deleteSnapshot(one.id);
await client.deleteSnapshot(made.id);
found.left = (await client.listSnapshots()).length;
console.log(JSON.stringify(found));
