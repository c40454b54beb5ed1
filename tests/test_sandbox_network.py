"""Every packet of a sandbox ends in Postern's sockets, or nowhere (threats 1-4, 6, 8, 9, 74, 76)."""

import pytest

from sandbox_support import ACCOUNTS, Place


@pytest.fixture(scope="module", params=ACCOUNTS)
def place(request):
    place = Place(request.param)
    yield place
    place.clean()


DIAL = """
import socket
def dial(host, port):
    try:
        with socket.create_connection((host, port), timeout=5) as s:
            return s.makefile().readline().strip()
    except OSError as error:
        return type(error).__name__
"""


@pytest.mark.parametrize("host", ["93.184.216.34", "10.0.0.1", "169.254.169.254", "192.168.1.1", "100.64.0.9", "0.1.2.3", "255.1.1.1"])
def test_every_ipv4_address_and_port_reaches_the_listener_as_it_was_dialled(place, host):
    ports = [1, 22, 80, 443, 5432, 8080, 65535]
    seen = place.python(DIAL + f"print([dial({host!r}, p) for p in {ports}])")
    assert seen == str([f"tcp {host} {port}" for port in ports])


@pytest.mark.parametrize("host", ["2606:2800:220:1::1", "fd00::1", "fe80::1%lo", "::ffff:8.8.8.8"])
def test_every_ipv6_address_and_port_reaches_the_listener_as_it_was_dialled(place, host):
    seen = place.python(DIAL + f"print([dial({host!r}, p) for p in [1, 443, 65535]])")
    plain = host.removeprefix("::ffff:").split("%")[0]
    assert seen == str([f"tcp {plain} {port}" for port in [1, 443, 65535]])


@pytest.mark.parametrize("host", ["100.64.0.2", "fd70:6f73:7465:726e::2"])
def test_a_connection_straight_to_the_listener_shows_its_own_address(place, host):
    assert place.python(DIAL + f"print(dial({host!r}, 2), '|', dial({host!r}, 3))") == f"tcp {host} 2 | tcp {host} 3"


def test_port_53_over_tcp_reaches_the_name_service_whatever_the_resolver(place):
    seen = place.python(DIAL + "print([dial(h, 53) for h in ('8.8.8.8', '2001:4860:4860::8888', '100.64.0.1', '127.0.0.1')])")
    assert seen == "['dns 8.8.8.8 53', 'dns 2001:4860:4860::8888 53', 'dns 100.64.0.1 53', 'dns 127.0.0.1 53']"


@pytest.mark.parametrize("family, host", [("AF_INET", "8.8.8.8"), ("AF_INET", "100.64.0.1"), ("AF_INET6", "2001:4860:4860::8888")])
def test_a_datagram_to_port_53_is_answered_from_the_address_that_was_asked(place, family, host):
    seen = place.python(f"""
import socket
s = socket.socket(socket.{family}, socket.SOCK_DGRAM); s.settimeout(5)
s.sendto(b'query', ({host!r}, 53))
answer, peer = s.recvfrom(100)
print(answer.decode(), peer[0], peer[1])
""")
    assert seen == f"udp {host} query {host} 53"


@pytest.mark.parametrize("host", ["127.0.0.1", "127.1.2.3", "::1", "localhost"])
def test_the_sandboxs_own_services_on_loopback_work(place, host):
    seen = place.python(f"""
import socket, threading
family = socket.AF_INET6 if ':' in {host!r} else socket.AF_INET
listener = socket.create_server(({host!r}, 0), family=family)
def serve():
    c, peer = listener.accept(); c.sendall(b'mine'); c.close()
threading.Thread(target=serve).start()
with socket.create_connection(({host!r}, listener.getsockname()[1]), timeout=5) as s: print(s.recv(10))
u = socket.socket(family, socket.SOCK_DGRAM); u.bind(({host!r}, 0)); u.settimeout(5)
v = socket.socket(family, socket.SOCK_DGRAM); v.sendto(b'datagram', u.getsockname()); print(u.recv(20))
""")
    assert seen == "b'mine'\nb'datagram'"


def test_no_port_that_a_program_may_bind_is_taken(place):
    seen = place.python("""
import socket
taken = []
for family, host in ((socket.AF_INET, '0.0.0.0'), (socket.AF_INET6, '::')):
    for port in range(1024, 65536):
        s = socket.socket(family); s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try: s.bind((host, port)); s.listen()
        except OSError: taken.append(port)
        s.close()
print(taken)
""")
    assert seen == "[]"


def test_a_listener_of_the_sandbox_on_a_foreign_address_catches_nothing(place):
    seen = place.python(DIAL + """
listener = socket.create_server(('8.8.8.8', 8443))
wildcard = socket.create_server(('0.0.0.0', 9443))
print(dial('8.8.8.8', 8443), '|', dial('9.9.9.9', 9443))
""")
    assert seen == "tcp 8.8.8.8 8443 | tcp 9.9.9.9 9443"


