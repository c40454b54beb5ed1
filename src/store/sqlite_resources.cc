// Sandboxes and snapshots with their documents.

#include <algorithm>
#include <array>
#include <charconv>
#include <fmt/format.h>
#include <nlohmann/json.hpp>
#include <ranges>

#include "credential/digest.h"
#include "credential/random.h"
#include "store/checks.h"
#include "store/sqlite_parts.h"

namespace postern::store {

namespace {

using credential::DataKey;

constexpr std::string_view absent = "there is nothing of that name";

const std::string select_resource =
    "SELECT r.id, r.workspace, r.name, r.tag, r.status, r.status_message, r.labels, r.created_by, s.json, "
    "p.json, "
    "r.created_at, r.updated_at, r.stopped_at, r.revision, r.ordinal FROM resources r "
    "LEFT JOIN documents s ON s.resource = r.id AND s.part = 'settings' "
    "LEFT JOIN documents p ON p.resource = r.id AND p.part = 'policy' "
    "WHERE r.workspace = ?1 AND r.kind = ?2 ";
const std::string select_by_id = select_resource + "AND r.id = ?3";
const std::string select_by_name = select_resource + "AND r.name = ?3 AND r.tag = ?4";

std::unexpected<Failure> damaged() { return fail(Fault::damaged, "a resource is not what was stored"); }

Outcome<Labels> labels_of(std::string_view json) {
  const auto read = nlohmann::json::parse(json, nullptr, false);
  if (!read.is_object()) return damaged();
  Labels labels;
  for (const auto& [key, value] : read.items()) {
    if (!value.is_string()) return damaged();
    labels.emplace(key, value.get<std::string>());
  }
  return labels;
}

Outcome<Resource> resource_of(const Row& row) {
  auto status = from_token<Status>(row.text(4));
  if (!status) return failed(status);
  auto labels = labels_of(row.bytes(6));
  if (!labels) return failed(labels);
  if (row.null(8) || row.null(9)) return damaged();
  return Resource{.id = row.text(0),
                  .workspace = WorkspaceId{row.text(1)},
                  .name = row.text(2),
                  .tag = row.text(3),
                  .status = *status,
                  .status_message = row.text(5),
                  .labels = std::move(*labels),
                  .created_by = row.text(7),
                  .settings = row.text(8),
                  .policy = row.text(9),
                  .created_at = row.time(10),
                  .updated_at = row.time(11),
                  .stopped_at = row.time_if_any(12),
                  .revision = static_cast<Revision>(row.number(13))};
}

/// Where a document's secrets belong, and the proof that document and secrets were written together: what
/// enforces a policy must not be led by a thief of the disk who edited its hosts.
class DocumentSeal {
 public:
  DocumentSeal(const WorkspaceId& workspace, std::string_view resource, Part part, Revision revision)
      : workspace_(workspace), name_(fmt::format("{}\n{}\n", resource, token(part))), revision_(revision) {}

  std::string seal(const DataKey& key, const NamedSecret& secret) const {
    const std::string name = name_ + secret.name;
    return key.seal(secret.value, place("document secret", name));
  }
  Outcome<Secret> open(const DataKey& key, std::string_view sealed, std::string_view where) const {
    const std::string name = name_ + std::string(where);
    return open_sealed(key, sealed, place("document secret", name), "a secret of a document");
  }
  std::string prove(const DataKey& key, const Document& document) const {
    const std::string name = name_ + essence(document);
    return key.seal(Secret(), place("document", name));
  }
  Outcome<void> check(const DataKey& key, std::string_view proof, const Document& document) const {
    const std::string name = name_ + essence(document);
    auto opened = open_sealed(key, proof, place("document", name), "a document");
    if (!opened) return failed(opened);
    return {};
  }

 private:
  credential::SealedPlace place(std::string_view purpose, const std::string& name) const {
    return {.purpose = purpose, .workspace = workspace_.text, .name = name, .version = revision_};
  }
  /// Of the JSON and of which secrets there are.
  static std::string essence(const Document& document) {
    credential::Sha256 digest;
    digest.update(fmt::format("{}\n", document.json.size())).update(document.json);
    for (const NamedSecret& secret : document.secrets)
      digest.update(fmt::format("{}\n", secret.name.size())).update(secret.name);
    return credential::hex(digest.finish());
  }

