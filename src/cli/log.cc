#include "cli/log.h"

#include <CLI/CLI.hpp>
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <fmt/format.h>
#include <fmt/ranges.h>
#include <map>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <vector>

#include "audit/record.h"
#include "cli/api_client.h"
#include "cli/client_command.h"
#include "cli/log_verify.h"
#include "cli/steps.h"

namespace postern::cli {

namespace {

using Json = nlohmann::json;

struct LogOptions {
  ServerOptions server;
  std::string sandbox, host, since, rule, reason;
  std::size_t limit = 100;
  bool denied = false, follow = false, json = false;
};

/// "90s", "15m", "1h", "2d" ago, or a time as the API takes it.
std::optional<std::string> since_text(const std::string& said) {
  if (said.find('T') != std::string::npos) return said;
  const auto span = parse_span(said);
  if (!span) return std::nullopt;
  return audit::time_text(std::chrono::system_clock::now() - *span);
}

std::string query_of(const LogOptions& options) {
  std::string query;
  const auto add = [&query](std::string_view name, std::string_view value) {
    if (!value.empty()) query += fmt::format("{}{}={}", query.empty() ? "?" : "&", name, url_escaped(value));
  };
  add("sandbox", options.sandbox);
  add("host", options.host);
  add("since", options.since);
  add("rule", options.rule);
  add("reason", options.reason);
  if (options.denied) add("decision", "denied");
  if (options.follow) add("follow", "true");
  return query;
}

/// What sandboxes chose must not speak to the terminal.
std::string text(const Json& record, const char* key) {
  const auto found = record.find(key);
  return found != record.end() && found->is_string() ? printable(found->get_ref<const std::string&>()) : "";
}

/// 0 when there is none.
std::uint64_t count(const Json& record, const char* key) {
  const auto found = record.find(key);
  return found != record.end() && found->is_number_unsigned() ? found->get<std::uint64_t>() : 0;
}

/// `each(item)` for the objects of a list.
template <class Each>
void each_in(const Json& record, const char* key, Each each) {
  const auto found = record.find(key);
  if (found == record.end() || !found->is_array()) return;
  for (const Json& item : *found)
    if (item.is_object()) each(item);
}

/// "workspace_secret:TOKEN v3", "oauth2:login.example cached": where there is more to say than the rule does.
std::string note_of_credential(const Json& credential) {
  std::string note;
  if (const auto version = count(credential, "version"); version > 0) note += fmt::format(" v{}", version);
  if (credential.value("cached", Json(false)) == Json(true)) note += " cached";
  return note.empty() ? note : text(credential, "source") + note;
}

class Table {
 public:
  explicit Table(std::map<std::string, std::string> names)
      : names_(std::move(names)), colours_(coloured_output()) {}

  void print(const std::string& line) const {
    const Json record = Json::parse(line, nullptr, false);
    if (!record.is_object()) return;
    const std::string sandbox = text(record, "sandbox"), decision = text(record, "decision");
    const auto name = names_.find(sandbox);
    std::string what = text(record, "method");
    if (what.empty()) what = text(record, "kind");
    const auto number = [&record](const char* key) {
      const auto found = record.find(key);
      return found != record.end() && found->is_number() ? found->get<double>() : 0.0;
    };
    std::string where = text(record, "host");
    const int port = static_cast<int>(number("port"));
    if (port != 443 && port != 80) where += fmt::format(":{}", port);
    where += text(record, "path");
    if (const std::string operation = text(record, "operation"); !operation.empty())
      where += fmt::format(" ({})", operation);
    if (const std::string other = text(record, "rewritten_to"); !other.empty()) where += " -> " + other;
    std::string end = text(record, "rule");
    if (decision != "allowed") end = text(record, "reason");
    if (const std::string notes = notes_of(line); !notes.empty()) end += "  " + notes;
    const int status = static_cast<int>(number("status"));
    fmt::print("{}  {:<16.16}  {}  {:<7}  {}  {:>3}  {:>8.1f} ms  {}\n", text(record, "time").substr(0, 19),
               printable(name == names_.end() ? sandbox : name->second), paint(decision), what, where,
               status ? std::to_string(status) : "-", number("duration_ms"), end);
  }

 private:
  std::string paint(const std::string& decision) const {
    const std::string padded = fmt::format("{:<7}", decision);
    if (!colours_ || decision == "allowed") return padded;
    return fmt::format("\033[{}m{}\033[0m", decision == "denied" ? 33 : 31, padded);
  }

