#include <CLI/CLI.hpp>
#include <algorithm>
#include <cstdio>
#include <cstring>
#include <fcntl.h>
#include <fmt/format.h>
#include <fmt/ranges.h>
#include <memory>
#include <string>
#include <string_view>
#include <unistd.h>
#include <vector>

#include "cli/backup.h"
#include "cli/check.h"
#include "cli/doctor.h"
#include "cli/key.h"
#include "cli/log.h"
#include "cli/policy_command.h"
#include "cli/run.h"
#include "cli/sandbox.h"
#include "cli/secret_command.h"
#include "cli/serve.h"
#include "cli/state_directory.h"

namespace {

constexpr int usage_status = 2;  // of every command that runs no other, whose 1 and 2 belong to that

/// `postern log` does something by itself, too.
bool needs_command(const CLI::App& app) { return app.get_require_subcommand_min() > 0; }

/// The program is called by its name wherever it lies, and usage is shown as people type it.
class Help final : public CLI::Formatter {
 public:
  std::string make_usage(const CLI::App* app, std::string) const override {
    if (app->get_parent() == nullptr) return "Usage: postern COMMAND [OPTIONS]\n";
    std::string name = app->get_name();
    for (const CLI::App* above = app->get_parent(); above->get_parent(); above = above->get_parent())
      name = above->get_name() + " " + name;
    std::string usage = "Usage: postern " + name;
    const bool has_commands = !app->get_subcommands([](const CLI::App*) { return true; }).empty();
    if (has_commands)
      return usage + (needs_command(*app) ? " COMMAND [OPTIONS]\n" : " [COMMAND] [OPTIONS]\n");
    const auto options = app->get_options([](const CLI::Option* option) { return option->nonpositional(); });
    if (options.size() > 1) usage += " [OPTIONS]";  // one is --help
    for (const CLI::Option* positional :
         app->get_options([](const CLI::Option* option) { return option->get_positional(); }))
      usage += positional_text(*positional);
    return usage + "\n";
  }

