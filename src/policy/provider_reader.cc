#include "policy/provider_reader.h"

#include <array>

#include "wire/http1.h"

namespace postern::policy {

namespace {

constexpr std::array<std::string_view, 5> provider_types = {"aws", "gcp", "azure", "oauth2", "github_app"};
// What stands for a secret, and what for a token that is signed by us.
constexpr std::array<std::string_view, 3> aws_key_fields = {"access_key_id", "secret_access_key",
                                                            "session_token"};
constexpr std::array<std::string_view, 2> aws_role_fields = {"session_tags", "subject_scope"};
constexpr std::array<std::string_view, 6> aws_fields = {
    "access_key_id", "secret_access_key", "session_token", "role_arn", "session_tags", "subject_scope"};
constexpr std::array<std::string_view, 1> gcp_key_fields = {"service_account_json"};
constexpr std::array<std::string_view, 2> gcp_federation_fields = {"service_account_email", "subject_scope"};
constexpr std::array<std::string_view, 5> gcp_fields = {
    "service_account_json", "scopes", "workload_identity_provider", "service_account_email", "subject_scope"};
constexpr std::string_view gcp_scope_of_all = "https://www.googleapis.com/auth/cloud-platform";
constexpr std::array<std::string_view, 3> azure_key_fields = {"storage_account", "account_key", "sas_token"};
constexpr std::array<std::string_view, 3> azure_federation_fields = {"client_id", "resources",
                                                                     "subject_scope"};
constexpr std::array<std::string_view, 7> azure_fields = {
    "storage_account", "account_key", "sas_token", "tenant_id", "client_id", "resources", "subject_scope"};
constexpr std::array<std::string_view, 6> oauth2_fields = {"token_url",     "grant",         "client_id",
                                                           "client_secret", "refresh_token", "scopes"};
constexpr std::array<std::string_view, 5> github_app_fields = {"app_id", "installation_id", "private_key",
                                                               "repositories", "permissions"};
constexpr std::array<std::string_view, 2> secret_types = {"workspace_secret", "opaque"};
constexpr std::array<std::string_view, 4> secret_fields = {"type", "value", "from", "is_set"};
constexpr std::size_t text_bytes_max = 256;
constexpr std::size_t secret_bytes_max = 64 * 1024;  // a service account's JSON has 2.5 KiB

struct OwnHost {
  std::string_view host;
  bool subdomains;
};
constexpr std::array<OwnHost, 3> aws_hosts = {
    {{"amazonaws.com", true}, {"amazonaws.com.cn", true}, {"api.aws", true}}};
constexpr std::array<OwnHost, 2> gcp_hosts = {{{"googleapis.com", false}, {"googleapis.com", true}}};
constexpr std::array<OwnHost, 2> github_hosts = {{{"api.github.com", false}, {"github.com", false}}};
constexpr std::array<std::string_view, 5> azure_services = {"blob", "queue", "file", "table", "dfs"};

// Values that clients accept, and that are good for nothing. The bundles are set by the sandbox's trust.
struct Placeholder {
  std::string_view name, value;
};
constexpr std::array<Placeholder, 3> aws_placeholders = {
    {{"AWS_ACCESS_KEY_ID", aws_placeholder_key_id},
     {"AWS_SECRET_ACCESS_KEY", "postern-injected-0000000000000000000000"},
     {"AWS_EC2_METADATA_DISABLED", "true"}}};
constexpr std::array<Placeholder, 1> gcp_placeholders = {
    {{"CLOUDSDK_AUTH_ACCESS_TOKEN", gcp_placeholder_token}}};
constexpr std::array<std::string_view, 4> aws_variables = {"AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY",
                                                           "AWS_EC2_METADATA_DISABLED", "AWS_CA_BUNDLE"};
constexpr std::array<std::string_view, 2> gcp_variables = {"CLOUDSDK_AUTH_ACCESS_TOKEN",
                                                           "CLOUDSDK_CORE_CUSTOM_CA_CERTS_FILE"};

bool is_word(std::string_view text) {
  return !text.empty() && text.size() <= text_bytes_max &&
         std::ranges::none_of(text, [](char c) { return static_cast<unsigned char>(c) <= ' ' || c == 0x7f; });
}

/// The SDKs' documents have `role_arn: ""` beside keys.
bool says(const Node& node, std::string_view key) {
  const Node* found = node.find(key);
  return found != nullptr && found->kind != Node::Kind::null &&
         (found->kind != Node::Kind::string || !found->text.empty());
}

/// Azure's rule for names: 3 to 24 lower-case letters and digits.
bool is_storage_account(std::string_view name) {
  return name.size() >= 3 && name.size() <= 24 &&
         std::ranges::all_of(name, [](char c) { return (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9'); });
}

std::string text_of(const HostPattern& pattern) { return (pattern.subdomains ? "*." : "") + pattern.host; }

std::vector<HostPattern> patterns_of(std::span<const OwnHost> hosts) {
  std::vector<HostPattern> out;
  out.reserve(hosts.size());
  for (const OwnHost& own : hosts) out.push_back({std::string(own.host), own.subdomains});
  return out;
}

bool lies_within(const HostPattern& pattern, std::span<const HostPattern> hosts) {
  return std::ranges::any_of(hosts, [&](const HostPattern& own) {
    const std::string below = "." + own.host;
    if (pattern.host == own.host) return pattern.subdomains == own.subdomains;
    return own.subdomains && pattern.host.ends_with(below);
  });
}

}  // namespace

std::string_view type_of(const Provider& provider) {
  return provider.index() == 0 ? std::string_view() : provider_types[provider.index() - 1];
}

std::string_view ProviderReader::read_provider(const Node& rule, const std::string& where, Provider& out) {
  const Node* type = read_string(rule, where, "type");
  for (const std::string_view name : provider_types) {
    const Node* settings = find(rule, name);
    if (settings != nullptr && (type == nullptr || type->text != name))
      fail(child(where, name), settings->at, fmt::format("belongs to rules with 'type: {}'", name));
  }
  if (type == nullptr) return {};
  const auto known = std::ranges::find(provider_types, type->text);
  if (known == provider_types.end()) {
    fail(child(where, "type"), type->at,
         fmt::format("{} is not a rule type (accepted: no type, for a rule of headers, or {})",
                     in_quotes(type->text), fmt::join(provider_types, ", ")));
    return {};
  }
  const std::string_view name = *known;
  const std::string place = child(where, name);
  const Node* settings = find(rule, name);
  if (settings == nullptr) {
    if (rule.find(name) == nullptr || unknown_fields_ == UnknownFields::tolerate)
      fail(where, rule.at, fmt::format("a rule of type {0} needs '{0}', its settings", name));
    return name;
  }
  if (!expect(*settings, place, Node::Kind::mapping)) return name;
  switch (known - provider_types.begin()) {
    case 0: read_aws(*settings, place, out.emplace<AwsAuth>()); break;
    case 1: read_gcp(*settings, place, out.emplace<GcpAuth>()); break;
    case 2: read_azure(*settings, place, out.emplace<AzureAuth>()); break;
    case 3: read_oauth2(*settings, place, out.emplace<Oauth2Auth>()); break;
    default: read_github_app(*settings, place, out.emplace<GithubAppAuth>()); break;
  }
  return name;
}

std::optional<SecretValue> ProviderReader::read_secret(const Node& node, const std::string& where,
                                                       std::string_view key) {
  const Node* secret = find(node, key);
  const std::string place = child(where, key);
  if (secret == nullptr) return std::nullopt;
  if (secret->kind == Node::Kind::string) {
    fail(place, secret->at,
         "must be {type, value}: a secret is a workspace_secret ({KEY}) or opaque, never plain text");
    return std::nullopt;
  }
  if (!expect(*secret, place, Node::Kind::mapping)) return std::nullopt;
  check_fields(*secret, place, secret_fields);
  const Node* type =
      require_string(*secret, place, "type", "a secret needs a 'type' (accepted: workspace_secret, opaque)");
  if (type == nullptr) return std::nullopt;
  SecretValue out;
  out.at = secret->at;
  if (!contains(secret_types, type->text)) {
    fail(child(place, "type"), type->at,
         fmt::format("{} is not a secret's type (accepted: {}; a secret never stands in plain text)",
                     in_quotes(type->text), fmt::join(secret_types, ", ")));
    return std::nullopt;
  }
  out.type = type->text == "opaque" ? HeaderType::opaque : HeaderType::workspace_secret;
  if (read_from(*secret, place, out.type, out.from)) return out;
  const Node* value = find(*secret, "value");
  if (value == nullptr) {
    // An opaque value may be left out: what is stored already stays (section 5).
    if (out.type != HeaderType::opaque) fail(place, secret->at, "a workspace_secret needs a 'value'");
    return out;
  }
  const std::string at = child(place, "value");
  if (!expect(*value, at, Node::Kind::string)) return std::nullopt;
  if (value->text.empty() || value->text.size() > secret_bytes_max) {
    fail(at, value->at, fmt::format("must have 1 to {} bytes", secret_bytes_max));
    return std::nullopt;
  }
  if (out.type == HeaderType::opaque) {
    out.value = seal(*value);
    return out;
  }
  const auto pieces = parse_template(value->text);
  if (!pieces) {
    fail(at, value->at, pieces.error());
  } else if (std::ranges::none_of(pieces->pieces, &Template::Piece::is_key)) {
    fail(at, value->at, "names no secret (accepted: text with at least one {KEY})");
  }
  out.text = value->text;
  return out;
}

void ProviderReader::require_secret(const Node& node, const std::string& where, std::string_view key,
                                    SecretValue& out) {
  if (find(node, key) == nullptr) {
    if (node.find(key) == nullptr || unknown_fields_ == UnknownFields::tolerate)
      fail(where, node.at, fmt::format("needs '{}', a secret", key));
    return;
  }
  if (auto secret = read_secret(node, where, key)) out = std::move(*secret);
}

void ProviderReader::read_text(const Node& node, const std::string& where, std::string_view key,
                               std::string& out) {
  const Node* text = find(node, key);
  if (text == nullptr) {
    if (node.find(key) == nullptr || unknown_fields_ == UnknownFields::tolerate)
      fail(where, node.at, fmt::format("needs '{}'", key));
    return;
  }
  const std::string place = child(where, key);
  // Ids are often written as numbers.
  if (text->kind != Node::Kind::number && !expect(*text, place, Node::Kind::string)) return;
  if (!is_word(text->text))
    return fail(place, text->at, fmt::format("must have 1 to {} characters and no spaces", text_bytes_max));
  out = text->text;
}

void ProviderReader::read_words(const Node& node, const std::string& where, std::string_view key,
                                std::vector<std::string>& out) {
  read_strings(node, where, key, rule_entries_max, [&](const Node& item, const std::string& place) {
    if (!is_word(item.text))
      return fail(place, item.at, fmt::format("must have 1 to {} characters and no spaces", text_bytes_max));
    out.push_back(item.text);
  });
}

/// True when none of the others is there: one way or the other, never half of both.
bool ProviderReader::stands_alone(const Node& node, const std::string& where, std::string_view chosen,
                                  Names others) {
  bool alone = true;
  for (const std::string_view other : others) {
    if (!says(node, other)) continue;
    fail(child(where, other), node.find(other)->at, fmt::format("does not belong beside '{}'", chosen));
    alone = false;
  }
  return alone;
}

void ProviderReader::read_aws(const Node& node, const std::string& where, AwsAuth& out) {
  check_fields(node, where, aws_fields);
  if (says(node, "role_arn")) {
    if (stands_alone(node, where, "role_arn", aws_key_fields)) read_role(node, where, out.role.emplace());
    return;
  }
  stands_alone(node, where, "access_key_id", aws_role_fields);
  require_secret(node, where, "access_key_id", out.access_key_id);
  require_secret(node, where, "secret_access_key", out.secret_access_key);
  out.session_token = read_secret(node, where, "session_token");
}

void ProviderReader::read_gcp(const Node& node, const std::string& where, GcpAuth& out) {
  check_fields(node, where, gcp_fields);
  read_words(node, where, "scopes", out.scopes);
  if (says(node, "workload_identity_provider")) {
    if (!stands_alone(node, where, "workload_identity_provider", gcp_key_fields)) return;
    read_gcp_federation(node, where, out.federation.emplace());
    if (out.scopes.empty()) out.scopes.emplace_back(gcp_scope_of_all);
    return;
  }
  stands_alone(node, where, "service_account_json", gcp_federation_fields);
  require_secret(node, where, "service_account_json", out.service_account_json);
  if (out.scopes.empty() && find(node, "scopes") == nullptr)
    fail(where, node.at, "needs 'scopes', e.g. [https://www.googleapis.com/auth/cloud-platform]");
}

void ProviderReader::read_azure(const Node& node, const std::string& where, AzureAuth& out) {
  check_fields(node, where, azure_fields);
  if (says(node, "tenant_id")) {
    if (stands_alone(node, where, "tenant_id", azure_key_fields))
      read_azure_federation(node, where, out.federation.emplace());
    return;
  }
  stands_alone(node, where, "storage_account", azure_federation_fields);
  read_text(node, where, "storage_account", out.storage_account);
  if (!out.storage_account.empty() && !is_storage_account(out.storage_account))
    fail(child(where, "storage_account"), node.find("storage_account")->at,
         "is not a storage account (accepted: 3 to 24 lower-case letters and digits)");
  out.account_key = read_secret(node, where, "account_key");
  out.sas_token = read_secret(node, where, "sas_token");
  if ((find(node, "account_key") != nullptr) == (find(node, "sas_token") != nullptr))
    fail(where, node.at, "needs exactly one of 'account_key' and 'sas_token'");
}

void ProviderReader::read_oauth2(const Node& node, const std::string& where, Oauth2Auth& out) {
  check_fields(node, where, oauth2_fields);
  if (const Node* text = require_string(node, where, "token_url", "needs 'token_url'")) {
    auto url = wire::parse_url(text->text);
    if (url)
      out.token_url = std::move(*url);
    else
      fail(child(where, "token_url"), text->at, url.error().detail);
  }
  if (const Node* grant = read_string(node, where, "grant")) {
    if (grant->text == "refresh_token")
      out.grant = Oauth2Auth::Grant::refresh_token;
    else if (grant->text != "client_credentials")
      fail(child(where, "grant"), grant->at,
           fmt::format("{} is not a grant (accepted: client_credentials, refresh_token)",
                       in_quotes(grant->text)));
  }
  read_text(node, where, "client_id", out.client_id);
  out.client_secret = read_secret(node, where, "client_secret");
  out.refresh_token = read_secret(node, where, "refresh_token");
  read_words(node, where, "scopes", out.scopes);
  const bool refreshes = out.grant == Oauth2Auth::Grant::refresh_token;
  if (!refreshes && find(node, "client_secret") == nullptr)
    fail(where, node.at, "needs 'client_secret' for the grant client_credentials");
  if (refreshes != (find(node, "refresh_token") != nullptr))
    fail(where, node.at, "'refresh_token' belongs to the grant refresh_token, and to no other");
}

void ProviderReader::read_github_app(const Node& node, const std::string& where, GithubAppAuth& out) {
  check_fields(node, where, github_app_fields);
  read_text(node, where, "app_id", out.app_id);
  read_text(node, where, "installation_id", out.installation_id);
  if (!std::ranges::all_of(out.installation_id, [](char c) { return c >= '0' && c <= '9'; }))
    fail(child(where, "installation_id"), node.find("installation_id")->at, "is not a number");
  require_secret(node, where, "private_key", out.private_key);
  read_words(node, where, "repositories", out.repositories);
  const Node* permissions = find(node, "permissions");
  const std::string place = child(where, "permissions");
  if (permissions == nullptr || !expect(*permissions, place, Node::Kind::mapping)) return;
  for (const Member& member : permissions->members) {
    const std::string at = child(place, member.key);
    if (!expect(member.value, at, Node::Kind::string)) continue;
    if (!is_word(member.key) || !is_word(member.value.text))
      fail(at, member.at, "is not a permission such as contents: read");
    else
      out.permissions.push_back({member.key, member.value.text});
  }
}

void ProviderReader::complete_provider(const Node& node, const std::string& where, Rule& out) {
  if (out.action == Action::deny)
    fail(child(where, "action"), node.find("action")->at,
         "a rule with a type allows; deny with a rule of headers");
  if (const Node* paths = find(node, "match_paths"); paths != nullptr && out.signs())
    fail(child(where, "match_paths"), paths->at,
         "belongs to no rule that signs: what is signed is sent byte for byte");
  if (std::holds_alternative<AwsAuth>(out.provider) && std::exchange(has_aws_, true))
    fail(where, node.at, "is the second rule of type aws: a document has at most one, disabled ones count");
  if (std::holds_alternative<GcpAuth>(out.provider) && std::exchange(has_gcp_, true))
    fail(where, node.at, "is the second rule of type gcp: a document has at most one, disabled ones count");
  add_own_hosts(node, where, out);
  add_placeholders(node, where, out);
}

void ProviderReader::add_own_hosts(const Node& node, const std::string& where, Rule& out) {
  std::vector<HostPattern> hosts;
  const Node* said = find(node, "match_hosts");
  if (std::holds_alternative<AwsAuth>(out.provider)) hosts = patterns_of(aws_hosts);
  if (std::holds_alternative<GcpAuth>(out.provider)) hosts = patterns_of(gcp_hosts);
  if (std::holds_alternative<GithubAppAuth>(out.provider)) hosts = patterns_of(github_hosts);
  const auto* azure = std::get_if<AzureAuth>(&out.provider);
  if (azure && azure->federation) {
    hosts = azure_hosts_of(azure->federation->resources);
  } else if (azure) {
    if (said != nullptr)
      return fail(child(where, "match_hosts"), said->at,
                  "belongs to no azure rule: its hosts are the account's");
    for (const std::string_view service : azure_services) {
      const std::string host = fmt::format("{}.{}.core.windows.net", azure->storage_account, service);
      out.match_hosts.push_back({host, {host, false}});
    }
    out.own_hosts = true;
    return;
  }
  if (hosts.empty()) return;
  if (said == nullptr) {
    for (const HostPattern& own : hosts) out.match_hosts.push_back({text_of(own), own});
    out.own_hosts = true;
    return;
  }
  for (std::size_t i = 0; i < out.match_hosts.size(); ++i) {
    if (lies_within(out.match_hosts[i].pattern, hosts)) continue;
    std::vector<std::string> accepted;
    for (const HostPattern& own : hosts) accepted.push_back(text_of(own));
    fail(fmt::format("{}.match_hosts[{}]", where, i), said->at,
         fmt::format("{} is not one of this type's hosts (accepted: {}, and what lies below)",
                     in_quotes(out.match_hosts[i].text), fmt::join(accepted, ", ")));
  }
}

void ProviderReader::add_placeholders(const Node& node, const std::string& where, Rule& out) {
  std::span<const Placeholder> placeholders;
  Names owned;
  if (std::holds_alternative<AwsAuth>(out.provider)) {
    placeholders = aws_placeholders;
    owned = aws_variables;
  } else if (std::holds_alternative<GcpAuth>(out.provider)) {
    placeholders = gcp_placeholders;
    owned = gcp_variables;
  }
  if (const Node* variables = find(node, "env_vars"); variables && variables->kind == Node::Kind::mapping) {
    for (const Member& member : variables->members)
      if (contains(owned, member.key))
        fail(fmt::format("{}.env_vars.{}", where, member.key), member.at,
             "is set by this rule's type itself");
  }
  for (const Placeholder& own : placeholders)
    out.own_env.push_back({std::string(own.name), std::string(own.value)});
}

}  // namespace postern::policy
