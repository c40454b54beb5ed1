#pragma once
// What the limits of a policy have to do with one request: it is let in, its body is counted while it comes,
// and what its answer cost is counted when that is there.

#include <cstdint>
#include <expected>
#include <memory>
#include <optional>
#include <string>
#include <string_view>

#include "model/http.h"
#include "proxy/sides.h"
#include "quota/gates.h"
#include "transform/codings.h"
#include "transform/llm_usage.h"

namespace postern::proxy {

/// The tokens of a language model that an answer cost: what it says itself or, where it says nothing, a
/// quarter of the bytes that went to and fro, so that nothing is gained by having usage left out. An answer
/// that is an error and says nothing cost nothing.
class TokenMeter {
 public:
  /// How the body of the answer comes. Where its coding is not known, its bytes are all that is known of it.
  void begin(const ResponseHead& head);
  /// As the origin sent it. What unpacks to too much is not read further.
  void feed(std::string_view piece, bool last);
  std::uint64_t tokens(std::uint64_t request_bytes) const;

 private:
  transform::LlmUsage usage_;
  std::optional<transform::Decoder> decoder_;
  std::uint64_t coded_bytes_ = 0, plain_bytes_ = 0;
  bool is_error_ = false;
};

/// Ends with the exchange, not after its Egress.
class LimitedRequest {
 public:
  /// `was_read`: how much of the body has come already. nullptr: nothing is limited.
  static std::expected<std::unique_ptr<LimitedRequest>, quota::Refused> admit(
      const quota::Gates& gates, std::uint32_t rule, std::uint32_t other_rule, const RequestHead& head,
      std::uint64_t was_read, const Clock& clock);
  explicit LimitedRequest(quota::Ticket ticket);
  LimitedRequest(const LimitedRequest&) = delete;
  ~LimitedRequest() { settle(); }

  /// So much of the body, or of a tunnel, has come from the sandbox.
  std::expected<void, quota::Refused> pass_request(std::size_t bytes);
  /// Only what can be read back is asked for. Views are into this object.
  void ask_for_readable(FieldList& fields);
  /// The origin has it from here on, and may do what it costs.
  void sent() { sent_ = true; }
  void begin_answer(const ResponseHead& head);
  /// After the last piece the place is free: what the sandbox does now is a new request.
  void pass_answer(std::string_view piece, bool last);
  /// What passes from here on is paid for while it passes: nobody can tell when it ends.
  void begin_tunnel() { tunnel_ = true; }
  std::expected<void, quota::Refused> pass_tunnel(std::size_t bytes);

 private:
  void settle();

  quota::Ticket ticket_;
  std::optional<TokenMeter> meter_;  ///< When tokens are limited.
  std::string accept_encoding_;
  std::uint64_t request_bytes_ = 0;
  std::uint64_t tunnel_bytes_ = 0;  ///< That are not yet a token.
  bool sent_ = false, tunnel_ = false, settled_ = false;
};

}  // namespace postern::proxy
