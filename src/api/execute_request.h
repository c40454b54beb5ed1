#pragma once
// What callers say about commands and searches, in HTTP bodies and WebSocket frames, and what a box makes of
// it.

#include <cstdint>
#include <expected>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

#include "box/box_loop.h"
#include "box/command.h"
#include "control/message.h"

namespace postern::api {

/// What is wrong with a document. Never quotes a value.
struct Refusal {
  enum class Kind : std::uint8_t { invalid, bad };
  std::string field;  ///< "run_config.env"; empty: the document itself.
  std::string message;
  Kind kind = Kind::invalid;
};
/// 422 in pydantic's form, or 400.
control::Response to_response(const Refusal& refusal);

struct ExecuteRequest {
  box::CommandOptions options;  ///< Environment and directory as settle() leaves them.
  std::vector<std::pair<std::string, std::string>> environment;
  std::string command_id;  ///< Empty: none was given.
  /// Output comes as binary messages (a byte for the stream, 1 or 2, and what it said), so that nothing of it
  /// is lost that is no text; a binary message of the caller is input. Ours, and not in the SDKs' contract.
  bool binary = false;
};

struct ReconnectRequest {
  std::string command_id;
  std::uint64_t output_offset = 0;
  std::uint64_t error_offset = 0;
};

/// How a command is asked for: what else may be said about it, and whether it has input.
enum class Form : std::uint8_t {
  once,    ///< POST execute: `timeout` too; it lives as long as the request.
  socket,  ///< The first frame of execute/ws; it has input and may have a terminal.
  events,  ///< execute/stream/start.
};

/// Unknown fields are passed over; null is as if it were not there.
std::expected<ExecuteRequest, Refusal> parse_execute(std::string_view document, Form form);
std::expected<ReconnectRequest, Refusal> parse_reconnect(std::string_view document);

/// The first frame of execute/ws.
using Opening = std::variant<ExecuteRequest, ReconnectRequest>;
std::expected<Opening, Refusal> parse_opening(std::string_view frame);

/// A later frame of execute/ws.
struct Order {
  enum class Kind : std::uint8_t { input, close_input, kill, resize, unknown };
  Kind kind = Kind::unknown;
  std::string data;
  std::uint16_t rows = 0, columns = 0;  ///< Kind::resize: of the terminal.
};
std::expected<Order, Refusal> parse_order(std::string_view frame);

/// The body of glob and grep.
struct SearchRequest {
  std::string pattern;
  std::string path;  ///< Empty: the home.
  std::string glob;  ///< Of grep; empty: every file.
  std::uint64_t limit = 0;
};
std::expected<SearchRequest, Refusal> parse_search(std::string_view document, std::int64_t default_limit,
                                                   std::int64_t limit_max);

/// Fills in what the box knows: its variables below those of the request, and where commands start.
box::CommandOptions settle(ExecuteRequest request, const box::OpenBox& box);

/// As programs in the box take it: relative ones start at its home.
std::string path_in(const box::OpenBox& box, std::string_view path);

}  // namespace postern::api
