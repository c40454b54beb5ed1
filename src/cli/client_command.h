#pragma once
// What the commands that speak to a server have in common: their options, their end, answers as documents,
// and tables.

#include <chrono>
#include <memory>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "cli/api_client.h"

namespace CLI {
class App;
}

namespace postern::cli {

inline constexpr std::string_view boxes_path = "/api/v2/sandboxes/boxes";
inline constexpr std::string_view secrets_path = "/api/v1/workspaces/current/secrets";

/// --url and --api-key-file.
void add_server_options(CLI::App& command, ServerOptions& options);

/// Complains about what failed, one line for each mistake, and makes it an exit code.
int exit_of(const Asked<void>& done);

/// An answer's JSON. An Error for what is none, and for what nests as no answer of ours does.
Asked<nlohmann::ordered_json> document_of(const std::string& body);

// Members of an answer, whatever it holds; empty or 0 for what has another type.
std::string text_of(const nlohmann::ordered_json& document, const char* key);
std::int64_t number_of(const nlohmann::ordered_json& document, const char* key);

/// As programs read it, in ASCII: no terminal obeys it.
std::string line_of(const nlohmann::ordered_json& document);

/// "90s", "15m", "1h", "2d"; "0".
std::optional<std::chrono::seconds> parse_span(std::string_view text);
/// The other way round, in the largest unit that says it.
std::string span_text(std::int64_t seconds);

/// Columns for people. What cells hold cannot speak to the terminal.
class TextTable {
 public:
  explicit TextTable(std::vector<std::string> head);
  void add(std::vector<std::string> cells);
  std::string text() const;

 private:
  std::vector<std::vector<std::string>> rows_;
};

/// Standard output is a terminal that may be coloured.
bool coloured_output();

}  // namespace postern::cli
