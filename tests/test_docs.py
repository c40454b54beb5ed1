"""The documentation tells the truth: its examples run as they stand, its links lead somewhere, and it leaves nothing out."""

import json
import os
import pathlib
import re
import shutil
import subprocess
import textwrap

import pytest

import clients_support
import kit
from serve_support import js_sdk, python_sdk  # noqa: F401 (fixtures)

ROOT = kit.ROOT
PAGES = sorted(path for path in [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("examples/**/*.md")])
VAULT = """location / { return 404 '{"errors": []}'; }
    location = /v1/secret/data/agents/example { if ($http_x_vault_token != hvs.example) { return 403 '{"errors": ["permission denied"]}'; }
      return 200 '{"data": {"data": {"token": "real-0123456789abcdef"}, "metadata": {"version": 1}}}'; }"""
ANSWERED = ["api.openai.com", "api.anthropic.com", "example.com", "api.example.com", "storage.googleapis.com", "github.com"]
SIGNED = ["sts.eu-west-1.amazonaws.com", "acme01.blob.core.windows.net"]
ROLE = """<AssumeRoleWithWebIdentityResponse><AssumeRoleWithWebIdentityResult><Credentials><AccessKeyId>ASIAFORANHOUR0000000</AccessKeyId>
  <SecretAccessKey>real-0123456789abcdef</SecretAccessKey><SessionToken>real-t0ken-0123456789</SessionToken><Expiration>2099-01-01T00:00:00Z</Expiration>
  </Credentials></AssumeRoleWithWebIdentityResult></AssumeRoleWithWebIdentityResponse>"""
SIGNER = r'''location / {
    set $who nobody;
    if ($http_authorization ~ "^AWS4-HMAC-SHA256 Credential=([^/]+)/[0-9]+/([^,]+),") { set $who "$1 for $2"; }
    if ($http_authorization ~ "^(SharedKey [^:]+):") { set $who $1; }
    return 200 "signed by $who\n";
}'''

EXAMPLE = re.compile(r"<!-- test(?:: exit (\d+))? -->\n```sh\n(.*?)```\n(?:<!-- output -->\n```\n(.*?)```)?", re.S)


def examples():
    for page in PAGES:
        for number, match in enumerate(EXAMPLE.finditer(page.read_text()), 1):
            status, commands, output = match.groups()
            yield pytest.param(commands, int(status or 0), output, id=f"{page.relative_to(ROOT)}-{number}")


@pytest.fixture
def desk(place, nginx, authority):
    """Where a reader would try things: postern on the path, examples/, an agent, and the hosts of the examples led to a local nginx."""
    ports = {name: nginx.serve(name, locations='location / { return 200 "answered $request_method $uri\\n"; }') for name in ANSWERED}
    token = """location / { default_type application/json; return 200 '{"access_token": "real-t0ken-0123456789", "token_type": "Bearer", "expires_in": 3599}'; }"""
    for name in ("login.example.com", "oauth2.googleapis.com"):
        ports[name] = nginx.serve(name, locations=token)
    ports["api.github.com"] = nginx.serve("api.github.com", locations="""location /app/ { return 201 '{"token": "ghs_real0123456789"}'; }
        location / { return 200 "answered $request_method $uri\\n"; }""")
    ports["sts.amazonaws.com"] = nginx.serve("sts.amazonaws.com", locations=f"location / {{ default_type text/xml; return 200 '{ROLE}'; }}")
    ports["vault.example.com"] = nginx.serve("vault.example.com", locations=VAULT)
    ports.update({name: nginx.serve(name, locations=SIGNER) for name in SIGNED})
    nginx.start()
    tools, work = place / "bin", place / "work"
    tools.mkdir()
    work.mkdir()
    leads = " ".join(f"--resolve {name}=127.0.0.1:{port}" for name, port in ports.items())
    (tools / "postern").write_text(textwrap.dedent(f"""\
        #!/bin/sh
        command=$1
        shift
        case $command in run|serve) exec {kit.POSTERN} $command {leads} --origin-ca {authority.file} "$@" ;; esac
        case "$command $1" in "policy learn") shift; exec {kit.POSTERN} policy learn {leads} --origin-ca {authority.file} "$@" ;; esac
        exec {kit.POSTERN} "$command" "$@"
        """))
    (tools / "postern").chmod(0o755)
    shutil.copytree(ROOT / "examples", work / "examples")
    shutil.copy(authority.file, work / "company-ca.pem")
    key = subprocess.run(["openssl", "genpkey", "-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:2048"], capture_output=True, text=True, check=True).stdout
    (work / "github-app.pem").write_text(key)
    (work / "service-account.json").write_text(json.dumps({
        "type": "service_account", "project_id": "acme", "private_key_id": "1", "private_key": key, "client_email": "robot@acme.iam.gserviceaccount.com",
        "token_uri": "https://oauth2.googleapis.com/token"}))
    (work / "agent.py").write_text("import urllib.request\nprint(urllib.request.urlopen('https://api.openai.com/v1/models').read().decode())\n")
    # Clients inside trust the origins of passed-through hosts by the caller's own bundle.
    environment = {"PATH": f"{tools}:/usr/bin:/bin:/usr/sbin", "HOME": str(place), "POSTERN_STATE_DIR": str(place / "state"),
                   "SSL_CERT_FILE": str(authority.file)}
    return work, environment


