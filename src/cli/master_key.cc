#include "cli/master_key.h"

#include <cstdio>
#include <cstdlib>
#include <fmt/format.h>

#include "cli/server_data.h"
#include "credential/master_key_file.h"

namespace postern::cli {

namespace {

using store::Seal;
using store::SqliteStore;

[[noreturn]] void stop(const std::string& complaint) {
  complain(complaint);
  throw Stop{};
}

void tell(std::size_t keys) {
  std::printf(
      "the master key was rotated: %zu data keys are sealed with the new one.\n"
      "Backups made before still need the old one.\n",
      keys);
}

/// The key of `data`/master.key. Held by the rotation, no other process reads that file until it is over.
void rotate_in_place(const std::string& data) {
  const SystemClock clock;
  auto rotation = must(credential::MasterKeyRotation::begin(data));
  auto next = rotation.take_next();
  auto store = must(SqliteStore::open(data, rotation.take_current(), clock));
  const std::string fingerprint = must(store->master_key_fingerprint());
  if (store->seal() != Seal::open && fingerprint != next.fingerprint())
    stop(
        fmt::format("'{}/master.key' is not the key that this store is sealed with: say where that is with "
                    "--master-key, and where the new one is with --new-master-key",
                    data));
  if (store->seal() == Seal::open) {
    const std::size_t keys = must(store->rotate_master_key(std::move(next)));
    must(rotation.finish());
    if (rotation.resumed()) std::puts("a rotation that was cut short is finished");
    return tell(keys);
  }
  must(rotation.finish());
  std::puts("a rotation that was cut short is finished: the store has the new master key");
}

credential::MasterKey current_key(const std::string& data, const std::string& said,
                                  const std::string& fingerprint) {
  if (said == "none") stop("--master-key must say where the present key is");
  // The file in `data` is only looked at: a new one would open nothing.
  if (!said.empty() || std::getenv(master_key_variable)) return std::move(*read_master_key(said, data));
  auto found = must(credential::find_master_key(data, fingerprint));
  if (!found)
    stop(
        fmt::format("the key that this store is sealed with is not in '{}/master.key': say where it is with "
                    "--master-key",
                    data));
  return std::move(*found);
}

void rotate_to(const std::string& data, const std::string& said, const std::string& next_source) {
  const SystemClock clock;
  auto next = read_key_source("--new-master-key", next_source);
  const Fd taken = take_data(data);
  if (!taken)
    stop(
        fmt::format("a server runs in '{0}' and could not know the new key. Stop it, do this again, and "
                    "start it with --master-key {1}",
                    data, next_source));
  const std::string fingerprint =
      must(must(SqliteStore::open(data, std::nullopt, clock))->master_key_fingerprint());
  if (fingerprint == next.fingerprint()) {
    std::printf("the store is sealed with this key already; start the server with --master-key %s\n",
                next_source.c_str());
    return;
  }
  auto store = must(SqliteStore::open(data, current_key(data, said, fingerprint), clock));
  if (store->seal() != Seal::open)
    stop("--master-key is not the key that this store is sealed with; nothing was changed");
  tell(must(store->rotate_master_key(std::move(next))));
  std::printf("Start the server with --master-key %s\n", next_source.c_str());
}

}  // namespace

const char* const rotation_help =
    "Secrets are sealed with data keys, and those with the master key: only they are sealed anew, in a "
    "moment "
    "and all at once. Examples:\n"
    "  postern key rotate --data DIR          the key is in DIR/master.key: a new one takes its place; a "
    "server that runs goes on\n"
    "  openssl rand -hex 32 > /run/secrets/new.key\n"
    "  postern key rotate --data DIR --master-key file:/run/secrets/old.key \\\n"
    "      --new-master-key file:/run/secrets/new.key       with the server stopped\n"
    "Killed at any moment the store opens with the one key or the other; the same command goes on. Keep the "
    "old key as long as backups that were made with it.";

void rotate_master_key(const std::string& data, const std::string& said, const std::string& next) {
  expect_store(data);
  if (!next.empty()) return rotate_to(data, said, next);
  if (!said.empty() || std::getenv(master_key_variable))
    stop("the master key of this store is kept elsewhere: --new-master-key says where the new one is");
  rotate_in_place(data);
}

}  // namespace postern::cli
