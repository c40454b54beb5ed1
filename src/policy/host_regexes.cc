#include "policy/host_regexes.h"

#include <re2/re2.h>
#include <re2/set.h>

namespace postern::policy {

namespace {

RE2::Options options(int memory) {
  RE2::Options out;
  out.set_log_errors(false);
  out.set_case_sensitive(false);                   // names are lower case; the author may not have been
  out.set_encoding(RE2::Options::EncodingLatin1);  // canonical names are ASCII
  out.set_never_capture(true);
  out.set_max_mem(memory);
  return out;
}

re2::StringPiece piece(std::string_view text) { return {text.data(), text.size()}; }

}  // namespace

struct HostRegexes::Automaton {
  Automaton() : together(options(host_regexes_memory_max), RE2::ANCHOR_BOTH) {}
  RE2::Set together;
  /// The same one by one, for the rare name on which the joined automaton outgrows its memory: those fall
  /// back to a slower simulation instead of giving up, and giving up would open what a deny list closed.
  std::vector<std::unique_ptr<RE2>> single;
};

HostRegexes::HostRegexes() = default;
HostRegexes::HostRegexes(HostRegexes&&) noexcept = default;
HostRegexes& HostRegexes::operator=(HostRegexes&&) noexcept = default;
HostRegexes::~HostRegexes() = default;

std::optional<std::string> HostRegexes::check(std::string_view source) {
  if (source.empty()) return "it is empty";
  for (const char c : source) {
    const auto byte = static_cast<unsigned char>(c);
    if (byte < 0x20 || byte >= 0x7f)
      return "names are compared as A-labels (xn--...), so only ASCII can match";
  }
  const RE2 expression(piece(source), options(host_regex_memory_max));
  if (!expression.ok()) return expression.error();
  return std::nullopt;
}

bool HostRegexes::add(std::string_view source) {
  if (!automaton_) automaton_ = std::make_unique<Automaton>();
  if (automaton_->single.size() >= host_regexes_max) return false;
  automaton_->single.push_back(std::make_unique<RE2>(piece(source), options(host_regex_memory_max)));
  return automaton_->together.Add(piece(source), nullptr) >= 0;
}

bool HostRegexes::compile() { return !automaton_ || automaton_->together.Compile(); }

bool HostRegexes::match(std::string_view name) const {
  if (!automaton_) return false;
  RE2::Set::ErrorInfo error{RE2::Set::kNoError};
  if (automaton_->together.Match(piece(name), nullptr, &error)) return true;
  if (error.kind == RE2::Set::kNoError) return false;
  return std::ranges::any_of(
      automaton_->single, [&](const auto& expression) { return RE2::FullMatch(piece(name), *expression); });
}

}  // namespace postern::policy
