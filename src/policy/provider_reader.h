#pragma once
// Rules with a `type`: credentials of cloud providers and of OAuth (section 6 of the policy document).

#include "policy/federation_reader.h"

namespace postern::policy {

/// Looks like a token of Google's, and is good for nothing.
inline constexpr std::string_view gcp_placeholder_token = "ya29.postern-injected";
/// What Azure's libraries are given.
inline constexpr std::string_view azure_placeholder_token = "postern-injected";

class ProviderReader : protected FederationReader {
 protected:
  using FederationReader::FederationReader;

  /// Reads `type` and the field that it names. The type, or empty for a rule of headers (and after a problem
  /// with the type).
  std::string_view read_provider(const Node& rule, const std::string& where, Provider& out);
  /// Hosts, placeholders, and what a rule of this type must not say. After match_hosts were read.
  void complete_provider(const Node& node, const std::string& where, Rule& out);

 private:
  void read_aws(const Node& node, const std::string& where, AwsAuth& out);
  void read_gcp(const Node& node, const std::string& where, GcpAuth& out);
  void read_azure(const Node& node, const std::string& where, AzureAuth& out);
  void read_oauth2(const Node& node, const std::string& where, Oauth2Auth& out);
  void read_github_app(const Node& node, const std::string& where, GithubAppAuth& out);
  bool stands_alone(const Node& node, const std::string& where, std::string_view chosen, Names others);
  std::optional<SecretValue> read_secret(const Node& node, const std::string& where, std::string_view key);
  void require_secret(const Node& node, const std::string& where, std::string_view key, SecretValue& out);
  void read_text(const Node& node, const std::string& where, std::string_view key, std::string& out);
  void read_words(const Node& node, const std::string& where, std::string_view key,
                  std::vector<std::string>& out);
  void add_own_hosts(const Node& node, const std::string& where, Rule& out);
  void add_placeholders(const Node& node, const std::string& where, Rule& out);

  bool has_aws_ = false;
  bool has_gcp_ = false;
};

}  // namespace postern::policy
