"""What of the host's files, environment and trust a sandboxed program sees (threats 73, 77, 78, 80, 81)."""

import os
import pathlib
import socket
import subprocess
import threading

import pytest

from sandbox_support import ACCOUNTS, PYTHON, Place

CANARY = "canary-5f1c2e"


@pytest.fixture(params=ACCOUNTS)
def place(request):
    place = Place(request.param)
    yield place
    place.clean()


def readable(place, path, **more):
    return CANARY in place.run("cat", str(path), check=False, **more).stdout


# --- what is visible and writable

def test_the_working_directory_is_writable_and_the_rest_is_not(place):
    place.run("sh", "-c", "echo made > here && mkdir -p a/b && mv here a/b/there")
    assert (place.work / "a/b/there").read_text() == "made\n"
    place.run("sh", "-c", f"echo > {place.top}/beside")  # In /tmp, which is the sandbox's own.
    assert not (place.top / "beside").exists()
    for path in (place.home / "x", "/etc/x", "/usr/x", "/var/lib/x", "/x"):
        assert place.run("sh", "-c", f"echo > {path}", check=False).returncode != 0


@pytest.mark.parametrize("directory", ["/tmp", "/var/tmp", "/dev/shm", "/run/user/$(id -u)"])
def test_a_place_for_temporary_files_is_the_sandboxs_own(place, directory):
    marker = f"postern-{os.getpid()}"
    pathlib.Path("/tmp", marker).write_text("outside")
    try:
        assert place.run("sh", "-c", f"ls {directory}; echo x > {directory}/{marker} && cat {directory}/{marker}").stdout.endswith("x\n")
        assert pathlib.Path("/tmp", marker).read_text() == "outside"
    finally:
        pathlib.Path("/tmp", marker).unlink()
    assert not pathlib.Path("/var/tmp", marker).exists() and not pathlib.Path("/dev/shm", marker).exists()


def test_the_home_is_visible_read_only_without_the_hosts_run(place):
    place.write(place.home / ".config" / "tool.conf", CANARY)
    assert readable(place, place.home / ".config" / "tool.conf")
    assert set(place.run("ls", "/run").stdout.split()) <= {"postern", "user", "systemd", "resolvconf", "NetworkManager"}


def test_names_are_asked_of_postern_alone(place):
    assert place.run("cat", "/etc/resolv.conf").stdout == "nameserver 100.64.0.1\noptions ndots:1 edns0\n"
    assert place.python("import socket; print(socket.gethostbyname('localhost'), socket.gethostbyname(socket.gethostname()))") == "127.0.0.1 127.0.1.1"


def test_the_kernels_settings_are_read_only(place):
    assert place.run("sh", "-c", "echo 0 > /proc/sys/net/ipv4/ip_forward", check=False).returncode != 0
    assert place.run("sh", "-c", "echo x > /proc/self/comm && cat /proc/self/comm").stdout  # But /proc itself works.


# --- hidden places

CREDENTIALS = [
    ".ssh/id_ed25519", ".aws/credentials", ".config/gh/hosts.yml", ".netrc", ".docker/config.json", ".kube/config", ".npmrc", ".pypirc",
    ".git-credentials", ".config/git/credentials", ".config/gcloud/application_default_credentials.json", ".azure/accessTokens.json",
    ".oci/config", ".config/doctl/config.yaml", ".terraform.d/credentials.tfrc.json", ".cargo/credentials.toml", ".cargo/credentials",
    ".gnupg/private-keys-v1.d/key", ".password-store/a.gpg", ".local/share/keyrings/login.keyring", ".config/op/config", ".vault-token",
    ".bash_history", ".zsh_history", ".pgpass", ".mozilla/firefox/p/logins.json", ".config/google-chrome/Default/Cookies",
    ".config/google-chrome-beta/Default/Cookies", ".claude/.credentials.json", ".codex/auth.json"]


def test_credentials_are_readable_outside_and_gone_inside(place):
    for name in CREDENTIALS:
        place.write(place.home / name, CANARY)
        assert CANARY in (place.home / name).read_text()
    assert place.run("grep", "-rlI", CANARY, str(place.home), check=False).stdout == ""


