#include "cli/backup.h"

#include <CLI/CLI.hpp>
#include <cstdio>
#include <cstdlib>
#include <fmt/format.h>
#include <memory>
#include <optional>
#include <string>
#include <unistd.h>

#include "cli/server_data.h"
#include "credential/master_key_file.h"

namespace postern::cli {

namespace {

using store::BackupSummary;

struct BackupOptions {
  std::string file, data, master_key;
};

void tell(const BackupSummary& summary, const char* what, const std::string& where) {
  std::printf("%s %s: %zu workspaces, %zu sandboxes, sealed with master key %s\n", what, where.c_str(),
              summary.workspaces, summary.sandboxes,
              summary.master_key.empty() ? "(none yet)" : summary.master_key.c_str());
}

void back_up(const BackupOptions& options) {
  const SystemClock clock;
  const std::string data = data_directory(options.data);
  expect_store(data);
  // Nothing is opened: a backup needs no key.
  const auto store = must(store::SqliteStore::open(data, std::nullopt, clock));
  must(store->back_up(options.file));
  tell(must(store::check_backup(options.file, nullptr)), "backed up to", options.file);
  std::printf(
      "Not in it, and to be kept apart: the master key, without which its secrets are lost; the CA of the "
      "boxes (ca.pem);\nthe files of the boxes (boxes/) and the network log (network-log/) in '%s'.\n",
      data.c_str());
}

/// The key of a backup, if it is at hand. One that was said must be it.
std::optional<credential::MasterKey> key_of(const BackupOptions& options, const std::string& data,
                                            const BackupSummary& summary) {
  if (options.master_key == "none") return std::nullopt;
  if (!options.master_key.empty() || std::getenv(master_key_variable))
    return read_master_key(options.master_key, data);
  return must(credential::find_master_key(data, summary.master_key));
}

void restore(const BackupOptions& options) {
  const std::string data = data_directory(options.data);
  const BackupSummary summary = must(store::check_backup(options.file, nullptr));
  const Fd taken = take_data(data);
  if (!taken) {
    complain(fmt::format("a server runs in '{}': restore into a directory without one", data));
    throw Stop{};
  }
  const auto key = key_of(options, data, summary);
  if (key) must(store::check_backup(options.file, &*key));
  must(store::restore_backup(options.file, data));
  tell(summary, "restored", data);
  if (!key)
    std::printf(
        "Its master key is not here: put it into '%s/master.key' (mode 0600), or start the server with "
        "--master-key.\nWithout it the server starts sealed.\n",
        data.c_str());
  std::printf(
      "Sandboxes are found stopped; those whose files are not in '%s/boxes' are found failed, and begin anew "
      "when they are started.\n",
      data.c_str());
}

}  // namespace

void add_backup_commands(CLI::App& app, int& exit_code) {
  const auto options = std::make_shared<BackupOptions>();
  const auto add = [&](const char* name, const char* help, const char* file_help,
                       void (*act)(const BackupOptions&)) {
    CLI::App* command = app.add_subcommand(name, help);
    command->add_option("FILE", options->file, file_help)->required()->type_name("");
    command->add_option("--data", options->data, "Where the server keeps everything")
        ->type_name("DIR")
        ->envname("POSTERN_DATA");
    command->callback([options, act, &exit_code] {
      exit_code = unless_stopped(1, [&] {
        act(*options);
        return 0;
      });
    });
    return command;
  };
  add("backup", "Copy the store of a server into one file, while it runs",
      "A new file (mode 0600); one that is there is left alone", back_up)
      ->footer(
          "The file is the store as it was at one moment: workspaces, hashes of API keys, secrets and "
          "policies as "
          "they are sealed, sandboxes and their settings. It needs no key and holds none. Example:\n"
          "  postern backup --data DIR backup-$(date +%F).db\n"
          "Not in it: the master key (DIR/master.key, or where --master-key says), without which the secrets "
          "in it "
          "are lost; DIR/ca.pem; the files of sandboxes; the network log.");
  CLI::App* back =
      add("restore", "Make the store of a server from a backup", "What `postern backup` wrote", restore);
  back->add_option(
          "--master-key", options->master_key,
          "The key of the backup, to be tried on it: as for `postern serve` (default: POSTERN_MASTER_KEY, "
          "else master.key in --data if it is there)")
      ->type_name("SOURCE");
  back->footer(
      "The backup is read and checked as a whole first, and a store that is there already is never "
      "overwritten. "
      "Example, onto a new machine:\n"
      "  install -d -m 0700 DIR && install -m 0600 saved/master.key saved/ca.pem DIR/\n"
      "  postern restore backup.db --data DIR && postern serve --data DIR");
}

}  // namespace postern::cli
