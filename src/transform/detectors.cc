#include "transform/detectors.h"

#include <algorithm>
#include <array>
#include <atomic>
#include <fmt/format.h>
#include <hs/hs.h>
#include <re2/re2.h>
#include <utility>

#include "transform/bounded_pattern.h"
#include "transform/detector_parts.h"

namespace postern::transform {
namespace {

constexpr auto names =
    std::to_array<std::string_view>({"email", "phone", "credit_card", "us_ssn", "iban", "ipv4",
                                     "aws_access_key", "github_token", "private_key", "jwt"});

/// What announces each of `names`, in the same order.
constexpr std::array<unsigned, names.size()> hints_of_name = {
    bit(Hint::at_sign),
    bit(Hint::plus_digit) | bit(Hint::phone_digits),
    bit(Hint::card_run) | bit(Hint::card_groups),
    bit(Hint::ssn_digits),
    bit(Hint::iban_start),
    bit(Hint::dotted),
    bit(Hint::aws_prefix),
    bit(Hint::github_prefix) | bit(Hint::github_pat_prefix),
    bit(Hint::key_line),
    bit(Hint::jwt_start)};

constexpr std::size_t builtin_bytes_min = 6;  // a@b.co

struct Literal {
  Hint hint;
  const char* pattern;
};
constexpr auto literals = std::to_array<Literal>({{Hint::at_sign, "@"},
                                                  {Hint::aws_prefix, "A(?:KI|SI|BI|CC)A"},
                                                  {Hint::github_prefix, "gh[pousr]_"},
                                                  {Hint::github_pat_prefix, "github_pat_"},
                                                  {Hint::key_line, "PRIVATE KEY(?: BLOCK)?-----"},
                                                  {Hint::jwt_start, "eyJ"}});

// RE2's automata live in this much, each way; beyond, it starts them anew.
constexpr std::int64_t automaton_bytes_max = 8 << 20;
// Beyond, an automaton does not fit, and a slow one takes its place.
constexpr int program_size_max = 10'000;

std::string complaint_about_replacement(std::string_view text) {
  if (text.size() > replacement_bytes_max)
    return fmt::format("'replace' is longer than {} bytes", replacement_bytes_max);
  const bool good = std::all_of(text.begin(), text.end(),
                                [](char c) { return c >= ' ' && c < 0x7f && c != '"' && c != '\\'; });
  return good ? "" : "'replace' is printable ASCII without quotes and backslashes";
}

}  // namespace

// --- PatternMatcher ---

struct PatternMatcher::Expressions {
  std::string scan;
  bool ignore_case = false;
  std::size_t length_max = 0;
  std::unique_ptr<re2::RE2> exact, beginning;
};

PatternMatcher::PatternMatcher() : expressions_(std::make_unique<Expressions>()) {}
PatternMatcher::~PatternMatcher() = default;
PatternMatcher::PatternMatcher(PatternMatcher&&) noexcept = default;
PatternMatcher& PatternMatcher::operator=(PatternMatcher&&) noexcept = default;

std::string PatternMatcher::compile(std::string_view pattern) {
  auto read = read_pattern(pattern);
  if (!read) return fmt::format("the pattern {}", read.error());
  re2::RE2::Options options(re2::RE2::Latin1);
  options.set_log_errors(false);
  options.set_longest_match(true);
  options.set_never_capture(true);
  options.set_max_mem(automaton_bytes_max);
  expressions_->exact = std::make_unique<re2::RE2>(read->exact, options);
  expressions_->beginning = std::make_unique<re2::RE2>(read->beginning + "\\z", options);
  expressions_->scan = std::move(read->scan);
  expressions_->ignore_case = read->ignore_case;
  expressions_->length_max = read->length_max;
  const bool fits = expressions_->exact->ok() && expressions_->beginning->ok() &&
                    expressions_->exact->ProgramSize() <= program_size_max &&
                    expressions_->beginning->ProgramSize() <= program_size_max;
  return fits ? "" : "the pattern is too large";
}

const std::string& PatternMatcher::scan_text() const { return expressions_->scan; }
bool PatternMatcher::ignore_case() const { return expressions_->ignore_case; }
std::size_t PatternMatcher::length_max() const { return expressions_->length_max; }

bool PatternMatcher::find(std::string_view text, std::size_t from, std::size_t& begin,
                          std::size_t& end) const {
  re2::StringPiece found;
  if (!expressions_->exact->Match({text.data(), text.size()}, from, text.size(), re2::RE2::UNANCHORED, &found,
                                  1))
    return false;
  begin = static_cast<std::size_t>(found.data() - text.data());
  end = begin + found.size();
  return true;
}

std::size_t PatternMatcher::earliest_beginning(std::string_view text) const {
  const std::size_t from = text.size() - std::min(text.size(), length_max());
  re2::StringPiece found;
  if (!expressions_->beginning->Match({text.data(), text.size()}, from, text.size(), re2::RE2::UNANCHORED,
                                      &found, 1))
    return text.size();
  return static_cast<std::size_t>(found.data() - text.data());
}

// --- LiteralScanner ---

struct LiteralScanner::Database {
  ~Database() { ::hs_free_database(compiled); }
  hs_database_t* compiled = nullptr;
  std::uint64_t number = 0;
};

namespace {

/// Vectorscan works in a scratch space that one scan at a time may use: one for each thread, grown to the
/// largest set that it met.
class Scratch {
 public:
  Scratch() = default;
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;
  ~Scratch() { ::hs_free_scratch(space_); }