 private:
  static std::string positional_text(const CLI::Option& option) {
    const std::string name = option.get_name();
    if (name == "COMMAND") return " -- COMMAND [ARG...]";
    if (!option.get_required()) return fmt::format(" [{}]", name);
    return option.get_expected_max() > 1 ? fmt::format(" {}...", name) : " " + name;
  }
};

std::string what_is_no_command(const std::string& word) {
  if (word.empty()) return "a command is required";
  return fmt::format("'{}' is not {}", word.substr(0, word.find('=')),
                     word.starts_with('-') ? "an option before a command" : "a command");
}

/// `postern run` and `postern sandbox exec`, whose other exit statuses are those of what they run.
bool runs_a_command(const std::vector<std::string>& words) {
  return !words.empty() &&
         (words[0] == "run" || (words.size() > 1 && words[0] == "sandbox" && words[1] == "exec"));
}

/// What is wrong with the command line, in a sentence. Values stay unsaid: they may be secrets.
std::string describe_usage_error(const CLI::App& app, const CLI::ParseError& error,
                                 const std::vector<std::string>& words) {
  const CLI::App* command = &app;
  std::string name = "postern";
  for (std::size_t depth = 0;; ++depth) {
    const auto commands = command->get_subcommands([](const CLI::App*) { return true; });
    if (commands.empty()) break;
    const std::string word = depth < words.size() ? words[depth] : "";
    const auto named = std::ranges::find(commands, word, [](const CLI::App* one) { return one->get_name(); });
    if (named == commands.end() && !needs_command(*command)) break;
    if (named == commands.end()) {
      std::vector<std::string> names;
      names.reserve(commands.size());
      for (const CLI::App* one : commands) names.push_back(one->get_name());
      return fmt::format("{0}: {1} (accepted: {2})\nHelp: {0} --help\n", name, what_is_no_command(word),
                         fmt::join(names, ", "));
    }
    command = *named;
    name += " " + word;
  }
  std::string what = error.what();
  if (dynamic_cast<const CLI::ExtrasError*>(&error) != nullptr) {
    const auto extras = app.remaining(true);
    const auto option = std::ranges::find_if(
        extras, [](const std::string& word) { return word.size() > 1 && word[0] == '-' && word != "--"; });
    what = option != extras.end()
               ? fmt::format("there is no option '{}'", option->substr(0, option->find('=')))
               : "there are more arguments than expected";
  }
  return fmt::format("{0}: {1}\nHelp: {0} --help\n", name, what);
}

/// The value of `--secret KEY=VALUE`, and that of a header, must not stay in /proc/PID/cmdline, which every
/// user may read.
void wipe_secret_arguments(int count, char** arguments) {
  for (int i = 1; i < count; ++i) {
    if (std::strcmp(arguments[i], "--") == 0) return;
    char* value = nullptr;
    for (const std::string_view option : {"--secret", "--log-otlp-header"}) {
      const std::string_view word = arguments[i];
      if (word.starts_with(option) && word.substr(option.size()).starts_with('='))
        value = std::strchr(arguments[i] + option.size() + 1, '=');
      if (i > 1 && arguments[i - 1] == option) value = std::strchr(arguments[i], '=');
    }
    if (value) std::memset(value + 1, 'x', std::strlen(value + 1));
  }
}

void add_run(CLI::App& app, postern::cli::RunOptions& options) {
  CLI::App* run = app.add_subcommand("run", "Run a command whose whole network is Postern");
  run->footer(
      "Without a policy nothing is reachable but what --allow names. Examples:\n"
      "  postern run --policy examples/openai.yaml --secret OPENAI_API_KEY -- python3 agent.py\n"
      "  postern run --allow pypi.example.com --allow files.example.com -- pip install requests\n"
      "  postern run --allow '*' --deny '*.ads.example' --log - -- npm test\n"
      "The exit status is the command's (128+N after signal N); 125 means that Postern itself failed.\n"
      "docs/run.md explains every option, docs/policy.md the policy file.");
  run->add_option("--policy", options.policy_file, "Policy document (YAML or JSON)")->type_name("FILE");
  run->add_option("--secret", options.secrets,
                  "A secret for the policy's {KEY}: without =VALUE from Postern's environment; file:PATH, "
                  "cmd:COMMAND and vault:PATH#FIELD say where it is kept")
      ->type_name("KEY[=VALUE]")
      ->allow_extra_args(false);
  run->add_option("--secrets", options.secret_files, "Secrets as KEY=VALUE lines")
      ->type_name("FILE.env")
      ->allow_extra_args(false);
  run->add_option_function<unsigned>(
         "--vault-interval",
         [&options](unsigned seconds) { options.vault_interval = std::chrono::seconds(seconds); },
         "How often secrets in Vault are looked at again (default: 30)")
      ->type_name("SECONDS")
      ->check(CLI::Range(1u, 86400u).description(""));
  run->add_option("--allow", options.allow,
                  "Reachable besides the policy: host, host:port, *.example.com, *, ~regex, CIDR")
      ->type_name("PATTERN")
      ->allow_extra_args(false);
  run->add_option("--deny", options.deny, "Never reachable; wins over everything")
      ->type_name("PATTERN")
      ->allow_extra_args(false);
  run->add_option("--allow-private", options.allow_private, "Open a private network to names that lead there")
      ->type_name("CIDR")
      ->allow_extra_args(false);
  run->add_option("--resolve", options.resolve, "Where a name really is")
      ->type_name("HOST=IP[:PORT]")
      ->allow_extra_args(false);
  run->add_option("--origin-ca", options.origin_ca, "Trust these certificates of origins too")
      ->type_name("FILE")
      ->allow_extra_args(false);
  run->add_option(
         "--callback-jwks", options.callback_jwks,
         "Serve the keys that callbacks and clouds verify our tokens with, at /.well-known/jwks.json")
      ->type_name("ADDRESS:PORT");
  run->add_option(
         "--callback-issuer", options.callback_issuer,
         "Who asks callbacks and clouds, when the keys are published elsewhere (default: the address above)")
      ->type_name("URL");
  run->add_option("--log", options.log.log, "One JSON line per call; - is standard output")
      ->type_name("FILE|-");
  run->add_option("--log-otlp", options.otlp.url, "Tell a collector of OpenTelemetry, too")->type_name("URL");
  run->add_option("--log-otlp-header", options.otlp.headers,
                  "A header for it; NAME=env:VARIABLE and NAME=file:PATH say where its value is")
      ->type_name("NAME=VALUE")
      ->allow_extra_args(false);
  run->add_flag("--log-chain", options.log.chain,
                "Make the log tamper-evident: `postern log verify` finds what was changed");
  run->add_flag("--log-strict", options.log.strict, "No credential leaves before a record of it is on disk");
  run->add_option("--log-rotate-bytes", options.log.rotate_bytes,
                  "Begin another file when the log has as many; looked at when Postern starts")
      ->type_name("BYTES")
      ->check(CLI::Range(postern::cli::log_rotate_bytes_min, std::uint64_t{1} << 50).description(""));
  run->add_option("--log-rotate-keep", options.log.rotate_keep,
                  "How many earlier files are kept (default: 5)")
      ->type_name("COUNT")
      ->check(CLI::Range(std::uint64_t{1}, postern::cli::log_rotate_keep_max).description(""));
  run->add_option("--env", options.env, "Set a variable, or pass one that looks like a credential")
      ->type_name("NAME[=VALUE]")
      ->allow_extra_args(false);
  postern::cli::add_path_options(*run, options);
  run->add_flag("-q,--quiet", options.quiet, "No summary at the end");
  run->add_flag("-v,--verbose", options.verbose, "Every host in the summary");
  run->add_option("COMMAND", options.command, "The command and its arguments")->required()->type_name("");
  run->positionals_at_end();
}

}  // namespace

