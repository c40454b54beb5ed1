#pragma once
// A line of the log read back, as far as questions about it go. The writer is our own record.h, so what does
// not look like its lines is none: a torn one, or a damaged one.

#include <optional>
#include <string>
#include <string_view>

#include "base/clock.h"

namespace postern::audit {

/// Views into the line, as they stand in JSON: without quotes, with escapes.
struct RecordLine {
  std::string_view time, sandbox, workspace, kind, phase, decision, reason, rule, host;
};

/// Without the line's end. nullopt: it is no record.
std::optional<RecordLine> read_record_line(std::string_view line);

/// Which records are wanted. What is empty or absent does not matter, but for the workspace: nobody asks for
/// all of them.
struct LogFilter {
  std::string workspace;
  std::string sandbox;
  std::optional<WallTime> since;  ///< They began at or after it,
  std::optional<WallTime> until;  ///< and before this.
  std::string host;               ///< Canonical; "*.example.com": its subdomains at any depth.
  std::string decision;           ///< "denied"
  std::string rule;
  std::string reason;  ///< "not_in_allow_list"
};

class LineMatcher {
 public:
  explicit LineMatcher(const LogFilter& filter);
  bool matches(std::string_view line) const;
  std::optional<WallTime> since() const { return since_; }

 private:
  bool host_matches(std::string_view host) const;

  std::optional<WallTime> since_;
  // As they stand in a line. Times compare as texts do.
  std::string workspace_, sandbox_, from_, to_, host_, suffix_, decision_, rule_, reason_;
};

}  // namespace postern::audit
