#include "transform/redactor.h"

#include <algorithm>
#include <array>
#include <fmt/format.h>

#include "transform/match_stream.h"

namespace postern::transform {
namespace {

bool is_digit(char c) { return c >= '0' && c <= '9'; }
bool is_blank(char c) { return c == ' ' || c == '\t' || c == '\r' || c == '\n'; }

/// What a number's replacement needs around it to be a JSON value: the quotation mark of the name before it,
/// with its backslashes where the JSON lies in a string. Empty when this is no number of JSON's.
std::string_view quotes_for(std::string_view text, const MatchStream::Cut& cut) {
  const std::string_view number = text.substr(cut.begin, cut.end - cut.begin);
  if (!std::all_of(number.begin(), number.end(), is_digit)) return {};
  if (cut.end < text.size() && !is_blank(text[cut.end]) && !std::string_view(",}]").contains(text[cut.end]))
    return {};
  std::size_t at = cut.begin;
  const std::size_t floor = at - std::min<std::size_t>(at, 48);
  const auto skip = [&](auto skipped) {
    while (at > floor && skipped(text[at - 1])) --at;
  };
  skip([](char c) { return is_blank(c) || c == '['; });
  if (at == floor || text[at - 1] != ':') return {};
  --at;
  skip(is_blank);
  if (at == floor || text[at - 1] != '"') return {};
  const std::size_t end = at--;
  skip([](char c) { return c == '\\'; });
  return text.substr(at, end - at);
}

constexpr std::size_t spares_max = 4;
constexpr std::size_t spare_bytes_max = 128 * 1024;
thread_local std::vector<std::unique_ptr<MatchStream>> spares;

MatchStreamPtr begin_stream(std::shared_ptr<const DetectorSet> set) {
  if (spares.empty()) return MatchStreamPtr(std::make_unique<MatchStream>(std::move(set)).release());
  MatchStreamPtr stream(spares.back().release());
  spares.pop_back();
  stream->begin(std::move(set));
  return stream;
}

}  // namespace

void KeepMatchStream::operator()(MatchStream* stream) const noexcept {
  std::unique_ptr<MatchStream> owned(stream);
  if (spares.capacity() == 0) spares.reserve(spares_max);
  if (spares.size() == spares_max || stream->memory() > spare_bytes_max) return;
  stream->rest();
  spares.push_back(std::move(owned));
}

Redactor::Redactor(std::shared_ptr<const DetectorSet> set) : stream_(begin_stream(std::move(set))) {}
Redactor::Redactor(Redactor&&) noexcept = default;
Redactor& Redactor::operator=(Redactor&&) noexcept = default;
Redactor::~Redactor() = default;

std::string_view Redactor::pass(std::string_view piece, bool last) {
  stream_->pass(piece, last);
  const std::string_view text = stream_->text();
  const auto& kept = stream_->kept();
  if (stream_->cuts().empty()) {
    if (kept.empty()) return {};
    if (kept.size() == 1) return text.substr(kept[0].begin, kept[0].end - kept[0].begin);
  }
  out_.clear();
  std::size_t cut = 0;
  for (const auto& stretch : kept) {
    while (cut < stretch.cuts_before) replace(cut++);
    out_ += text.substr(stretch.begin, stretch.end - stretch.begin);
  }
  while (cut < stream_->cuts().size()) replace(cut++);
  return out_;
}

std::optional<std::string_view> Redactor::whole(std::string_view text) {
  if (text.size() < stream_->set().shortest()) return std::nullopt;
  const std::string_view out = pass(text, true);
  if (stream_->cuts().empty()) return std::nullopt;
  return out;
}

void Redactor::replace(std::size_t index) {
  const auto& cut = stream_->cuts()[index];
  counts_.resize(stream_->set().size(), 0);
  ++counts_[cut.detector];
  const std::string_view quotes = quotes_for(stream_->text(), cut);
  out_ += quotes;
  out_ += stream_->set().replacement(cut.detector);
  out_ += quotes;
}

bool Redactor::changed() const { return !counts_.empty(); }

Finder::Finder(std::shared_ptr<const DetectorSet> set) : stream_(begin_stream(std::move(set))) {}
Finder::Finder(Finder&&) noexcept = default;
Finder& Finder::operator=(Finder&&) noexcept = default;
Finder::~Finder() = default;

std::optional<std::size_t> Finder::pass(std::string_view piece, bool last) {
  stream_->pass(piece, last);
  if (stream_->cuts().empty()) return std::nullopt;
  return stream_->cuts().front().detector;
}

std::optional<std::size_t> Finder::whole(std::string_view text) {
  if (text.size() < stream_->set().shortest()) return std::nullopt;
  return pass(text, true);
}

std::size_t Finder::held() const { return stream_->held(); }

namespace {

int hex_value(char c) {
  if (is_digit(c)) return c - '0';
  if (c >= 'a' && c <= 'f') return c - 'a' + 10;
  if (c >= 'A' && c <= 'F') return c - 'A' + 10;
  return -1;
}

/// The WHATWG URL standard §5.1.
std::string decode_form(std::string_view text) {
  std::string out;
  out.reserve(text.size());
  for (std::size_t i = 0; i < text.size(); ++i) {
    const bool escape =
        text[i] == '%' && i + 2 < text.size() && hex_value(text[i + 1]) >= 0 && hex_value(text[i + 2]) >= 0;
    if (escape) {
      out += static_cast<char>(hex_value(text[i + 1]) * 16 + hex_value(text[i + 2]));
      i += 2;
    } else {
      out += text[i] == '+' ? ' ' : text[i];
    }
  }
  return out;
}

/// §5.2, with "%20" for a space, which every reader of a query understands.
void append_encoded(std::string& out, std::string_view text) {
  for (char c : text) {
    const bool plain = is_digit(c) || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') ||
                       std::string_view("*-._").contains(c);
    if (plain)
      out += c;
    else
      out += fmt::format("%{:02X}", static_cast<unsigned char>(c));
  }
}

/// Calls `look` with each name and each value, still encoded, and `skip` with what is between.
template <class Look, class Skip>
void walk_form(std::string_view form, Look look, Skip skip) {
  while (!form.empty()) {
    const std::size_t end = std::min(form.find_first_of("?&;="), form.size());
    if (end > 0) look(form.substr(0, end));
    if (end < form.size()) skip(form.substr(end, 1));
    form.remove_prefix(std::min(end + 1, form.size()));
  }
}

}  // namespace

std::optional<std::string> redact_form(Redactor& redactor, std::string_view form) {
  std::string out;
  bool changed = false;
  walk_form(
      form,
      [&](std::string_view part) {
        if (const auto redacted = redactor.whole(decode_form(part))) {
          append_encoded(out, *redacted);
          changed = true;
        } else {
          out += part;
        }
      },
      [&](std::string_view separator) { out += separator; });
  if (!changed) return std::nullopt;
  return out;
}

std::optional<std::size_t> find_in_form(Finder& finder, std::string_view form) {
  std::optional<std::size_t> found;
  walk_form(
      form,
      [&](std::string_view part) {
        if (!found) found = finder.whole(decode_form(part));
      },
      [](std::string_view) {});
  return found;
}

bool is_text_like(std::string_view content_type) {
  std::string type;
  for (char c : content_type.substr(0, content_type.find(';')))
    if (!is_blank(c)) type += c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c;
  if (type.empty() || type.starts_with("text/") || type.starts_with("multipart/")) return true;
  for (std::string_view suffix : {"+json", "+xml", "+yaml", "+text", "+json-seq"})
    if (type.ends_with(suffix)) return true;
  static constexpr auto others = std::to_array<std::string_view>(
      {"application/json",       "application/xml",          "application/x-www-form-urlencoded",
       "application/javascript", "application/x-javascript", "application/ecmascript",
       "application/graphql",    "application/x-ndjson",     "application/ndjson",
       "application/jsonl",      "application/x-jsonlines",  "application/json-seq",
       "application/yaml",       "application/x-yaml",       "application/csv",
       "application/toml",       "application/sql",          "application/x-sh",
       "application/rtf",        "application/x-pem-file",   "application/jose",
       "application/jwt",        "application/xhtml+xml",    "application/graphql-response+json"});
  return std::find(others.begin(), others.end(), type) != others.end();
}

}  // namespace postern::transform
