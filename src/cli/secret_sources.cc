#include "cli/secret_sources.h"

#include <algorithm>
#include <cstdlib>
#include <fmt/format.h>
#include <sys/stat.h>

#include "proxy/outbound_call.h"
#include "tls/context.h"

namespace postern::cli {

using credential::SecretReference;
using credential::SecretStore;

namespace {

std::unexpected<Error> refuse(std::string message) {
  return fail(Reason::invalid_configuration, std::move(message));
}

/// The operator chose the server, so it may be anywhere.
std::vector<Cidr> everywhere() { return {*Cidr::parse("0.0.0.0/0"), *Cidr::parse("::/0")}; }

}  // namespace

/// What the file system says of a file.
struct SecretSources::Stamp {
  bool there;
  dev_t device;
  ino_t inode;
  off_t size;
  time_t seconds;
  long nanoseconds;
  bool operator==(const Stamp&) const = default;
};

/// What it takes to ask.
struct SecretSources::Vault {
  Vault(credential::VaultSettings settings_in, tls::TrustStore trust_in,
        std::shared_ptr<const origin::Overrides> overrides)
      : settings(std::move(settings_in)),
        trust(std::move(trust_in)),
        loop(clock),
        resolver(loop, std::move(overrides)),
        dialler(loop, resolver, everywhere()),
        origin_tls(trust),
        caller(clock, loop, buffers, rooms, dialler, origin_tls) {}
  ~Vault() { loop.abandon(); }
  Vault(const Vault&) = delete;

  credential::VaultSettings settings;
  tls::TrustStore trust;
  SystemClock clock;
  io::Loop loop;
  io::BufferPool buffers;
  proxy::HeadRooms rooms;
  origin::Resolver resolver;
  origin::Dialler dialler;
  tls::OriginContext origin_tls;
  proxy::OutboundCaller caller;
  TimePoint next{};  ///< When it is asked again.
};

/// One reading of everything.
struct SecretSources::Round {
  std::vector<SecretReference> references;
  std::vector<std::string> paths;  ///< Of Vault, each once.
  credential::VaultEntries entries;
  std::optional<Error> error;
  bool done = false;