@pytest.mark.parametrize("work", ["home", "top", "/"])
def test_hidden_places_stay_hidden_when_the_working_directory_is_above_them(place, work):
    for name in CREDENTIALS:
        place.write(place.home / name, CANARY)
    place.write(place.home / "visible", "yes")
    cwd = {"home": place.home, "top": place.top, "/": "/"}[work]
    inside = place.run("sh", "-c", f"cat {place.home}/visible; grep -rlI {CANARY} {place.home}", cwd=cwd, check=False)
    # Below "/" the home (in /tmp here) shows because it is the home.
    assert inside.stdout == "yes"
    if work != "/":
        place.run("sh", "-c", f"echo new > {place.home}/written", cwd=cwd)
        assert (place.home / "written").read_text() == "new\n"


def test_a_symbolic_link_hides_what_it_leads_to(place):
    place.write(place.home / "dotfiles" / "aws" / "credentials", CANARY)
    place.write(place.home / "dotfiles" / "netrc", CANARY)
    (place.home / ".aws").symlink_to("dotfiles/aws")
    (place.home / ".netrc").symlink_to(place.home / "dotfiles" / "netrc")
    for path in ("dotfiles/aws/credentials", ".aws/credentials", "dotfiles/netrc", ".netrc"):
        assert not readable(place, place.home / path), path


def test_a_credential_that_a_variable_names_is_hidden(place):
    place.write(place.home / "clusters" / "prod.yaml", CANARY)
    place.write(place.home / "clusters" / "dev.yaml", CANARY)
    variable = {"KUBECONFIG": f"{place.home}/clusters/prod.yaml:{place.home}/clusters/dev.yaml"}
    assert not readable(place, place.home / "clusters" / "prod.yaml", env=variable)
    assert not readable(place, place.home / "clusters" / "dev.yaml", env=variable)
    assert readable(place, place.home / "clusters" / "dev.yaml")


def test_a_hidden_file_is_empty_and_a_hidden_directory_can_be_used(place):
    place.write(place.home / ".npmrc", CANARY)
    place.write(place.home / ".ssh" / "id", CANARY)
    assert place.run("sh", "-c", "cat ~/.npmrc; ls -A ~/.ssh; echo host > ~/.ssh/known_hosts; cat ~/.ssh/known_hosts").stdout == "host\n"
    assert os.listdir(place.home / ".ssh") == ["id"]


def test_a_bind_opens_what_is_hidden_and_nothing_beside_it(place):
    place.write(place.home / ".ssh" / "known_hosts", CANARY)
    place.write(place.home / ".ssh" / "id", CANARY)
    place.write(place.home / ".netrc", CANARY)
    known = place.home / ".ssh" / "known_hosts"
    assert readable(place, known, options=["--ro-bind", known])
    assert not readable(place, place.home / ".ssh" / "id", options=["--ro-bind", known])
    assert readable(place, place.home / ".ssh" / "id", options=["--bind", place.home / ".ssh"])
    assert not readable(place, place.home / ".netrc", options=["--bind", place.home / ".ssh"])
    # The home as a whole names no hidden place: they stay hidden.
    assert not readable(place, place.home / ".netrc", options=["--bind", place.home])
    place.run("sh", "-c", "echo bound > ~/written", options=["--bind", place.home])
    assert (place.home / "written").read_text() == "bound\n"
    assert place.run("sh", "-c", "echo > ~/other", options=["--ro-bind", place.home], check=False).returncode != 0


def test_of_bind_and_hide_the_later_wins(place):
    secret = place.work / "private" / "notes"
    place.write(secret, CANARY)
    directory = place.work / "private"
    assert readable(place, secret)
    assert not readable(place, secret, options=["--hide", directory])
    assert not readable(place, secret, options=["--hide", secret])
    assert readable(place, secret, options=["--hide", directory, "--ro-bind", directory])
    assert not readable(place, secret, options=["--ro-bind", directory, "--hide", directory])


def test_a_working_directory_that_is_hidden_is_an_error(place):
    place.write(place.home / ".ssh" / "id", CANARY)
    done = place.run("true", cwd=place.home / ".ssh", check=False)
    assert done.returncode == 125 and "is hidden from the sandbox" in done.stderr
    assert place.run("cat", "id", cwd=place.home / ".ssh", options=["--bind", place.home / ".ssh"]).stdout == CANARY


def test_posterns_own_state_cannot_be_opened_by_anything(place):
    key = place.state / "ca.key"
    place.write(key, CANARY)
    for options in ([], ["--bind", place.top], ["--bind", place.state]):
        assert not readable(place, key, options=options), options
        assert not readable(place, key, options=options, cwd=place.top), options
    assert place.run("true", options=["--bind", key], check=False).returncode == 125


