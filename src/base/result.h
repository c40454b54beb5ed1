#pragma once
// Expected failures are values. An Error says whose fault it is, whether the same thing may be tried
// again, and one stable token (Reason) that the HTTP answer, the audit record and the metric share.

#include <expected>
#include <string>
#include <utility>

#include "base/reason.h"

namespace postern {

/// The two words for direction: `sandbox` is the client we do not trust, `origin` the server it asked for.
enum class Side : unsigned char { sandbox, origin, self };

/// Whether repeating the operation on a fresh connection is safe.
enum class Retry : unsigned char { never, fresh_connection };

struct Error {
  // Not an aggregate: g++ 12 copies an aggregate temporary bit by bit when it is an argument inside a
  // co_await expression, and a short string that points at itself does not survive that.
  Error(Reason reason_in, Side side_in, Retry retry_in, std::string detail_in)
      : reason(reason_in), side(side_in), retry(retry_in), detail(std::move(detail_in)) {}

  Reason reason = Reason::internal;
  Side side = Side::self;
  Retry retry = Retry::never;
  std::string detail;  ///< A sentence for people. Never holds a secret.
};

template <class T>
using Result = std::expected<T, Error>;

inline std::unexpected<Error> fail(Reason reason, std::string detail, Side side = Side::self,
                                   Retry retry = Retry::never) {
  return std::unexpected(Error{reason, side, retry, std::move(detail)});
}

}  // namespace postern
