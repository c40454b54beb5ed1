#pragma once
// Detectors at work: texts with matches replaced, or the news that there is one.
//
// A Redactor or Finder belongs to one text and to the thread that it is used on; the set is shared. What
// comes out does not depend on how the text was cut into pieces (match_stream.h). Every byte outside of
// matches stays as it is. Nothing here throws.

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "transform/detectors.h"

namespace postern::transform {

class MatchStream;
/// A thread keeps some that were used, since small texts are many.
struct KeepMatchStream {
  void operator()(MatchStream* stream) const noexcept;
};
using MatchStreamPtr = std::unique_ptr<MatchStream, KeepMatchStream>;

/// How often each detector replaced something, in the order of its set. Empty while none did.
using DetectorCounts = std::vector<std::uint64_t>;

class Redactor {
 public:
  explicit Redactor(std::shared_ptr<const DetectorSet> set);
  Redactor(Redactor&&) noexcept;
  Redactor& operator=(Redactor&&) noexcept;
  ~Redactor();

  /// What may go on now, valid until the next call. Only what could be the beginning of a match is held back:
  /// a word, a number, at most some 2 KiB. `last` lets everything go, and what is passed then is another
  /// text.
  std::string_view pass(std::string_view piece, bool last);
  /// A whole text, such as the value of a header field. nullopt: nothing was found, it stays as it is.
  std::optional<std::string_view> whole(std::string_view text);
  const DetectorCounts& counts() const { return counts_; }
  /// Those since the last time.
  DetectorCounts take_counts() { return std::exchange(counts_, {}); }
  /// Whether anything was replaced so far.
  bool changed() const;

 private:
  void replace(std::size_t index);

  MatchStreamPtr stream_;
  std::string out_;
  DetectorCounts counts_;
};

class Finder {
 public:
  explicit Finder(std::shared_ptr<const DetectorSet> set);
  Finder(Finder&&) noexcept;
  Finder& operator=(Finder&&) noexcept;
  ~Finder();

  /// The detector of the first match, as soon as it is certain. What is not yet certain at the end of a piece
  /// is with held(): a caller that lets a piece go on must not let go of its last held() bytes.
  std::optional<std::size_t> pass(std::string_view piece, bool last);
  /// Of a whole text.
  std::optional<std::size_t> whole(std::string_view text);
  std::size_t held() const;

 private:
  MatchStreamPtr stream_;
};

/// A query ("a=1&b=2", with or without "?" in front) or a body of application/x-www-form-urlencoded. Names
/// and values are looked at decoded (percent-escapes, "+" for a space); only those that change are written
/// anew. A broken escape stands for itself. nullopt: nothing was found.
std::optional<std::string> redact_form(Redactor& redactor, std::string_view form);

/// The first detector that finds something in the decoded names and values of a form.
std::optional<std::size_t> find_in_form(Finder& finder, std::string_view form);

/// Whether a body of this Content-Type is text that detectors are for: text/*, JSON, XML, forms, multipart,
/// JavaScript, GraphQL, YAML, CSV and their like. A missing type counts as text.
bool is_text_like(std::string_view content_type);

}  // namespace postern::transform
