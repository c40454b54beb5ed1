#include "cli/sandbox.h"

#include <CLI/CLI.hpp>
#include <algorithm>
#include <csignal>
#include <cstdlib>
#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "cli/client_command.h"
#include "cli/copy.h"
#include "cli/exec.h"
#include "cli/log.h"
#include "cli/policy_file.h"
#include "cli/steps.h"

namespace postern::cli {

namespace {

using Json = nlohmann::ordered_json;
using Method = ApiClient::Method;
using Pairs = std::vector<std::pair<std::string, std::string>>;

struct Options {
  ServerOptions server;
  std::string name;
  std::vector<std::string> names;
  bool json = false;
};

std::string box_path(const std::string& name, std::string_view end = {}) {
  return fmt::format("{}/{}{}", boxes_path, url_escaped(name), end);
}

/// Runs `act` with a client, and makes what became of it an exit code.
template <class Act>
int with_client(const ServerOptions& server, Act act) {
  auto client = ApiClient::open(server);
  if (!client) return exit_of(std::unexpected(std::move(client.error())));
  return exit_of(act(*client));
}

/// KEY=VALUE, or where that has a meaning KEY alone, whose value is the environment's.
Asked<Pairs> read_pairs(const std::vector<std::string>& words, const char* option, bool from_environment) {
  Pairs pairs;
  for (const std::string& word : words) {
    const auto equals = word.find('=');
    const std::string key = word.substr(0, equals);
    const char* const value = from_environment ? std::getenv(key.c_str()) : nullptr;
    if (key.empty() || (equals == std::string::npos && !from_environment))
      return misused(fmt::format("{} '{}' is not KEY=VALUE", option, printable(key)));
    if (equals == std::string::npos && !value)
      return misused(fmt::format("{} {}: there is no such variable here", option, printable(key)));
    pairs.emplace_back(key, equals == std::string::npos ? value : word.substr(equals + 1));
  }
  return pairs;
}

// create

struct CreateOptions : Options {
  std::string policy_file, snapshot, idle_ttl;
  std::vector<std::string> env, labels;
};

Asked<Json> settings_of(const CreateOptions& options) {
  Json body = {{"wait_for_ready", true}};
  if (!options.name.empty()) body["name"] = options.name;
  if (!options.snapshot.empty()) body["snapshot"] = options.snapshot;
  if (!options.idle_ttl.empty()) {
    const auto span = parse_span(options.idle_ttl);
    if (!span) return misused("--idle-ttl must be like 90s, 10m, 1h, 2d, or 0 for never");
    body["idle_ttl_seconds"] = span->count();
  }
  const auto add = [&body](const char* key, const Asked<Pairs>& pairs) {
    if (!pairs->empty()) body[key] = Json::object();
    for (const auto& [name, value] : *pairs) body[key][name] = value;
  };
  const auto variables = read_pairs(options.env, "--env", true);
  if (!variables) return std::unexpected(variables.error());
  const auto labels = read_pairs(options.labels, "--label", false);
  if (!labels) return std::unexpected(labels.error());
  add("env_vars", variables);
  add("labels", labels);
  return body;
}

int create(const CreateOptions& options) {
  const auto settings = settings_of(options);
  if (!settings) return exit_of(std::unexpected(settings.error()));
  const auto policy = options.policy_file.empty() ? std::optional<PolicyFile>()
                                                  : std::optional(read_policy_file(options.policy_file));
  credential::WipedString body;
  std::string text = settings->dump(-1, ' ', false, Json::error_handler_t::replace);
  text.pop_back();
  body.append(text);
  if (policy) {
    body.append(",\"proxy_config\":");
    body.append(policy->json.view());
  }
  body.append("}");
  Asked<void> done;
  auto client = ApiClient::open(options.server);
  if (!client) return exit_of(std::unexpected(std::move(client.error())));
  const auto answer = client->send(Method::post, std::string(boxes_path), body.view());
  const auto box = answer ? document_of(*answer) : std::unexpected(answer.error());
  if (!box) done = std::unexpected(box.error());
  if (done && options.json) fmt::print("{}", line_of(*box));
  if (done && !options.json) fmt::print("{}\n", printable(text_of(*box, "name")));  // A script can take it.
  return policy ? exit_of_policy(done, *policy) : exit_of(done);
}

// list

struct ListOptions : Options {
  std::string status, contains;
  std::vector<std::string> labels;
  std::size_t limit = 1000;
};

std::string labels_of(const Json& box) {
  std::string out;
  const auto found = box.is_object() ? box.find("labels") : box.end();
  if (!box.is_object() || found == box.end() || !found->is_object()) return out;
  for (const auto& [key, value] : found->items())
    out += fmt::format("{}{}={}", out.empty() ? "" : ",", key,
                       value.is_string() ? value.get<std::string>() : "");
  return out;
}

std::string idle_of(const Json& box) {
  const auto seconds = number_of(box, "idle_ttl_seconds");
  return seconds == 0 ? "never" : span_text(seconds);
}

/// Page by page, as many as are wanted.
template <class Each>
Asked<void> each_box(ApiClient& client, const ListOptions& options, Each each) {
  std::string query = fmt::format("?page_size={}", std::min<std::size_t>(options.limit, 100));
  if (!options.status.empty()) query += "&status=" + url_escaped(options.status);
  if (!options.contains.empty()) query += "&name_contains=" + url_escaped(options.contains);
  for (const std::string& label : options.labels) query += "&label=" + url_escaped(label);
  std::string cursor;
  for (std::size_t told = 0; told < options.limit;) {
    const auto answer = client.get(std::string(boxes_path) + query + cursor);
    const auto page = answer ? document_of(*answer) : std::unexpected(answer.error());
    if (!page) return std::unexpected(page.error());
    if (!page->is_object() || !page->contains("items") || !(*page)["items"].is_array())
      return refused("the server's answer is no list of sandboxes");
    const Json& items = (*page)["items"];
    for (const Json& box : items)
      if (told < options.limit) each(box), ++told;
    const std::string next = text_of(*page, "next_cursor");
    if (next.empty() || items.empty()) break;
    cursor = "&cursor=" + url_escaped(next);
  }
  return {};
}

Asked<void> list(ApiClient& client, const ListOptions& options) {
  if (options.json) return each_box(client, options, [](const Json& box) { fmt::print("{}", line_of(box)); });
  TextTable table({"NAME", "STATUS", "CREATED", "IDLE", "LABELS"});
  auto done = each_box(client, options, [&table](const Json& box) {
    table.add({text_of(box, "name"), text_of(box, "status"), text_of(box, "created_at").substr(0, 19),
               idle_of(box), labels_of(box)});
  });
  if (done) fmt::print("{}", table.text());
  return done;
}

// show

Asked<void> show(ApiClient& client, const Options& options) {
  const auto answer = client.get(box_path(options.name));
  const auto box = answer ? document_of(*answer) : std::unexpected(answer.error());
  if (!box) return std::unexpected(box.error());
  if (options.json) {
    fmt::print("{}", line_of(*box));
    return {};
  }
  const auto line = [](const char* label, const std::string& text) {
    if (!text.empty()) fmt::print("{:<10} {}\n", label, printable(text));
  };
  line("name", text_of(*box, "name"));
  line("id", text_of(*box, "id"));
  line("status", text_of(*box, "status"));
  line("", text_of(*box, "status_message"));
  line("created", text_of(*box, "created_at"));
  line("stopped", text_of(*box, "stopped_at"));
  line("idle", idle_of(*box));
  line("labels", labels_of(*box));
  line("snapshot", text_of(*box, "snapshot_id"));
  line("url", text_of(*box, "dataplane_url"));
  const auto policy = box->is_object() ? box->find("proxy_config") : box->end();
  if (!box->is_object() || policy == box->end()) return {};
  fmt::print("policy\n");
  const std::string yaml = yaml_of(policy->dump(-1, ' ', true, Json::error_handler_t::replace));
  for (std::size_t at = 0; at < yaml.size();) {
    const auto end = yaml.find('\n', at);
    fmt::print("  {}\n", yaml.substr(at, end - at));
    at = end + 1;
  }
  return {};
}

// start, stop, rm

/// Each of them, whatever becomes of the others.
template <class Act>
int each_name(const Options& options, Act act) {
  auto client = ApiClient::open(options.server);
  if (!client) return exit_of(std::unexpected(std::move(client.error())));
  int exit = 0;
  for (const std::string& name : options.names) {
    const auto answer = act(*client, name);
    if (answer) continue;
    ClientFailure failure = answer.error();
    failure.sentence = fmt::format("{}: {}", printable(name), failure.sentence);
    exit = exit_of(std::unexpected(std::move(failure)));
    if (exit == static_cast<int>(ClientExit::unreachable)) break;
  }
  return exit;
}

// The command line

class Builder {
 public:
  Builder(CLI::App& parent, int& exit_code) : parent_(parent), exit_code_(exit_code) {}

