// The methods of the JavaScript SDK that sdk_boxes.mjs does not call; says what they gave as one line of JSON.

import { generateKeyPairSync } from "node:crypto";
import { SandboxClient, awsAuth, gcpAuth, opaqueSecret, proxyConfig, workspaceSecret } from "langsmith/sandbox";

const [api, callback] = process.argv.slice(2);
const found = {};
const nameOf = async (call) => {
  try {
    await call();
  } catch (error) {
    return error.constructor.name;
  }
  return null;
};
const client = new SandboxClient();
const account = JSON.stringify({
  type: "service_account", client_email: "a@b.iam.gserviceaccount.com", private_key_id: "canary-id", token_uri: "https://oauth2.googleapis.com/token",
  private_key: generateKeyPairSync("rsa", { modulusLength: 2048 }).privateKey.export({ type: "pkcs8", format: "pem" }),
});
const clouds = proxyConfig({ rules: [
  awsAuth({ accessKeyId: workspaceSecret("{AWS_ID}"), secretAccessKey: opaqueSecret("canary-aws") }),
  gcpAuth({ serviceAccountJson: opaqueSecret(account), scopes: ["https://www.googleapis.com/auth/cloud-platform"] }),
] });
await client.createSandbox(undefined, { name: "clouds", proxyConfig: clouds, waitForReady: false });
let box = await client.waitForSandbox("clouds", { timeout: 60 });
found.waited = box.status;
found.aws = (await box.run("echo ${AWS_ACCESS_KEY_ID:+set} ${AWS_SECRET_ACCESS_KEY:+set}")).stdout;
found.held = (await box.run("env")).stdout.includes("canary");
await box.delete();

const carried = [{ name: "own", match_hosts: [api], headers: [{ name: "X-Own", ...opaqueSecret("canary-opaque-4") }] }];
box = await client.createSandbox(undefined, { name: "methods", proxyConfig: proxyConfig({ rules: carried }) });
delete carried[0].headers[0].value;
carried[0].headers.push({ name: "X-New", type: "plaintext", value: "new" });
await client.updateSandbox("methods", { proxyConfig: { rules: carried } });
found.carried = (await box.run(`curl -sS https://${api}/`)).stdout;
await client.updateSandbox("methods", { proxyConfig: { callbacks: [{ match_hosts: [api], url: callback, ttl_seconds: 60 }] } });
found.granted = (await box.run(`curl -sS https://${api}/`)).stdout;

await box.write("a.txt", "linked");
const link = await box.generateDownloadURL("a.txt");
found.link = await (await fetch(link.download_url)).text();
await client.stopSandbox("methods");
found.started = (await client.startSandbox("methods")).status;
await box.stop();
await box.start();
found.kept = new TextDecoder().decode(await box.read("a.txt"));
found.drop = (await box.run("echo first-half; sleep 1; echo second-half")).stdout;  // The connection is cut between.
found.errors = {
  missing: await nameOf(() => client.getSandbox("nobody")),
  taken: await nameOf(() => client.createSandbox(undefined, { name: "methods" })),
  policy: await nameOf(() => client.createSandbox(undefined, { name: "other", proxyConfig: { rules: [{ match_hosts: ["x y"] }] } })),
  timeout: await nameOf(() => box.run("sleep 60", { timeout: 1 })),
  key: await nameOf(() => new SandboxClient({ apiKey: `postern_0000000000000000_${"0".repeat(43)}` }).listSandboxes()),
};
await box.delete();
found.left = (await client.listSandboxes()).length;
console.log(JSON.stringify(found));
process.exit(0);
