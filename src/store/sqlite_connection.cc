#include "store/sqlite_connection.h"

#include <fmt/format.h>
#include <sqlite3.h>

namespace postern::store {

namespace {

/// Of a constraint of the schema or of a file. What SQLite says names tables and columns, and no value.
Fault fault_of(int code) {
  switch (code) {
    case SQLITE_CONSTRAINT_UNIQUE:
    case SQLITE_CONSTRAINT_PRIMARYKEY: return Fault::exists;
    case SQLITE_CONSTRAINT_FOREIGNKEY: return Fault::not_found;
    default: break;
  }
  switch (code & 0xff) {
    case SQLITE_CORRUPT:
    case SQLITE_NOTADB:
    case SQLITE_CONSTRAINT:
    case SQLITE_MISMATCH: return Fault::damaged;
    case SQLITE_TOOBIG: return Fault::too_large;
    default: return Fault::unavailable;
  }
}

int bind(sqlite3_stmt* statement, int at, const Value& value) {
  struct Binder {
    sqlite3_stmt* to;
    int at;
    int operator()(std::nullopt_t) const { return sqlite3_bind_null(to, at); }
    int operator()(std::int64_t number) const { return sqlite3_bind_int64(to, at, number); }
    // Without a copy: the values outlive the call. A null pointer would mean NULL.
    int operator()(std::string_view text) const {
      return sqlite3_bind_text64(to, at, text.empty() ? "" : text.data(), text.size(), SQLITE_STATIC,
                                 SQLITE_UTF8);
    }
    int operator()(Blob blob) const {
      return sqlite3_bind_blob64(to, at, blob.bytes.empty() ? "" : blob.bytes.data(), blob.bytes.size(),
                                 SQLITE_STATIC);
    }
  };
  return std::visit(Binder{statement, at}, value.held());
}

}  // namespace

bool Row::null(int column) const { return sqlite3_column_type(statement_, column) == SQLITE_NULL; }

std::int64_t Row::number(int column) const { return sqlite3_column_int64(statement_, column); }

std::string Row::text(int column) const { return std::string(bytes(column)); }

std::string_view Row::bytes(int column) const {
  const void* data = sqlite3_column_blob(statement_, column);  // text too: its bytes, as they are
  return {static_cast<const char*>(data), static_cast<std::size_t>(sqlite3_column_bytes(statement_, column))};
}

void SqliteConnection::Close::operator()(sqlite3* database) const { sqlite3_close(database); }
void SqliteConnection::Finalize::operator()(sqlite3_stmt* statement) const { sqlite3_finalize(statement); }

SqliteConnection::SqliteConnection(SqliteConnection&&) noexcept = default;
SqliteConnection& SqliteConnection::operator=(SqliteConnection&& other) noexcept {
  statements_ = std::move(other.statements_);  // before their database
  database_ = std::move(other.database_);
  return *this;
}
SqliteConnection::~SqliteConnection() = default;

Outcome<SqliteConnection> SqliteConnection::open(const std::string& path, Access access) {
  sqlite3* opened = nullptr;
  const int flags = access == Access::read_only ? SQLITE_OPEN_READONLY : SQLITE_OPEN_READWRITE;
  const int code =
      sqlite3_open_v2(path.c_str(), &opened, flags | SQLITE_OPEN_NOFOLLOW | SQLITE_OPEN_NOMUTEX, nullptr);
  SqliteConnection connection(opened);
  if (code != SQLITE_OK)
    return fail(Fault::unavailable, fmt::format("'{}' cannot be opened: {}", path, sqlite3_errstr(code)));
  sqlite3_extended_result_codes(opened, 1);
  sqlite3_busy_timeout(opened, patience_ms);
  // A database may have been made by somebody else: nothing in it may act.
  sqlite3_db_config(opened, SQLITE_DBCONFIG_DEFENSIVE, 1, nullptr);
  sqlite3_db_config(opened, SQLITE_DBCONFIG_TRUSTED_SCHEMA, 0, nullptr);
  sqlite3_db_config(opened, SQLITE_DBCONFIG_ENABLE_FKEY, 1, nullptr);
  return connection;
}

std::unexpected<Failure> SqliteConnection::failure(int code) const {
  return fail(fault_of(code), fmt::format("the store: {}", sqlite3_errmsg(database_.get())));
}

Outcome<sqlite3_stmt*> SqliteConnection::prepared(std::string_view sql) {
  if (const auto found = statements_.find(sql); found != statements_.end()) return found->second.get();
  sqlite3_stmt* made = nullptr;
  const int code = sqlite3_prepare_v3(database_.get(), sql.data(), static_cast<int>(sql.size()),
                                      SQLITE_PREPARE_PERSISTENT, &made, nullptr);
  if (code != SQLITE_OK) return failure(code);
  statements_.emplace(sql, made);
  return made;
}

Outcome<void> SqliteConnection::each(std::string_view sql, Values values,
                                     const std::function<Outcome<void>(const Row&)>& take) {
  auto statement = prepared(sql);
  if (!statement) return failed(statement);
  // As new for the next one, whatever happens here; and what it referred to may go.
  struct Reset {
    sqlite3_stmt* statement;
    ~Reset() {
      sqlite3_reset(statement);
      sqlite3_clear_bindings(statement);
    }
  } const reset{*statement};
  int at = 0;
  for (const Value& value : values)
    if (const int code = bind(*statement, ++at, value); code != SQLITE_OK) return failure(code);
  while (true) {
    const int code = sqlite3_step(*statement);
    if (code == SQLITE_DONE) return {};
    if (code != SQLITE_ROW) return failure(code);
    if (auto taken = take(Row(*statement)); !taken) return taken;
  }
}

Outcome<std::size_t> SqliteConnection::execute(std::string_view sql, Values values) {
  auto done = each(sql, values, [](const Row&) -> Outcome<void> { return {}; });
  if (!done) return failed(done);
  return static_cast<std::size_t>(sqlite3_changes64(database_.get()));
}

Outcome<std::int64_t> SqliteConnection::number(std::string_view sql, Values values) {
  return one(sql, values, "nothing", [](const Row& row) { return Outcome<std::int64_t>(row.number(0)); });
}

Outcome<void> SqliteConnection::script(const std::string& sql) {
  const int code = sqlite3_exec(database_.get(), sql.c_str(), nullptr, nullptr, nullptr);
  if (code != SQLITE_OK) return failure(code);
  return {};
}

void SqliteConnection::roll_back() {
  // SQLite may have done so by itself (a full disk).
  if (sqlite3_get_autocommit(database_.get()) == 0) (void)execute("ROLLBACK");
}

Outcome<void> SqliteConnection::copy_to(SqliteConnection& target) {
  sqlite3_backup* copy = sqlite3_backup_init(target.database_.get(), "main", database_.get(), "main");
  if (copy == nullptr) return target.failure(sqlite3_extended_errcode(target.database_.get()));
  const int stepped = sqlite3_backup_step(copy, -1);
  const int finished = sqlite3_backup_finish(copy);
  if (stepped != SQLITE_DONE) return target.failure(stepped);
  if (finished != SQLITE_OK) return target.failure(finished);
  return {};
}

}  // namespace postern::store