@pytest.mark.parametrize("family, host, port", [
    ("AF_INET", "8.8.8.8", 443), ("AF_INET", "8.8.8.8", 123), ("AF_INET", "100.64.0.2", 5353), ("AF_INET6", "2001:db8::9", 443)])
def test_other_datagrams_are_refused_at_once_even_where_the_sandbox_listens(place, family, host, port):
    seen = place.python(f"""
import socket, time
own = None
if {port} > 1023:
    own = socket.socket(socket.{family}, socket.SOCK_DGRAM); own.bind(({host!r}, {port})); own.settimeout(0.2)
s = socket.socket(socket.{family}, socket.SOCK_DGRAM); s.settimeout(5); s.connect(({host!r}, {port}))
start = time.monotonic()
try:
    s.send(b'x'); s.recv(10); print('answered')
except ConnectionRefusedError: print('refused', time.monotonic() - start < 0.5)
if own:
    try: own.recv(10); print('looped')
    except TimeoutError: pass
""")
    assert seen == "refused True"


def test_a_program_cannot_even_open_a_socket_to_ping_with(place):
    seen = place.python("""
import socket
for kind, proto in ((socket.SOCK_DGRAM, socket.IPPROTO_ICMP), (socket.SOCK_RAW, socket.IPPROTO_ICMP), (socket.SOCK_RAW, 255)):
    try:
        s = socket.socket(socket.AF_INET, kind, proto); print('opened')
    except PermissionError: print('refused')
""")
    assert seen == "refused\nrefused\nrefused"


@pytest.mark.parametrize("protocol", [132, 33, 136])  # SCTP, DCCP, UDP-Lite
def test_other_transports_go_nowhere(place, protocol):
    seen = place.python(f"""
import socket
try:
    kind = {{132: socket.SOCK_STREAM, 33: 6, 136: socket.SOCK_DGRAM}}[{protocol}]
    s = socket.socket(socket.AF_INET, kind, {protocol}); s.settimeout(3); s.connect(('8.8.8.8', 443)); s.send(b'x'); print(s.recv(10))
except OSError as error: print('refused')
""")
    assert seen == "refused"


def nested(place, options):
    # A process of uid 0 without CAP_SETFCAP may make a user namespace, but not map uid 0 into it.
    return ["unshare", options.replace("r", "") if place.uid == 0 else options]


def test_a_nested_namespace_is_allowed_and_empty(place):
    seen = place.run(*nested(place, "-Urn"), "/usr/bin/python3", "-c", """
import socket, os
print(sorted(name for _, name in socket.if_nameindex()))
for host in ('8.8.8.8', '127.0.0.1'):
    try: socket.create_connection((host, 443), timeout=3); print('reached')
    except OSError as error: print(os.strerror(error.errno))
""").stdout.splitlines()
    assert seen == ["['lo']", "Network is unreachable", "Network is unreachable"]


def test_flushing_rules_and_editing_routes_changes_nothing_that_is_captured(place):
    seen = place.run("sh", "-c", f"""
nft flush ruleset 2>/dev/null && echo flushed here
ip route flush table local 2>/dev/null && echo routed here
ip link set lo down 2>/dev/null && echo down here
{" ".join(nested(place, "-Urn"))} sh -c 'nft flush ruleset; ip link set lo up; ip route add local default dev lo; echo nested' 2>/dev/null
{" ".join(nested(place, "-Ur"))} sh -c 'nft flush ruleset || ip link set lo down || echo no right' 2>/dev/null
exec /usr/bin/python3 -c "
import socket
with socket.create_connection((\\"8.8.4.4\\", 443), timeout=5) as s: print(s.makefile().readline().strip())"
""").stdout.splitlines()
    assert seen == ["nested", "no right", "tcp 8.8.4.4 443"]


def test_the_namespace_holds_loopback_only_and_netlink_shows_nothing_else(place):
    assert place.python("import socket; print(socket.if_nameindex())") == "[(1, 'lo')]"
    assert place.run("ip", "-o", "link").stdout.count("\n") == 1


def test_a_thousand_connections_at_once_lose_none(place):
    seen = place.python("""
import socket, selectors
all = []
for i in range(1000):
    s = socket.socket(); s.setblocking(False); s.connect_ex((f'203.0.{i // 250}.{i % 250 + 1}', 443)); all.append((i, s))
right = 0
for i, s in all:
    s.setblocking(True); s.settimeout(10)
    right += s.makefile().readline().strip() == f'tcp 203.0.{i // 250}.{i % 250 + 1} 443'
print(right)
""")
    assert seen == "1000"


def test_a_dialled_port_among_the_ephemeral_ones_never_connects_a_program_to_itself(place):
    seen = place.python(DIAL + "print(sum(dial('8.8.8.8', 40000) == 'tcp 8.8.8.8 40000' for _ in range(2000)))")
    assert seen == "2000"
