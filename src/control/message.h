#pragma once
// What a caller of the API asked and what it is told, as values. They own their bytes: a request may be
// answered long after the buffer that it came in was used for the next one.

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "model/address.h"

namespace postern::control {

struct Field {
  std::string name;
  std::string value;
  bool operator==(const Field&) const = default;
};
using Fields = std::vector<Field>;

/// The first field with this name, ASCII case ignored; nullptr without one. Valid as long as `fields` is not
/// changed.
const std::string* find_field(const Fields& fields, std::string_view name);
std::size_t count_fields(const Fields& fields, std::string_view name);

struct Request {
  std::string method;
  std::string target;  ///< As sent, in origin-form: "/v2/sandboxes/boxes?limit=5".
  std::string host;    ///< The Host field; empty in HTTP/1.0 only.
  Fields fields;
  Endpoint peer;
  bool has_body = false;
  std::optional<std::uint64_t> body_size;  ///< When the caller said it.
  bool wants_websocket = false;            ///< It asks for an upgrade that Call::upgrade() can grant.

  // Filled in by the Router.
  Fields parameters;  ///< The decoded `{name}` segments.
  Fields query;       ///< In the order in which they were sent; a name may come several times.

  /// As sent, without the query.
  std::string_view path() const { return std::string_view(target).substr(0, target.find('?')); }
  const std::string* field(std::string_view name) const { return find_field(fields, name); }
  /// A `{name}` of the route that matched: there is one, or the program is wrong.
  const std::string& parameter(std::string_view name) const;
  /// The first with this name (byte for byte); nullptr without one.
  const std::string* query_value(std::string_view name) const;
};

/// A body that is made while it is sent, one piece at a time and only when there is room on the connection:
/// a slow reader makes it wait, and nothing piles up. Called on worker threads, never twice at once; it may
/// read a file, but must not wait for something that happens later: then it says `wait`, and whoever makes
/// the rest calls Call::wake(). Destroyed when the last piece has gone out or the caller has gone.
class BodySource {
 public:
  enum class Then : std::uint8_t {
    more,    ///< Ask again.
    wait,    ///< Ask again after Call::wake().
    end,     ///< That was all.
    broken,  ///< There is no more although there should be: the connection is cut, so that the caller
             ///< notices.
  };
  struct Piece {
    std::size_t size = 0;  ///< Bytes that were written to `into`.
    Then then = Then::end;
  };
  virtual ~BodySource() = default;
  virtual Piece next(std::span<char> into) = 0;
};

struct Response {
  int status = 200;
  /// Everything but Content-Length, Transfer-Encoding, Connection and Date, which the server writes.
  Fields fields;
  std::string body;                     ///< Unless there is a source.
  std::unique_ptr<BodySource> source;   ///< Never asked for the answer to a HEAD.
  std::optional<std::uint64_t> length;  ///< Of the source, exactly. Without: chunked.
};

/// A JSON document with its Content-Type.
Response json_response(int status, std::string document);

/// "Not Found"; empty for a status that has no name here.
std::string_view reason_phrase(int status);

/// `segment` with its %-escapes decoded, or a sentence: a broken escape, a NUL, or what is not UTF-8.
std::expected<std::string, std::string_view> decode_segment(std::string_view segment);

/// The part of `target` behind '?', taken apart (application/x-www-form-urlencoded: '+' is a space). Or a
/// sentence, as decode_segment().
std::expected<Fields, std::string_view> parse_query(std::string_view target);

}  // namespace postern::control
