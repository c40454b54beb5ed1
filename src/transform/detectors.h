#pragma once
// What a policy wants found in texts: personal data and credentials, by the detectors that are built in or by
// patterns of its own.
//
// A set is compiled once with the policy, immutable, and shared by loops. redactor.h looks for it in streams.
// Literals and the policy's patterns go through one pass of Vectorscan, digits through digit_scan.h; what
// these point to is looked at closely (shapes.h; RE2 for patterns), and only that decides.

#include <expected>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace postern::transform {

inline constexpr std::size_t detectors_max = 64;
inline constexpr std::size_t replacement_bytes_max = 128;

/// email, phone, credit_card, us_ssn, iban, ipv4, aws_access_key, github_token, private_key, jwt.
std::span<const std::string_view> builtin_detectors();

struct DetectorSpec {
  /// One of builtin_detectors(), or what a pattern is called in records ("pattern" when empty).
  std::string name;
  /// Empty for one that is built in. See read_pattern() for what is allowed.
  std::string pattern = {};
  /// Instead of "[name]", or "[redacted]" for a pattern. Printable ASCII without quotes and backslashes, so
  /// that a JSON text stays one.
  std::optional<std::string> replace = {};
};

struct DetectorComplaint {
  std::size_t index = 0;  ///< Of the spec.
  std::string sentence;   ///< "there is no detector 'e-mail'; ..."
};

class DetectorSet {
 public:
  /// Never an empty set: complains when there are no specs.
  static std::expected<std::shared_ptr<const DetectorSet>, std::vector<DetectorComplaint>> compile(
      std::span<const DetectorSpec> specs);
  ~DetectorSet();
  DetectorSet(const DetectorSet&) = delete;
  DetectorSet& operator=(const DetectorSet&) = delete;

  std::size_t size() const;
  /// In the order of the specs.
  std::string_view name(std::size_t detector) const;
  std::string_view replacement(std::size_t detector) const;

  /// No text that is shorter holds anything.
  std::size_t shortest() const;

  struct Parts;
  const Parts& parts() const { return *parts_; }

 private:
  explicit DetectorSet(std::unique_ptr<const Parts> parts);

  std::unique_ptr<const Parts> parts_;
};

}  // namespace postern::transform