  const WorkspaceId& workspace_;
  std::string name_;
  Revision revision_;
};

Outcome<void> write_document(SqliteConnection& in, const DataKey& key, const WorkspaceId& workspace,
                             const std::string& resource, Part part, const Document& document,
                             Revision revision) {
  const DocumentSeal seal(workspace, resource, part, revision);
  // Its secrets go with it.
  auto done = in.execute("DELETE FROM documents WHERE resource = ?1 AND part = ?2", {resource, token(part)});
  if (!done) return failed(done);
  const std::string proof = seal.prove(key, document);
  done =
      in.execute("INSERT INTO documents (resource, part, json, proof, revision) VALUES (?1, ?2, ?3, ?4, ?5)",
                 {resource, token(part), document.json, Blob{proof}, revision});
  if (!done) return failed(done);
  std::int64_t ordinal = 0;
  for (const NamedSecret& secret : document.secrets) {
    const std::string sealed = seal.seal(key, secret);
    if (sealed.size() > document_secret_bytes_max + DataKey::overhead_bytes)
      return fail(Fault::too_large, fmt::format("the secret at {} has more than {} bytes", secret.name,
                                                document_secret_bytes_max));
    done = in.execute(
        "INSERT INTO document_secrets (resource, part, ordinal, place, sealed) VALUES (?1, ?2, ?3, ?4, ?5)",
        {resource, token(part), ordinal++, secret.name, Blob{sealed}});
    if (!done) return failed(done);
  }
  return {};
}

struct OrderColumn {
  std::string_view sql;
  bool number;
};
constexpr std::array<OrderColumn, 4> order_columns = {
    {{"r.ordinal", true}, {"r.name", false}, {"r.status", false}, {"coalesce(r.stopped_at, 0)", true}}};

OrderColumn column_of(Order order) { return order_columns[static_cast<std::size_t>(order)]; }

/// Made of literals only; a handful in all.
std::string list_sql(const ResourceQuery& query) {
  const bool rising = query.direction == Direction::ascending;
  const std::string_view column = column_of(query.order).sql;
  std::string sql = select_resource +
                    "AND (?3 IS NULL OR r.status = ?3) AND instr(r.name, ?4) > 0 "
                    "AND (?5 IS NULL OR r.created_by = ?5) "
                    "AND NOT EXISTS (SELECT 1 FROM json_each(?6) f WHERE NOT EXISTS ("
                    "SELECT 1 FROM json_each(r.labels) l WHERE l.key = json_extract(f.value, '$[0]') "
                    "AND coalesce(json_extract(f.value, '$[1]'), l.value) = l.value)) ";
  if (!query.page.cursor.empty())
    sql += fmt::format("AND ({}, r.ordinal) {} (?7, ?8) ", column, rising ? '>' : '<');
  sql += fmt::format("ORDER BY {0} {1}, r.ordinal {1} LIMIT ?9", column, rising ? "ASC" : "DESC");
  return sql;
}

std::string filter_json(const std::vector<LabelFilter>& labels) {
  auto json = nlohmann::json::array();
  for (const LabelFilter& label : labels) {
    auto pair = nlohmann::json::array({label.key});
    if (label.value) pair.push_back(*label.value);
    json.push_back(std::move(pair));
  }
  return json.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
}

/// The value that a list is ordered by.
std::string key_of(const Resource& resource, std::uint64_t ordinal, Order order) {
  switch (order) {
    case Order::created: return std::to_string(ordinal);
    case Order::name: return resource.name;
    case Order::status: return std::string(token(resource.status));
    case Order::stopped: break;
  }
  if (!resource.stopped_at) return "0";
  return std::to_string(
      std::chrono::floor<std::chrono::microseconds>(*resource.stopped_at).time_since_epoch().count());
}

Outcome<void> check(const ResourceChange& change) {
  if (change.name)
    if (auto checked = check_resource_name(*change.name); !checked) return checked;
  if (change.tag)
    if (auto checked = check_tag(*change.tag); !checked) return checked;
  if (change.status_message)
    if (auto checked = check_text("a status message", *change.status_message, text_bytes_max); !checked)
      return checked;
  if (change.settings)
    if (auto checked = check_document(Part::settings, *change.settings); !checked) return checked;
  if (change.policy)
    if (auto checked = check_document(Part::policy, *change.policy); !checked) return checked;
  return {};
}

std::unexpected<Failure> name_taken(std::string_view name) {
  return fail(Fault::exists, fmt::format("the name '{}' is taken", name));
}

}  // namespace

Outcome<Resource> SqliteResources::found(SqliteConnection& in, const WorkspaceId& workspace,
                                         const std::string& id) const {
  return in.one(select_by_id, {workspace, token(kind_), id}, absent, resource_of);
}

Outcome<Resource> SqliteResources::create(const WorkspaceId& workspace, const NewResource& resource) {
  for (auto checked :
       {check_resource_name(resource.name), check_tag(resource.tag), check_labels(resource.labels),
        check_text("a creator", resource.created_by, name_bytes_max),
        check_document(Part::settings, resource.settings), check_document(Part::policy, resource.policy)})
    if (!checked) return failed(checked);
  return core_.write([&](SqliteConnection& in) -> Outcome<Resource> {
    auto key = core_.data_key(in, workspace);
    if (!key) return failed(key);
    const std::string id = credential::random_uuid();
    auto revision = core_.note_change(in, kind_, workspace, id);
    if (!revision) return failed(revision);
    const std::string labels = nlohmann::json(resource.labels).dump();
    auto inserted = in.execute(
        "INSERT INTO resources (id, workspace, kind, ordinal, name, tag, status, status_message, labels, "
        "created_by, "
        "created_at, updated_at, revision) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, '', ?8, ?9, ?10, ?10, ?4)",
        {id, workspace, token(kind_), *revision, resource.name, resource.tag, token(resource.status), labels,
         resource.created_by, core_.now()});
    if (!inserted && inserted.error().fault == Fault::exists) return name_taken(resource.name);
    if (!inserted) return failed(inserted);
    auto written = write_document(in, *key, workspace, id, Part::settings, resource.settings, *revision);
    if (!written) return failed(written);
    written = write_document(in, *key, workspace, id, Part::policy, resource.policy, *revision);
    if (!written) return failed(written);
    return found(in, workspace, id);
  });
}

Outcome<Resource> SqliteResources::find(const WorkspaceId& workspace, const std::string& id) {
  return core_.read([&](SqliteConnection& in) { return found(in, workspace, id); });
}

Outcome<Resource> SqliteResources::find_by_name(const WorkspaceId& workspace, const std::string& name,
                                                const std::string& tag) {
  return core_.read([&](SqliteConnection& in) {
    return in.one(select_by_name, {workspace, token(kind_), name, tag}, absent, resource_of);
  });
}

Outcome<Listed<Resource>> SqliteResources::list(const WorkspaceId& workspace, const ResourceQuery& query) {
  Cursor cursor;
  std::int64_t number = 0;
  const bool by_number = column_of(query.order).number;
  if (!query.page.cursor.empty()) {
    auto read = read_cursor(query.page.cursor, query.order, query.direction);
    if (!read) return failed(read);
    cursor = std::move(*read);
    const char* const end = cursor.key.data() + cursor.key.size();
    if (by_number && std::from_chars(cursor.key.data(), end, number).ptr != end)
      return fail(Fault::invalid, "the cursor is not of this list");
  }
  std::optional<std::string_view> status;
  if (query.status) status = token(*query.status);
  const std::string filter = filter_json(query.labels);
  const std::size_t limit = std::min(query.page.limit, page_items_max);
  struct Found {
    Resource resource;
    std::uint64_t ordinal;
  };
  return core_.read([&](SqliteConnection& in) -> Outcome<Listed<Resource>> {
    if (auto there = SqliteCore::expect_workspace(in, workspace); !there) return failed(there);
    auto rows = in.all(list_sql(query),
                       {workspace, token(kind_), status, query.name_contains, query.created_by, filter,
                        by_number ? Value(number) : Value(cursor.key), cursor.ordinal, limit + 1},
                       [](const Row& row) -> Outcome<Found> {
                         auto resource = resource_of(row);
                         if (!resource) return failed(resource);
                         return Found{std::move(*resource), static_cast<std::uint64_t>(row.number(14))};
                       });
    if (!rows) return failed(rows);
    Listed<Resource> listed;
    if (rows->size() > limit && limit > 0) {
      const Found& last = (*rows)[limit - 1];
      listed.next_cursor = write_cursor({.order = query.order,
                                         .direction = query.direction,
                                         .ordinal = last.ordinal,
                                         .key = key_of(last.resource, last.ordinal, query.order)});
    }
    for (Found& row : *rows | std::views::take(limit)) listed.items.push_back(std::move(row.resource));
    return listed;
  });
}

/// Whoever has the tag, if it is not `id`, has its own id for one then.
Outcome<void> SqliteResources::free_tag(SqliteConnection& in, const WorkspaceId& workspace,
                                        const std::string& name, const std::string& tag,
                                        const std::string& id) const {
  auto holder = in.one(select_by_name, {workspace, token(kind_), name, tag}, absent, resource_of);
  if (!holder && holder.error().fault == Fault::not_found) return {};
  if (!holder) return failed(holder);
  if (holder->id == id) return {};
  auto revision = core_.note_change(in, kind_, workspace, holder->id);
  if (!revision) return failed(revision);
  auto freed = in.execute("UPDATE resources SET tag = ?1, updated_at = ?2, revision = ?3 WHERE id = ?1",
                          {holder->id, core_.now(), *revision});
  if (!freed) return failed(freed);
  return {};
}

Outcome<Resource> SqliteResources::update(const WorkspaceId& workspace, const std::string& id,
                                          const ResourceChange& change) {
  if (auto checked = check(change); !checked) return failed(checked);
  return core_.write([&](SqliteConnection& in) -> Outcome<Resource> {
    auto before = found(in, workspace, id);
    if (!before) return before;
    if (change.only_if && *change.only_if != before->revision)
      return fail(Fault::changed, "it was changed meanwhile");
    const std::string name = change.name.value_or(before->name);
    const std::string tag = change.tag.value_or(before->tag);
    if (change.tag)
      if (auto freed = free_tag(in, workspace, name, tag, id); !freed) return failed(freed);
    auto revision = core_.note_change(in, kind_, workspace, id);
    if (!revision) return failed(revision);
    auto updated = in.execute(
        "UPDATE resources SET name = ?2, status = ?3, status_message = ?4, stopped_at = ?5, updated_at = ?6, "
        "revision = ?7, tag = ?8 WHERE id = ?1",
        {id, name, token(change.status.value_or(before->status)),
         change.status_message.value_or(before->status_message),
         change.stopped_at.value_or(before->stopped_at), core_.now(), *revision, tag});
    if (!updated && updated.error().fault == Fault::exists) return name_taken(name);
    if (!updated) return failed(updated);
    for (const auto& [part, document] :
         {std::pair(Part::settings, &change.settings), std::pair(Part::policy, &change.policy)}) {
      if (!*document) continue;
      auto key = core_.data_key(in, workspace);
      if (!key) return failed(key);
      auto written = write_document(in, *key, workspace, id, part, **document, *revision);
      if (!written) return failed(written);
    }
    return found(in, workspace, id);
  });
}

Outcome<Document> SqliteResources::read(const WorkspaceId& workspace, const std::string& id, Part part) {
  struct Written {
    std::string json, proof;
    Revision revision;
  };
  return core_.read([&](SqliteConnection& in) -> Outcome<Document> {
    auto written = in.one(
        "SELECT d.json, d.proof, d.revision FROM resources r JOIN documents d ON d.resource = r.id "
        "WHERE r.workspace = ?1 AND r.kind = ?2 AND r.id = ?3 AND d.part = ?4",
        {workspace, token(kind_), id, token(part)}, absent, [](const Row& row) -> Outcome<Written> {
          return Written{row.text(0), row.text(1), static_cast<Revision>(row.number(2))};
        });
    if (!written) return failed(written);
    auto key = core_.data_key(in, workspace);
    if (!key) return failed(key);
    const DocumentSeal seal(workspace, id, part, written->revision);
    auto secrets = in.all(
        "SELECT place, sealed FROM document_secrets WHERE resource = ?1 AND part = ?2 ORDER BY ordinal",
        {id, token(part)}, [&](const Row& row) -> Outcome<NamedSecret> {
          auto value = seal.open(*key, row.bytes(1), row.bytes(0));
          if (!value) return failed(value);
          return NamedSecret{row.text(0), std::move(*value)};
        });
    if (!secrets) return failed(secrets);
    Document document{std::move(written->json), std::move(*secrets)};
    if (auto checked = seal.check(*key, written->proof, document); !checked) return failed(checked);
    return document;
  });
}

Outcome<Removal> SqliteResources::remove(const WorkspaceId& workspace, const std::string& id) {
  return core_.write([&](SqliteConnection& in) -> Outcome<Removal> {
    auto removed = in.execute("DELETE FROM resources WHERE workspace = ?1 AND kind = ?2 AND id = ?3",
                              {workspace, token(kind_), id});
    if (!removed) return failed(removed);
    if (*removed == 0) return SqliteCore::expect_gone(in, kind_, workspace, id);
    return core_.note_removal(in, kind_, workspace, id);
  });
}

}  // namespace postern::store