  static io::Task<void> ask(Vault& vault, Round& round) {
    for (const std::string& path : round.paths) {
      auto entry =
          co_await credential::ask_vault(vault.caller, vault.settings, path, vault.loop.now() + vault_time);
      if (!entry) {
        round.error = std::move(entry.error());
        for (const SecretReference& reference : round.references)
          if (reference.kind == SecretReference::Kind::vault && reference.vault.path == path) {
            round.error->detail = fmt::format("{}: {}: vault:{}: {}", reference.place, reference.key, path,
                                              round.error->detail);
            break;
          }
        break;
      }
      round.entries.insert_or_assign(path, std::move(*entry));
    }
    round.done = true;
  }
};

SecretSources::SecretSources(SecretOptions options) : options_(std::move(options)) {}
SecretSources::~SecretSources() {
  if (vault_) vault_->loop.abandon();  // While what the tasks refer to still lives.
}

Result<std::vector<SecretReference>> SecretSources::references() const {
  std::vector<SecretReference> all;
  for (const std::string& file : options_.secret_files) {
    auto lines = credential::read_env_file(file);
    if (!lines) return refuse("--secrets " + lines.error().detail);
    for (SecretReference& line : *lines) {
      line.place = "--secrets " + line.place;
      all.push_back(std::move(line));
    }
  }
  for (const std::string& option : options_.secrets) {
    auto reference = credential::read_secret_option(option);
    if (!reference) return std::unexpected(std::move(reference.error()));
    all.push_back(std::move(*reference));
  }
  if (!options_.policy) return all;
  const std::string_view folder = credential::folder_of(options_.policy_file);
  for (const policy::Reference& reference :
       policy::references_of(options_.policy->rules(), options_.policy->callbacks())) {
    const std::string place = fmt::format("{}:{}:{}: {}", options_.policy_file, reference.at.line,
                                          reference.at.column, reference.where);
    auto read = credential::read_reference(std::string(reference.text), place, reference.text, folder);
    if (!read) return std::unexpected(std::move(read.error()));
    all.push_back(std::move(*read));
  }
  return all;
}

/// Starts to read; round_ is done at once when nobody has to be asked.
Result<void> SecretSources::begin() {
  auto found = references();
  if (!found) return std::unexpected(std::move(found.error()));
  // What was known at the start is hidden from the program; what comes later could be read by it.
  for (const SecretReference& reference : *found) {
    const bool late = reference.kind == SecretReference::Kind::file
                          ? std::ranges::find(files_, reference.text) == files_.end()
                          : reference.kind == SecretReference::Kind::vault && !vault_;
    if (begun_ && late)
      return refuse(
          fmt::format("{}: {}: is only read when it was there at the start", reference.place, reference.key));
  }
  round_ = std::make_unique<Round>();
  round_->references = std::move(*found);
  if (!begun_) files_ = options_.secret_files;
  for (const SecretReference& reference : round_->references) {
    if (reference.kind == SecretReference::Kind::file && !begun_) files_.push_back(reference.text);
    if (reference.kind == SecretReference::Kind::vault &&
        std::ranges::find(round_->paths, reference.vault.path) == round_->paths.end())
      round_->paths.push_back(reference.vault.path);
  }
  begun_ = true;
  seen_ = stamps();
  if (round_->paths.empty()) {
    round_->done = true;
    return {};
  }
  if (!vault_) {
    auto settings =
        credential::vault_settings([](const char* name) -> const char* { return std::getenv(name); });
    if (!settings) return std::unexpected(std::move(settings.error()));
    std::vector<std::string> roots = options_.origin_ca;
    if (!settings->ca_file.empty()) roots.push_back(settings->ca_file);
    auto trust = tls::TrustStore::load(roots);
    if (!trust) return refuse("VAULT_CACERT: " + trust.error().detail);
    vault_ = std::make_unique<Vault>(std::move(*settings), std::move(*trust),
                                     std::make_shared<const origin::Overrides>(options_.overrides));
  }
  vault_->loop.run_once(Duration::zero());  // It reads the clock once per turn, and may not have for long.
  vault_->next = vault_->loop.now() + options_.vault_interval;
  vault_->loop.spawn(Round::ask(*vault_, *round_));
  return {};
}

Result<SecretStore> SecretSources::finish(const SecretStore* earlier) {
  const std::unique_ptr<Round> round = std::move(round_);
  if (round->error) return std::unexpected(std::move(*round->error));
  SecretStore secrets;
  for (const SecretReference& reference : round->references)
    if (auto added = secrets.add(reference, earlier, round->entries); !added)
      return std::unexpected(std::move(added.error()));
  return secrets;
}

Result<SecretStore> SecretSources::read() {
  if (auto begun = begin(); !begun) return std::unexpected(std::move(begun.error()));
  while (!round_->done) vault_->loop.run_once(std::chrono::milliseconds(100));
  return finish(nullptr);
}

std::optional<Result<SecretStore>> SecretSources::look(const SecretStore& current) {
  if (!round_) {
    if (vault_) vault_->loop.run_once(Duration::zero());
    const bool due = vault_ && vault_->loop.now() >= vault_->next;
    if (!due && stamps() == seen_) return std::nullopt;
    // A broken file is complained about once, and looked at when it changes again.
    if (auto begun = begin(); !begun) {
      round_.reset();
      seen_ = stamps();
      if (vault_) vault_->next = vault_->loop.now() + options_.vault_interval;
      return std::unexpected(std::move(begun.error()));
    }
  } else {
    vault_->loop.run_once(Duration::zero());
  }
  if (!round_->done) return std::nullopt;
  return finish(&current);
}

bool SecretSources::asking() const { return round_ != nullptr; }

bool SecretSources::may_change() const { return vault_ != nullptr || !files_.empty(); }

std::vector<std::string> SecretSources::files() const {
  std::vector<std::string> all = files_;
  if (vault_ && !vault_->settings.token_file.empty()) all.push_back(vault_->settings.token_file);
  return all;
}

std::vector<SecretSources::Stamp> SecretSources::stamps() const {
  std::vector<Stamp> now;
  for (const std::string& file : files_) {
    struct stat info{};
    const bool there = ::stat(file.c_str(), &info) == 0;
    now.push_back({there, info.st_dev, info.st_ino, info.st_size, info.st_mtim.tv_sec, info.st_mtim.tv_nsec});
  }
  return now;
}

}  // namespace postern::cli
