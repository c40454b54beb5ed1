#include "cli/learn.h"

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <fcntl.h>
#include <fmt/format.h>
#include <fstream>
#include <iostream>
#include <memory>
#include <nlohmann/json.hpp>
#include <vector>

#include "cli/doctor.h"
#include "cli/policy_file.h"
#include "cli/run.h"
#include "cli/state_directory.h"
#include "cli/steps.h"
#include "policy/pattern.h"

namespace postern::cli {

namespace {

using Json = nlohmann::ordered_json;

std::string text_of(const Json& record, const char* name) {
  const auto found = record.find(name);
  return found != record.end() && found->is_string() ? found->get<std::string>() : std::string();
}

std::uint16_t port_of(const Json& record) {
  const auto found = record.find("port");
  if (found == record.end() || !found->is_number_unsigned()) return 0;
  const auto port = found->get<std::uint64_t>();
  return port <= 65535 ? static_cast<std::uint16_t>(port) : std::uint16_t{0};
}

bool is_method(std::string_view text) {
  return !text.empty() &&
         std::ranges::all_of(text, [](char c) { return (c >= 'A' && c <= 'Z') || c == '-'; });
}

/// That very path and nothing else.
bool is_exact(const std::string& path) {
  const auto parsed = policy::parse_path_pattern(path);
  return parsed && parsed->form == policy::PathPattern::Form::exact;
}

struct Options {
  RunOptions run;
  std::string from, out, paths = "exact";
  std::vector<std::string> look_into;
  bool include_failed = false;
};

/// Everything is reachable that has a public address; these hosts are looked into, and get nothing.
std::string open_policy(const std::vector<std::string>& hosts) {
  Json rules = Json::array();
  if (!hosts.empty())
    rules.push_back({{"name", "looked into"}, {"match_hosts", hosts}, {"headers", Json::array()}});
  Json document = Json::object();
  document["access_control"]["allow_list"] = std::vector<std::string>{"*"};
  document["rules"] = std::move(rules);
  return document.dump();
}

/// A log of its own, in the state directory: no program is shown it.
class Notes {
 public:
  Notes() : path_(must(state_directory()) + "/learn-XXXXXX") {
    const Fd file(::mkostemp(path_.data(), O_CLOEXEC));
    if (file) return;
    complain(fmt::format("'{}' cannot be made: {}", path_, std::strerror(errno)));
    throw Stop{};
  }
  Notes(const Notes&) = delete;
  ~Notes() { ::unlink(path_.c_str()); }
  const std::string& path() const { return path_; }

