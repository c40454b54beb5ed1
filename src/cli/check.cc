#include "cli/check.h"

#include <CLI/CLI.hpp>
#include <filesystem>
#include <fmt/format.h>
#include <iostream>
#include <nlohmann/json.hpp>
#include <stdlib.h>
#include <unistd.h>
#include <variant>

#include "cli/run_options.h"
#include "cli/secret_sources.h"
#include "credential/injections.h"
#include "policy/decide.h"
#include "proxy/refusal.h"
#include "wire/host.h"
#include "wire/http1.h"
#include "wire/path.h"
#include "wire/presigned.h"

namespace postern::cli {

namespace {

using policy::Transport;

/// The question, read from the command line.
struct Question {
  Host host;
  std::uint16_t port = 0;
  Transport transport = Transport::tls;
  std::string path;  ///< Origin-form; empty when only a connection is asked about.
  std::vector<HeaderField> fields;
};

/// The answer, ready to be written.
struct Answer {
  Reason reason = Reason::internal;
  bool intercept = false;
  const policy::Rule* rule = nullptr;
  std::uint32_t rule_index = policy::no_rule;
  const policy::Callback* callback = nullptr;  ///< Who would be asked for credentials.
  std::string path;                            ///< As it would be sent.
  std::string detail;
};

std::unexpected<Error> usage(std::string message) {
  return fail(Reason::invalid_configuration, std::move(message));
}

/// Cuts `target` into scheme, authority and path; the parts are judged by the parsers of wire/.
Result<Question> read_target(std::string_view target) {
  Question question;
  std::string_view rest = target;
  bool request = true;
  if (rest.starts_with("https://")) {
    rest.remove_prefix(8);
  } else if (rest.starts_with("http://")) {
    rest.remove_prefix(7);
    question.transport = Transport::http;
  } else if (rest.find("://") != std::string_view::npos) {
    return usage(fmt::format(
        "'{}': only https:// and http:// have paths to judge; write HOST:PORT for other protocols", target));
  } else {
    request = false;
  }
  rest = rest.substr(0, rest.find('#'));
  const std::size_t end = std::min(rest.find_first_of("/?"), rest.size());
  const std::string_view authority_text = rest.substr(0, end);
  question.path = rest.substr(end);

  auto authority = wire::parse_authority(authority_text);
  if (!authority) return usage(fmt::format("'{}' names no host: {}", target, authority.error().detail));
  // A bare host, with or without a path, is what people type for HTTPS.
  if (!request && (!authority->port || !question.path.empty())) request = true;
  question.host = std::move(authority->host);
  question.port = authority->port.value_or(question.transport == Transport::http ? 80 : 443);
  if (question.port == 0) return usage(fmt::format("'{}': a port is 1 to 65535", target));
  if (!request) {
    question.transport = question.port == 443  ? Transport::tls
                         : question.port == 80 ? Transport::http
                                               : Transport::tcp;
    return question;
  }
  if (!question.path.starts_with('/')) question.path.insert(0, "/");
  if (!wire::is_request_target(question.path)) {
    return usage(
        fmt::format("'{}': write spaces, controls and non-ASCII characters of the path as %XX", target));
  }
  return question;
}

Result<void> read_fields(const CheckOptions& options, Question& question) {
  for (const std::string& header : options.headers) {
    const auto colon = header.find(':');
    const std::string_view name = std::string_view(header).substr(0, colon);
    if (colon == std::string::npos || !wire::is_field_name(name)) {
      return usage("--header takes 'name: value'");  // not quoted: it may be a credential
    }
    std::string_view value = std::string_view(header).substr(colon + 1);
    while (value.starts_with(' ') || value.starts_with('\t')) value.remove_prefix(1);
    while (value.ends_with(' ') || value.ends_with('\t')) value.remove_suffix(1);
    if (!wire::is_field_value(value))
      return usage(fmt::format("--header {}: the value holds control characters", name));
    question.fields.push_back({name, value});
  }
  return {};
}

Result<Question> read_question(const CheckOptions& options) {
  auto question = read_target(options.target);
  if (!question) return question;
  if (!wire::is_field_name(options.method)) return usage("--method takes a method such as GET");
  if (auto read = read_fields(options, *question); !read) return std::unexpected(read.error());
  return question;
}

Answer judge(const policy::Snapshot& snapshot, const Question& question, std::string_view method) {
  const auto destination =
      policy::judge_destination(snapshot, {question.host, question.port, question.transport});
  Answer answer{.reason = destination.reason, .intercept = destination.intercept};
  const bool seen = question.transport == Transport::http || destination.intercept;
  if (question.path.empty() || destination.reason != Reason::allowed || !seen) return answer;

  std::string scratch;
  const wire::CanonicalPath path = wire::canonical_path(question.path, scratch);
  if (destination.judges_paths && path.ambiguity != nullptr) {
    answer.reason = Reason::ambiguous_path;
    answer.detail = path.ambiguity;
    return answer;
  }
  const bool tls = question.transport == Transport::tls;
  const auto verdict =
      policy::decide(snapshot, {question.host, question.port, tls, method, path.path, question.fields});
  answer.reason = verdict.reason;
  answer.rule = verdict.rule;
  answer.rule_index = verdict.rule_index;
  if (verdict.callback_index != policy::no_rule)
    answer.callback = &snapshot.callbacks()[verdict.callback_index];
  answer.path = verdict.judges_paths ? std::string(path.path) + std::string(path.query) : question.path;
  return answer;
}

/// The sentence that the sandbox would read.
std::string sentence(const policy::Snapshot& snapshot, const Question& question, const Answer& answer) {
  const auto body = nlohmann::json::parse(
      proxy::refusal_body({.reason = answer.reason,
                           .host = question.host.name,
                           .port = question.port,
                           .rule = answer.rule != nullptr ? answer.rule->name : std::string_view(),
                           .detail = answer.detail,
                           .allowed = snapshot.allowed_hint()}),
      nullptr, /*allow_exceptions=*/false);
  const auto message =
      body.is_object() ? body.value("/error/message"_json_pointer, std::string()) : std::string();
  return message.empty() ? std::string(token(answer.reason)) : message;
}

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

std::string requested(const CheckOptions& options, const Question& question) {
  const std::string host = question.host.literal && !question.host.literal->is_v4()
                               ? "[" + question.host.name + "]"
                               : question.host.name;
  if (question.path.empty()) return fmt::format("{}:{}", host, question.port);
  const bool tls = question.transport == Transport::tls;
  const std::string port = question.port == (tls ? 443 : 80) ? "" : fmt::format(":{}", question.port);
  return fmt::format("{} {}://{}{}{}", options.method, tls ? "https" : "http", host, port, question.path);
}

std::string printable(const policy::Header& header) {
  // A template names its secrets and does not hold them. Plain text is shown nowhere else either: it may be
  // pasted.
  return header.type == policy::HeaderType::workspace_secret ? header.text
                                                             : fmt::format("({})", token(header.type));
}

/// Without the query, where tokens are put.
std::string printable(const wire::Url& url) {
  return url.origin() + url.target.substr(0, url.target.find('?'));
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
  const bool allowed = answer.reason == Reason::allowed;
  const auto paint = [&](std::string_view code, std::string_view text) {
    return options.colour ? fmt::format("\x1b[{}m{}\x1b[0m", code, text) : std::string(text);
  };
  const auto line = [&out](std::string_view label, std::string_view text) {
    out << fmt::format("  {:<12} {}\n", label, text);
  };

  out << paint(allowed ? "1;32" : "1;31", allowed ? "allowed" : "denied") << "  "
      << requested(options, question) << '\n';
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
  if (allowed && !question.path.empty() && !answer.path.empty() && answer.path != question.path)
    line("path sent", answer.path);
  if (!allowed || answer.rule == nullptr) return;
  if (wire::is_presigned(question.path) && !answer.rule->headers.empty())
    return line("sets", "nothing: the URL carries a signature of its own");
  if (const std::string credential = credential_of(answer.rule->provider); !credential.empty())
    line("credential", credential);
  for (const policy::Header& header : answer.rule->headers)
    line("sets", fmt::format("{}: {}", header.name, printable(header)));
}

void write_json(const CheckOptions& options, const policy::Snapshot& snapshot, const Question& question,
                const Answer& answer, std::ostream& out) {
  const bool allowed = answer.reason == Reason::allowed;
  nlohmann::ordered_json json = {{"decision", allowed ? "allowed" : "denied"},
                                 {"reason", token(answer.reason)},
                                 {"target", requested(options, question)},
                                 {"host", question.host.name},
                                 {"port", question.port},
                                 {"transport", question.transport == Transport::tcp   ? "tcp"
                                               : question.transport == Transport::tls ? "tls"
                                                                                      : "http"},
                                 {"intercept", answer.intercept}};
  if (!allowed) {
    json["message"] = sentence(snapshot, question, answer);
    json["status"] = http_status_of(answer.reason);
  }
  if (!answer.path.empty()) json["path"] = answer.path;
  if (answer.rule != nullptr) {
    json["rule"] = {
        {"name", answer.rule->name}, {"index", answer.rule_index}, {"line", answer.rule->at.line}};
    if (const auto type = policy::type_of(answer.rule->provider); !type.empty()) json["rule"]["type"] = type;
  }
  json["headers"] = nlohmann::ordered_json::array();
  if (allowed && answer.rule != nullptr && !wire::is_presigned(question.path)) {
    for (const policy::Header& header : answer.rule->headers) {
      nlohmann::ordered_json entry = {{"name", header.name}, {"type", token(header.type)}};
      if (header.type == policy::HeaderType::workspace_secret) entry["template"] = header.text;
      json["headers"].push_back(std::move(entry));
    }
  }
  if (allowed && answer.callback != nullptr) {
    json["callback"] = {{"url", printable(answer.callback->url)},
                        {"ttl_seconds", answer.callback->ttl.count()},
                        {"full_request", answer.callback->full_request},
                        {"line", answer.callback->at.line}};
  }
  out << json.dump(2, ' ', false, nlohmann::ordered_json::error_handler_t::replace) << '\n';
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
  const auto question = read_question(options);
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

  const Answer answer = judge(**snapshot, *question, options.method);
  if (options.json) {
    write_json(options, **snapshot, *question, answer, out);
  } else {
    write_text(options, **snapshot, *question, answer, out);
  }
  return answer.reason == Reason::allowed ? check_allowed : check_denied;
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
      "Exit status: 0 allowed, 3 denied, 2 the command line or the policy cannot be used.\n"
      "Secrets are never shown; they are only needed to see whether one is missing.");
  const auto list = [command](const char* name, std::vector<std::string>& into, const char* help,
                              const char* type) {
    command->add_option(name, into, help)->type_name(type)->allow_extra_args(false);
  };
  command->add_option("--policy", options->policy_file, "Policy document (YAML or JSON)")->type_name("FILE");
  command->add_option("--method,-X", options->method, "Request method (default GET)")->type_name("METHOD");
  list("--header,-H", options->headers, "A header that the sandbox sends", "'NAME: VALUE'");
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
