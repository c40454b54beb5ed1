#include "cli/key.h"

#include <CLI/CLI.hpp>
#include <fmt/format.h>
#include <memory>
#include <string>
#include <unistd.h>

#include "base/date.h"
#include "cli/master_key.h"
#include "cli/server_data.h"
#include "credential/api_key.h"
#include "store/checks.h"

namespace postern::cli {

namespace {

struct KeyOptions {
  std::string data, master_key, new_master_key;
  std::string workspace = first_workspace;
  std::string scope = "workspace";
  std::string label;
  std::string id;
};

store::Scope scope_of(const std::string& word) {
  if (word == "admin") return store::Scope::admin;
  return word == "workspace" ? store::Scope::workspace : store::Scope::read_only;
}

/// As it is said on the command line.
std::string word_of(store::Scope scope) {
  return scope == store::Scope::read_only ? "read-only" : std::string(store::token(scope));
}

std::unique_ptr<store::SqliteStore> opened(const KeyOptions& options, const Clock& clock) {
  const std::string data = data_directory(options.data);
  expect_store(data);
  return open_store(data, options.master_key, clock);
}

template <class Each>
void each_workspace(store::Store& store, Each each) {
  store::Page page;
  do {
    const auto found = must(store.workspaces().list(page));
    for (const store::Workspace& workspace : found.items) each(workspace);
    page.cursor = found.next_cursor;
  } while (!page.cursor.empty());
}

void create(const KeyOptions& options) {
  const auto scope = scope_of(options.scope);
  const SystemClock clock;
  const auto store = opened(options, clock);
  auto workspace = store->workspaces().find_by_name(options.workspace);
  if (!workspace && workspace.error().fault == store::Fault::not_found)
    workspace = store->workspaces().create(options.workspace);
  const store::Workspace found = must(std::move(workspace));
  const auto key = credential::make_api_key();
  must(store->api_keys().add(found.id, key.proof, scope, options.label));
  // The key alone on standard output, so that a script can take it.
  must(credential::hand_over(key, STDOUT_FILENO));
  std::fprintf(stderr, "postern: key %s, scope %s, of workspace '%s' (%s); it is shown this once\n",
               key.proof.id.c_str(), options.scope.c_str(), found.name.c_str(), found.id.text.c_str());
}

std::string date_or(const std::optional<WallTime>& at, const char* otherwise) {
  return at ? date_text_in_seconds(*at) : otherwise;
}

void list(const KeyOptions& options) {
  const SystemClock clock;
  const auto store = opened(options, clock);
  constexpr const char* row = "{:<17} {:<10} {:<21} {:<21} {:<21} {}\n";
  std::string out = fmt::format(row, "KEY", "SCOPE", "CREATED", "LAST USED", "REVOKED", "WORKSPACE, LABEL");
  each_workspace(*store, [&](const store::Workspace& workspace) {
    for (const store::ApiKey& key : must(store->api_keys().list(workspace.id)))
      out += fmt::format(row, key.id, word_of(key.scope), date_or(key.created_at, ""),
                         date_or(key.last_used_at, "never"), date_or(key.revoked_at, "-"),
                         key.label.empty() ? workspace.name : workspace.name + ", " + key.label);
  });
  std::fputs(out.c_str(), stdout);
}

void revoke(const KeyOptions& options) {
  const SystemClock clock;
  const auto store = opened(options, clock);
  bool revoked = false;
  each_workspace(*store, [&](const store::Workspace& workspace) {
    const auto removal = store->api_keys().revoke(workspace.id, options.id);
    if (!removal && removal.error().fault == store::Fault::not_found) return;
    revoked = true;
    std::printf("%s is revoked%s\n", options.id.c_str(),
                must(removal) == store::Removal::was_gone ? " already" : "");
  });
  if (revoked) return;
  complain("there is no such key; `postern key list` shows them, by their public part");
  throw Stop{};
}

void rotate(const KeyOptions& options) {
  rotate_master_key(data_directory(options.data), options.master_key, options.new_master_key);
}

}  // namespace

void add_key_command(CLI::App& app, int& exit_code) {
  const auto options = std::make_shared<KeyOptions>();
  CLI::App* key = app.add_subcommand(
      "key", "The API keys of a server, and the master key that its secrets are sealed with");
  key->require_subcommand(1);
  const auto add = [&](const char* name, const char* help, void (*act)(const KeyOptions&)) {
    CLI::App* command = key->add_subcommand(name, help);
    command->add_option("--data", options->data, "Where the server keeps everything")
        ->type_name("DIR")
        ->envname("POSTERN_DATA");
    command->add_option("--master-key", options->master_key, "As for `postern serve`")->type_name("SOURCE");
    command->callback([options, act, &exit_code] {
      exit_code = unless_stopped(1, [&] {
        act(*options);
        return 0;
      });
    });
    return command;
  };
  CLI::App* creation = add("create", "Make a key, and show it once", create);
  creation->add_option("--workspace", options->workspace, "Whose it is; made when there is none of the name")
      ->type_name("NAME");
  creation->add_option("--scope", options->scope, "What it may do (default: workspace)")
      ->type_name("admin|workspace|read-only")
      ->transform(CLI::IsMember({"admin", "workspace", "read-only"}).description(""));
  creation->add_option("--label", options->label, "For whoever reads the list")->type_name("TEXT");
  add("list", "Show all keys, by their public part", list);
  add("revoke", "Refuse a key from the next request on", revoke)
      ->add_option("KEY", options->id, "The public part: what follows postern_")
      ->required();
  CLI::App* rotation = add("rotate", "Seal everything with another master key from now on", rotate);
  rotation
      ->add_option("--new-master-key", options->new_master_key,
                   "The key to use from now on where it is not in DIR/master.key: file:PATH or cmd:COMMAND, "
                   "as `openssl rand -hex 32` prints it")
      ->type_name("SOURCE");
  rotation->footer(rotation_help);
}

}  // namespace postern::cli
