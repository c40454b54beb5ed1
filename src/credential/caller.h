#pragma once
// How credentials are asked for: one HTTP call, out of the process's own network and never through a
// sandbox's. The road implements it (proxy/outbound_call.h) by the same resolver, address checks and verified
// TLS as every origin.

#include <chrono>
#include <cstddef>
#include <span>
#include <string>
#include <string_view>

#include "base/clock.h"
#include "base/result.h"
#include "credential/injected_header.h"
#include "credential/wiped_string.h"
#include "io/loop.h"
#include "model/http.h"
#include "wire/url.h"

namespace postern::credential {

struct Call {
  const wire::Url& url;
  std::string_view method = "POST";
  std::span<const HeaderField> fields;          ///< Nothing secret. Content-Length is added.
  std::span<const InjectedHeader> credentials;  ///< Written once the endpoint is verified.
  std::string_view body;
  std::size_t answer_bytes_max = 0;
  TimePoint deadline{};
  /// May be sent again when a kept connection turned out to be gone.
  bool repeatable = false;
};

struct CallAnswer {
  int status = 0;  ///< Redirects are not followed.
  WipedString body;
};

/// Why a call failed, for the record of the request that wanted the credential.
inline std::string describe(const Error& error) {
  return std::string(token(error.reason)).append(": ").append(error.detail);
}

/// Of one loop.
class Caller {
 public:
  virtual ~Caller() = default;
  /// What `call` refers to outlives the task. Plain HTTP goes only to addresses that the operator opened.
  /// Errors: those of reaching and reading an origin, private_address, plaintext_credential.
  virtual io::Task<Result<CallAnswer>> call(const Call& call) = 0;
  virtual io::Loop& loop() = 0;
  virtual const Clock& clock() = 0;
};

}  // namespace postern::credential