def matches(wanted, output):
    """Whether each line of `wanted` is a line of `output`, in order; `...` is any text and blanks at the edges do not count."""
    lines = iter(line.strip() for line in output.splitlines())
    for line in filter(None, (line.strip() for line in wanted.splitlines())):
        pattern = re.compile(".*".join(re.escape(part) for part in line.split("...")))
        if not any(pattern.fullmatch(candidate) for candidate in lines):
            return False
    return True


def with_sdks(request, work, environment):
    """python3 and node find the SDKs there, as for a reader who installed them."""
    python, modules = request.getfixturevalue("python_sdk"), request.getfixturevalue("js_sdk")
    (work / "node_modules").symlink_to(modules)
    environment["PATH"] = f"{pathlib.Path(python).parent}:{environment['PATH']}:{pathlib.Path(shutil.which('node')).parent}"


@pytest.mark.parametrize("commands, status, output", examples())
def test_an_example_does_what_the_page_says(request, desk, commands, status, output):
    work, environment = desk
    if "langsmith" in commands:
        with_sdks(request, work, environment)
    # Servers of the examples listen on ports of the kernel's choosing: another run of the tests may be under way.
    ports = {port: str(kit.free_port()) for port in sorted(set(re.findall(r"127\.0\.0\.1:(\d+)", commands)) - {"0"})}
    for port, free in ports.items():
        commands, output = (text and text.replace(f"127.0.0.1:{port}", f"127.0.0.1:{free}") for text in (commands, output))
        for policy in work.glob("examples/*.yaml"):
            policy.write_text(policy.read_text().replace(f"127.0.0.1:{port}", f"127.0.0.1:{free}"))
    done = subprocess.run(["bash", "-euo", "pipefail", "-c", commands], cwd=work, env=environment, stdin=subprocess.DEVNULL,
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=60)
    assert done.returncode == status, done.stdout
    assert output is None or matches(output, done.stdout), done.stdout


def test_an_output_that_differs_is_noticed():
    assert matches("one ...\nthree", "zero\n one 1\ntwo\nthree\n")
    assert not matches("three\none ...", "one 1\nthree\n")
    assert not matches("one", "one more\n")


def test_there_are_examples_in_every_guide():
    with_examples = {path.name for path in PAGES if EXAMPLE.search(path.read_text())}
    assert {"README.md", "run.md", "policy.md", "credentials.md", "refusals.md", "log.md", "serve.md", "cli.md", "operations.md", "platform-guide.md", "migrate-from-langsmith.md",
            "troubleshooting.md"} <= with_examples


# ---- links -------------------------------------------------------------------------------------------------


def without_code(text):
    return re.sub(r"`[^`\n]*`", "", re.sub(r"```.*?```", "", text, flags=re.S))


def anchors(page):
    """As GitHub makes them of headings."""
    found = set()
    for heading in re.findall(r"^#+ (.*)$", re.sub(r"```.*?```", "", page.read_text(), flags=re.S), re.M):
        slug = re.sub(r"[^\w\- ]", "", heading.replace("`", "").lower()).replace(" ", "-")
        found.add(slug)
    return found


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_leads_somewhere(page):
    for target in re.findall(r"\]\(([^)\s]+)\)", without_code(page.read_text())):
        if re.match(r"[a-z]+:", target):
            assert target.startswith("https://"), target
            continue
        path, _, anchor = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        assert file.exists(), f"{page.name}: {target}"
        assert file.is_relative_to(ROOT), f"{page.name}: {target} leaves the project"
        if anchor:
            assert anchor in anchors(file), f"{page.name}: {target}"


def test_every_page_can_be_reached_from_the_readme():
    reached, todo = set(), [ROOT / "README.md"]
    while todo:
        page = todo.pop()
        if page in reached or page.suffix != ".md":
            continue
        reached.add(page)
        for target in re.findall(r"\]\(([^)\s#]+)", without_code(page.read_text())):
            if not re.match(r"[a-z]+:", target) and (page.parent / target).is_file():
                todo.append((page.parent / target).resolve())
    assert set(PAGES) == reached


