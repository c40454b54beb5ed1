#pragma once
// What a server and its keeper say to each other. A request is four bytes of length and that many bytes, with
// a socket (SOCK_SEQPACKET) beside the first, on which the answer comes: to `launch` one message, by the
// box's holder, with descriptors beside it; to `stop` only the end of file. Both ends are one program.

#include <cstdint>
#include <cstring>
#include <optional>
#include <string>
#include <string_view>

#include "box/box_root.h"

namespace postern::box {

inline constexpr std::uint32_t request_bytes_max = 4U << 20;  // A CA bundle is 0.3 MiB.
inline constexpr std::size_t answer_bytes_max = 4096;         // A sentence.
inline constexpr std::size_t answer_descriptors_max = 8;      // The agent, the pidfd and six capture sockets.

enum class RequestKind : std::uint8_t { launch = 1, stop = 2 };

struct Request {
  RequestKind kind{};
  std::uint64_t number = 0;
  BoxSpec spec;  ///< Of a `launch`.
};

namespace keeper_wire {

template <class Number>
void put_number(Number number, std::string& out) {
  char bytes[sizeof number];
  std::memcpy(bytes, &number, sizeof number);
  out.append(bytes, sizeof number);
}
inline void put(std::string_view text, std::string& out) {
  put_number(static_cast<std::uint32_t>(text.size()), out);
  out += text;
}
template <class Number>
bool take_number(std::string_view& from, Number& number) {
  if (from.size() < sizeof number) return false;
  std::memcpy(&number, from.data(), sizeof number);
  from.remove_prefix(sizeof number);
  return true;
}
inline bool take(std::string_view& from, std::string& text) {
  std::uint32_t size = 0;
  if (!take_number(from, size) || from.size() < size) return false;
  text.assign(from.substr(0, size));
  from.remove_prefix(size);
  return true;
}

}  // namespace keeper_wire

inline std::string encode(const Request& request) {
  std::string out;
  keeper_wire::put_number(static_cast<std::uint8_t>(request.kind), out);
  keeper_wire::put_number(request.number, out);
  if (request.kind != RequestKind::launch) return out;
  const BoxSpec& spec = request.spec;
  for (const std::string* text : {&spec.name, &spec.directory, &spec.snapshot, &spec.state_directory})
    keeper_wire::put(*text, out);
  keeper_wire::put_number(static_cast<std::uint32_t>(spec.environment.size()), out);
  for (const auto& [name, value] : spec.environment) {
    keeper_wire::put(name, out);
    keeper_wire::put(value, out);
  }
  keeper_wire::put_number(static_cast<std::uint32_t>(spec.files.size()), out);
  for (const sandbox::MountStep& step : spec.files) {
    keeper_wire::put_number(static_cast<std::uint8_t>(step.kind), out);
    for (const std::string* text : {&step.source, &step.destination, &step.content})
      keeper_wire::put(*text, out);
  }
  return out;
}

/// nullopt: it is no request.
inline std::optional<Request> decode_request(std::string_view bytes) {
  using sandbox::MountStep;
  Request request;
  std::uint8_t kind = 0;
  if (!keeper_wire::take_number(bytes, kind) || !keeper_wire::take_number(bytes, request.number))
    return std::nullopt;
  request.kind = static_cast<RequestKind>(kind);
  if (request.kind == RequestKind::stop)
    return bytes.empty() ? std::optional(std::move(request)) : std::nullopt;
  if (request.kind != RequestKind::launch) return std::nullopt;
  BoxSpec& spec = request.spec;
  for (std::string* text : {&spec.name, &spec.directory, &spec.snapshot, &spec.state_directory})
    if (!keeper_wire::take(bytes, *text)) return std::nullopt;
  std::uint32_t count = 0;
  if (!keeper_wire::take_number(bytes, count)) return std::nullopt;
  for (; count > 0; --count) {
    auto& [name, value] = spec.environment.emplace_back();
    if (!keeper_wire::take(bytes, name) || !keeper_wire::take(bytes, value)) return std::nullopt;
  }
  if (!keeper_wire::take_number(bytes, count)) return std::nullopt;
  for (; count > 0; --count) {
    MountStep step{};
    if (!keeper_wire::take_number(bytes, kind) ||
        kind > static_cast<std::uint8_t>(MountStep::Kind::directory) ||
        !keeper_wire::take(bytes, step.source) || !keeper_wire::take(bytes, step.destination) ||
        !keeper_wire::take(bytes, step.content))
      return std::nullopt;
    step.kind = static_cast<MountStep::Kind>(kind);
    spec.files.push_back(std::move(step));
  }
  return bytes.empty() ? std::optional(std::move(request)) : std::nullopt;
}

/// The first byte of an answer to `launch`: whether descriptors follow, and which of the capture sockets
/// (bits 0 to 5), or the Reason and a sentence.
enum class Answer : char { launched = 'l', failed = 'f' };

}  // namespace postern::box
