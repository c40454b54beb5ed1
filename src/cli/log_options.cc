#include "cli/log_options.h"

#include <cerrno>
#include <cstring>
#include <fmt/format.h>
#include <sys/stat.h>

#include "cli/steps.h"
#include "credential/log_signature.h"

namespace postern::cli {

namespace {

audit::ChainSettings chain_settings(const std::string& directory) {
  const auto key =
      std::make_shared<const credential::JwtKey>(must(credential::load_or_create_log_key(directory)));
  const std::string heads = directory + "/heads";
  if (::mkdir(heads.c_str(), 0700) != 0 && errno != EEXIST) {
    complain(fmt::format("'{}' cannot be made: {}", heads, std::strerror(errno)));
    throw Stop{};
  }
  return {.sign = [key](std::string_view payload) { return credential::sign_log(*key, payload); },
          .heads_directory = heads};
}

}  // namespace

std::unique_ptr<audit::LogFile> open_log_file(const LogSettings& settings, const std::string& directory,
                                              TurnsOver turns_over) {
  static const SystemClock clock;
  if (settings.log.empty()) {
    const char* lone = settings.chain               ? "--log-chain"
                       : settings.rotate_bytes != 0 ? "--log-rotate-bytes"
                                                    : nullptr;
    if (!lone) return nullptr;
    complain(fmt::format("{} needs --log FILE", lone));
    throw Stop{};
  }
  audit::LogFileOptions options;
  options.path = settings.log;
  options.rotate_bytes = settings.rotate_bytes;
  options.kept = settings.rotate_keep;
  options.rotate_at_start_only = turns_over == TurnsOver::at_start_only;
  if (settings.chain) options.chain = chain_settings(directory);
  return must(audit::LogFile::open(std::move(options), clock, complain));
}

std::vector<std::string> log_files(const LogSettings& settings) {
  std::vector<std::string> files;
  if (settings.log.empty() || settings.log == "-") return files;
  files.push_back(settings.log);
  if (settings.rotate_bytes != 0)
    for (std::uint64_t i = 1; i <= settings.rotate_keep; ++i)
      files.push_back(fmt::format("{}.{}", settings.log, i));
  return files;
}

}  // namespace postern::cli