  hs_scratch_t* fit(const hs_database_t* database, std::uint64_t number) {
    if (number != fits_ && ::hs_alloc_scratch(database, &space_) != HS_SUCCESS) return nullptr;
    fits_ = number;
    return space_;
  }

 private:
  hs_scratch_t* space_ = nullptr;
  std::uint64_t fits_ = 0;
};

thread_local Scratch scratch;

}  // namespace

LiteralScanner::LiteralScanner() = default;
LiteralScanner::~LiteralScanner() = default;

std::optional<LiteralScanner::Refusal> LiteralScanner::compile(std::span<const Pattern> patterns) {
  if (patterns.empty()) return std::nullopt;
  if (::hs_valid_platform() != HS_SUCCESS)
    return Refusal{0, "detectors need a processor with SSE4.2 (or NEON), which this one lacks"};
  std::vector<const char*> texts;
  std::vector<unsigned> flags, ids;
  for (const Pattern& pattern : patterns) {
    texts.push_back(pattern.text.c_str());
    flags.push_back((pattern.ignore_case ? HS_FLAG_CASELESS : 0U) |
                    (pattern.once ? HS_FLAG_SINGLEMATCH : 0U));
    ids.push_back(pattern.id);
  }
  static std::atomic<std::uint64_t> made{0};
  auto database = std::make_unique<Database>();
  database->number = ++made;
  hs_compile_error_t* error = nullptr;
  if (::hs_compile_multi(texts.data(), flags.data(), ids.data(), static_cast<unsigned>(texts.size()),
                         HS_MODE_BLOCK, nullptr, &database->compiled, &error) != HS_SUCCESS) {
    const std::size_t index =
        error && error->expression >= 0 ? static_cast<std::size_t>(error->expression) : 0;
    Refusal refusal{
        index, fmt::format("the pattern cannot be searched for: {}", error ? error->message : "no memory")};
    ::hs_free_compile_error(error);
    return refusal;
  }
  database_ = std::move(database);
  return std::nullopt;
}

bool LiteralScanner::scan(std::string_view text, std::vector<Hit>& hits) const {
  hs_scratch_t* const space = scratch.fit(database_->compiled, database_->number);
  if (!space) return false;
  const auto note = [](unsigned id, unsigned long long, unsigned long long to, unsigned, void* out) {
    static_cast<std::vector<Hit>*>(out)->push_back({id, static_cast<std::size_t>(to)});
    return 0;
  };
  return ::hs_scan(database_->compiled, text.data(), static_cast<unsigned>(text.size()), 0, space, note,
                   &hits) == HS_SUCCESS;
}

// --- DetectorSet ---

namespace {

using Parts = DetectorSet::Parts;

std::string add_builtin(Parts& parts, const DetectorSpec& spec) {
  const auto known = std::find(names.begin(), names.end(), spec.name);
  if (known == names.end())
    return fmt::format("there is no detector '{}'; there are {}, or a pattern of your own", spec.name,
                       fmt::join(names, ", "));
  const unsigned hints = hints_of_name[static_cast<std::size_t>(known - names.begin())];
  for (unsigned i = 0; i < hint_count; ++i) {
    if (!(hints & (1U << i))) continue;
    if (parts.detector_of_hint[i] != Parts::none) return fmt::format("'{}' is there twice", spec.name);
    parts.detector_of_hint[i] = static_cast<std::uint8_t>(parts.detectors.size());
  }
  parts.detectors.push_back({spec.name, spec.replace.value_or("[" + spec.name + "]"), -1});
  return {};
}

std::string add_pattern(Parts& parts, const DetectorSpec& spec) {
  if (std::find(names.begin(), names.end(), spec.name) != names.end())
    return fmt::format("'{}' is the name of a detector that is built in", spec.name);
  PatternMatcher matcher;
  if (std::string complaint = matcher.compile(spec.pattern); !complaint.empty()) return complaint;
  const int index = static_cast<int>(parts.patterns.size());
  parts.patterns.push_back(std::move(matcher));
  parts.detector_of_pattern.push_back(static_cast<std::uint8_t>(parts.detectors.size()));
  parts.detectors.push_back(
      {spec.name.empty() ? "pattern" : spec.name, spec.replace.value_or("[redacted]"), index});
  return {};
}

std::vector<LiteralScanner::Pattern> patterns_to_scan(const Parts& parts) {
  std::vector<LiteralScanner::Pattern> out;
  for (const Literal& literal : literals) {
    const auto id = static_cast<unsigned>(literal.hint);
    if (parts.detector_of_hint[id] != Parts::none) out.push_back({literal.pattern, id});
  }
  for (std::size_t i = 0; i < parts.patterns.size(); ++i)
    out.push_back({parts.patterns[i].scan_text(), hint_count + static_cast<unsigned>(i),
                   parts.patterns[i].ignore_case(), true});
  return out;
}

void plan(Parts& parts) {
  bool holds_digits = false;
  for (unsigned i = 0; i < hint_count; ++i) {
    if (parts.detector_of_hint[i] == Parts::none) continue;
    const Hint hint = static_cast<Hint>(i);
    parts.digits |= bit(hint) & digit_hints;
    // All that is made of digits holds back the same.
    const bool of_digits = (bit(hint) & digit_hints) && hint != Hint::iban_start;
    if (of_digits && std::exchange(holds_digits, true)) continue;
    parts.holding.push_back(hint);
  }
}

}  // namespace

std::span<const std::string_view> builtin_detectors() { return names; }

std::expected<std::shared_ptr<const DetectorSet>, std::vector<DetectorComplaint>> DetectorSet::compile(
    std::span<const DetectorSpec> specs) {
  std::vector<DetectorComplaint> complaints;
  if (specs.empty()) complaints.push_back({0, "no detector is named"});
  if (specs.size() > detectors_max)
    complaints.push_back({detectors_max, fmt::format("there are more than {} detectors", detectors_max)});
  auto parts = std::make_unique<Parts>();
  parts->detector_of_hint.fill(Parts::none);
  for (std::size_t i = 0; i < std::min(specs.size(), detectors_max); ++i) {
    const DetectorSpec& spec = specs[i];
    std::string complaint = spec.replace ? complaint_about_replacement(*spec.replace) : "";
    if (complaint.empty())
      complaint = spec.pattern.empty() ? add_builtin(*parts, spec) : add_pattern(*parts, spec);
    if (!complaint.empty()) complaints.push_back({i, std::move(complaint)});
  }
  if (!complaints.empty()) return std::unexpected(std::move(complaints));
  plan(*parts);
  const auto patterns = patterns_to_scan(*parts);
  if (const auto refusal = parts->literals.compile(patterns)) {
    const unsigned id = patterns[refusal->index].id;
    const std::size_t index =
        id < hint_count ? parts->detector_of_hint[id] : parts->detector_of_pattern[id - hint_count];
    return std::unexpected(std::vector<DetectorComplaint>{{index, refusal->sentence}});
  }
  return std::shared_ptr<const DetectorSet>(new DetectorSet(std::move(parts)));
}

DetectorSet::DetectorSet(std::unique_ptr<const Parts> parts) : parts_(std::move(parts)) {}
DetectorSet::~DetectorSet() = default;

std::size_t DetectorSet::size() const { return parts_->detectors.size(); }
std::string_view DetectorSet::name(std::size_t detector) const { return parts_->detectors[detector].name; }
std::size_t DetectorSet::shortest() const { return parts_->patterns.empty() ? builtin_bytes_min : 0; }
std::string_view DetectorSet::replacement(std::size_t detector) const {
  return parts_->detectors[detector].replacement;
}

}  // namespace postern::transform
