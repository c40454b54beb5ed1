#include "cli/log_verify.h"

#include <CLI/CLI.hpp>
#include <algorithm>
#include <charconv>
#include <filesystem>
#include <fmt/format.h>
#include <fstream>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "audit/chain.h"
#include "cli/api_client.h"
#include "cli/client_command.h"
#include "cli/state_directory.h"
#include "cli/steps.h"
#include "credential/log_signature.h"

namespace postern::cli {

namespace {

constexpr std::size_t line_bytes_max = 4 * 1024 * 1024;  // above any line that is written
constexpr std::size_t key_bytes_max = 64 * 1024;
constexpr int wrong_exit = 1, usage_exit = 2;

struct Options {
  std::vector<std::string> files;
  std::string key;
  bool without_key = false, part = false;
};

/// Where keys of chains are, and how far they were signed.
std::vector<std::string> chain_directories(const Options& options) {
  if (!options.key.empty()) return {std::filesystem::path(options.key).parent_path().string()};
  const auto state = state_directory();
  if (!state) return {};
  return {*state + "/log-chain", *state + "/server/log-chain"};
}

std::optional<std::string> read_small_file(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  if (!in) return std::nullopt;
  std::string text(key_bytes_max, '\0');
  in.read(text.data(), static_cast<std::streamsize>(text.size()));
  text.resize(static_cast<std::size_t>(in.gcount()));
  return text;
}

std::vector<credential::LogVerifier> read_keys(const Options& options) {
  std::vector<credential::LogVerifier> keys;
  if (options.without_key) return keys;
  if (!options.key.empty()) {
    const auto text = read_small_file(options.key);
    if (!text) {
      complain(fmt::format("--key '{}' cannot be read", options.key));
      throw Stop{};
    }
    auto key = credential::LogVerifier::read(*text);
    if (!key) {
      complain(fmt::format("--key '{}': {}", options.key, key.error().detail));
      throw Stop{};
    }
    keys.push_back(std::move(*key));
    return keys;
  }
  for (const std::string& directory : chain_directories(options))
    if (const auto text = read_small_file(directory + "/log.jwk"))
      if (auto key = credential::LogVerifier::read(*text)) keys.push_back(std::move(*key));
  if (!keys.empty()) return keys;
  complain(
      "there is no key to check the signatures with: --key FILE names the log.jwk of whoever wrote the log, "
      "--without-key leaves it undone");
  throw Stop{};
}

audit::CheckSignature checker(const std::vector<credential::LogVerifier>& keys) {
  if (keys.empty()) return {};
  return [&keys](std::string_view token) {
    Result<std::string> said = keys.front().check(token);
    for (std::size_t i = 1; !said && i < keys.size(); ++i)
      if (auto other = keys[i].check(token)) said = std::move(other);
    return said;
  };
}

/// How far this log is known to have been signed.
std::uint64_t known_lines(const Options& options, const std::string& log) {
  std::uint64_t most = 0;
  if (log.empty() || log.find_first_not_of("0123456789abcdef") != std::string::npos) return 0;
  for (const std::string& directory : chain_directories(options)) {
    const auto text = read_small_file((directory.empty() ? "." : directory) + "/heads/" + log);
    std::uint64_t seq = 0;
    if (text) std::from_chars(text->data(), text->data() + text->size(), seq);
    most = std::max(most, seq);
  }
  return most;
}

struct Place {
  std::string file;
  std::uint64_t line = 0;
};

int wrong(const Place& at, const std::string& what) {
  std::printf("%s:%llu: %s\n", printable(at.file).c_str(), static_cast<unsigned long long>(at.line),
              printable(what).c_str());
  return wrong_exit;
}

/// Line by line, never more than one of them in memory.
class Lines {
 public:
  explicit Lines(const std::string& path) : in_(path, std::ios::binary) {}
  bool open() const { return in_.is_open(); }
  /// False at the end; `torn`: the last one has no end, or is longer than any.
  bool next(std::string& line, bool& torn) {
    line.clear();
    torn = false;
    for (std::streambuf* from = in_.rdbuf();;) {
      const int byte = from->sbumpc();
      if (byte == std::char_traits<char>::eof()) {
        torn = !line.empty();
        return torn;
      }
      if (byte == '\n') return true;
      if (line.size() == line_bytes_max) return torn = true;
      line += static_cast<char>(byte);
    }
  }

