#pragma once
// Reads what a rule does besides credentials: `rewrite` and `transform` (sections 4 and 8 of the policy
// document).

#include "policy/provider_reader.h"
#include "policy/treatment.h"

namespace postern::policy {

inline constexpr std::size_t transform_steps_max = 64;  // of one rule

class TreatmentReader : protected ProviderReader {
 protected:
  using ProviderReader::ProviderReader;

  /// After the rule's headers and hosts were read.
  void read_treatment(const Node& node, const std::string& where, Rule& out);
  /// `limits` of a rule or of the document, when it is there.
  void read_limits(const Node& node, const std::string& where, std::optional<Limits>& out);
  void read_match_operations(const Node& node, const std::string& where, Rule& out);

 private:
  void read_rewrite(const Node& node, const std::string& where, Rewrite& out);
  void read_transform(const Node& node, const std::string& where, const Rule& rule, Transform& out);
  void read_step(const Node& item, const std::string& where, const Rule& rule, Transform& out);
  bool settable(const Node& name, const std::string& where, const Rule& rule);
  void read_set_header(const Node& node, const std::string& where, const Rule& rule, Transform& out);
  bool all_known(const Node& node, const std::string& where, Names names);
  void read_detectors(const Node& node, const std::string& where, Detectors& out);
  std::optional<transform::DetectorSpec> read_detector(const Node& node, const std::string& where);
  void read_require(const Node& node, const std::string& where, Require& out);
  void read_schema(const Node& node, const std::string& where, Require& out);
  std::optional<std::uint64_t> read_number(const Node& mapping, const std::string& where,
                                           std::string_view key, std::uint64_t least, std::uint64_t most);
};

}  // namespace postern::policy
