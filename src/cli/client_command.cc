#include "cli/client_command.h"

#include <CLI/CLI.hpp>
#include <algorithm>
#include <charconv>
#include <cstdlib>
#include <fmt/format.h>
#include <nlohmann/json.hpp>
#include <unistd.h>

#include "cli/steps.h"

namespace postern::cli {

namespace {

using Json = nlohmann::ordered_json;

constexpr int depth_max = 64;  // nothing of ours nests deeper, and printing it is recursion
constexpr std::size_t cell_width_max = 60;

}  // namespace

void add_server_options(CLI::App& command, ServerOptions& options) {
  command
      .add_option("--url", options.url,
                  "The server (default: POSTERN_URL, LANGSMITH_ENDPOINT, http://127.0.0.1:8080)")
      ->type_name("URL");
  command
      .add_option("--api-key-file", options.api_key_file,
                  "Where the API key is (default: POSTERN_API_KEY, LANGSMITH_API_KEY)")
      ->type_name("FILE");
}

int exit_of(const Asked<void>& done) {
  if (done) return static_cast<int>(ClientExit::done);
  const ClientFailure& failure = done.error();
  if (failure.mistakes.size() < 2) complain(failure.sentence);
  if (failure.mistakes.size() > 1)
    for (const auto& [where, message] : failure.mistakes)
      complain("the server refuses: " + (where.empty() ? message : where + ": " + message));
  return static_cast<int>(failure.exit);
}

Asked<Json> document_of(const std::string& body) {
  bool deep = false;
  const auto shallow = [&deep](int depth, Json::parse_event_t, Json&) {
    deep |= depth > depth_max;
    return depth <= depth_max;
  };
  Json document = Json::parse(body, shallow, false);
  if (document.is_discarded() || deep) return refused("the server's answer is none of Postern's API");
  return document;
}

std::string text_of(const Json& document, const char* key) {
  if (!document.is_object()) return {};
  const auto found = document.find(key);
  return found != document.end() && found->is_string() ? found->get<std::string>() : std::string();
}

std::int64_t number_of(const Json& document, const char* key) {
  if (!document.is_object()) return 0;
  const auto found = document.find(key);
  return found != document.end() && found->is_number_integer() ? found->get<std::int64_t>() : 0;
}

std::string line_of(const Json& document) {
  return document.dump(-1, ' ', true, Json::error_handler_t::replace) + "\n";
}

std::optional<std::chrono::seconds> parse_span(std::string_view text) {
  if (text == "0") return std::chrono::seconds(0);
  std::uint32_t count = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), count);
  if (error != std::errc{} || end + 1 != text.data() + text.size()) return std::nullopt;
  std::chrono::seconds unit{};
  switch (*end) {
    case 's': unit = std::chrono::seconds(1); break;
    case 'm': unit = std::chrono::minutes(1); break;
    case 'h': unit = std::chrono::hours(1); break;
    case 'd': unit = std::chrono::days(1); break;
    default: return std::nullopt;
  }
  if (unit * count > std::chrono::days(36'500)) return std::nullopt;
  return unit * count;
}

std::string span_text(std::int64_t seconds) {
  if (seconds == 0) return "0";
  if (seconds % 86'400 == 0) return fmt::format("{}d", seconds / 86'400);
  if (seconds % 3'600 == 0) return fmt::format("{}h", seconds / 3'600);
  return seconds % 60 == 0 ? fmt::format("{}m", seconds / 60) : fmt::format("{}s", seconds);
}

TextTable::TextTable(std::vector<std::string> head) { add(std::move(head)); }

void TextTable::add(std::vector<std::string> cells) {
  for (std::string& cell : cells) {
    cell = printable(cell);
    if (cell.size() > cell_width_max) cell = cell.substr(0, cell_width_max - 3) + "...";
  }
  rows_.push_back(std::move(cells));
}

std::string TextTable::text() const {
  std::vector<std::size_t> widths(rows_.front().size());
  for (const auto& row : rows_)
    for (std::size_t i = 0; i < row.size(); ++i) widths[i] = std::max(widths[i], row[i].size());
  std::string out;
  for (const auto& row : rows_) {
    for (std::size_t i = 0; i + 1 < row.size(); ++i) out += fmt::format("{:<{}}  ", row[i], widths[i]);
    out += row.back() + "\n";
  }
  return out;
}

bool coloured_output() { return ::isatty(STDOUT_FILENO) == 1 && !std::getenv("NO_COLOR"); }

}  // namespace postern::cli
