#include "policy/problem.h"

#include <fmt/format.h>

namespace postern::policy {

namespace {
constexpr std::size_t quoted_max = 80;
}

Format format_of(std::string_view file_name) {
  return file_name.ends_with(".json") || file_name.ends_with(".JSON") ? Format::json : Format::yaml;
}

std::string describe(const Problem& problem, std::string_view file_name) {
  std::string out(file_name);
  if (problem.at.line > 0) out += fmt::format(":{}:{}", problem.at.line, problem.at.column);
  if (!out.empty()) out += ": ";
  if (!problem.where.empty()) out += problem.where + ": ";
  return out + problem.message;
}

std::string describe(const std::vector<Problem>& problems, std::string_view file_name) {
  std::string out;
  for (const Problem& problem : problems) {
    out += describe(problem, file_name);
    out += '\n';
  }
  return out;
}

std::string in_quotes(std::string_view text) {
  std::string out = "'";
  for (char c : text) {
    if (out.size() > quoted_max) return out + "...'";
    const auto byte = static_cast<unsigned char>(c);
    if (byte < 0x20 || byte == 0x7f) {
      out += fmt::format("\\x{:02x}", byte);
    } else {
      out += c;
    }
  }
  return out + "'";
}

}  // namespace postern::policy