 private:
  std::ifstream in_;
};

std::string plural(std::uint64_t count, const char* what) {
  return fmt::format("{} {}{}", count, what, count == 1 ? "" : "s");
}

int verify(const Options& options) {
  const auto keys = read_keys(options);
  audit::ChainCheck check(checker(keys));
  bool torn = false;
  Place at;
  for (std::size_t i = 0; i < options.files.size(); ++i) {
    at = {options.files[i], 0};
    if (i > 0) check.next_file();
    Lines lines(at.file);
    if (!lines.open()) {
      complain(fmt::format("'{}' cannot be read", printable(at.file)));
      throw Stop{};
    }
    std::string line;
    while (lines.next(line, torn)) {
      ++at.line;
      const bool last_file = i + 1 == options.files.size();
      if (torn && (!last_file || line.size() == line_bytes_max))
        return wrong(at, "it has no end: what follows was cut off");
      if (torn) break;
      if (auto read = check.line(line); !read) return wrong(at, read.error().detail);
    }
  }
  if (check.lines() == 0) return wrong(at, "there is no line of a chain");
  const std::uint64_t known = options.part ? 0 : known_lines(options, check.end().log);
  if (known > check.end().seq)
    return wrong(at, fmt::format("it is line {} and the last one, and lines up to {} were signed: {} cut off "
                                 "(--part: in files that were not given)",
                                 check.end().seq, known, plural(known - check.end().seq, "line")));
  fmt::print("good: {}, numbers {} to {}, {}{}\n", plural(check.lines(), "line"), check.first(),
             check.end().seq, plural(check.signatures(), "signature"),
             keys.empty() ? " that were not checked" : "");
  if (check.first() > 1) fmt::print("What was before line {} was not looked at.\n", check.first());
  if (torn) fmt::print("The last line has no end, as when whoever writes was killed.\n");
  if (check.unsigned_lines() > 0)
    fmt::print("The last {} not signed yet: who can write to the file could have changed them.\n",
               check.unsigned_lines() == 1 ? "line is" : fmt::format("{} lines are", check.unsigned_lines()));
  if (!check.at_rest()) fmt::print("The log is still being written, or whoever wrote it was killed.\n");
  return 0;
}

}  // namespace

void add_log_verify_command(CLI::App& log, int& exit_code) {
  const auto options = std::make_shared<Options>();
  CLI::App* command = log.add_subcommand("verify", "Whether a log of --log-chain is what was written");
  command->footer(
      "Examples:\n"
      "  postern log verify calls.jsonl\n"
      "  postern log verify calls.jsonl.2 calls.jsonl.1 calls.jsonl --key log.jwk\n"
      "Files of one chain are given in order, the oldest first. The first line that is wrong is named, and "
      "what\nis wrong with it. The exit status is 0 when nothing is wrong, 1 when something is, 2 when it "
      "could "
      "not\nbe looked at. docs/log.md says what can be found, and what cannot.");
  command->add_option("FILE", options->files, "The log")->required()->type_name("");
  auto* key = command
                  ->add_option("--key", options->key,
                               "The public key (default: log-chain/log.jwk in the state directory)")
                  ->type_name("FILE.jwk");
  command->add_flag("--without-key", options->without_key, "Look at hashes only, which anybody can make")
      ->excludes(key);
  command->add_flag("--part", options->part, "These files are not the end of the log");
  command->callback(
      [options, &exit_code] { exit_code = unless_stopped(usage_exit, [&] { return verify(*options); }); });
}

}  // namespace postern::cli
