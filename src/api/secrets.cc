#include "api/secrets.h"

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "api/body.h"
#include "api/boxes.h"
#include "base/units.h"
#include "credential/secret_store.h"

namespace postern::api {

namespace {

using control::Call;
using control::Principal;
using control::Scope;
using policy::Node;
using CallPointer = std::shared_ptr<Call>;

constexpr std::size_t body_bytes_max = 4 * MiB;
constexpr std::size_t changes_max = 1'000;  // of one request: 16 KiB each fit into the body

/// A list of {key, value}; null removes.
std::vector<store::SecretChange> read_changes(const Node& list, BodyFields& problems) {
  std::vector<store::SecretChange> changes;
  for (std::size_t i = 0; i < list.items.size(); ++i) {
    const Node& item = list.items[i];
    const std::string where = fmt::format("[{}]", i);
    if (item.kind != Node::Kind::mapping) {
      problems.note(where, "must be a mapping with 'key' and 'value'");
      continue;
    }
    BodyFields fields(item, where);
    auto key = fields.text("key", 256);
    if (!key && fields.good()) fields.note("key", "is required");
    const Node* value = item.find("value");
    if (!value)
      fields.note("value", "is required (null removes the secret)");
    else if (value->kind != Node::Kind::string && value->kind != Node::Kind::null)
      fields.note("value", "must be a string, or null");
    else if (value->kind == Node::Kind::string &&
             (value->text.empty() || value->text.size() > credential::secret_bytes_max))
      fields.note("value", fmt::format("must have 1 to {} bytes", credential::secret_bytes_max));
    if (fields.good()) {
      store::SecretChange change{std::move(*key), std::nullopt};
      if (value->kind == Node::Kind::string) change.value = Secret(value->text);
      changes.push_back(std::move(change));
    }
    problems.take_problems(fields);
  }
  return changes;
}

class Handlers : public std::enable_shared_from_this<Handlers> {
 public:
  Handlers(platform::Boxes& boxes, store::Store& store, Identify identify)
      : boxes_(boxes), store_(store), identify_(std::move(identify)) {}

  std::vector<control::Route> routes() {
    const auto self = shared_from_this();
    return {admitting_route("GET", "/workspaces/current/secrets", identify_, Scope::read_only,
                            std::bind_front(&Handlers::list, self)),
            admitting_route("POST", "/workspaces/current/secrets", identify_, Scope::workspace,
                            std::bind_front(&Handlers::change, self))};
  }

 private:
  void list(const CallPointer& call, const Principal& caller) {
    const auto keys = store_.secrets().list({caller.workspace});
    if (!keys) return call->answer(platform::to_api_error(keys.error()));
    nlohmann::ordered_json out = nlohmann::ordered_json::array();
    for (const store::SecretKey& key : *keys)
      out.push_back({{"key", key.key}, {"updated_at", date_text(key.updated_at)}});
    call->answer(control::json_response(200, out.dump()));
  }

  void change(const CallPointer& call, const Principal& caller) {
    call->read_body(body_bytes_max, [self = shared_from_this(), call, caller](std::string text) {
      auto tree = policy::read_tree(text, policy::Format::json);
      ::explicit_bzero(text.data(), text.size());
      if (!tree || tree->kind != Node::Kind::sequence || tree->items.size() > changes_max)
        return call->answer(control::validation_response(
            "", fmt::format("the body must be a JSON list of at most {} entries of {{\"key\", \"value\"}}",
                            changes_max)));
      const Node none(Node::Kind::mapping, {});
      BodyFields problems(none);
      const auto changes = read_changes(*tree, problems);
      if (!problems.good()) return call->answer(problems.refusal());
      const store::WorkspaceId workspace{caller.workspace};
      if (const auto changed = self->store_.secrets().change(workspace, changes); !changed) {
        if (changed.error().fault == store::Fault::invalid)
          return call->answer(control::validation_response("key", changed.error().detail));
        return call->answer(platform::to_api_error(changed.error()));
      }
      self->boxes_.secrets_changed(workspace);
      call->answer(control::json_response(200, "{}"));
    });
  }

  platform::Boxes& boxes_;
  store::Store& store_;
  const Identify identify_;
};

}  // namespace

std::vector<control::Route> secret_routes(platform::Boxes& boxes, store::Store& store, Identify identify) {
  return std::make_shared<Handlers>(boxes, store, std::move(identify))->routes();
}

}  // namespace postern::api
