#include "sandbox/hidden.h"

#include <algorithm>
#include <array>
#include <fcntl.h>
#include <glob.h>
#include <linux/capability.h>
#include <memory>
#include <stdlib.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

namespace postern::sandbox {
namespace {

// Below the home; a `*` is a shell pattern.
constexpr std::string_view below_home[] = {
    // Clouds, clusters, registries
    ".aws", ".azure", ".boto", ".config/gcloud", ".config/doctl", ".config/hcloud", ".config/linode-cli",
    ".config/scw", ".config/exoscale", ".config/openstack", ".config/stripe", ".config/heroku",
    ".config/netlify", ".config/vercel", ".config/fly", ".fly", ".oci", ".bluemix", ".aliyun", ".s3cfg",
    ".config/rclone", ".rclone.conf", ".kube", ".docker", ".config/containers/auth.json",
    ".config/helm/registry", ".minikube", ".rd", ".colima", ".lima", ".terraformrc",
    ".terraform.d/credentials.tfrc.json", ".pulumi", ".vault-token", ".config/sops", ".config/age",
    ".databrickscfg", ".snowsql", ".snowflake", ".config/wrangler", ".wrangler", ".cloudflared", ".ngrok2",
    ".config/ngrok",
    // Code hosting, package registries
    ".config/gh", ".config/glab-cli", ".config/hub", ".config/tea", ".git-credentials",
    ".config/git/credentials", ".git-credential-cache", ".cache/git/credential", ".netrc", "_netrc",
    ".authinfo", ".authinfo.gpg", ".npmrc", ".yarnrc.yml", ".yarnrc", ".config/configstore", ".pypirc",
    ".config/pypoetry/auth.toml", ".local/share/uv/credentials", ".cargo/credentials",
    ".cargo/credentials.toml", ".gem/credentials", ".bundle/config", ".composer/auth.json",
    ".config/composer/auth.json", ".m2/settings.xml", ".m2/settings-security.xml",
    ".gradle/gradle.properties", ".nuget/NuGet", ".config/NuGet", ".sbt/.credentials", ".ivy2/.credentials",
    ".hex/hex.config", ".condarc", ".config/huggingface", ".huggingface", ".cache/huggingface/token",
    ".cache/huggingface/stored_tokens", ".kaggle", ".config/wandb",
    // Keys, key rings, password stores
    ".ssh", ".gnupg", ".password-store", ".local/share/keyrings", ".local/share/kwalletd",
    ".kde/share/apps/kwallet", ".config/op", ".1password", ".config/1Password", ".config/Bitwarden",
    ".config/Bitwarden CLI", ".config/rbw", ".local/share/rbw", ".config/keepassxc", ".lastpass",
    ".pki/nssdb", ".putty", ".step", ".krb5", ".tsh", ".electrum", ".bitcoin", ".ethereum", ".config/solana",
    // Databases
    ".pgpass", ".my.cnf", ".mylogin.cnf", ".mongorc.js", ".config/redis", ".dbshell",
    // What agents log in with
    ".claude/.credentials.json", ".codex/auth.json", ".gemini/oauth_creds.json", ".config/github-copilot",
    ".copilot", ".config/anthropic", ".config/openai", ".local/share/opencode/auth.json", ".aider.conf.yml",
    ".continue/config.json",
    // Histories: tokens are pasted there
    ".bash_history", ".zsh_history", ".zhistory", ".sh_history", ".ash_history",
    ".local/share/fish/fish_history", ".python_history", ".node_repl_history", ".psql_history",
    ".mysql_history", ".sqlite_history", ".rediscli_history", ".lesshst", ".irb_history", ".local/state/bash",
    ".wget-hsts",
    // Browsers, mail, chats
    ".mozilla", ".thunderbird", ".config/google-chrome*", ".config/chromium*", ".config/BraveSoftware",
    ".config/microsoft-edge*", ".config/vivaldi", ".config/opera", ".librewolf", ".var/app", "snap/firefox",
    "snap/chromium", "snap/thunderbird", ".cache/mozilla", ".cache/google-chrome", ".cache/chromium",
    ".config/Slack", ".config/discord", ".config/Signal", ".local/share/TelegramDesktop", ".config/evolution",
    ".local/share/evolution", ".config/Code/User/globalStorage", ".config/Cursor/User/globalStorage",
    ".vscode-server/data/User/globalStorage", ".Xauthority", ".ICEauthority"};

// Readable for the program only where it runs as root; harmless to list otherwise.
constexpr std::string_view of_the_machine[] = {"/etc/shadow",
                                               "/etc/shadow-",
                                               "/etc/gshadow",
                                               "/etc/gshadow-",
                                               "/etc/sudoers",
                                               "/etc/sudoers.d",
                                               "/etc/ssl/private",
                                               "/etc/pki/tls/private",
                                               "/etc/ssh/ssh_host_*_key",
                                               "/etc/krb5.keytab",
                                               "/etc/kubernetes",
                                               "/etc/rancher",
                                               "/etc/NetworkManager/system-connections",
                                               "/etc/wireguard",
                                               "/etc/letsencrypt",
                                               "/etc/docker/key.json",
                                               "/etc/apt/auth.conf",
                                               "/etc/apt/auth.conf.d",
                                               "/var/lib/kubelet",
                                               "/var/lib/rancher",
                                               "/var/lib/docker",
                                               "/var/lib/containerd",
                                               "/var/lib/containers",
                                               "/var/lib/cloud",
                                               "/var/lib/postern",
                                               "/etc/postern",
                                               "/etc/machine-id.key",
                                               "/var/spool/cron",
                                               "/var/lib/sss",
                                               "/var/lib/tailscale",
                                               "/var/backups/shadow*",
                                               "/var/backups/gshadow*"};

// Variables whose value is a path (or several, with colons) of a credential.
constexpr std::string_view path_variables[] = {"KUBECONFIG",
                                               "GOOGLE_APPLICATION_CREDENTIALS",
                                               "AWS_SHARED_CREDENTIALS_FILE",
                                               "AWS_CONFIG_FILE",
                                               "AWS_WEB_IDENTITY_TOKEN_FILE",
                                               "DOCKER_CONFIG",
                                               "NETRC",
                                               "GNUPGHOME",
                                               "PASSWORD_STORE_DIR",
                                               "NPM_CONFIG_USERCONFIG",
                                               "npm_config_userconfig",
                                               "CLOUDSDK_CONFIG",
                                               "AZURE_CONFIG_DIR",
                                               "AZURE_FEDERATED_TOKEN_FILE",
                                               "GH_CONFIG_DIR",
                                               "OCI_CLI_CONFIG_FILE",
                                               "PGPASSFILE",
                                               "PGSERVICEFILE",
                                               "TF_CLI_CONFIG_FILE",
                                               "BOTO_CONFIG",
                                               "REGISTRY_AUTH_FILE",
                                               "SSH_AUTH_SOCK",
                                               "HISTFILE",
                                               "HF_TOKEN_PATH",
                                               "DATABRICKS_CONFIG_FILE",
                                               "KRB5CCNAME",
                                               "SOPS_AGE_KEY_FILE",
                                               "XAUTHORITY"};

/// Root's power over everybody's files, put down by this thread for a while.
class WithoutOverride {
 public:
  WithoutOverride() {
    constexpr unsigned override = 1u << CAP_DAC_OVERRIDE | 1u << CAP_DAC_READ_SEARCH;
    if (syscall(SYS_capget, &header_, sets_.data()) != 0) return;
    auto less = sets_;
    less[0].effective &= ~override;
    put_down_ = syscall(SYS_capset, &header_, less.data()) == 0;
  }
  WithoutOverride(const WithoutOverride&) = delete;
  WithoutOverride& operator=(const WithoutOverride&) = delete;
  ~WithoutOverride() {
    if (put_down_) syscall(SYS_capset, &header_, sets_.data());
  }

