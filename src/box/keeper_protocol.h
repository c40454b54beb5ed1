#pragma once
// What a server and its keeper say to each other. A request is four bytes of length and that many bytes, with
// a socket (SOCK_SEQPACKET) beside the first, on which the answer comes: to `launch` one message, by the
// box's holder, with descriptors beside it; to `make_layer`, beside whose first byte is a second descriptor,
// what the layer is made of, one message by its maker; to `stop` only the end of file. Both ends are one
// program.

#include <cstdint>
#include <cstring>
#include <optional>
#include <string>
#include <string_view>

#include "box/agent/protocol.h"
#include "box/box_root.h"
#include "box/layer_maker.h"

namespace postern::box {

inline constexpr std::uint32_t request_bytes_max = 4U << 20;  // A CA bundle is 0.3 MiB.
inline constexpr std::size_t answer_bytes_max = 4096;         // A sentence.
inline constexpr std::size_t answer_descriptors_max = 8;      // The agent, the pidfd and six capture sockets.

enum class RequestKind : std::uint8_t { launch = 1, stop = 2, make_layer = 3 };

struct Request {
  RequestKind kind{};
  std::uint64_t number = 0;
  BoxSpec spec;    ///< Of a `launch`.
  LayerJob layer;  ///< Of a `make_layer`.
};

inline std::string encode(const Request& request) {
  std::string out;
  wire_detail::put_number(static_cast<std::uint8_t>(request.kind), out);
  wire_detail::put_number(request.number, out);
  if (request.kind == RequestKind::make_layer) {
    wire_detail::put_number(static_cast<std::uint8_t>(request.layer.source), out);
    wire_detail::put(request.layer.directory, out);
    wire_detail::put(request.layer.tag, out);
    wire_detail::put_number(request.layer.bytes_max, out);
    wire_detail::put_number(request.layer.entries_max, out);
  }
  if (request.kind != RequestKind::launch) return out;
  const BoxSpec& spec = request.spec;
  for (const std::string* text : {&spec.name, &spec.directory, &spec.state_directory})
    wire_detail::put(*text, out);
  wire_detail::put_number(static_cast<std::uint8_t>(spec.base), out);
  wire_detail::put_number(static_cast<std::uint32_t>(spec.layers.size()), out);
  for (const std::string& layer : spec.layers) wire_detail::put(layer, out);
  wire_detail::put_number(static_cast<std::uint32_t>(spec.environment.size()), out);
  for (const auto& [name, value] : spec.environment) {
    wire_detail::put(name, out);
    wire_detail::put(value, out);
  }
  wire_detail::put_number(static_cast<std::uint32_t>(spec.files.size()), out);
  for (const sandbox::MountStep& step : spec.files) {
    wire_detail::put_number(static_cast<std::uint8_t>(step.kind), out);
    for (const std::string* text : {&step.source, &step.destination, &step.content})
      wire_detail::put(*text, out);
  }
  wire_detail::put_number(static_cast<std::uint32_t>(spec.cgroups.size()), out);
  for (const std::string& directory : spec.cgroups) wire_detail::put(directory, out);
  return out;
}

/// nullopt: it is no request.
inline std::optional<Request> decode_request(std::string_view bytes) {
  using sandbox::MountStep;
  Request request;
  std::uint8_t kind = 0;
  if (!wire_detail::take_number(bytes, kind) || !wire_detail::take_number(bytes, request.number))
    return std::nullopt;
  request.kind = static_cast<RequestKind>(kind);
  if (request.kind == RequestKind::stop)
    return bytes.empty() ? std::optional(std::move(request)) : std::nullopt;
  if (request.kind == RequestKind::make_layer) {
    LayerJob& job = request.layer;
    const bool read = wire_detail::take_number(bytes, kind) && wire_detail::take(bytes, job.directory) &&
                      wire_detail::take(bytes, job.tag) && wire_detail::take_number(bytes, job.bytes_max) &&
                      wire_detail::take_number(bytes, job.entries_max) && bytes.empty();
    job.source = static_cast<LayerSource>(kind);
    return read ? std::optional(std::move(request)) : std::nullopt;
  }
  if (request.kind != RequestKind::launch) return std::nullopt;
  BoxSpec& spec = request.spec;
  for (std::string* text : {&spec.name, &spec.directory, &spec.state_directory})
    if (!wire_detail::take_bytes(bytes, *text)) return std::nullopt;
  if (!wire_detail::take_number(bytes, kind) || !wire_detail::take(bytes, spec.layers)) return std::nullopt;
  spec.base = static_cast<BoxBase>(kind);
  std::uint32_t count = 0;
  if (!wire_detail::take_number(bytes, count)) return std::nullopt;
  for (; count > 0; --count) {
    auto& [name, value] = spec.environment.emplace_back();
    if (!wire_detail::take_bytes(bytes, name) || !wire_detail::take_bytes(bytes, value)) return std::nullopt;
  }
  if (!wire_detail::take_number(bytes, count)) return std::nullopt;
  for (; count > 0; --count) {
    MountStep step{};
    if (!wire_detail::take_number(bytes, kind) ||
        kind > static_cast<std::uint8_t>(MountStep::Kind::directory) ||
        !wire_detail::take_bytes(bytes, step.source) || !wire_detail::take_bytes(bytes, step.destination) ||
        !wire_detail::take_bytes(bytes, step.content))
      return std::nullopt;
    step.kind = static_cast<MountStep::Kind>(kind);
    spec.files.push_back(std::move(step));
  }
  if (!wire_detail::take_number(bytes, count)) return std::nullopt;
  for (; count > 0; --count)
    if (!wire_detail::take_bytes(bytes, spec.cgroups.emplace_back())) return std::nullopt;
  return bytes.empty() ? std::optional(std::move(request)) : std::nullopt;
}

/// The first byte of an answer. After `launched` follow descriptors and which of the capture sockets they are
/// (bits 0 to 5), after `made` a MadeLayer, after `failed` the Reason and a sentence.
enum class Answer : char { launched = 'l', made = 'm', failed = 'f' };

}  // namespace postern::box
