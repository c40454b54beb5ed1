#pragma once
// HTTP messages as values, whatever protocol version carried them. Views point into the buffer of whoever
// parsed the head and stay valid until that buffer is released (see wire/http1.h).

#include <cstdint>
#include <span>
#include <string_view>

namespace postern {

struct HeaderField {
  std::string_view name;
  std::string_view value;
};

enum class BodyFraming : std::uint8_t { none, length, chunked, until_close };

struct RequestHead {
  std::string_view method;
  std::string_view target;     ///< As sent: origin-form, absolute-form, or "*".
  std::string_view authority;  ///< The Host field or `:authority`, unparsed.
  std::span<HeaderField> fields;
  BodyFraming framing = BodyFraming::none;
  std::uint64_t content_length = 0;  ///< With BodyFraming::length.
  std::string_view upgrade;          ///< The Upgrade field's value when Connection names it, else empty.
  std::string_view protocol;         ///< Of an extended CONNECT (RFC 8441), which `upgrade` says too.
  int minor_version = 1;             ///< HTTP/1.x
  bool keep_alive = true;            ///< The sender is willing to send another request.
  bool expects_continue = false;     ///< Expect: 100-continue (RFC 9110 §10.1.1)
  bool accepts_trailers = false;     ///< TE: trailers (RFC 9110 §10.1.4); gRPC insists on it.
};

struct ResponseHead {
  int status = 0;
  std::string_view reason_phrase;
  std::span<HeaderField> fields;
  BodyFraming framing = BodyFraming::none;
  std::uint64_t content_length = 0;
  std::string_view upgrade;
  int minor_version = 1;
  bool keep_alive = true;
};

/// A piece of a body. Valid until the next one is asked for.
struct BodyPiece {
  std::string_view data;
  bool last = false;        ///< The body is complete with this piece.
  bool more_ready = false;  ///< The next piece needs no waiting: gather before writing.
};

}  // namespace postern