def test_the_accounts_and_keys_of_the_machine_are_hidden(place):
    for path in ("/etc/shadow", "/etc/gshadow"):
        if os.access(path, os.R_OK):
            assert place.run("cat", path, check=False).stdout == ""


# --- environment

def test_the_environment_has_no_credential_and_no_way_out(place):
    given = {
        "TERM": "xterm-256color", "EDITOR": "vi", "MAX_TOKENS": "100", "TOKENIZERS_PARALLELISM": "false", "GITHUB_TOKEN": CANARY,
        "OPENAI_API_KEY": CANARY, "AWS_SECRET_ACCESS_KEY": CANARY, "AWS_ACCESS_KEY_ID": CANARY, "DB_PASSWORD": CANARY, "MY_SECRET": CANARY,
        "DATABASE_URL": f"postgres://u:{CANARY}@db/x", "SITE_URL": "https://example.com/a:b@c", "HARMLESS": f"sk-{CANARY}-{CANARY}",
        "NOTE": f"the value is {CANARY}-special", "SSH_AUTH_SOCK": "/tmp/agent", "DBUS_SESSION_BUS_ADDRESS": "unix:path=/x", "DISPLAY": ":0",
        "HTTP_PROXY": "http://p", "https_proxy": "http://p", "no_proxy": "x", "POSTERN_MASTER": CANARY, "TMPDIR": "/tmp/xyz"}
    seen = dict(line.split("=", 1) for line in place.run("env", env=given, options=["--secret", f"{CANARY}-special"]).stdout.splitlines())
    assert CANARY not in str(seen)
    for name in ("TERM", "EDITOR", "MAX_TOKENS", "TOKENIZERS_PARALLELISM", "SITE_URL", "HOME", "PATH"):
        assert name in seen, name
    assert set(seen) - {"TERM", "EDITOR", "MAX_TOKENS", "TOKENIZERS_PARALLELISM", "SITE_URL", "HOME", "PATH", "LANG", "PWD", "SHLVL", "_", "OLDPWD",
                        "XDG_RUNTIME_DIR"} == set()


def test_a_variable_that_is_asked_for_passes_but_never_one_of_posterns_secrets(place):
    given = {"GITHUB_TOKEN": "placeholder", "OTHER_TOKEN": f"x{CANARY}"}
    options = ["--keep", "GITHUB_TOKEN", "--keep", "OTHER_TOKEN", "--secret", CANARY, "--set", "OPENAI_API_KEY=injected"]
    seen = place.run("env", env=given, options=options).stdout
    assert "GITHUB_TOKEN=placeholder\n" in seen and "OPENAI_API_KEY=injected\n" in seen and CANARY not in seen


def test_the_environment_of_the_sandboxs_own_processes_shows_nothing(place):
    seen = place.run("cat", "/proc/1/environ", "/proc/1/cmdline", env={"GITHUB_TOKEN": CANARY, "NOTE": CANARY}, options=["--secret", CANARY])
    assert CANARY not in seen.stdout


def test_the_programs_environment_chooses_no_code_outside(place):
    source = place.top / "evil.c"
    library = place.work / "evil.so"
    place.write(source, '#include <unistd.h>\n__attribute__((constructor)) static void run(void) { (void)!write(2, "loaded\\n", 7); }\n')
    subprocess.run(["cc", "-shared", "-fPIC", "-o", library, source], check=True)
    done = place.run("/bin/true", options=["--set", f"LD_PRELOAD={library}"])
    assert done.stderr == "loaded\n"  # Once: in the program, and not in bubblewrap.


# --- trust

@pytest.fixture
def authority(place):
    key, certificate = place.top / "ca.key", place.top / "ca.pem"
    subprocess.run(["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-keyout", key, "-out",
                    certificate, "-days", "2", "-subj", "/CN=Postern Test CA"], check=True, capture_output=True)
    certificate.chmod(0o644)
    return ["--ca", certificate, "--cache", place.state / "trust"]


def test_every_bundle_holds_the_hosts_certificates_and_ours(place, authority):
    ours = (place.top / "ca.pem").read_text().strip()
    host = pathlib.Path("/etc/ssl/certs/ca-certificates.crt").read_text()
    for bundle in ("/etc/ssl/certs/ca-certificates.crt", "$SSL_CERT_FILE", "$REQUESTS_CA_BUNDLE", "$CURL_CA_BUNDLE", "$GIT_SSL_CAINFO",
                   "$AWS_CA_BUNDLE", "$PIP_CERT", "$CARGO_HTTP_CAINFO", "$GRPC_DEFAULT_SSL_ROOTS_FILE_PATH",
                   "$CLOUDSDK_CORE_CUSTOM_CA_CERTS_FILE"):
        seen = place.run("sh", "-c", f"cat {bundle}", options=authority).stdout
        assert seen == host + ours + "\n", bundle
    assert place.run("sh", "-c", "cat $NODE_EXTRA_CA_CERTS", options=authority).stdout == ours + "\n"
    assert ours not in place.run("cat", "/etc/ssl/certs/ca-certificates.crt").stdout  # Without it: the host's own.