 private:
  __user_cap_header_struct header_{_LINUX_CAPABILITY_VERSION_3, 0};
  std::array<__user_cap_data_struct, _LINUX_CAPABILITY_U32S_3> sets_{};
  bool put_down_ = false;
};

/// Whether a program in the sandbox could come to this place (no symbolic links in it). It has the caller's
/// user and groups, and in a user namespace of its own power over what belongs to that user and group; root's
/// power over other people's directories is left outside. bubblewrap has no more: it could not mount anything
/// there.
bool within_reach(const std::string& path) {
  const WithoutOverride as_inside;
  struct stat status{};
  if (lstat(path.c_str(), &status) == 0) return true;
  for (std::size_t slash = path.find('/', 1); slash != std::string::npos; slash = path.find('/', slash + 1)) {
    const std::string directory = path.substr(0, slash);
    if (faccessat(AT_FDCWD, directory.c_str(), X_OK, AT_EACCESS) == 0) continue;
    return stat(directory.c_str(), &status) == 0 && status.st_uid == geteuid() && status.st_gid == getegid();
  }
  return true;
}

void add_existing(std::vector<HiddenPlace>& found, const std::string& path) {
  // Not readable for us is not readable for the program, which has fewer rights: no mount is spent on it.
  if (access(path.c_str(), R_OK) != 0 && access(path.c_str(), X_OK) != 0) return;
  HiddenPlace place = resolve_place(path);
  // Never the root, and nothing that a wrongly set variable could make of it.
  if (place.path.size() > 1 && std::ranges::find(found, place) == found.end() && within_reach(place.path))
    found.push_back(std::move(place));
}

void add_matching(std::vector<HiddenPlace>& found, const std::string& pattern) {
  if (pattern.find('*') == std::string::npos) return add_existing(found, pattern);
  glob_t matches{};
  if (glob(pattern.c_str(), GLOB_NOSORT, nullptr, &matches) == 0) {
    for (std::size_t i = 0; i < matches.gl_pathc; ++i) add_existing(found, matches.gl_pathv[i]);
  }
  globfree(&matches);
}

void add_from_variable(std::vector<HiddenPlace>& found, std::string_view value) {
  if (value.starts_with("FILE:")) value.remove_prefix(5);  // KRB5CCNAME
  while (!value.empty()) {
    std::size_t colon = value.find(':');
    std::string_view one = value.substr(0, colon);
    // A whole home or a system directory is not a credential; hiding it would only break the program.
    if (one.starts_with('/') && std::ranges::count(one, '/') >= 2) add_existing(found, std::string(one));
    value.remove_prefix(colon == std::string_view::npos ? value.size() : colon + 1);
  }
}

}  // namespace

bool is_within(std::string_view path, std::string_view ancestor) {
  if (ancestor == "/") return path.starts_with('/');
  return path.starts_with(ancestor) && (path.size() == ancestor.size() || path[ancestor.size()] == '/');
}

HiddenPlace resolve_place(const std::string& path) {
  std::unique_ptr<char, decltype([](char* text) { free(text); })> real(realpath(path.c_str(), nullptr));
  struct stat status{};
  if (!real || stat(real.get(), &status) != 0) return {};
  return {real.get(), S_ISDIR(status.st_mode) ? HiddenPlace::Kind::directory : HiddenPlace::Kind::file};
}

std::vector<HiddenPlace> credential_places(std::span<const std::string> homes,
                                           std::span<const char* const> caller) {
  std::vector<HiddenPlace> found;
  for (const std::string& home : homes) {
    for (std::string_view place : below_home) add_matching(found, home + "/" + std::string(place));
  }
  for (std::string_view place : of_the_machine) add_matching(found, std::string(place));
  for (const char* entry : caller) {
    std::string_view text(entry);
    std::string_view name = text.substr(0, text.find('='));
    if (name.size() == text.size() || std::ranges::find(path_variables, name) == std::end(path_variables))
      continue;
    add_from_variable(found, text.substr(name.size() + 1));
  }
  // A variable such as HOME-wide paths must not swallow the home itself.
  std::erase_if(found, [&](const HiddenPlace& place) {
    return std::ranges::any_of(homes, [&](const std::string& home) { return is_within(home, place.path); });
  });
  return found;
}

std::vector<HiddenPlace> socket_places(std::string_view proc_net_unix) {
  std::vector<HiddenPlace> found;
  while (!proc_net_unix.empty()) {
    std::size_t end = proc_net_unix.find('\n');
    std::string_view line = proc_net_unix.substr(0, end);
    proc_net_unix.remove_prefix(end == std::string_view::npos ? proc_net_unix.size() : end + 1);
    // Num RefCount Protocol Flags Type St Inode Path: no field before the path has a slash. '@' is abstract.
    std::size_t slash = line.find(" /");
    if (slash == std::string_view::npos) continue;
    std::string path(line.substr(slash + 1));
    struct stat status{};
    if (lstat(path.c_str(), &status) != 0 || !S_ISSOCK(status.st_mode)) continue;
    HiddenPlace place = resolve_place(path);
    if (!place.path.empty() && std::ranges::find(found, place) == found.end() && within_reach(place.path))
      found.push_back(std::move(place));
  }
  return found;
}

}  // namespace postern::sandbox
