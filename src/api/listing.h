#pragma once
// Lists of what a workspace has: by pages with a cursor, as generated clients ask, or by limit and offset, as
// those written by hand do.

#include <cstddef>
#include <expected>
#include <functional>
#include <string>
#include <vector>

#include "control/auth.h"
#include "control/errors.h"
#include "store/store.h"

namespace postern::api {

struct ListQuery {
  store::ResourceQuery query;
  std::size_t offset = 0;
  bool by_cursor = false;
  std::vector<std::string> tags;  ///< tag_value_id
};

/// Errors: 400, naming the parameter and what is accepted.
std::expected<ListQuery, control::Response> read_list_query(const control::Request& request,
                                                            const control::Principal& caller);

/// Whether a resource has all of these tags.
using Accept = std::function<bool(const store::Resource&, const std::vector<std::string>&)>;

/// The next `limit` that have the tags, after `offset` of them.
store::Outcome<store::Listed<store::Resource>> list(store::Resources& from,
                                                    const store::WorkspaceId& workspace, ListQuery query,
                                                    const Accept& accept = nullptr);

}  // namespace postern::api