def test_openssl_finds_it_by_hash(place, authority):
    seen = place.run("sh", "-c", f"unset SSL_CERT_FILE; openssl verify -no-CAfile -CApath /etc/ssl/certs {place.work}/../ca.pem", options=[
        *authority, "--ro-bind", place.top / "ca.pem"])
    assert seen.stdout.strip().endswith("ca.pem: OK")


def test_python_and_node_trust_it(place, authority):
    ours = place.python("""
import ssl
c = ssl.create_default_context()
print([x['subject'][0][0][1] for x in c.get_ca_certs() if 'Postern' in str(x['subject'])], len(c.get_ca_certs()) > 50)
""", options=authority)
    assert ours == "['Postern Test CA'] True"


def test_java_trusts_it(place, authority):
    done = place.run("keytool", "-list", "-cacerts", "-storepass", "changeit", options=authority)
    host = pathlib.Path("/etc/ssl/certs/ca-certificates.crt").read_text().count("BEGIN CERTIFICATE")
    assert f"Your keystore contains {host + 1} entries" in done.stdout


def test_chromium_trusts_it_and_the_users_own_keys_stay_outside(place, authority):
    place.write(place.home / ".pki" / "nssdb" / "key4.db", CANARY)
    seen = place.run("sh", "-c", "certutil -L -d sql:$HOME/.pki/nssdb", options=authority).stdout
    assert "Postern" in seen and "C,," in seen
    assert not readable(place, place.home / ".pki" / "nssdb" / "key4.db", options=authority)
    assert not readable(place, place.home / ".pki" / "nssdb" / "key4.db")


def test_the_bundle_follows_a_change_of_the_companys_own_roots(place, authority):
    place.write(place.home / "company.pem", "# company root 1\n")
    variable = {"SSL_CERT_FILE": str(place.home / "company.pem")}
    assert "company root 1" in place.run("sh", "-c", "cat $SSL_CERT_FILE", options=authority, env=variable).stdout
    place.write(place.home / "company.pem", "# company root 2, longer\n")
    assert "company root 2" in place.run("sh", "-c", "cat $SSL_CERT_FILE", options=authority, env=variable).stdout


def test_a_key_in_place_of_a_certificate_is_refused(place):
    place.write(place.top / "wrong.pem", "nothing")
    done = place.run("true", options=["--ca", place.top / "wrong.pem", "--cache", place.state / "trust"], check=False)
    assert done.returncode == 125 and "not one PEM certificate" in done.stderr


def test_a_socket_in_somebody_elses_private_directory_is_no_hindrance(place):
    """Root could look into it outside; inside nobody can, and there is nothing to mount there."""
    private = place.work / "private"
    private.mkdir()
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(private / "agent.sock"))
        if os.geteuid() == 0:
            other = 65534 if place.uid == 0 else 0
            os.chown(private, other, other)
            private.chmod(0o700)
        else:
            private.chmod(0)
        try:
            seen = place.python(f"""
import socket
try: socket.socket(socket.AF_UNIX).connect({str(private / "agent.sock")!r}); print('reached')
except PermissionError: print('refused')
""")
        finally:
            private.chmod(0o700)
    assert seen == "refused"


def test_sockets_that_come_and_go_are_no_hindrance(place):
    """One that goes after it was seen and before it is mounted over: bubblewrap gives up then, and is started again."""
    over = threading.Event()

    def come_and_go():
        for number in range(100_000):
            with socket.socket(socket.AF_UNIX) as listener:
                path = place.home / f"{number}.sock"
                listener.bind(str(path))
                over.wait(0.005)
                path.unlink()
            if over.wait(0.045):
                return

    coming = threading.Thread(target=come_and_go)
    coming.start()
    try:
        for _ in range(20):
            done = place.run("sh", "-c", "echo out; echo error >&2")
            assert (done.stdout, done.stderr) == ("out\n", "error\n")
    finally:
        over.set()
        coming.join()