  const std::map<std::string, std::string> names_;
  const bool colours_;
};

/// By id. Those that are gone are shown by theirs.
std::map<std::string, std::string> box_names(ApiClient& client) {
  std::map<std::string, std::string> names;
  const auto answer = client.get("/api/v2/sandboxes/boxes?limit=500");
  const Json document = answer ? Json::parse(*answer, nullptr, false) : Json();
  if (!document.is_object() || !document.contains("items")) return names;
  for (const Json& box : document["items"])
    if (box.is_object()) names[box.value("id", "")] = box.value("name", "");
  return names;
}

constexpr const char* log_path = "/api/v2/sandboxes/network-log";

/// The last so many, the oldest first, as they happened.
Asked<std::vector<std::string>> last_lines(ApiClient& client, const LogOptions& options) {
  std::vector<std::string> lines;
  std::string cursor;
  const std::string query = query_of(options);
  while (lines.size() < options.limit) {
    std::string path = fmt::format("{}{}{}limit={}", log_path, query, query.empty() ? "?" : "&",
                                   std::min<std::size_t>(options.limit - lines.size(), 500));
    if (!cursor.empty()) path += "&cursor=" + url_escaped(cursor);
    const auto answer = client.get(path);
    if (!answer) return std::unexpected(answer.error());
    const auto page = nlohmann::ordered_json::parse(*answer, nullptr, false);
    if (!page.is_object() || !page.contains("items")) return refused("the server's answer is no log");
    for (const auto& item : page["items"]) lines.push_back(item.dump(-1, ' ', true));
    const auto next = page.find("next_cursor");
    if (next == page.end() || !next->is_string()) break;
    cursor = next->get<std::string>();
  }
  std::ranges::reverse(lines);
  return lines;
}

Asked<void> show(LogOptions options) {
  if (!options.since.empty()) {
    auto since = since_text(options.since);
    if (!since) return misused("--since must be like 90s, 15m, 1h, 2d or 2026-01-31T12:00:00Z");
    options.since = std::move(*since);
  }
  auto client = ApiClient::open(options.server);
  if (!client) return std::unexpected(std::move(client.error()));
  const Table table(options.json ? std::map<std::string, std::string>{} : box_names(*client));
  const auto print = [&](const std::string& line) {
    if (options.json)
      fmt::print("{}\n", line);
    else
      table.print(line);
  };
  if (!options.follow) {
    const auto lines = last_lines(*client, options);
    if (!lines) return std::unexpected(lines.error());
    for (const std::string& line : *lines) print(line);
    return {};
  }
  return client->follow(log_path + query_of(options), [&](std::string_view name, std::string_view data) {
    if (name == "gap")
      complain("some records were removed before they could be read");
    else
      print(std::string(data));
    std::fflush(stdout);
  });
}

void add_options(CLI::App& command, const std::shared_ptr<LogOptions>& options, int& exit_code) {
  add_server_options(command, options->server);
  command.add_flag("--denied", options->denied, "Only what was denied");
  command.add_option("--host", options->host, "A host, or *.example.com")->type_name("HOST");
  command.add_option("--rule", options->rule, "Only what this rule decided")->type_name("NAME");
  command.add_option("--reason", options->reason, "Only this reason (docs/refusals.md)")->type_name("REASON");
  command.add_option("--since", options->since, "90s, 15m, 1h, 2d, or 2026-01-31T12:00:00Z")
      ->type_name("TIME");
  command.add_option("--limit", options->limit, "How many at most, without --follow (default: 100)")
      ->check(CLI::Range(std::size_t{1}, std::size_t{100'000}))
      ->type_name("COUNT");
  command.add_flag("-f,--follow", options->follow, "Go on with what happens next");
  command.add_flag("--json", options->json, "One JSON object per line, as docs/log.md has it");
  command.callback([&command, options, &exit_code] {
    if (command.get_subcommands().empty()) exit_code = exit_of(show(*options));
  });
}

}  // namespace

std::string notes_of(const std::string& line) {
  const Json record = Json::parse(line, nullptr, false);
  std::vector<std::string> notes;
  if (!record.is_object()) return {};
  if (const std::string limit = text(record, "limit"); !limit.empty()) notes.push_back("limit " + limit);
  std::string taken_out;
  each_in(record, "redactions", [&](const Json& redaction) {
    taken_out += fmt::format("{} {} x{}", taken_out.empty() ? "" : ",", text(redaction, "detector"),
                             count(redaction, "count"));
  });
  if (!taken_out.empty())
    notes.push_back((text(record, "decision") == "allowed" ? "redacted" : "found") + taken_out);
  if (const auto scrubbed = count(record, "scrubbed"); scrubbed > 0)
    notes.push_back(fmt::format("scrubbed x{}", scrubbed));
  each_in(record, "credentials", [&](const Json& credential) {
    if (std::string note = note_of_credential(credential); !note.empty()) notes.push_back(std::move(note));
  });
  return notes.empty() ? std::string() : fmt::format("[{}]", fmt::join(notes, "; "));
}

void add_log_command(CLI::App& app, int& exit_code) {
  const auto options = std::make_shared<LogOptions>();
  CLI::App* command =
      app.add_subcommand("log", "What the sandboxes of a server reached, and what was denied");
  command->footer(std::string("The API key is taken from --api-key-file, else from POSTERN_API_KEY or "
                              "LANGSMITH_API_KEY; never from the command line. Examples:\n"
                              "  postern log --denied --since 1h\n"
                              "  postern log --sandbox build-7 --follow\n"
                              "  postern log --host '*.example.com' --json | jq .path\n"
                              "  postern log verify calls.jsonl\n") +
                  client_exits_help);
  command->add_option("--sandbox", options->sandbox, "Of one sandbox, by name or id")->type_name("NAME");
  add_options(*command, options, exit_code);
  add_log_verify_command(*command, exit_code);
}

void add_logs_command(CLI::App& sandbox, int& exit_code) {
  const auto options = std::make_shared<LogOptions>();
  CLI::App* command = sandbox.add_subcommand("logs", "What a sandbox reached, and what was denied");
  command->footer(
      "Examples:\n"
      "  postern sandbox logs first --denied --since 1h\n"
      "  postern sandbox logs first --follow");
  command->add_option("NAME", options->sandbox, "The sandbox, by name or id")->required()->type_name("");
  add_options(*command, options, exit_code);
}

}  // namespace postern::cli