  template <class O>
  CLI::App* add(const char* name, const char* help, const char* examples, const std::shared_ptr<O>& options,
                std::function<int(const O&)> act) {
    CLI::App* command = parent_.add_subcommand(name, help);
    command->footer(fmt::format("Examples:\n{}", examples));
    add_server_options(*command, options->server);
    command->callback([options, act = std::move(act), &exit = exit_code_] {
      // A Stop is of a file that was named.
      exit = unless_stopped(static_cast<int>(ClientExit::usage), [&] { return act(*options); });
    });
    return command;
  }

 private:
  CLI::App& parent_;
  int& exit_code_;
};

CLI::Option* add_list(CLI::App* command, const char* name, std::vector<std::string>& into, const char* help,
                      const char* type) {
  return command->add_option(name, into, help)->type_name(type)->allow_extra_args(false);
}

void add_create(Builder& builder) {
  const auto options = std::make_shared<CreateOptions>();
  CLI::App* command = builder.add<CreateOptions>(
      "create", "Make a sandbox, and say its name",
      "  postern sandbox create first --policy examples/openai.yaml --label team=a\n"
      "  box=$(postern sandbox create --idle-ttl 1h --env MODE=test)\n"
      "Opaque values of the policy are sent to the server, which never shows them again.\n",
      options, create);
  command->add_option("NAME", options->name, "Its name (default: one that the server makes)")->type_name("");
  command->add_option("--policy", options->policy_file, "What it may reach (YAML or JSON; docs/policy.md)")
      ->type_name("FILE");
  add_list(command, "--env", options->env, "A variable of its commands; without =VALUE as it is here",
           "KEY[=VALUE]");
  add_list(command, "--label", options->labels, "For lists to be narrowed by", "KEY=VALUE");
  command->add_option("--snapshot", options->snapshot, "What it begins as, by name or id")->type_name("NAME");
  command
      ->add_option("--idle-ttl", options->idle_ttl,
                   "Stopped after so long without a request: 10m, 1h; 0 never (default: 10m)")
      ->type_name("TIME");
  command->add_flag("--json", options->json, "The sandbox as the API has it");
}

void add_list_command(Builder& builder) {
  const auto options = std::make_shared<ListOptions>();
  CLI::App* command = builder.add<ListOptions>(
      "list", "The sandboxes of the workspace, the newest first",
      "  postern sandbox list --status ready --label team=a\n"
      "  postern sandbox list --json | jq -r .name\n",
      options, [](const ListOptions& given) {
        return with_client(given.server, [&](ApiClient& client) { return list(client, given); });
      });
  command->add_option("--status", options->status, "provisioning, ready, failed, stopped or deleting")
      ->type_name("STATUS");
  command->add_option("--contains", options->contains, "In the name")->type_name("TEXT");
  add_list(command, "--label", options->labels, "With this label", "KEY[=VALUE]");
  command->add_option("--limit", options->limit, "How many at most (default: 1000)")->type_name("COUNT");
  command->add_flag("--json", options->json, "One JSON object per line");
}

void add_exec(Builder& builder) {
  struct Words : ExecOptions {
    std::vector<std::string> env;
    std::string time;
  };
  const auto options = std::make_shared<Words>();
  CLI::App* command = builder.add<Words>(
      "exec", "Run a command in a sandbox, as if it ran here",
      "  postern sandbox exec first -- python3 hello.py\n"
      "  tar c src | postern sandbox exec first --cwd /srv -- tar x\n"
      "  postern sandbox exec -t first -- bash\n"
      "Standard input is the command's where it is no terminal (or with -t). A Ctrl-C kills the command, and "
      "so\n"
      "does the end of this one; with -t the command gets the Ctrl-C, and three Ctrl-] end it.\n"
      "The exit status is the command's (128+N after signal N), 124 after --timeout, and 125 when it could "
      "not\n"
      "be run: no server, no sandbox, no such program.\n",
      options, [](const Words& given) {
        ExecOptions run = given;
        const auto fail = [](std::string_view why) {
          complain(std::string(why));
          return exec_failed;
        };
        const auto variables = read_pairs(given.env, "--env", true);
        if (!variables) return fail(variables.error().sentence);
        run.environment = *variables;
        const auto time = parse_span(given.time.empty() ? "0" : given.time);
        if (!time) return fail("--timeout must be like 90s, 10m, 1h");
        run.timeout = *time;
        return exec(run);
      });
  command->add_option("NAME", options->sandbox, "The sandbox, by name or id")->required()->type_name("");
  command->add_option("COMMAND", options->command, "The command and its arguments")
      ->required()
      ->type_name("");
  command->add_option("--cwd", options->directory, "Where it starts (default: /home/user)")->type_name("DIR");
  add_list(command, "--env", options->env, "A variable; without =VALUE as it is here", "KEY[=VALUE]");
  command->add_option("--timeout", options->time, "Killed after so long: 90s, 10m")->type_name("TIME");
  command->add_flag("-t,--terminal", options->terminal, "With a terminal, for people");
}

void add_others(Builder& builder) {
  const auto showing = std::make_shared<Options>();
  CLI::App* shows = builder.add<Options>(
      "show", "Everything about one sandbox, with its policy",
      "  postern sandbox show first\n"
      "  postern sandbox show first --json | jq .proxy_config\n",
      showing, [](const Options& given) {
        return with_client(given.server, [&](ApiClient& client) { return show(client, given); });
      });
  shows->add_option("NAME", showing->name, "The sandbox, by name or id")->required()->type_name("");
  shows->add_flag("--json", showing->json, "As the API has it");

  const auto add_each = [&builder](const char* name, const char* help, const char* examples, Method method,
                                   const char* end) {
    const auto options = std::make_shared<Options>();
    builder
        .add<Options>(name, help, examples, options,
                      [method, end](const Options& given) {
                        return each_name(given, [&](ApiClient& client, const std::string& one) {
                          return client.send(method, box_path(one, end));
                        });
                      })
        ->add_option("NAME", options->names, "Sandboxes, by name or id")
        ->required()
        ->type_name("");
  };
  add_each("start", "Start sandboxes that were stopped; a request for one does so too",
           "  postern sandbox start first\n", Method::post, "/start");
  add_each("stop", "Stop sandboxes: their commands end, their files stay",
           "  postern sandbox stop first second\n", Method::post, "/stop");
  add_each("rm", "Delete sandboxes with their files",
           "  postern sandbox rm first\n"
           "  postern sandbox list --label team=a --json | jq -r .name | xargs postern sandbox rm --\n",
           Method::remove, "");

  struct CopyOptions : Options {
    std::string from, to;
  };
  const auto copying = std::make_shared<CopyOptions>();
  CLI::App* copies = builder.add<CopyOptions>(
      "cp", "Copy a file into a sandbox, or out of it",
      "  postern sandbox cp data.csv first:data.csv\n"
      "  postern sandbox cp first:/var/log/result.txt .\n"
      "  postern sandbox cp first:data.csv - | head\n"
      "A relative path in the sandbox begins at /home/user. What has a '/' before its ':' is a file here.\n",
      copying, [](const CopyOptions& given) {
        std::signal(SIGPIPE, SIG_IGN);
        return exit_of(copy(given.server, given.from, given.to));
      });
  copies->add_option("SRC", copying->from, "FILE, - for standard input, or NAME:PATH")
      ->required()
      ->type_name("");
  copies->add_option("DST", copying->to, "NAME:PATH, or FILE, a directory, - for standard output")
      ->required()
      ->type_name("");
}

}  // namespace

void add_sandbox_command(CLI::App& app, int& exit_code) {
  CLI::App* sandbox = app.add_subcommand("sandbox", "Make, use and delete the sandboxes of a server");
  sandbox->require_subcommand(1);
  sandbox->footer(
      std::string("Start with:\n"
                  "  export POSTERN_API_KEY=postern_...     # or --api-key-file FILE\n"
                  "  postern sandbox create first --policy examples/openai.yaml\n"
                  "  postern sandbox exec first -- curl -sS https://api.openai.com/v1/models\n"
                  "  postern sandbox rm first\n"
                  "The server is --url, POSTERN_URL, LANGSMITH_ENDPOINT, or http://127.0.0.1:8080.\n") +
      client_exits_help + "\nHelp for a command: postern sandbox COMMAND --help");
  Builder builder(*sandbox, exit_code);
  add_create(builder);
  add_list_command(builder);
  add_exec(builder);
  add_others(builder);
  add_logs_command(*sandbox, exit_code);
}

}  // namespace postern::cli
