#include "api/multipart.h"

#include <algorithm>
#include <utility>

#include "wire/http1.h"

namespace postern::api {

namespace {

constexpr std::size_t boundary_bytes_max = 70;  // RFC 2046 §5.1.1

bool is_token(std::string_view text) {
  constexpr std::string_view marks = "!#$%&'*+-.^_`|~";
  return !text.empty() && std::ranges::all_of(text, [&](char c) {
    return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') ||
           marks.find(c) != std::string_view::npos;
  });
}

bool is_boundary(std::string_view text) {
  constexpr std::string_view marks = "'()+_,-./:=? ";
  return !text.empty() && text.size() <= boundary_bytes_max && text.back() != ' ' &&
         std::ranges::all_of(text, [&](char c) {
           return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') ||
                  marks.find(c) != std::string_view::npos;
         });
}

std::string_view trim(std::string_view text) {
  while (!text.empty() && (text.front() == ' ' || text.front() == '\t')) text.remove_prefix(1);
  while (!text.empty() && (text.back() == ' ' || text.back() == '\t')) text.remove_suffix(1);
  return text;
}

/// Takes a token or a quoted string off the front.
std::optional<std::string> take_value(std::string_view& rest) {
  if (!rest.starts_with('"')) {
    const std::string_view token = rest.substr(0, rest.find_first_of("; \t"));
    rest.remove_prefix(token.size());
    if (!is_token(token)) return std::nullopt;
    return std::string(token);
  }
  std::string out;
  for (std::size_t at = 1; at < rest.size(); ++at) {
    char c = rest[at];
    if (c == '"') {
      rest.remove_prefix(at + 1);
      return out;
    }
    if (c == '\\' && ++at < rest.size()) c = rest[at];
    if (static_cast<unsigned char>(c) < ' ' && c != '\t') return std::nullopt;
    out += c;
  }
  return std::nullopt;
}

}  // namespace

std::optional<std::string> parameter_of(std::string_view value, std::string_view kind,
                                        std::string_view name) {
  std::string_view rest = trim(value);
  const std::string_view said = trim(rest.substr(0, rest.find(';')));
  if (!wire::same_name(said, kind)) return std::nullopt;
  rest.remove_prefix(std::min(rest.find(';'), rest.size()));
  std::optional<std::string> found;
  while (!rest.empty()) {
    if (!rest.starts_with(';')) return std::nullopt;
    rest = trim(rest.substr(1));
    if (rest.empty()) break;
    const std::size_t equals = rest.find('=');
    if (equals == std::string_view::npos) return std::nullopt;
    const std::string_view key = rest.substr(0, equals);
    if (!is_token(key)) return std::nullopt;
    rest.remove_prefix(equals + 1);
    auto text = take_value(rest);
    if (!text) return std::nullopt;
    rest = trim(rest);
    if (!wire::same_name(key, name)) continue;
    if (found) return std::nullopt;
    found = std::move(*text);
  }
  return found;
}

std::optional<MultipartFile> MultipartFile::for_type(std::string_view content_type) {
  auto boundary = parameter_of(content_type, "multipart/form-data", "boundary");
  if (!boundary || !is_boundary(*boundary)) return std::nullopt;
  return MultipartFile(std::move(*boundary));
}

std::expected<void, std::string_view> MultipartFile::take(std::string_view bytes, std::string& out) {
  waiting_.append(bytes);
  while (true) {
    const auto more = step(out);
    if (!more) return std::unexpected(more.error());
    if (!*more) return {};
  }
}

std::expected<bool, std::string_view> MultipartFile::step(std::string& out) {
  switch (state_) {
    case State::start: {
      const std::string line = "--" + boundary_ + "\r\n";
      const std::size_t size = std::min(line.size(), waiting_.size());
      if (waiting_.compare(0, size, line, 0, size) != 0)
        return std::unexpected("The body does not begin with its boundary.");
      if (size < line.size()) return false;
      waiting_.erase(0, size);
      state_ = State::head;
      return true;
    }
    case State::head: return take_head();
    case State::content: {
      const std::string delimiter = "\r\n--" + boundary_;
      const std::size_t at = waiting_.find(delimiter);
      if (at != std::string::npos) {
        out.append(waiting_, 0, at);
        waiting_.erase(0, at + delimiter.size());
        state_ = State::after;
        return true;
      }
      const std::size_t sure = waiting_.size() - std::min(waiting_.size(), delimiter.size() - 1);
      out.append(waiting_, 0, sure);
      waiting_.erase(0, sure);
      return false;
    }
    case State::after:
      if (waiting_.size() < 2) return false;
      if (!waiting_.starts_with("--"))
        return std::unexpected("There is more than one part, or a broken boundary.");
      waiting_.erase(0, 2);
      state_ = State::end;
      ended_well_ = true;
      return true;
    case State::end: {
      constexpr std::string_view rest = "\r\n";
      if (!rest.starts_with(waiting_)) return std::unexpected("There is something behind the last boundary.");
      ended_well_ = waiting_.empty() || waiting_ == rest;
      return false;
    }
  }
  return false;
}

std::expected<bool, std::string_view> MultipartFile::take_head() {
  const std::size_t end = waiting_.find("\r\n\r\n");
  if (end == std::string::npos) {
    if (waiting_.size() > head_bytes_max) return std::unexpected("The head of the part is too large.");
    return false;
  }
  if (end > head_bytes_max) return std::unexpected("The head of the part is too large.");
  std::optional<std::string> name;
  std::string_view lines = std::string_view(waiting_).substr(0, end);
  while (!lines.empty()) {
    const std::string_view line = lines.substr(0, lines.find("\r\n"));
    lines.remove_prefix(std::min(lines.size(), line.size() + 2));
    const std::size_t colon = line.find(':');
    const bool clean =
        std::ranges::none_of(line, [](char c) { return static_cast<unsigned char>(c) < ' ' && c != '\t'; });
    if (colon == std::string_view::npos || !clean || !is_token(line.substr(0, colon)))
      return std::unexpected("A field of the part is malformed.");
    const std::string_view value = trim(line.substr(colon + 1));
    if (wire::same_name(line.substr(0, colon), "Content-Disposition")) {
      if (name) return std::unexpected("The part says twice what it is.");
      name = parameter_of(value, "form-data", "name");
      if (!name) return std::unexpected("The part does not say its name.");
    } else if (wire::same_name(line.substr(0, colon), "Content-Transfer-Encoding")) {
      if (!wire::same_name(value, "binary") && !wire::same_name(value, "8bit") &&
          !wire::same_name(value, "7bit"))
        return std::unexpected("The part is encoded (RFC 7578 §4.7).");
    }
  }
  if (name != "file") return std::unexpected("The part should have the name \"file\".");
  waiting_.erase(0, end + 4);
  state_ = State::content;
  return true;
}

}  // namespace postern::api
