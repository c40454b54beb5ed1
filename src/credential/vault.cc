#include "credential/vault.h"

#include <algorithm>
#include <fmt/format.h>
#include <fmt/ranges.h>
#include <vector>

#include "credential/aws_canonical.h"
#include "credential/file_secret.h"
#include "policy/tree.h"

namespace postern::credential {

namespace {

using Kind = policy::Node::Kind;

std::unexpected<Error> refuse(std::string what) {
  return fail(Reason::invalid_configuration, std::move(what));
}

bool has_control(std::string_view text) {
  return std::ranges::any_of(text, [](char c) { return static_cast<unsigned char>(c) < 0x20 || c == 0x7f; });
}

/// Without anything of the answer: what a stranger at that address says belongs into no message.
std::string meaning_of(int status) {
  switch (status) {
    case 400: return "it refuses the question: look at the path and at VAULT_NAMESPACE";
    case 403: return "the token is not valid, or may not read this path";
    case 404: return "there is no such entry, or its newest version is deleted";
    case 429:
    case 472:
    case 473: return "it is a standby, or has too much to do";
    case 501: return "it is not initialised";
    case 503: return "it is sealed";
    default: return "";
  }
}

bool is_token(std::string_view token) {
  return !token.empty() && token.size() <= vault_token_bytes_max &&
         std::ranges::all_of(token, [](char c) { return c > ' ' && c < 0x7f; });
}

Result<InjectedHeader> token_header(const VaultSettings& settings) {
  constexpr std::string_view name = "X-Vault-Token";
  const auto made = [&](std::string_view token) -> Result<InjectedHeader> {
    if (!is_token(token)) return refuse("the token is none: it has spaces or control characters, or nothing");
    auto header = make_header(name, "vault", token);
    if (!header) return refuse("the token cannot be sent");
    return std::move(*header);
  };
  if (!settings.token.empty()) return made(settings.token.unwrap());
  auto file = read_secret_file(settings.token_file, vault_token_bytes_max);
  if (!file)
    return refuse(fmt::format("there is no token: VAULT_TOKEN is not set, and the file of tokens {}",
                              file.error().detail));
  return made(file->unwrap());
}

}  // namespace

Result<VaultReference> parse_vault_reference(std::string_view text) {
  constexpr std::string_view form = "is not PATH#FIELD (for example vault:secret/agents/openai#key)";
  const auto hash = text.rfind('#');
  if (hash == std::string_view::npos || hash + 1 == text.size()) return refuse(std::string(form));
  const std::string_view path = text.substr(0, hash);
  if (path.size() > vault_path_bytes_max || has_control(text))
    return refuse(fmt::format("has more than {} bytes, or control characters", vault_path_bytes_max));
  std::vector<std::string> segments;
  bool is_api_path = false;
  for (std::size_t at = 0; at <= path.size();) {
    const std::size_t end = std::min(path.find('/', at), path.size());
    const std::string_view segment = path.substr(at, end - at);
    at = end + 1;
    // What a server could read as another place, and what the question's own parts are made of.
    if (segment.empty() || segment == "." || segment == ".." ||
        segment.find_first_of("?#%\\") != std::string_view::npos)
      return refuse(fmt::format("{}: segments are not empty, and have no ? # % or backslash", form));
    is_api_path = is_api_path || (!segments.empty() && segment == "data");
    append_uri_encoded(segment, segments.emplace_back());
  }
  if (segments.size() < 2) return refuse(fmt::format("{}: a path names the mount and the entry", form));
  if (is_api_path && segments.back() == "data")
    return refuse(fmt::format("{}: nothing stands behind data/", form));
  if (!is_api_path) segments.insert(segments.begin() + 1, "data");
  return VaultReference{fmt::format("{}", fmt::join(segments, "/")), std::string(text.substr(hash + 1))};
}

Result<VaultSettings> vault_settings(const std::function<const char*(const char*)>& variable) {
  const auto said = [&](const char* name) {
    const char* value = variable(name);
    return std::string_view(value == nullptr ? "" : value);
  };
  VaultSettings settings;
  if (said("VAULT_ADDR").empty())
    return refuse("VAULT_ADDR is not set: the address of the Vault server, https://HOST:8200");
  auto address = wire::parse_url(said("VAULT_ADDR"));
  if (!address) return refuse("VAULT_ADDR " + address.error().detail);
  if (address->target.find('?') != std::string::npos) return refuse("VAULT_ADDR must not have a query");
  while (address->target.ends_with('/')) address->target.pop_back();
  settings.address = std::move(*address);
  settings.token = copy_of(said("VAULT_TOKEN"));
  if (!settings.token.empty() && !is_token(settings.token.unwrap()))
    return refuse("VAULT_TOKEN is no token: it has spaces or control characters");
  settings.token_file = said("VAULT_TOKEN_FILE");
  if (settings.token_file.empty()) settings.token_file = std::string(said("HOME")) + "/.vault-token";
  settings.name_space = said("VAULT_NAMESPACE");
  if (has_control(settings.name_space)) return refuse("VAULT_NAMESPACE has control characters");
  settings.ca_file = said("VAULT_CACERT");
  return settings;
}

Result<VaultEntry> read_vault_answer(int status, std::string_view body) {
  if (status >= 300 && status < 400)
    return refuse(
        fmt::format("the server answered {}: redirects are not followed; let VAULT_ADDR lead to the "
                    "active server",
                    status));
  if (status != 200) {
    const std::string meaning = meaning_of(status);
    return refuse(fmt::format("the server answered {}{}{}", status, meaning.empty() ? "" : ": ", meaning));
  }
  // The strict reader of policies: duplicate keys and deep nesting are refused, and its tree is wiped.
  const auto tree = policy::read_tree(body, policy::Format::json);
  if (!tree) return refuse("the server's answer is not JSON");
  const auto mapping = [](const policy::Node* node, std::string_view key) -> const policy::Node* {
    const policy::Node* found = node && node->kind == Kind::mapping ? node->find(key) : nullptr;
    return found && found->kind == Kind::mapping ? found : nullptr;
  };
  const policy::Node* outer = mapping(&*tree, "data");
  const policy::Node* data = mapping(outer, "data");
  if (!data || !mapping(outer, "metadata")) {
    const policy::Node* none = outer ? outer->find("data") : nullptr;
    return refuse(none && none->kind == Kind::null
                      ? "the newest version of the entry is deleted"
                      : "the server's answer is none of a KV engine of version 2");
  }
  VaultEntry entry;
  for (const policy::Member& member : data->members)
    entry.emplace(member.key, member.value.kind == Kind::string ? copy_of(member.value.text) : Secret());
  return entry;
}

Result<Secret> take_vault_field(const VaultEntry& entry, const std::string& field) {
  const auto found = entry.find(field);
  if (found == entry.end()) return refuse("the entry has no field of that name");
  if (found->second.empty()) return refuse("the field is empty, or no text");
  return copy_of(found->second.unwrap());
}

io::Task<Result<VaultEntry>> ask_vault(Caller& caller, const VaultSettings& settings, const std::string& path,
                                       TimePoint deadline) {
  auto token = token_header(settings);
  if (!token) co_return std::unexpected(std::move(token.error()));
  wire::Url url = settings.address;
  url.target += "/v1/" + path;
  std::vector<HeaderField> fields;
  fields.push_back({"Accept", "application/json"});
  fields.push_back({"X-Vault-Request", "true"});  // An agent in between may insist on it.
  if (!settings.name_space.empty()) fields.push_back({"X-Vault-Namespace", settings.name_space});
  const Call call{.url = url,
                  .method = "GET",
                  .fields = fields,
                  .credentials = std::span(&*token, 1),
                  .body = {},
                  .answer_bytes_max = vault_answer_bytes_max,
                  .deadline = deadline,
                  .repeatable = true};
  auto answer = co_await caller.call(call);
  if (!answer) co_return refuse("the server cannot be asked: " + describe(answer.error()));
  co_return read_vault_answer(answer->status, answer->body.view());
}

}  // namespace postern::credential
