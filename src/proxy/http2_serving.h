#pragma once
// A sandbox's connection that speaks HTTP/2: many exchanges at once, each judged by itself.

#include <functional>
#include <memory>
#include <optional>

#include "io/stream.h"
#include "proxy/egress.h"

namespace postern::proxy {

class Worker;

struct Http2Serving {
  Worker& worker;
  const Flow& flow;
  std::optional<Error> refusal;  ///< What every request is answered with; none are carried then.
  /// Writes a record for a request that was refused before it was one.
  std::function<void(const Error&)> record;
};

/// Until the connection and its last exchange have ended. Returns why the connection came to nothing, if not
/// one request was made on it.
io::Task<std::optional<Error>> serve_http2(Http2Serving serving, std::unique_ptr<io::Stream> stream);

}  // namespace postern::proxy
