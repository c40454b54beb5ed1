#include "box/file_requests.h"

#include <cerrno>
#include <charconv>
#include <utility>

namespace postern::box {

namespace {

constexpr std::size_t tag_bytes_max = 80;

RunRequest of_agent(std::vector<std::string> words) {
  RunRequest request;
  request.arguments = std::move(words);
  request.of_agent = true;
  return request;
}

/// Up to the next NUL, which is taken off as well.
bool take_field(std::string_view& answer, std::string_view& field) {
  const std::size_t end = answer.find('\0');
  if (end == std::string_view::npos) return false;
  field = answer.substr(0, end);
  answer.remove_prefix(end + 1);
  return true;
}

template <class Number>
bool take_number(std::string_view& answer, Number& number) {
  std::string_view field;
  if (!take_field(answer, field)) return false;
  const auto read = std::from_chars(field.data(), field.data() + field.size(), number);
  return read.ec == std::errc() && read.ptr == field.data() + field.size();
}

bool parse_kind(std::string_view field, FileEntry::Kind& kind) {
  constexpr std::string_view letters = "fdlo";  // in the order of Kind
  const std::size_t place = field.size() == 1 ? letters.find(field) : std::string_view::npos;
  if (place == std::string_view::npos) return false;
  kind = static_cast<FileEntry::Kind>(place);
  return true;
}

/// It becomes a part of a header.
bool is_tag(std::string_view text) {
  return !text.empty() && text.size() <= tag_bytes_max &&
         text.find_first_not_of("0123456789abcdef-") == std::string_view::npos;
}

}  // namespace

RunRequest stat_request(std::string path) { return of_agent({"stat", std::move(path)}); }

RunRequest read_request(std::string path, std::uint64_t offset, std::optional<std::uint64_t> length) {
  return of_agent(
      {"read", std::move(path), std::to_string(offset), length ? std::to_string(*length) : "end"});
}

RunRequest write_request(std::string path) {
  RunRequest request = of_agent({"write", std::move(path)});
  request.has_input = true;
  return request;
}

RunRequest glob_request(std::string pattern, std::string path, std::uint64_t limit) {
  return of_agent({"glob", std::move(pattern), std::move(path), std::to_string(limit)});
}

RunRequest grep_request(std::string text, std::string path, std::string glob, std::uint64_t limit) {
  return of_agent({"grep", std::move(text), std::move(path), std::move(glob), std::to_string(limit)});
}

RunRequest connect_request(std::uint16_t port) {
  RunRequest request = of_agent({"connect", std::to_string(port)});
  request.has_input = true;
  return request;
}

std::optional<std::vector<FileEntry>> parse_entries(std::string_view answer) {
  std::vector<FileEntry> out;
  while (!answer.empty()) {
    FileEntry& entry = out.emplace_back();
    std::string_view path, kind, tag;
    std::int64_t modified = 0;
    if (!take_field(answer, path) || path.empty() || !take_field(answer, kind) ||
        !parse_kind(kind, entry.kind) || !take_number(answer, entry.bytes) ||
        !take_number(answer, modified) || !take_field(answer, tag) || !is_tag(tag))
      return std::nullopt;
    entry.path = path;
    entry.tag = tag;
    entry.modified =
        WallTime(std::chrono::duration_cast<WallTime::duration>(std::chrono::nanoseconds(modified)));
  }
  return out;
}

std::optional<std::vector<FoundLine>> parse_lines(std::string_view answer) {
  std::vector<FoundLine> out;
  while (!answer.empty()) {
    FoundLine& line = out.emplace_back();
    std::string_view path, text;
    if (!take_field(answer, path) || path.empty() || !take_number(answer, line.number) || line.number == 0 ||
        !take_field(answer, text))
      return std::nullopt;
    line.path = path;
    line.text = text;
  }
  return out;
}

int parse_trouble(std::string_view standard_error) {
  int number = 0;
  const auto read =
      std::from_chars(standard_error.data(), standard_error.data() + standard_error.size(), number);
  const bool good = read.ec == std::errc() && read.ptr == standard_error.data() + standard_error.size();
  return good && number > 0 && number < 4096 ? number : EIO;
}

}  // namespace postern::box
