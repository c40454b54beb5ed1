#pragma once
// The header lines that rules put on requests, made ready once per snapshot: templates filled in, checked,
// and locked away. Immutable, shared by the loops beside the snapshot that they belong to. There is one door
// out, append_header_line(), and the road goes through it only after the origin's identity was verified and
// the journal has taken the record.

#include <cstdint>
#include <expected>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/secret.h"
#include "credential/secret_store.h"
#include "policy/snapshot.h"

namespace postern::credential {

struct InjectedHeader;
struct Buildup;

/// Appends "Name: value\r\n". The single door out.
void append_header_line(const InjectedHeader& header, std::string& out);

/// Appends the value alone, for HTTP/2. The other half of the same door.
void append_header_value(const InjectedHeader& header, std::string& out);

/// How many bytes append_header_line() appends, so that the buffer need not grow around a secret.
std::size_t line_size(const InjectedHeader& header);

/// Where the value comes from, for the record: "workspace_secret:OPENAI_API_KEY" (several keys with commas),
/// "plaintext", "opaque". Valid while the header lives.
std::string_view source_of(const InjectedHeader& header);

struct InjectedHeader {
  std::string name;

 private:
  friend struct Buildup;
  friend void append_header_line(const InjectedHeader& header, std::string& out);
  friend void append_header_value(const InjectedHeader& header, std::string& out);
  friend std::size_t line_size(const InjectedHeader& header);
  friend std::string_view source_of(const InjectedHeader& header);
  std::string source_;
  Secret line_;  // plaintext too: one way for all
};

class Injections {
 public:
  Injections() = default;
  Injections(Injections&&) noexcept = default;
  Injections& operator=(Injections&&) noexcept = default;
  Injections(const Injections&) = delete;
  Injections& operator=(const Injections&) = delete;

  /// The headers of a rule, in the order of the document; empty for policy::no_rule and for rules that set
  /// none. Valid while the Injections live.
  std::span<const InjectedHeader> of(std::uint32_t rule_index) const {
    if (rule_index >= rules_.size()) return {};
    return rules_[rule_index];
  }

 private:
  friend struct Buildup;
  std::vector<std::vector<InjectedHeader>> rules_;
};

/// Fills in the templates of every enabled rule. Problems, all of them: a {KEY} that the store does not have
/// (named), an opaque header without a value, and a filled-in value with CR, LF, NUL or another character
/// that no header can hold.
std::expected<Injections, std::vector<policy::Problem>> resolve(const policy::Snapshot& snapshot,
                                                                const SecretStore& secrets);

}  // namespace postern::credential
