#include "api/execute_request.h"

#include <cmath>
#include <fmt/format.h>
#include <limits>
#include <nlohmann/json.hpp>
#include <optional>

#include "control/errors.h"

namespace postern::api {

namespace {

using nlohmann::json;

constexpr std::size_t command_id_bytes_max = 128;
constexpr std::size_t search_bytes_max = 4096;                // PATH_MAX
constexpr std::int64_t seconds_max = 10LL * 365 * 24 * 3600;  // so that a TimePoint can hold it
constexpr std::chrono::seconds default_timeout_once{60};      // as the SDKs'
constexpr const char* default_shell = "/bin/bash";

std::unexpected<Refusal> invalid(std::string field, std::string message) {
  return std::unexpected(Refusal{std::move(field), std::move(message), Refusal::Kind::invalid});
}

std::expected<json, Refusal> parse_object(std::string_view document) {
  json parsed = json::parse(document, nullptr, false);
  if (parsed.is_discarded()) return std::unexpected(Refusal{{}, "The body is not JSON.", Refusal::Kind::bad});
  if (!parsed.is_object()) return invalid({}, "This should be an object.");
  return parsed;
}

/// nullptr: it is not there, or null.
const json* member(const json& object, const char* name) {
  const auto found = object.find(name);
  return found == object.end() || found->is_null() ? nullptr : &*found;
}

bool has_nul(std::string_view text) { return text.find('\0') != std::string_view::npos; }

/// Reads members of one object, and keeps the first thing that is wrong.
class Reader {
 public:
  Reader(const json& object, std::string prefix) : object_(object), prefix_(std::move(prefix)) {}

  const std::optional<Refusal>& refusal() const { return refusal_; }

  void refuse(std::string_view field, std::string message) {
    if (!refusal_)
      refusal_ = Refusal{prefix_ + std::string(field), std::move(message), Refusal::Kind::invalid};
  }
  std::optional<std::string> text(const char* name) {
    const json* const value = member(object_, name);
    if (value == nullptr) return std::nullopt;
    if (!value->is_string()) return refuse(name, "This should be a string."), std::nullopt;
    std::string out = value->get<std::string>();
    if (has_nul(out)) return refuse(name, "This holds a NUL."), std::nullopt;
    return out;
  }
  bool flag(const char* name) {
    const json* const value = member(object_, name);
    if (value == nullptr) return false;
    if (!value->is_boolean()) return refuse(name, "This should be true or false."), false;
    return value->get<bool>();
  }
  std::optional<std::chrono::seconds> seconds(const char* name, std::int64_t least) {
    const auto number = integer(name, least, seconds_max);
    if (!number) return std::nullopt;
    return std::chrono::seconds(*number);
  }
  std::optional<std::int64_t> integer(const char* name, std::int64_t least, std::int64_t most) {
    const json* const value = member(object_, name);
    if (value == nullptr) return std::nullopt;
    const bool whole = value->is_number_integer();
    if (!whole && !(value->is_number_float() && std::trunc(value->get<double>()) == value->get<double>()))
      return refuse(name, "This should be a whole number."), std::nullopt;
    const double size = value->get<double>();
    if (!(size >= static_cast<double>(least) && size <= static_cast<double>(most)))
      return refuse(name, fmt::format("This should be from {} to {}.", least, most)), std::nullopt;
    return whole ? value->get<std::int64_t>() : static_cast<std::int64_t>(size);
  }
  std::vector<std::pair<std::string, std::string>> variables(const char* name) {
    std::vector<std::pair<std::string, std::string>> out;
    const json* const value = member(object_, name);
    if (value == nullptr) return out;
    if (!value->is_object()) return refuse(name, "This should be an object."), out;
    for (const auto& [key, text] : value->items()) {
      if (key.empty() || has_nul(key) || key.find('=') != std::string::npos)
        return refuse(name, "A variable's name is empty, or holds '=' or a NUL."), out;
      if (!text.is_string() || has_nul(text.get_ref<const std::string&>()))
        return refuse(name, "A variable's value should be a string without NUL."), out;
      out.emplace_back(key, text.get<std::string>());
    }
    return out;
  }
  std::vector<std::string> command(const std::string& shell) {
    const json* const value = member(object_, "command");
    if (value == nullptr) return refuse("command", "This is required."), std::vector<std::string>();
    if (value->is_string()) {
      auto script = text("command");
      if (script && script->empty()) refuse("command", "This is empty.");
      return {shell, "-c", std::move(script).value_or(std::string())};
    }
    std::vector<std::string> words;
    if (value->is_array())
      for (const json& word : *value) {
        if (!word.is_string() || has_nul(word.get_ref<const std::string&>()))
          return refuse("command", "Each word should be a string without NUL."), words;
        words.push_back(word.get<std::string>());
      }
    if (words.empty() || words.front().empty())
      refuse("command", "This should be a string, or a list of strings that begins with a program.");
    return words;
  }

