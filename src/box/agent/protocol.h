#pragma once
// What Postern and the agent inside a box say to each other, over a stream socket that is the only thing they
// share. Frames: a header, then `size` bytes. Both ends are built together, so it has no versions. Neither
// end trusts the other: whatever runs in the box may have taken the agent over.
//
// Included by the agent, which is built without the rest of Postern: nothing but the standard library.

#include <cstdint>
#include <cstring>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace postern::box {

inline constexpr std::uint32_t frame_bytes_max = 256 * 1024;
inline constexpr std::uint32_t output_bytes_max = 32 * 1024;  // of one frame: small enough to take turns
inline constexpr std::uint32_t window_bytes = 256 * 1024;     // of each of a command's streams
inline constexpr std::uint32_t commands_max = 256;            // at once, in one box
inline constexpr std::uint32_t words_max = 65'536;            // arguments and variables of one command

enum class FrameType : std::uint8_t {
  // To the agent.
  run,          ///< RunRequest
  input,        ///< bytes for the standard input
  close_input,  ///< the end of it; nothing on a terminal
  signal,       ///< value: the signal, to the command's process group
  resize,       ///< value: rows << 16 | columns
  taken,        ///< value: bytes of the stream that may be sent in place of those that were
  // From the agent.
  started,  ///< value: the process id, as the box numbers it
  output,   ///< bytes of the stream
  ended,    ///< the stream has ended
  exited,   ///< value: the exit status, or 128 + the signal; after both streams have ended
  refused,  ///< value: errno; the command never ran
  wanted,   ///< value: bytes of input that were passed on, so that as many may be sent
};

enum class StreamId : std::uint8_t { standard_output = 1, standard_error = 2 };

struct FrameHeader {
  std::uint32_t size = 0;  ///< Of what follows.
  std::uint32_t command = 0;
  std::uint32_t value = 0;
  FrameType type{};
  StreamId stream{};
  std::uint16_t reserved = 0;
};
static_assert(sizeof(FrameHeader) == 16);

struct RunRequest {
  std::vector<std::string> arguments;    ///< At least the program; looked up in PATH of `environment`.
  std::vector<std::string> environment;  ///< NAME=VALUE: all of it.
  std::string directory;                 ///< Empty: the agent's.
  bool of_agent = false;                 ///< One of the agent's own (box/agent/), and no program.
  bool terminal = false;
  bool has_input = false;  ///< Else the standard input is /dev/null. A terminal always has.
  std::uint16_t rows = 24, columns = 80;
};

namespace wire_detail {
template <class Number>
void put_number(Number number, std::string& out) {
  char bytes[sizeof number];
  std::memcpy(bytes, &number, sizeof number);
  out.append(bytes, sizeof number);
}
template <class Number>
bool take_number(std::string_view& from, Number& number) {
  if (from.size() < sizeof number) return false;
  std::memcpy(&number, from.data(), sizeof number);
  from.remove_prefix(sizeof number);
  return true;
}
inline void put(std::uint32_t number, std::string& out) { put_number(number, out); }
inline void put(std::string_view text, std::string& out) {
  put(static_cast<std::uint32_t>(text.size()), out);
  out.append(text);
}
inline bool take(std::string_view& from, std::uint32_t& number) { return take_number(from, number); }
inline bool take_bytes(std::string_view& from, std::string& bytes) {
  std::uint32_t size = 0;
  if (!take_number(from, size) || from.size() < size) return false;
  bytes.assign(from.substr(0, size));
  from.remove_prefix(size);
  return true;
}
/// Without NUL: it becomes a C string.
inline bool take(std::string_view& from, std::string& text) {
  return take_bytes(from, text) && text.find('\0') == std::string::npos;
}
inline bool take(std::string_view& from, std::vector<std::string>& words) {
  std::uint32_t count = 0;
  if (!take(from, count) || count > words_max) return false;
  for (std::uint32_t i = 0; i < count; ++i)
    if (!take(from, words.emplace_back())) return false;
  return true;
}
}  // namespace wire_detail

inline std::string encode(const RunRequest& request) {
  std::string out;
  wire_detail::put(
      (request.terminal ? 1u : 0u) | (request.has_input ? 2u : 0u) | (request.of_agent ? 4u : 0u), out);
  wire_detail::put(std::uint32_t{request.rows} << 16 | request.columns, out);
  wire_detail::put(request.directory, out);
  for (const auto* words : {&request.arguments, &request.environment}) {
    wire_detail::put(static_cast<std::uint32_t>(words->size()), out);
    for (const std::string& word : *words) wire_detail::put(word, out);
  }
  return out;
}

/// nullopt: it is no request.
inline std::optional<RunRequest> decode_run(std::string_view bytes) {
  RunRequest request;
  std::uint32_t flags = 0, size = 0;
  if (!wire_detail::take(bytes, flags) || flags > 7 || !wire_detail::take(bytes, size) ||
      !wire_detail::take(bytes, request.directory) || !wire_detail::take(bytes, request.arguments) ||
      !wire_detail::take(bytes, request.environment) || !bytes.empty() || request.arguments.empty())
    return std::nullopt;
  request.terminal = (flags & 1) != 0;
  request.has_input = (flags & 2) != 0;
  request.of_agent = (flags & 4) != 0;
  request.rows = static_cast<std::uint16_t>(size >> 16);
  request.columns = static_cast<std::uint16_t>(size);
  return request;
}

inline std::string_view bytes_of(const FrameHeader& header) {
  return {reinterpret_cast<const char*>(&header), sizeof header};
}

inline void append_frame(FrameType type, std::uint32_t command, std::uint32_t value, StreamId stream,
                         std::string_view bytes, std::string& out) {
  FrameHeader header;
  header.size = static_cast<std::uint32_t>(bytes.size());
  header.command = command;
  header.value = value;
  header.type = type;
  header.stream = stream;
  out.append(bytes_of(header)).append(bytes);
}

/// `each(header, bytes)` for every frame that is complete, and takes them off. False: what came is no frame,
/// or `each` said so.
template <class Each>
bool take_frames(std::string& received, Each each) {
  std::size_t done = 0;
  while (received.size() - done >= sizeof(FrameHeader)) {
    FrameHeader header;
    std::memcpy(&header, received.data() + done, sizeof header);
    if (header.size > frame_bytes_max) return false;
    if (received.size() - done - sizeof header < header.size) break;
    if (!each(header, std::string_view(received).substr(done + sizeof header, header.size))) return false;
    done += sizeof header + header.size;
  }
  received.erase(0, done);
  return true;
}

}  // namespace postern::box
