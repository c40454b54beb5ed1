#pragma once
// Writes HTTP/1.1 heads from values. Every byte that goes out is judged here once more, so that response
// splitting and request smuggling (RFC 9112 §11) stay impossible however a value came into being: a head with
// a CR, an LF, a malformed name or two lengths is not written at all.

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

namespace postern::wire {

/// Appends one head to `out`. Exactly one start line first, then fields, then end(). As soon as something may
/// not be written, everything this writer appended is taken back, nothing more is appended, and end() returns
/// false. A writer that goes away before end() takes its bytes back too. Until then the buffer is the
/// writer's.
class HeadWriter {
 public:
  explicit HeadWriter(std::string& out) : out_(out), begin_(out.size()) {}
  HeadWriter(const HeadWriter&) = delete;
  HeadWriter& operator=(const HeadWriter&) = delete;
  ~HeadWriter();

  /// `GET /path HTTP/1.1`. The target is origin-form, absolute-form or "*": visible ASCII without '#'.
  void request_line(std::string_view method, std::string_view target);
  /// `HTTP/1.1 200 OK`. 100 ≤ status ≤ 999; the reason may be empty.
  void status_line(int status, std::string_view reason);
  /// Content-Length and Transfer-Encoding may be given here, but a head has one of them at most, once.
  void field(std::string_view name, std::string_view value);
  void content_length(std::uint64_t length);
  void chunked();
  /// The empty line. True: the head stands in the buffer. False: nothing does.
  [[nodiscard]] bool end();

 private:
  enum class State : std::uint8_t { start_line, fields, ended, refused };
  bool accept(bool valid);
  void take_back();
  void append_field(std::string_view name, std::string_view value);

  std::string& out_;
  const std::size_t begin_;
  State state_ = State::start_line;
  bool framed_ = false;
};

/// Writes the size line of a chunk with `size` bytes, "1f\r\n", and returns its length. The caller adds the
/// data and CRLF. For 0, which ends the body (RFC 9112 §7.1), it adds trailers, if any, and an empty line.
std::size_t chunk_prefix(std::size_t size, char (&out)[20]);

}  // namespace postern::wire
