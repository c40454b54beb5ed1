// The LangSmith sandbox backend of deepagents; says what it found as one line of JSON.

import { LangSmithSandbox } from "deepagents";
import { SandboxClient } from "langsmith/sandbox";

const client = new SandboxClient();
const box = new LangSmithSandbox({ sandbox: await client.createSandbox(undefined, { name: "deep" }) });
const found = {};
found.execute = await box.execute("echo hi; echo err >&2; exit 4");
const home = (await box.execute("echo $HOME")).output.trim();
found.write = (await box.write(`${home}/a.txt`, "hello\nworld\n")).path;
found.edit = (await box.edit(`${home}/a.txt`, "world", "there")).occurrences;
found.read = (await box.read(`${home}/a.txt`)).content;
found.ls = (await box.ls(home)).files.map((file) => [file.path, file.size]);
found.glob = (await box.glob("*.txt", home)).files.map((file) => file.path);
found.grep = (await box.grep("there", home)).matches;
await box.uploadFiles([["/tmp/x.bin", new Uint8Array([0, 255, 1])]]);
found.download = (await box.downloadFiles(["/tmp/x.bin", "/nope", "/tmp"])).map((file) => [file.content && [...file.content], file.error]);
await box.stop();
await box.start();
found.after = (await box.execute("cat a.txt")).output;
await box.close();
found.left = (await client.listSandboxes()).length;
console.log(JSON.stringify(found));
process.exit(0);
