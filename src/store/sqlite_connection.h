#pragma once
// One connection to a SQLite database: statements that are prepared once, values in and rows out, and
// SQLite's codes as Faults. No SQL here. For one thread at a time.

#include <concepts>
#include <cstdint>
#include <functional>
#include <initializer_list>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <variant>
#include <vector>

#include "store/records.h"

struct sqlite3;
struct sqlite3_stmt;

namespace postern::store {

/// Bytes that are no text.
struct Blob {
  std::string_view bytes;
};

/// A value for a statement. Refers to text and bytes, which outlive the call.
class Value {
 public:
  using Held = std::variant<std::nullopt_t, std::int64_t, std::string_view, Blob>;

  Value(std::nullopt_t null) : held_(null) {}
  Value(std::integral auto number) : held_(static_cast<std::int64_t>(number)) {}
  Value(std::string_view text) : held_(text) {}
  Value(const std::string& text) : held_(std::string_view(text)) {}
  Value(Blob blob) : held_(blob) {}
  Value(const WorkspaceId& id) : held_(std::string_view(id.text)) {}
  /// Microseconds since 1970.
  Value(WallTime time)
      : held_(std::int64_t{std::chrono::floor<std::chrono::microseconds>(time).time_since_epoch().count()}) {}
  template <class T>
  Value(const std::optional<T>& value) : held_(value ? Value(*value).held_ : Held(std::nullopt)) {}

  const Held& held() const { return held_; }

 private:
  Held held_;
};
using Values = std::initializer_list<Value>;

/// One row, while it is looked at. What is there is as the schema has it: the tables are STRICT.
class Row {
 public:
  explicit Row(sqlite3_stmt* statement) : statement_(statement) {}
  bool null(int column) const;
  std::int64_t number(int column) const;
  std::string text(int column) const;
  std::string_view bytes(int column) const;  ///< Valid until the reader returns.
  WallTime time(int column) const { return WallTime(std::chrono::microseconds(number(column))); }
  std::optional<WallTime> time_if_any(int column) const {
    return null(column) ? std::nullopt : std::optional(time(column));
  }

 private:
  sqlite3_stmt* statement_;
};

class SqliteConnection {
 public:
  enum class Access : std::uint8_t { read_only, read_write };
  /// How long to wait for another process that writes.
  static constexpr int patience_ms = 5'000;

  /// An existing file, or an empty one. Its name must not lead through a symbolic link.
  static Outcome<SqliteConnection> open(const std::string& path, Access access);
  SqliteConnection(SqliteConnection&&) noexcept;
  SqliteConnection& operator=(SqliteConnection&&) noexcept;
  ~SqliteConnection();

  /// How many rows it changed. `sql` is prepared once and kept: build it from literals only.
  Outcome<std::size_t> execute(std::string_view sql, Values values = {});
  /// `read` gives an Outcome of something for a Row. All of them, or the first failure.
  template <class Read>
  auto all(std::string_view sql, Values values, Read read) {
    using T = decltype(read(std::declval<const Row&>()))::value_type;
    std::vector<T> rows;
    auto done = each(sql, values, [&](const Row& row) -> Outcome<void> {
      auto value = read(row);
      if (!value) return failed(value);
      rows.push_back(std::move(*value));
      return {};
    });
    return done ? Outcome<std::vector<T>>(std::move(rows)) : failed(done);
  }
  /// The first row. Without one: not_found, with `absent` as its sentence.
  template <class Read>
  auto one(std::string_view sql, Values values, std::string_view absent, Read read) {
    auto rows = all(sql, values, read);
    using T = decltype(rows)::value_type::value_type;
    if (!rows) return Outcome<T>(failed(rows));
    if (rows->empty()) return Outcome<T>(fail(Fault::not_found, std::string(absent)));
    return Outcome<T>(std::move(rows->front()));
  }
  Outcome<std::int64_t> number(std::string_view sql, Values values = {});

  /// Several statements, as they stand.
  Outcome<void> script(const std::string& sql);

  /// All that `work` does, or nothing. `begin`: "BEGIN" for one state to read from, "BEGIN IMMEDIATE" to
  /// write.
  template <class Work>
  auto in_transaction(std::string_view begin, Work work) -> decltype(work(*this)) {
    if (auto begun = execute(begin); !begun) return failed(begun);
    auto done = work(*this);
    if (!done) {
      roll_back();
      return done;
    }
    if (auto committed = execute("COMMIT"); !committed) {
      roll_back();
      return failed(committed);
    }
    return done;
  }

  /// Everything, as it is at one moment, over whatever `target` had.
  Outcome<void> copy_to(SqliteConnection& target);

 private:
  struct Close {
    void operator()(sqlite3* database) const;
  };
  struct Finalize {
    void operator()(sqlite3_stmt* statement) const;
  };
  struct Hash {
    using is_transparent = void;
    std::size_t operator()(std::string_view text) const { return std::hash<std::string_view>{}(text); }
  };

  explicit SqliteConnection(sqlite3* database) : database_(database) {}
  Outcome<void> each(std::string_view sql, Values values,
                     const std::function<Outcome<void>(const Row&)>& take);
  Outcome<sqlite3_stmt*> prepared(std::string_view sql);
  std::unexpected<Failure> failure(int code) const;
  void roll_back();

  std::unique_ptr<sqlite3, Close> database_;
  std::unordered_map<std::string, std::unique_ptr<sqlite3_stmt, Finalize>, Hash, std::equal_to<>> statements_;
};

}  // namespace postern::store
