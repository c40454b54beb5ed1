#include "policy/federation_reader.h"

#include "wire/http1.h"

namespace postern::policy {

namespace {

constexpr std::array<std::string_view, 3> aws_partitions = {"aws", "aws-cn", "aws-us-gov"};
constexpr std::size_t aws_account_digits = 12;
constexpr std::size_t arn_bytes_max = 2048;
// IAM: "Passing session tags in AWS STS".
constexpr std::size_t session_tags_max = 50;
constexpr std::size_t tag_key_characters_max = 128;
constexpr std::size_t tag_value_characters_max = 256;
constexpr std::size_t guid_characters = 36;
constexpr std::size_t provider_id_characters_max = 32;

bool is_digit(char c) { return c >= '0' && c <= '9'; }
bool is_letter(char c) { return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z'); }

/// Letters, digits, and what else is named.
bool has_only(std::string_view text, std::string_view others) {
  return std::ranges::all_of(
      text, [&](char c) { return is_letter(c) || is_digit(c) || others.find(c) != std::string_view::npos; });
}

/// The text up to the next `separator`, which is taken off as well.
std::string_view take_part(std::string_view& text, char separator) {
  const std::string_view part = text.substr(0, text.find(separator));
  text.remove_prefix(std::min(part.size() + 1, text.size()));
  return part;
}

/// arn:PARTITION:iam::ACCOUNT:role/PATH/NAME. The partition, or empty.
std::string_view partition_of_role(std::string_view arn) {
  if (arn.size() > arn_bytes_max || take_part(arn, ':') != "arn") return {};
  const std::string_view partition = take_part(arn, ':');
  const bool global =
      contains(aws_partitions, partition) && take_part(arn, ':') == "iam" && take_part(arn, ':').empty();
  const std::string_view account = take_part(arn, ':');
  const bool good = global && account.size() == aws_account_digits && has_only(account, "") &&
                    std::ranges::all_of(account, is_digit) && take_part(arn, '/') == "role" && !arn.empty() &&
                    !arn.ends_with('/') && has_only(arn, "+=,.@-_/");
  return good ? partition : std::string_view();
}

bool is_provider_id(std::string_view text) {
  return !text.empty() && text.size() <= provider_id_characters_max && has_only(text, "-");
}

bool is_workload_identity_provider(std::string_view text) {
  constexpr std::string_view service = "//iam.googleapis.com/projects/";
  if (!text.starts_with(service)) return false;
  text.remove_prefix(service.size());
  const std::string_view project = take_part(text, '/');
  return !project.empty() && project.size() <= 20 && std::ranges::all_of(project, is_digit) &&
         take_part(text, '/') == "locations" && take_part(text, '/') == "global" &&
         take_part(text, '/') == "workloadIdentityPools" && is_provider_id(take_part(text, '/')) &&
         take_part(text, '/') == "providers" && is_provider_id(text);
}

/// It becomes a part of a URL's path.
bool is_service_account(std::string_view text) {
  const std::string_view name = take_part(text, '@');
  return !name.empty() && has_only(name, "-._") && !text.empty() && has_only(text, "-.");
}

bool is_guid(std::string_view text) {
  if (text.size() != guid_characters) return false;
  for (std::size_t i = 0; i < text.size(); ++i) {
    const char c = text[i];
    const bool dash = i == 8 || i == 13 || i == 18 || i == 23;
    const bool hexadecimal = is_digit(c) || (c >= 'a' && c <= 'f') || (c >= 'A' && c <= 'F');
    if (dash ? c != '-' : !hexadecimal) return false;
  }
  return true;
}

struct AzureHosts {
  std::string_view host;
  AzureResource resource;
};
constexpr std::array<AzureHosts, 10> azure_hosts = {{
    {"blob.core.windows.net", AzureResource::storage},
    {"queue.core.windows.net", AzureResource::storage},
    {"file.core.windows.net", AzureResource::storage},
    {"table.core.windows.net", AzureResource::storage},
    {"dfs.core.windows.net", AzureResource::storage},
    {"vault.azure.net", AzureResource::vault},
    {"cognitiveservices.azure.com", AzureResource::cognitive_services},
    {"openai.azure.com", AzureResource::cognitive_services},
    {"services.ai.azure.com", AzureResource::cognitive_services},
    {"management.azure.com", AzureResource::management},
}};

}  // namespace

std::optional<AzureResource> azure_resource_of(std::string_view host) {
  for (const AzureHosts& known : azure_hosts) {
    const bool apex = known.resource == AzureResource::management;
    const bool below = host.size() > known.host.size() && host.ends_with(known.host) &&
                       host[host.size() - known.host.size() - 1] == '.';
    if (apex ? host == known.host : below) return known.resource;
  }
  return std::nullopt;
}

std::vector<HostPattern> azure_hosts_of(std::span<const AzureResource> resources) {
  std::vector<HostPattern> out;
  for (const AzureHosts& known : azure_hosts)
    if (std::ranges::find(resources, known.resource) != resources.end())
      out.push_back({std::string(known.host), known.resource != AzureResource::management});
  return out;
}

void FederationReader::read_role(const Node& node, const std::string& where, AwsRole& out) {
  if (const Node* arn = read_string(node, where, "role_arn")) {
    out.arn = arn->text;
    out.partition = partition_of_role(arn->text);
    if (out.partition.empty())
      fail(child(where, "role_arn"), arn->at,
           fmt::format("is not the ARN of a role (accepted: arn:PARTITION:iam::ACCOUNT:role/NAME, where the "
                       "partition is {}, e.g. arn:aws:iam::123456789012:role/agents)",
                       fmt::join(aws_partitions, ", ")));
  }
  read_session_tags(node, where, out.session_tags);
  read_subject(node, where, out.subject);
}

void FederationReader::read_session_tags(const Node& node, const std::string& where,
                                         std::vector<EnvVar>& out) {
  const Node* tags = find(node, "session_tags");
  const std::string place = child(where, "session_tags");
  if (tags == nullptr || !expect(*tags, place, Node::Kind::mapping)) return;
  if (tags->members.size() > session_tags_max)
    return fail(place, tags->at,
                fmt::format("{} tags: at most {} are accepted", tags->members.size(), session_tags_max));
  for (const Member& member : tags->members) read_session_tag(member, child(place, member.key), out);
}

void FederationReader::read_session_tag(const Member& member, const std::string& where,
                                        std::vector<EnvVar>& out) {
  if (!expect(member.value, where, Node::Kind::string)) return;
  const std::string& key = member.key;
  const std::string& value = member.value.text;
  const auto is_reserved = [&](std::string_view prefix) {
    return key.size() >= prefix.size() &&
           wire::same_name(std::string_view(key).substr(0, prefix.size()), prefix);
  };
  if (key.empty() || key.size() > tag_key_characters_max || !has_only(key, " _.:=+-@/"))
    fail(where, member.at,
         fmt::format("is no key of a tag (accepted: 1 to {} letters, digits, spaces and _ . : = + - @ /)",
                     tag_key_characters_max));
  else if (is_reserved("aws:") || is_reserved("langsmith:"))
    fail(where, member.at, "keys that begin with aws: or langsmith: are reserved");
  else if (value.empty() || value.size() > tag_value_characters_max || !has_only(value, " _.:=+-@"))
    fail(where, member.value.at,
         fmt::format("is no value of a tag (accepted: 1 to {} letters, digits, spaces and _ . : = + - @)",
                     tag_value_characters_max));
  else if (std::ranges::any_of(out, [&](const EnvVar& tag) { return wire::same_name(tag.name, key); }))
    fail(where, member.at, "is there already: AWS does not tell capital letters from small ones in keys");
  else
    out.push_back({key, value});
}

void FederationReader::read_subject(const Node& node, const std::string& where, TokenSubject& out) {
  out.at = node.at;
  const Node* scope = read_string(node, where, "subject_scope");
  if (scope == nullptr) return;
  out.at = scope->at;
  constexpr std::string_view tag = "tag:";
  if (scope->text == "workspace") return;
  const std::string_view id = std::string_view(scope->text).substr(std::min(tag.size(), scope->text.size()));
  if (scope->text.starts_with(tag) && !id.empty() && id.size() <= 128 && has_only(id, "-_."))
    out.tag = id;
  else
    fail(child(where, "subject_scope"), scope->at, "is not a scope (accepted: workspace, tag:ID)");
}

void FederationReader::read_gcp_federation(const Node& node, const std::string& where, GcpFederation& out) {
  if (const Node* provider = read_string(node, where, "workload_identity_provider")) {
    out.provider = provider->text;
    if (!is_workload_identity_provider(provider->text))
      fail(child(where, "workload_identity_provider"), provider->at,
           "is not a provider's full name (accepted: //iam.googleapis.com/projects/NUMBER/locations/global/"
           "workloadIdentityPools/POOL/providers/PROVIDER)");
  }
  if (const Node* account = read_string(node, where, "service_account_email")) {
    out.service_account_email = account->text;
    if (!is_service_account(account->text))
      fail(child(where, "service_account_email"), account->at,
           "is not a service account (accepted: NAME@PROJECT.iam.gserviceaccount.com)");
  }
  read_subject(node, where, out.subject);
}

void FederationReader::read_guid(const Node& node, const std::string& where, std::string_view key,
                                 std::string& out) {
  const Node* id = require_string(node, where, key, fmt::format("needs '{}'", key));
  if (id == nullptr) return;
  out = id->text;
  if (!is_guid(id->text))
    fail(child(where, key), id->at, "is not a GUID, such as 11111111-2222-3333-4444-555555555555");
}

void FederationReader::read_azure_federation(const Node& node, const std::string& where,
                                             AzureFederation& out) {
  read_guid(node, where, "tenant_id", out.tenant_id);
  read_guid(node, where, "client_id", out.client_id);
  read_strings(node, where, "resources", azure_resources.size(),
               [&](const Node& item, const std::string& place) {
                 const auto known = std::ranges::find(azure_resources, item.text);
                 if (known == azure_resources.end())
                   return fail(place, item.at,
                               fmt::format("{} is not a resource (accepted: {})", in_quotes(item.text),
                                           fmt::join(azure_resources, ", ")));
                 const auto resource = static_cast<AzureResource>(known - azure_resources.begin());
                 if (std::ranges::find(out.resources, resource) == out.resources.end())
                   out.resources.push_back(resource);
               });
  if (const Node* said = find(node, "resources"); said == nullptr || said->items.empty())
    for (std::size_t i = 0; i < azure_resources.size(); ++i)
      out.resources.push_back(static_cast<AzureResource>(i));
  read_subject(node, where, out.subject);
}

}  // namespace postern::policy
