#include "cli/check.h"

#include <CLI/CLI.hpp>
#include <filesystem>
#include <fmt/format.h>
#include <iostream>
#include <stdlib.h>
#include <unistd.h>
#include <variant>

#include "cli/run_options.h"
#include "cli/secret_sources.h"
#include "credential/injections.h"
#include "proxy/explain.h"
#include "wire/presigned.h"

namespace postern::cli {

namespace {

using policy::Transport;
using proxy::Question;
using Answer = proxy::Explanation;
using proxy::printable;
using proxy::requested;
using proxy::sentence;

std::string_view name_of(Transport transport) {
  switch (transport) {
    case Transport::tcp: return "TCP";
    case Transport::tls: return "TLS";
    case Transport::http: return "HTTP";
  }
  return "TCP";
}

std::string_view treatment(const Question& question, const Answer& answer) {
  if (question.transport == Transport::http) return "plain text, every request is judged";
  if (answer.intercept) return "decrypted, every request is judged";
  return "passed through untouched";
}

std::string printable(const policy::Header& header) {
  // A template names its secrets and does not hold them. Plain text is shown nowhere else either: it may be
  // pasted.
  return header.type == policy::HeaderType::workspace_secret ? header.text
                                                             : fmt::format("({})", token(header.type));
}

/// What a rule with a type puts on requests; empty for a rule of headers.
std::string credential_of(const policy::Provider& provider) {
  struct Say {
    std::string operator()(const std::monostate&) const { return {}; }
    std::string operator()(const policy::AwsAuth& aws) const {
      return aws.role ? fmt::format("aws: signed anew (SigV4) as {}", aws.role->arn)
                      : "aws: signed anew (SigV4)";
    }
    std::string operator()(const policy::GcpAuth& gcp) const {
      return fmt::format("gcp: an access token of {}, in Authorization",
                         gcp.federation ? "the workload identity" : "the service account");
    }
    std::string operator()(const policy::AzureAuth& azure) const {
      if (azure.federation) return "azure: an access token of the workload identity, in Authorization";
      return azure.account_key ? "azure: signed anew (Shared Key)"
                               : "azure: the shared access signature, in the URL";
    }
    std::string operator()(const policy::Oauth2Auth& oauth2) const {
      return fmt::format("oauth2: an access token from {}, in Authorization", printable(oauth2.token_url));
    }
    std::string operator()(const policy::GithubAppAuth&) const {
      return "github_app: an access token of the installation, in Authorization";
    }
  };
  return std::visit(Say{}, provider);
}

void write_text(const CheckOptions& options, const policy::Snapshot& snapshot, const Question& question,
                const Answer& answer, std::ostream& out) {
  const bool allowed = answer.allowed();
  const auto paint = [&](std::string_view code, std::string_view text) {
    return options.colour ? fmt::format("\x1b[{}m{}\x1b[0m", code, text) : std::string(text);
  };
  const auto line = [&out](std::string_view label, std::string_view text) {
    out << fmt::format("  {:<12} {}\n", label, text);
  };

  if (answer.wants_operations) {
    out << paint("1;33", "depends") << "  " << requested(question) << '\n';
    return line("message", sentence(snapshot, question, answer) + " with --operation");
  }
  out << paint(allowed ? "1;32" : "1;31", allowed ? "allowed" : "denied") << "  " << requested(question)
      << '\n';
  line("reason", token(answer.reason));
  if (!allowed) {
    line("message", sentence(snapshot, question, answer));
    line("status", std::to_string(http_status_of(answer.reason)));
  }
  line("destination",
       fmt::format("{} port {} ({})", question.host.name, question.port, name_of(question.transport)));
  if (allowed) line("connection", treatment(question, answer));
  if (answer.rule != nullptr) {
    line("rule", fmt::format("{} (number {} of {}{})", answer.rule->name, answer.rule_index + 1,
                             snapshot.rules().size(),
                             answer.rule->at.line > 0
                                 ? fmt::format(", {}:{}", options.policy_file, answer.rule->at.line)
                                 : ""));
  } else if (allowed && question.transport != Transport::tcp) {
    line("rule", answer.intercept && question.path.empty() ? "told when a request is known"
                 : answer.callback != nullptr              ? "none"
                                                           : "none: no header is set");
  }
  if (allowed && answer.callback != nullptr) line("callback", printable(answer.callback->url));
  if (answer.rewrite)
    line("sent to", sent_to(answer));
  else if (allowed && !question.path.empty() && !answer.path.empty() && answer.path != question.path)
    line("path sent", answer.path);
  if (allowed && answer.rule)
    for (const std::string& clause : proxy::treatment_of(*answer.rule)) line("rule does", clause);
  if (allowed && snapshot.limits()) line("sandbox", proxy::described(*snapshot.limits()));
  if (!allowed || answer.credentials == nullptr) return;
  if (answer.credentials != answer.rule) line("rule there", answer.credentials->name);
  if (wire::is_presigned(answer.path) && !answer.credentials->headers.empty())
    return line("sets", "nothing: the URL carries a signature of its own");
  if (const std::string credential = credential_of(answer.credentials->provider); !credential.empty())
    line("credential", credential);
  for (const policy::Header& header : answer.credentials->headers)
    line("sets", fmt::format("{}: {}", header.name, printable(header)));
}

}  // namespace

int check(const CheckOptions& options, std::ostream& out, std::ostream& err) {
  const auto unusable = [&err](std::string_view message) {
    err << "postern check: " << message << '\n';
    return check_unusable;
  };
  const auto problems = [&](const std::vector<policy::Problem>& found) {
    err << policy::describe(found, options.policy_file.empty() ? "command line" : options.policy_file);
    return check_unusable;
  };
  std::error_code ignored;
  if (options.policy_file.empty() && std::filesystem::is_regular_file(options.target, ignored))
    return unusable(
        fmt::format("'{0}' is a file. The policy is named by --policy, and TARGET is what a "
                    "sandbox would ask for: postern check --policy {0} https://HOST/PATH",
                    options.target));
  const auto question =
      proxy::read_question(options.target, options.method, options.headers, options.operations);
  if (!question) return unusable(question.error().detail);
  auto networks = parse_networks(options.allow_private);
  if (!networks) return unusable(networks.error().detail);

  std::expected<policy::Document, std::vector<policy::Problem>> document;
  if (!options.policy_file.empty()) document = policy::load_document(options.policy_file);
  if (!document) return problems(document.error());
  for (const auto& warning : document->warnings)
    err << "warning: " << policy::describe(warning, options.policy_file) << '\n';
  const auto snapshot = policy::compile(std::move(*document), {.allow = options.allow,
                                                               .deny = options.deny,
                                                               .default_egress = options.default_egress,
                                                               .allow_private = std::move(*networks)});
  if (!snapshot) return problems(snapshot.error());

  if (!options.secrets.empty() || !options.secret_files.empty()) {
    SecretSources sources({.secrets = options.secrets,
                           .secret_files = options.secret_files,
                           .policy_file = options.policy_file,
                           .policy = *snapshot,
                           .overrides = {},
                           .origin_ca = {}});
    const auto secrets = sources.read();
    if (!secrets) return unusable(secrets.error().detail);
    if (const auto resolved = credential::resolve(**snapshot, *secrets); !resolved)
      return problems(resolved.error());
  }

  const Answer answer = proxy::explain(**snapshot, *question);
  if (options.json) {
    out << proxy::explanation_json(**snapshot, *question, answer) << '\n';
  } else {
    write_text(options, **snapshot, *question, answer, out);
  }
  if (answer.wants_operations) return check_depends;
  return answer.allowed() ? check_allowed : check_denied;
}

void add_check_command(CLI::App& app, int& exit_code) {
  auto options = std::make_shared<CheckOptions>();
  CLI::App* command =
      app.add_subcommand("check", "Say what a policy would do with a request, without sending it");
  command->footer(
      "Examples:\n"
      "  postern check --policy examples/openai.yaml https://api.openai.com/v1/models\n"
      "  postern check --policy examples/github.yaml --method DELETE "
      "https://api.github.com/repos/acme/widgets\n"
      "  postern check --policy examples/database.yaml db.example.com:5432\n"
      "  postern check --policy examples/openai.yaml --secrets secrets.env --json api.openai.com\n"
      "Exit status: 0 allowed, 3 denied, 4 it depends on the operation in the body and no --operation was "
      "given,\n"
      "2 the command line or the policy cannot be used.\n"
      "Secrets are never shown; they are only needed to see whether one is missing.");
  const auto list = [command](const char* name, std::vector<std::string>& into, const char* help,
                              const char* type) {
    command->add_option(name, into, help)->type_name(type)->allow_extra_args(false);
  };
  command->add_option("--policy", options->policy_file, "Policy document (YAML or JSON)")->type_name("FILE");
  command->add_option("--method,-X", options->method, "Request method (default GET)")->type_name("METHOD");
  list("--header,-H", options->headers, "A header that the sandbox sends", "'NAME: VALUE'");
  list("--operation", options->operations,
       "What the body asks for, of GraphQL, JSON-RPC or MCP: 'mutation createIssue', 'tools/call search'",
       "OPERATION");
  list("--secret", options->secrets,
       "A secret for the policy's {KEY}; without =VALUE from Postern's environment", "KEY[=VALUE]");
  list("--secrets", options->secret_files, "Secrets as KEY=VALUE lines", "FILE.env");
  list("--allow", options->allow, "Reachable besides the policy, as in 'postern run'", "PATTERN");
  list("--deny", options->deny, "Never reachable; wins over everything", "PATTERN");
  list("--allow-private", options->allow_private, "Open a private network", "CIDR");
  command
      ->add_option("--without-access-control", options->default_egress,
                   "What a policy without access_control may reach: 'rules' (the hosts of its rules, as in "
                   "'postern run'; the default) "
                   "or 'everything'")
      ->transform(
          CLI::CheckedTransformer(
              std::map<std::string, policy::DefaultEgress>{{"rules", policy::DefaultEgress::hosts_of_rules},
                                                           {"everything", policy::DefaultEgress::everything}},
              CLI::ignore_case)
              .description(""))
      ->type_name("rules|everything");
  command->add_flag("--json", options->json, "The verdict as JSON");
  command->add_option("TARGET", options->target, "https://HOST/PATH, http://HOST/PATH, or HOST:PORT")
      ->required()
      ->type_name("");
  command->callback([options, &exit_code] {
    options->colour = ::isatty(STDOUT_FILENO) == 1 && ::getenv("NO_COLOR") == nullptr;
    exit_code = check(*options, std::cout, std::cerr);
    std::cout.flush();
  });
}

}  // namespace postern::cli
