#include "cli/policy_command.h"

#include <CLI/CLI.hpp>
#include <fmt/format.h>
#include <iostream>
#include <memory>
#include <nlohmann/json.hpp>

#include "cli/check.h"
#include "cli/client_command.h"
#include "cli/learn.h"
#include "cli/policy_file.h"
#include "cli/steps.h"

namespace postern::cli {

namespace {

using Json = nlohmann::ordered_json;

struct Options {
  ServerOptions server;
  std::string name, file, target;
  std::string method = "GET";
  std::vector<std::string> operations;
  bool json = false, yaml = false;
};

std::string box_path(const std::string& name) { return fmt::format("{}/{}", boxes_path, url_escaped(name)); }

int apply(const Options& options) {
  const PolicyFile file = read_policy_file(options.file);
  credential::WipedString body;
  body.append("{\"proxy_config\":");
  body.append(file.json.view());
  body.append("}");
  auto client = ApiClient::open(options.server);
  if (!client) return exit_of(std::unexpected(std::move(client.error())));
  Asked<void> done;
  if (const auto answer = client->send(ApiClient::Method::patch, box_path(options.name), body.view());
      !answer)
    done = std::unexpected(answer.error());
  return exit_of_policy(done, file);
}

int show(const Options& options) {
  auto client = ApiClient::open(options.server);
  if (!client) return exit_of(std::unexpected(std::move(client.error())));
  const auto answer = client->get(box_path(options.name));
  const auto box = answer ? document_of(*answer) : std::unexpected(answer.error());
  if (!box) return exit_of(std::unexpected(box.error()));
  const Json policy =
      box->is_object() && box->contains("proxy_config") ? (*box)["proxy_config"] : Json::object();
  const std::string line = line_of(policy);
  fmt::print("{}", options.json ? line : yaml_of(line));
  return 0;
}

int check_file(const Options& options) {
  const PolicyFile file = read_policy_file(options.file);
  if (!options.target.empty()) {
    CheckOptions question;
    question.target = options.target;
    question.policy_file = options.file;
    question.method = options.method;
    question.operations = options.operations;
    question.default_egress = policy::DefaultEgress::everything;  // as a server's
    question.json = options.json;
    question.colour = coloured_output();
    return check(question, std::cout, std::cerr);
  }
  const auto count = [&file](const char* key) {
    const policy::Node* list = file.tree.find(key);
    return list ? list->items.size() : std::size_t{0};
  };
  fmt::print("{}: good ({} rules, {} callbacks)\n", printable(options.file), count("rules"),
             count("callbacks"));
  return 0;
}

}  // namespace

void add_policy_command(CLI::App& app, int& exit_code) {
  CLI::App* policy =
      app.add_subcommand("policy", "Show, check and change what a sandbox of a server may reach");
  policy->require_subcommand(1);
  policy->footer(std::string("Start with:\n"
                             "  postern policy show first > policy.yaml\n"
                             "  postern policy check policy.yaml https://api.openai.com/v1/models\n"
                             "  postern policy apply first policy.yaml\n"
                             "  postern policy learn --out policy.yaml -- npm install\n") +
                 client_exits_help + "\nHelp for a command: postern policy COMMAND --help");
  const auto options = std::make_shared<Options>();
  const auto add = [&](const char* name, const char* help, const char* footer, int (*act)(const Options&)) {
    CLI::App* command = policy->add_subcommand(name, help);
    command->footer(footer);
    command->callback([options, act, &exit_code] {
      exit_code = unless_stopped(static_cast<int>(ClientExit::usage), [&] { return act(*options); });
    });
    return command;
  };
  const auto add_name = [&options](CLI::App* command) {
    add_server_options(*command, options->server);
    command->add_option("NAME", options->name, "The sandbox, by name or id")->required()->type_name("");
  };
  const auto add_file = [&options](CLI::App* command) {
    command->add_option("FILE", options->file, "The policy (YAML or JSON), - for standard input")
        ->required()
        ->type_name("");
  };

  CLI::App* applies = add(
      "apply", "Put a policy in force, for the next request on",
      "Example:\n"
      "  postern policy apply first policy.yaml\n"
      "The whole policy is replaced. An opaque header whose value the file leaves out keeps the one that it\n"
      "has, unless its rule would send it to another host. Every mistake is named with its line, and then\n"
      "nothing has changed.",
      apply);
  add_name(applies);
  add_file(applies);
  CLI::App* shows = add("show", "The policy of a sandbox, without its opaque values",
                        "Examples:\n"
                        "  postern policy show first > policy.yaml\n"
                        "  postern policy show first --json | jq '.rules[].name'",
                        show);
  add_name(shows);
  auto* yaml = shows->add_flag("--yaml", options->yaml, "As YAML (the default)");
  shows->add_flag("--json", options->json, "As JSON, in one line")->excludes(yaml);
  CLI::App* checks = add(
      "check", "Whether a policy is good, and what it would do with a request",
      "Examples:\n"
      "  postern policy check policy.yaml\n"
      "  postern policy check policy.yaml https://api.openai.com/v1/models\n"
      "No server is asked. The exit status is 0 when it is good (with TARGET: allowed), 2 when it is not, 3 "
      "when\n"
      "TARGET would be denied, 4 when that depends on the operation in its body. `postern check` has more to "
      "say.",
      check_file);
  add_file(checks);
  checks->add_option("TARGET", options->target, "https://HOST/PATH, http://HOST/PATH, or HOST:PORT")
      ->type_name("");
  checks->add_option("--method,-X", options->method, "Method of the request (default GET)")
      ->type_name("METHOD");
  checks
      ->add_option("--operation", options->operations,
                   "What its body asks for, of GraphQL, JSON-RPC or MCP: 'mutation createIssue'")
      ->type_name("OPERATION")
      ->allow_extra_args(false);
  checks->add_flag("--json", options->json, "The verdict as JSON");
  add_policy_learn_command(*policy, exit_code);
}

}  // namespace postern::cli
