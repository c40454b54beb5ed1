#pragma once
// The settings of a rule whose credentials are asked for with a token that Postern signs, in place of a
// secret: an AWS role, a Google workload identity pool, an application of Entra's.

#include "policy/tree_reader.h"

namespace postern::policy {

/// Where tokens for these resources are put on requests.
std::vector<HostPattern> azure_hosts_of(std::span<const AzureResource> resources);

class FederationReader : protected TreeReader {
 protected:
  using TreeReader::TreeReader;

  void read_role(const Node& node, const std::string& where, AwsRole& out);
  void read_gcp_federation(const Node& node, const std::string& where, GcpFederation& out);
  void read_azure_federation(const Node& node, const std::string& where, AzureFederation& out);

 private:
  void read_session_tags(const Node& node, const std::string& where, std::vector<EnvVar>& out);
  void read_session_tag(const Member& member, const std::string& where, std::vector<EnvVar>& out);
  void read_subject(const Node& node, const std::string& where, TokenSubject& out);
  void read_guid(const Node& node, const std::string& where, std::string_view key, std::string& out);
};

}  // namespace postern::policy
