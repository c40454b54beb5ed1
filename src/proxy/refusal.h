#pragma once
// A refusal that an agent can read: a real HTTP answer with a stable token and a sentence that says what was
// refused and what would be allowed. Never a secret, an internal address or another sandbox's name.

#include <string>
#include <string_view>

#include "base/result.h"

namespace postern::proxy {

struct Refusal {
  Reason reason = Reason::internal;
  std::string_view host;
  std::uint16_t port = 0;
  std::string_view rule;     ///< Empty when no rule decided.
  std::string_view detail;   ///< What exactly was wrong; may be empty. Ours, never text from an origin.
  std::string_view allowed;  ///< What the policy allows instead, for people; may be empty.
};

/// {"error": {"reason", "message", "host", "rule"?, "docs"}}
std::string refusal_body(const Refusal& refusal);

/// The sentence alone, as a `grpc-message` spells it: other than printable ASCII is percent-encoded.
std::string grpc_message(const Refusal& refusal);
/// What a client of gRPC reads in place of the HTTP status.
int grpc_status_of(Reason reason);

std::string_view reason_phrase(int status);

}  // namespace postern::proxy