# ---- completeness ------------------------------------------------------------------------------------------


def help_of(*command):
    return subprocess.run([kit.POSTERN, *command, "--help"], capture_output=True, text=True, check=True).stdout


def test_every_option_of_run_is_documented_and_no_other():
    offered = set(re.findall(r"^ +(?:-\w,)?(--[a-z-]+)", help_of("run"), re.M))
    documented = set()
    for heading in re.findall(r"^### (.*)$", (ROOT / "docs/run.md").read_text(), re.M):
        documented |= set(re.findall(r"--[a-z-]+", heading))
    assert offered == documented


def test_every_option_of_check_is_documented():
    section = (ROOT / "docs/run.md").read_text().split("## The other commands")[1]
    for option in re.findall(r"^ +(?:-\w,)?(--[a-z-]+)", help_of("check"), re.M):
        assert option == "--help" or f"`{option}" in section, option


def test_every_option_of_serve_is_documented():
    text = (ROOT / "docs/serve.md").read_text()
    for option in re.findall(r"^ +(?:-\w,)?(--[a-z-]+)", help_of("serve"), re.M):
        assert option == "--help" or f"`{option}" in text, option


@pytest.mark.parametrize("command", ["sandbox", "policy", "secret"])
def test_every_option_of_a_servers_users_is_documented(command):
    page = (ROOT / "docs/cli.md").read_text()
    text = page.split(f"## `postern {command}`")[1].split("\n## ")[0]
    names = re.findall(r"^  ([a-z]+) {5,}", help_of(command).split("Subcommands:")[1], re.M)
    assert names
    for name in names:
        assert re.search(rf"`{name}[ `]", text), name
        for option in re.findall(r"^ +(?:-\w,)?(--[a-z-]+)", help_of(command, name), re.M):
            assert f"`{option}" in text or option == "--help" or f"`{option}" in page.split("## Five minutes")[0], (name, option)


def test_every_command_is_documented():
    text = "".join((ROOT / "docs" / page).read_text() for page in ("run.md", "serve.md", "operations.md", "cli.md"))
    commands = re.findall(r"^  ([a-z]+) {5,}", help_of().split("Subcommands:")[1], re.M)
    assert {"run", "check", "doctor", "version"} <= set(commands)
    for command in commands:
        assert f"`postern {command}" in text, command


def test_every_reason_is_explained_with_its_status_and_no_other():
    reasons = re.findall(r"^  X\((\w+), (\w+), (\d+)\)", (ROOT / "src/base/reason.h").read_text(), re.M)
    text = (ROOT / "docs/refusals.md").read_text()
    sections = dict(re.findall(r"^### (\w+)\n(.*?)(?=^##|\Z)", text, re.M | re.S))
    assert {name for name, _, _ in reasons} == set(sections)
    for name, decision, status in reasons:
        section = sections[name]
        if decision == "allowed":
            continue
        assert "**Mend:**" in section, name
        told = re.search(r"Status (\d+)\.", section)
        assert (told.group(1) == status) if told else re.search(r"No HTTP answer|connection is reset", section), name


def test_every_field_of_a_record_is_explained():
    source = (ROOT / "src/audit/record.cc").read_text()
    written = set(re.findall(r'append_(?:field|number|name)\("(\w+)"', source)) | set(re.findall(r'\\"(\w+)\\":', source))
    text = (ROOT / "docs/log.md").read_text()
    assert {"time", "duration_ms", "credentials", "timings", "detail"} <= written
    for field in written:
        assert f"`{field}`" in text or f"{field}" in re.findall(r"`\{(\w+), (\w+)\}`", text)[0], field


def test_every_field_of_a_policy_is_explained():
    source = "".join((ROOT / "src/policy" / file).read_text() for file in ("document.cc", "provider_reader.cc", "treatment_reader.cc"))
    text = "".join((ROOT / "docs" / page).read_text() for page in ("policy.md", "transformation.md", "limits.md"))
    lists = re.findall(r"constexpr std::array<std::string_view, \d+> (\w+_fields|\w+_unsupported|provider_types|header_types) = \{(.*?)\};", source, re.S)
    assert len(lists) >= 12
    for name, body in lists:
        for field in re.findall(r'"(\w+)"', body):
            if field != "is_set":  # Of the printed form only.
                assert f"`{field}`" in text or f"{field}:" in text, (name, field)


