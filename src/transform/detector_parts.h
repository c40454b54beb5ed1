#pragma once
// What is inside of a DetectorSet, for match_stream.cc.

#include <array>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "transform/detectors.h"
#include "transform/shapes.h"

namespace postern::transform {

/// One regular expression of a policy on RE2.
class PatternMatcher {
 public:
  PatternMatcher();
  ~PatternMatcher();
  PatternMatcher(PatternMatcher&&) noexcept;
  PatternMatcher& operator=(PatternMatcher&&) noexcept;

  /// The complaint, or an empty text.
  std::string compile(std::string_view pattern);
  const std::string& scan_text() const;
  bool ignore_case() const;
  std::size_t length_max() const;

  /// The leftmost longest match at or behind `from`; false: there is none.
  bool find(std::string_view text, std::size_t from, std::size_t& begin, std::size_t& end) const;
  /// Where the earliest beginning of a match starts that reaches the end of `text`; its size when none does.
  std::size_t earliest_beginning(std::string_view text) const;

 private:
  struct Expressions;
  std::unique_ptr<Expressions> expressions_;
};

/// The one pass over all literals and patterns.
class LiteralScanner {
 public:
  struct Pattern {
    std::string text;
    unsigned id = 0;
    bool ignore_case = false;
    bool once = false;  ///< Only whether it is there at all.
  };
  struct Hit {
    unsigned id;
    std::size_t end;
  };

  LiteralScanner();
  ~LiteralScanner();
  LiteralScanner(const LiteralScanner&) = delete;
  LiteralScanner& operator=(const LiteralScanner&) = delete;

  struct Refusal {
    std::size_t index;  ///< Of the pattern.
    std::string sentence;
  };
  std::optional<Refusal> compile(std::span<const Pattern> patterns);
  bool empty() const { return !database_; }
  /// Appends; false when there was no memory for it.
  bool scan(std::string_view text, std::vector<Hit>& hits) const;

 private:
  struct Database;
  std::unique_ptr<Database> database_;
};

struct DetectorSet::Parts {
  static constexpr std::uint8_t none = 0xff;

  struct Detector {
    std::string name, replacement;
    int pattern = -1;  ///< Index into `patterns`, or -1 for one that is built in.
  };
  std::vector<Detector> detectors;
  std::vector<PatternMatcher> patterns;
  std::vector<std::uint8_t> detector_of_pattern;
  std::array<std::uint8_t, 13> detector_of_hint{};  ///< Or `none`.
  std::vector<Hint> holding;  ///< Whose beginnings are held back; one of several that hold back the same.
  unsigned digits = 0;        ///< For scan_digits().
  LiteralScanner literals;    ///< Identifiers: hints, and behind them patterns.
};

inline constexpr unsigned hint_count = 13;

}  // namespace postern::transform
