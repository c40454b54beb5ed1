#pragma once
// The tables, and how older ones become newer ones.

#include "store/sqlite_connection.h"

namespace postern::store {

/// Of this program. Older databases are brought to it, newer ones refused.
int sqlite_schema_version();

/// Makes the tables in an empty database, or migrates those of an older program: all of it or nothing.
/// Errors: newer; damaged, for a database that is not a store.
Outcome<void> migrate(SqliteConnection& connection);

/// Whether it is a store of a version that this program can read. Errors as migrate().
Outcome<void> check_schema(SqliteConnection& connection);

}  // namespace postern::store