def test_every_package_that_setup_installs_has_its_reason():
    listed = re.search(r"^packages=\((.*?)^\)", (ROOT / "dev").read_text(), re.M | re.S).group(1)
    packages = {word for line in listed.splitlines() for word in line.split("#")[0].split()}
    text = (ROOT / "docs/dependencies.md").read_text()
    missing = {package for package in packages if not re.search(rf"(?<![\w-]){re.escape(package)}(?![\w-])", text)}
    assert not missing


def test_the_architecture_names_what_the_code_has():
    text = (ROOT / "ARCHITECTURE.md").read_text()
    code = "\n".join(path.read_text() for path in (ROOT / "src").glob("**/*") if path.suffix in (".h", ".cc"))
    named = re.findall(r"`([A-Za-z_][\w:]*)(?:\(\))?`", text)
    assert {"serve_connection", "Exchange::judge", "Http1SandboxSide::next_request", "Exchange::settle"} <= set(named)
    for name in named:
        last = name.split("::")[-1]
        if "::" in name or "_" in last or re.fullmatch(r"[A-Z]\w+", last):
            assert re.search(rf"\b{last}\b", code), name
    for file in re.findall(r"`([a-z0-9_]+/[a-z0-9_]+\.(?:h|cc))`", text):
        assert (ROOT / "src" / file).exists(), file
    # The table of the road has every folder, and no other.
    folders = {path.name for path in (ROOT / "src").iterdir() if path.is_dir()}
    table = text.split("## The road")[1].split("##")[0]
    assert set(re.findall(r"`(\w+)/`", table)) - {"src"} == folders


def test_the_changelog_has_the_version():
    version = re.search(r"project\(postern VERSION ([\d.]+)", (ROOT / "CMakeLists.txt").read_text()).group(1)
    assert f"\n## {version} " in (ROOT / "CHANGELOG.md").read_text()
    assert subprocess.run([kit.POSTERN, "version"], capture_output=True, text=True).stdout == f"postern {version}\n"


def test_every_example_policy_is_listed_and_accepted():
    text = (ROOT / "examples/README.md").read_text()
    policies = sorted((ROOT / "examples").glob("*.yaml"))
    assert policies
    for policy in policies:
        assert f"({policy.name})" in text
        done = subprocess.run([kit.POSTERN, "check", "--policy", str(policy), "https://nobody.example/"], capture_output=True, text=True)
        assert done.returncode in (0, 3) and done.stderr == "", done.stderr


def test_doctors_mending_of_apparmor_is_the_shipped_profile():
    profile = (ROOT / "packaging/apparmor/bwrap").read_text()
    body = [line.strip() for line in profile.splitlines() if line and not line.startswith("#")]
    mend = re.sub(r'"\s*"', "", (ROOT / "src/cli/doctor.cc").read_text()).replace("\\\\n", "\n")
    for line in body:
        assert line in mend, line


def test_the_picture_is_well_formed_and_knows_the_dark():
    import xml.etree.ElementTree as tree

    picture = ROOT / "docs/pictures/road.svg"
    assert tree.parse(picture).getroot().tag.endswith("svg")
    assert "prefers-color-scheme: dark" in picture.read_text()


# ---- the demo ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("account", clients_support.ACCOUNTS)
def test_the_demo_tells_its_story_and_leaves_nothing_behind(place, account):
    command, environment = [str(ROOT / "demo/run")], {"PATH": "/usr/bin:/bin:/usr/sbin", "HOME": str(place), "POSTERN_TEST_DIR": str(place / "demo")}
    (place / "demo").mkdir()
    if account == "user" and os.geteuid() == 0:
        entry = clients_support.ordinary_user()
        command = [*clients_support.become(entry), *command]
        os.chmod(place, 0o755)
        os.chown(place / "demo", entry.pw_uid, entry.pw_gid)
    environment["POSTERN"] = kit.POSTERN
    done = subprocess.run(command, env=environment, cwd=place, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr
    for told in ("sk-proxy-injected", '{"id":"gpt-5"}', "not_in_allow_list", "Postern CA", "Authorization from workspace_secret:OPENAI_API_KEY",
                 "passed through", "The key went to api.openai.com and nowhere else."):
        assert told in done.stdout, done.stdout
    assert "\033" not in done.stdout
    assert list((place / "demo").iterdir()) == []
    # Its servers are gone: their command lines name its directory.
    for process in pathlib.Path("/proc").glob("[0-9]*/cmdline"):
        try:
            assert str(place / "demo") not in process.read_text().replace("\0", " ")
        except (FileNotFoundError, ProcessLookupError, PermissionError):
            continue