/// Whoever started us may have closed them; then the next file opened would be taken for one of them.
void open_standard_descriptors() {
  for (int fd : {STDIN_FILENO, STDOUT_FILENO, STDERR_FILENO})
    if (::fcntl(fd, F_GETFD) < 0) (void)::open("/dev/null", O_RDWR);  // The lowest free one is fd.
}

int main(int argc, char** argv) {
  open_standard_descriptors();
  CLI::App app{"Postern: the guarded door through which sandboxed programs reach the network."};
  app.formatter(std::make_shared<Help>());
  app.set_version_flag("--version", "postern " POSTERN_VERSION);
  app.require_subcommand(1);
  app.footer(
      "Start with:\n"
      "  postern doctor                     what this machine lacks, and the command that mends it\n"
      "  postern run --allow example.com -- curl https://example.com/\n"
      "  postern serve                      sandboxes for others, behind an API\n"
      "Help for a command: postern COMMAND --help");
  postern::cli::RunOptions options;
  options.version = POSTERN_VERSION;
  int exit_code = 0;
  add_run(app, options);
  postern::cli::add_check_command(app, exit_code);
  postern::cli::add_serve_command(app, exit_code, POSTERN_VERSION);
  postern::cli::add_sandbox_command(app, exit_code);
  postern::cli::add_policy_command(app, exit_code);
  postern::cli::add_secret_command(app, exit_code);
  postern::cli::add_log_command(app, exit_code);
  postern::cli::add_key_command(app, exit_code);
  postern::cli::add_backup_commands(app, exit_code);
  CLI::App* doctor = app.add_subcommand("doctor", "Check this machine, and say how to mend what is missing");
  CLI::App* version = app.add_subcommand("version", "Print the version");
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    if (error.get_exit_code() == 0) return app.exit(error);  // --help, --version
    const std::vector<std::string> words(argv + 1, argv + argc);
    std::fputs(words.empty() ? app.help().c_str() : describe_usage_error(app, error, words).c_str(), stderr);
    return runs_a_command(words) ? postern::cli::exit_postern_failed : usage_status;
  }
  wipe_secret_arguments(argc, argv);
  if (app.got_subcommand("run")) return postern::cli::run(options);
  if (app.got_subcommand(doctor)) {
    const auto state = postern::cli::state_directory();
    if (!state) std::fprintf(stderr, "postern: %s\n", state.error().detail.c_str());
    return state ? postern::cli::doctor(stdout, *state) : 1;
  }
  if (app.got_subcommand(version)) std::printf("postern %s\n", POSTERN_VERSION);
  return exit_code;
}
