#pragma once
// A header line that is put on requests, locked away. There is one door out, append_header_line(), and the
// road goes through it only after the origin's identity was verified and the journal has taken the record.

#include <cstdint>
#include <expected>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/secret.h"

namespace postern::credential {

struct InjectedHeader;

/// Appends "Name: value\r\n". The single door out.
void append_header_line(const InjectedHeader& header, std::string& out);

/// Appends the value alone, for HTTP/2. The other half of the same door.
void append_header_value(const InjectedHeader& header, std::string& out);

/// How many bytes append_header_line() appends, so that the buffer need not grow around a secret.
std::size_t line_size(const InjectedHeader& header);

/// Where the value comes from, for the record: "workspace_secret:OPENAI_API_KEY" (several keys with commas),
/// "plaintext", "opaque", "callback:creds.example.com". Valid while the header lives.
std::string_view source_of(const InjectedHeader& header);

/// A part of a value.
struct SecretSpan {
  std::uint32_t begin = 0, size = 0;
};
using SecretSpans = std::vector<SecretSpan>;

/// `name` is a header's name. `secrets`: where the value is secret, which is what answers are searched for
/// (credential/scrubber.h); not given: behind an authentication scheme, or in each cookie, or all of it.
/// Errors, a sentence without the value: it holds what no header can (RFC 9110 §5.5: a line break would write
/// a header of its own), or is longer than policy::header_value_bytes_max.
std::expected<InjectedHeader, std::string> make_header(
    std::string_view name, std::string source, std::string_view value,
    const std::optional<SecretSpans>& secrets = std::nullopt);

struct InjectedHeader {
  std::string name;
  std::uint64_t version = 0;  ///< Of the newest workspace secret in it; 0: unknown, or there is none.

 private:
  friend void append_header_line(const InjectedHeader& header, std::string& out);
  friend void append_header_value(const InjectedHeader& header, std::string& out);
  friend std::size_t line_size(const InjectedHeader& header);
  friend std::string_view source_of(const InjectedHeader& header);
  friend std::expected<InjectedHeader, std::string> make_header(std::string_view name, std::string source,
                                                                std::string_view value,
                                                                const std::optional<SecretSpans>& secrets);
  friend class ScrubberMaker;
  std::string source_;
  Secret line_;  // plaintext too: one way for all
  SecretSpans secrets_;
};

}  // namespace postern::credential
