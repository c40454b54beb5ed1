#include "sandbox/environment.h"

#include <algorithm>
#include <array>
#include <cctype>

namespace postern::sandbox {
namespace {

// Compared in upper case.
constexpr std::array<std::string_view, 22> credential_endings{
    "_API_KEY",       "_APIKEY",           "_API_TOKEN",   "_TOKEN",
    "_PASSCODE",      "_SECRET",           "_SECRET_KEY",  "_ACCESS_KEY",
    "_ACCESS_KEY_ID", "_PRIVATE_KEY",      "_SIGNING_KEY", "_ENCRYPTION_KEY",
    "_MASTER_KEY",    "_CREDENTIAL",       "_CREDENTIALS", "_PAT",
    "_PASS",          "_PASSPHRASE",       "_AUTH",        "_BEARER",
    "_COOKIE",        "_CONNECTION_STRING"};
constexpr std::array<std::string_view, 5> credential_parts{"PASSWORD", "PASSWD", "_SECRET_", "SECRET_ACCESS",
                                                           "PRIVATE_KEY"};
constexpr std::array<std::string_view, 12> credential_names{
    "TOKEN", "API_KEY",   "APIKEY",   "SECRET", "SECRET_KEY", "PGPASSFILE",
    "NETRC", "MYSQL_PWD", "NPM_AUTH", "PAT",    "AUTH_TOKEN", "BEARER"};

// A way to something outside: a socket, a display, another machine's engine.
constexpr std::array<std::string_view, 26> doors{
    "SSH_AUTH_SOCK",  "SSH_AGENT_PID",   "SSH_ASKPASS",     "GIT_ASKPASS",         "SUDO_ASKPASS",
    "GPG_AGENT_INFO", "GPG_TTY",         "DISPLAY",         "XAUTHORITY",          "WAYLAND_DISPLAY",
    "WAYLAND_SOCKET", "SESSION_MANAGER", "ICEAUTHORITY",    "DOCKER_HOST",         "CONTAINER_HOST",
    "PULSE_SERVER",   "NOTIFY_SOCKET",   "LISTEN_FDS",      "LISTEN_PID",          "LISTEN_FDNAMES",
    "JOURNAL_STREAM", "INVOCATION_ID",   "VSCODE_IPC_HOOK", "VSCODE_IPC_HOOK_CLI", "VSCODE_GIT_IPC_HANDLE",
    "SWAYSOCK"};
constexpr std::array<std::string_view, 3> door_beginnings{"DBUS_", "VSCODE_GIT_ASKPASS", "POSTERN_"};
constexpr std::array<std::string_view, 7> proxies{"HTTP_PROXY", "HTTPS_PROXY", "FTP_PROXY",  "ALL_PROXY",
                                                  "NO_PROXY",   "SOCKS_PROXY", "RSYNC_PROXY"};
// /tmp is the sandbox's own; the caller's choice may not exist there. XDG_RUNTIME_DIR is made anew.
constexpr std::array<std::string_view, 4> places{"TMPDIR", "TMP", "TEMP", "XDG_RUNTIME_DIR"};

constexpr std::array<std::string_view, 19> credential_openings{
    "ghp_",  "gho_",  "ghu_",  "ghs_",  "ghr_", "github_pat_", "glpat-", "sk-",  "sk_live_",  "rk_live_",
    "xoxb-", "xoxp-", "xoxa-", "xapp-", "npm_", "pypi-",       "hf_",    "AIza", "-----BEGIN"};
constexpr std::array<std::string_view, 2> aws_key_openings{"AKIA", "ASIA"};
constexpr std::size_t credential_length_min =
    16;  // Shorter than any real one: "sk-test" is a word, not a key.
constexpr std::size_t aws_key_length = 20;

std::string upper(std::string_view text) {
  std::string result(text);
  for (char& c : result) c = static_cast<char>(std::toupper(static_cast<unsigned char>(c)));
  return result;
}

bool contains(const auto& list, std::string_view text) { return std::ranges::find(list, text) != list.end(); }

/// scheme://user:password@host
bool url_with_password(std::string_view value) {
  std::size_t scheme = value.find("://");
  if (scheme == std::string_view::npos) return false;
  std::string_view rest = value.substr(scheme + 3);
  std::string_view authority = rest.substr(0, rest.find_first_of("/?# "));
  std::size_t at = authority.rfind('@');
  if (at == std::string_view::npos) return false;
  std::size_t colon = authority.find(':');
  return colon != std::string_view::npos && colon + 1 < at;
}

bool leads_outside(std::string_view name) {
  return contains(doors, name) || contains(places, name) || contains(proxies, upper(name)) ||
         std::ranges::any_of(door_beginnings, [&](auto beginning) { return name.starts_with(beginning); });
}

bool passes(std::string_view name, std::string_view value, const EnvironmentRules& rules) {
  if (name.empty()) return false;
  if (rules.holds_secret && rules.holds_secret(value)) return false;
  if (contains(rules.keep, name)) return true;
  return !leads_outside(name) && !names_a_credential(name) && !looks_like_a_credential(value);
}

void put(std::vector<Variable>& all, std::string_view name, std::string_view value) {
  auto old = std::ranges::find(all, name, &Variable::first);
  if (old != all.end()) {
    old->second = value;
  } else {
    all.emplace_back(name, value);
  }
}

}  // namespace

bool names_a_credential(std::string_view name) {
  std::string folded = upper(name);
  std::string_view text = folded;
  return contains(credential_names, text) ||
         std::ranges::any_of(credential_endings, [&](auto ending) { return text.ends_with(ending); }) ||
         std::ranges::any_of(credential_parts, [&](auto part) { return text.find(part) != text.npos; });
}

bool looks_like_a_credential(std::string_view value) {
  auto opens = [&](std::string_view opening) { return value.starts_with(opening); };
  if (value.size() >= credential_length_min && std::ranges::any_of(credential_openings, opens)) return true;
  if (value.size() == aws_key_length && std::ranges::any_of(aws_key_openings, opens)) return true;
  return url_with_password(value);
}

std::vector<Variable> program_environment(std::span<const char* const> caller,
                                          const EnvironmentRules& rules) {
  std::vector<Variable> result;
  for (const char* entry : caller) {
    std::string_view text(entry);
    std::size_t equals = text.find('=');
    if (equals == std::string_view::npos) continue;
    std::string_view name = text.substr(0, equals);
    std::string_view value = text.substr(equals + 1);
    if (passes(name, value, rules)) put(result, name, value);
  }
  for (const auto& [name, value] : rules.set) put(result, name, value);
  return result;
}

}  // namespace postern::sandbox