 private:
  std::string path_;
};

void put_out(const Options& options, const Learnt& learnt) {
  const std::string text = fmt::format("# Learnt by `postern policy learn` from {} call{}.\n", learnt.calls(),
                                       learnt.calls() == 1 ? "" : "s") +
                           learnt.policy();
  if (options.out.empty()) {
    std::fputs(text.c_str(), stdout);
    return;
  }
  std::ofstream out(options.out, std::ios::binary | std::ios::trunc);
  out << text;
  out.close();
  if (out) return;
  complain(fmt::format("--out '{}' cannot be written", options.out));
  throw Stop{};
}

int learn(Options& options) {
  const LearntPaths paths = options.paths == "exact"    ? LearntPaths::exact
                            : options.paths == "prefix" ? LearntPaths::prefix
                                                        : LearntPaths::none;
  Learnt learnt(paths, options.include_failed);
  if (!options.from.empty()) {
    std::ifstream in(options.from, std::ios::binary);
    if (!in) {
      complain(fmt::format("--from '{}' cannot be read", options.from));
      throw Stop{};
    }
    learnt.add_all(in);
    put_out(options, learnt);
    return 0;
  }
  if (options.run.command.empty()) {
    complain("there is nothing to learn from: give a COMMAND, or --from LOG.jsonl");
    throw Stop{};
  }
  const Notes notes;
  options.run.policy_text = open_policy(options.look_into);
  options.run.log.log = notes.path();
  options.run.quiet = true;
  const int status = run(options.run);
  if (status == exit_postern_failed) return status;
  std::ifstream in(notes.path(), std::ios::binary);
  learnt.add_all(in);
  put_out(options, learnt);
  return status;
}

}  // namespace

void Learnt::add(const std::string& line) {
  const Json record = Json::parse(line, nullptr, false);
  if (!record.is_object() || text_of(record, "phase") == "begin") return;
  const std::string kind = text_of(record, "kind"), decision = text_of(record, "decision");
  if (kind != "http" && kind != "tls" && kind != "tcp") return;
  if (decision != "allowed" && !(decision == "failed" && include_failed_)) return;
  const std::string host = text_of(record, "host"), path = text_of(record, "path");
  const std::uint16_t port = port_of(record);
  if (host.empty() || port == 0) return;
  ++calls_;
  destinations_.emplace(host, port);
  // Addresses cannot stand in a rule.
  if (kind == "http" && !path.empty() && policy::parse_host_pattern(host))
    hosts_[host][pattern_of(path)].insert(text_of(record, "method"));
}

void Learnt::add_all(std::istream& lines) {
  for (std::string line; std::getline(lines, line);) add(line);
}

/// Empty: every path.
std::string Learnt::pattern_of(std::string_view path) const {
  if (paths_ == LearntPaths::none) return "";
  std::string text(path);
  const bool one_segment = text.find('/', 1) == std::string::npos;
  if ((paths_ == LearntPaths::exact || one_segment) && is_exact(text)) return text;
  // What cannot be written down exactly, for its length or a star in it, is named by what stands above it.
  while (true) {
    const std::size_t slash = text.rfind('/');
    if (slash == std::string::npos || slash == 0) return "";
    text.resize(slash);
    std::string below = text + "/*";
    const auto parsed = policy::parse_path_pattern(below);
    if (parsed && parsed->form == policy::PathPattern::Form::prefix && text.find('*') == std::string::npos)
      return below;
  }
}

std::string Learnt::policy() const {
  Json allowed = Json::array(), rules = Json::array();
  for (const auto& [host, port] : destinations_)
    allowed.push_back(host.find(':') == std::string::npos ? fmt::format("{}:{}", host, port)
                                                          : fmt::format("[{}]:{}", host, port));
  for (const auto& [host, patterns] : hosts_) {
    // One rule for the paths that have the same methods.
    std::map<Methods, std::vector<std::string>> by_methods;
    for (const auto& [pattern, methods] : patterns) by_methods[methods].push_back(pattern);
    std::size_t number = 0;
    for (const auto& [methods, paths] : by_methods) {
      Json rule{{"name", fmt::format("{} {}", host, ++number)},
                {"match_hosts", std::vector<std::string>{host}}};
      if (std::ranges::all_of(methods, is_method)) rule["match_methods"] = methods;
      if (std::ranges::find(paths, "") == paths.end()) rule["match_paths"] = paths;
      rules.push_back(std::move(rule));
    }
    rules.push_back({{"name", fmt::format("{}: nothing else", host)},
                     {"match_hosts", std::vector<std::string>{host}},
                     {"action", "deny"}});
  }
  Json document = Json::object();
  document["access_control"]["allow_list"] = std::move(allowed);
  if (!rules.empty()) document["rules"] = rules;
  return yaml_of(document.dump(-1, ' ', true, Json::error_handler_t::replace));
}

void add_policy_learn_command(CLI::App& policy, int& exit_code) {
  const auto options = std::make_shared<Options>();
  CLI::App* command = policy.add_subcommand(
      "learn", "Run a command with an open network, and print the policy that it needs");
  command->footer(
      "Examples:\n"
      "  postern policy learn --out policy.yaml -- npm install\n"
      "  postern policy learn --look-into api.example.com --paths prefix -- python3 agent.py\n"
      "  postern policy learn --from calls.jsonl\n"
      "Everything with a public address can be reached meanwhile, and nothing gets a credential. What comes\n"
      "out is what to begin with: read it before you use it. No server is asked.");
  command->add_option("--from", options->from, "Learn from a log, and run nothing")->type_name("LOG.jsonl");
  command->add_option("--out", options->out, "Write the policy there (default: standard output)")
      ->type_name("FILE");
  command
      ->add_option("--look-into", options->look_into,
                   "Decrypt this host's TLS, to learn its methods and paths too: a host, or *.example.com")
      ->type_name("HOST")
      ->allow_extra_args(false);
  command
      ->add_option("--paths", options->paths,
                   "How paths are learnt: each as it was, all beside it, or not at all (default: exact)")
      ->type_name("exact|prefix|none")
      ->transform(CLI::IsMember({"exact", "prefix", "none"}).description(""));
  command->add_flag("--include-failed", options->include_failed, "Learn from calls that failed, too");
  RunOptions& run = options->run;
  const auto list = [command](const char* name, std::vector<std::string>& into, const char* help,
                              const char* type) {
    command->add_option(name, into, help)->type_name(type)->allow_extra_args(false);
  };
  list("--allow-private", run.allow_private, "Open a private network to names that lead there", "CIDR");
  list("--resolve", run.resolve, "Where a name really is", "HOST=IP[:PORT]");
  list("--origin-ca", run.origin_ca, "Trust these certificates of origins too", "FILE");
  list("--env", run.env, "Set a variable, or pass one that looks like a credential", "NAME[=VALUE]");
  add_path_options(*command, run);
  command->add_option("COMMAND", run.command, "The command and its arguments")->type_name("");
  command->positionals_at_end();
  command->callback([options, &exit_code] {
    exit_code = unless_stopped(exit_postern_failed, [&] { return learn(*options); });
  });
}

}  // namespace postern::cli