 private:
  const json& object_;
  const std::string prefix_;
  std::optional<Refusal> refusal_;
};

/// Only what a command may say for itself; the rest of a run_config is for boxes.
std::optional<Refusal> read_run_config(const json& object, ExecuteRequest& request) {
  const json* const config = member(object, "run_config");
  if (config == nullptr) return std::nullopt;
  if (!config->is_object()) return Refusal{"run_config", "This should be an object.", Refusal::Kind::invalid};
  if (member(object, "env") != nullptr || member(object, "cwd") != nullptr)
    return Refusal{"run_config", "run_config goes with neither env nor cwd.", Refusal::Kind::bad};
  Reader read(*config, "run_config.");
  request.environment = read.variables("env_vars");
  request.options.request.directory = read.text("work_dir").value_or(std::string());
  if (!read.text("user").value_or(std::string()).empty())
    read.refuse("user", "Commands run as the user of the sandbox.");
  return read.refusal();
}

std::string read_command_id(Reader& read) {
  std::string id = read.text("command_id").value_or(std::string());
  if (id.size() > command_id_bytes_max) read.refuse("command_id", "This is too long.");
  return id;
}

std::expected<ExecuteRequest, Refusal> read_execute(const json& object, Form form) {
  ExecuteRequest out;
  Reader read(object, {});
  box::CommandOptions& options = out.options;
  std::string shell = read.text("shell").value_or(std::string());
  if (shell.empty()) shell = default_shell;
  options.request.arguments = read.command(shell);
  out.environment = read.variables("env");
  options.request.directory = read.text("cwd").value_or(std::string());
  options.timeout = form == Form::once ? default_timeout_once : std::chrono::seconds(0);
  if (const auto timeout = read.seconds("timeout", 0); timeout && form == Form::once)
    options.timeout = *timeout;
  if (const auto timeout = read.seconds("timeout_seconds", 0)) options.timeout = *timeout;
  if (form != Form::once) {
    out.command_id = read_command_id(read);
    options.idle_timeout = read.seconds("idle_timeout_seconds", -1).value_or(options.idle_timeout);
    options.keep = read.seconds("ttl_seconds", -1).value_or(options.keep);
  }
  if (form == Form::socket) {
    options.kill_without_viewer = read.flag("kill_on_disconnect");
    options.request.terminal = read.flag("pty");
    options.request.has_input = !read.flag("close_stdin");
    out.binary = read.flag("binary");
  }
  if (read.refusal()) return std::unexpected(*read.refusal());
  if (auto refusal = read_run_config(object, out)) return std::unexpected(std::move(*refusal));
  if (box::encode(options.request).size() > box::frame_bytes_max / 2)
    return invalid("command", "This is longer than a program may be given. Upload it as a file.");
  return out;
}

std::expected<ReconnectRequest, Refusal> read_reconnect(const json& object) {
  ReconnectRequest out;
  Reader read(object, {});
  out.command_id = read_command_id(read);
  if (out.command_id.empty()) read.refuse("command_id", "This is required.");
  constexpr std::int64_t most = std::numeric_limits<std::int64_t>::max() / 2;
  out.output_offset = static_cast<std::uint64_t>(read.integer("stdout_offset", 0, most).value_or(0));
  out.error_offset = static_cast<std::uint64_t>(read.integer("stderr_offset", 0, most).value_or(0));
  if (read.refusal()) return std::unexpected(*read.refusal());
  return out;
}

}  // namespace

control::Response to_response(const Refusal& refusal) {
  if (refusal.kind == Refusal::Kind::bad) return control::to_response(control::bad_request(refusal.message));
  return control::validation_response(refusal.field, refusal.message);
}

std::expected<ExecuteRequest, Refusal> parse_execute(std::string_view document, Form form) {
  const auto object = parse_object(document);
  if (!object) return std::unexpected(object.error());
  return read_execute(*object, form);
}

std::expected<ReconnectRequest, Refusal> parse_reconnect(std::string_view document) {
  const auto object = parse_object(document);
  if (!object) return std::unexpected(object.error());
  return read_reconnect(*object);
}

std::expected<Opening, Refusal> parse_opening(std::string_view frame) {
  const auto object = parse_object(frame);
  if (!object) return std::unexpected(object.error());
  Reader read(*object, {});
  const std::string type = read.text("type").value_or(std::string());
  if (type == "execute") return read_execute(*object, Form::socket);
  if (type == "reconnect") return read_reconnect(*object);
  return invalid("type", "The first frame should be \"execute\" or \"reconnect\".");
}

std::expected<Order, Refusal> parse_order(std::string_view frame) {
  const auto object = parse_object(frame);
  if (!object) return std::unexpected(object.error());
  Reader read(*object, {});
  const std::string type = read.text("type").value_or(std::string());
  if (type == "kill") return Order{Order::Kind::kill, {}};
  if (type == "close_stdin") return Order{Order::Kind::close_input, {}};
  if (type == "resize") {
    const auto rows = read.integer("rows", 1, 10'000), columns = read.integer("columns", 1, 10'000);
    if (!rows || !columns) read.refuse("rows", "A terminal has rows and columns.");
    if (read.refusal()) return std::unexpected(*read.refusal());
    return Order{
        Order::Kind::resize, {}, static_cast<std::uint16_t>(*rows), static_cast<std::uint16_t>(*columns)};
  }
  if (type != "input") return Order{};
  // A terminal's input may well hold a NUL.
  const json* const data = member(*object, "data");
  if (data == nullptr || !data->is_string()) return invalid("data", "This should be a string.");
  return Order{Order::Kind::input, data->get<std::string>()};
}

std::expected<SearchRequest, Refusal> parse_search(std::string_view document, std::int64_t default_limit,
                                                   std::int64_t limit_max) {
  const auto object = parse_object(document);
  if (!object) return std::unexpected(object.error());
  SearchRequest out;
  Reader read(*object, {});
  out.pattern = read.text("pattern").value_or(std::string());
  if (out.pattern.empty()) read.refuse("pattern", "This is required.");
  out.path = read.text("path").value_or(std::string());
  out.glob = read.text("glob").value_or(std::string());
  if (out.pattern.size() > search_bytes_max) read.refuse("pattern", "This is too long.");
  if (out.path.size() > search_bytes_max) read.refuse("path", "This is too long.");
  if (out.glob.size() > search_bytes_max) read.refuse("glob", "This is too long.");
  out.limit = static_cast<std::uint64_t>(read.integer("limit", 1, limit_max).value_or(default_limit));
  if (read.refusal()) return std::unexpected(*read.refusal());
  return out;
}

std::string path_in(const box::OpenBox& box, std::string_view path) {
  if (path.starts_with('/')) return std::string(path);
  return fmt::format("{}{}{}", box.home, box.home.ends_with('/') ? "" : "/", path);
}

namespace {

void set_variable(std::vector<std::string>& environment, const std::string& name, const std::string& value) {
  const std::string start = name + "=";
  std::erase_if(environment, [&](const std::string& entry) { return entry.starts_with(start); });
  environment.push_back(start + value);
}

bool has_variable(const std::vector<std::string>& environment, std::string_view start) {
  return std::ranges::any_of(environment, [&](const std::string& entry) { return entry.starts_with(start); });
}

}  // namespace

box::CommandOptions settle(ExecuteRequest request, const box::OpenBox& box) {
  box::RunRequest& run = request.options.request;
  run.environment = box.environment;
  for (const auto& [name, value] : request.environment) set_variable(run.environment, name, value);
  if (run.terminal && !has_variable(run.environment, "TERM="))
    run.environment.push_back("TERM=xterm-256color");
  run.directory = run.directory.empty() ? box.home : path_in(box, run.directory);
  return std::move(request.options);
}

}  // namespace postern::api
