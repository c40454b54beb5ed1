#include "wire/http_writer.h"

#include <charconv>

#include "wire/http1.h"

namespace postern::wire {

HeadWriter::~HeadWriter() {
  if (state_ != State::ended) take_back();
}

void HeadWriter::take_back() {
  if (out_.size() > begin_) out_.resize(begin_);
}

bool HeadWriter::accept(bool valid) {
  // After end() the bytes are the caller's; they may have been sent already.
  if (state_ == State::refused || state_ == State::ended) return false;
  if (valid) return true;
  state_ = State::refused;
  take_back();
  return false;
}

void HeadWriter::request_line(std::string_view method, std::string_view target) {
  const bool valid = state_ == State::start_line && is_field_name(method) && is_request_target(target);
  if (!accept(valid)) return;
  out_.append(method).append(" ").append(target).append(" HTTP/1.1\r\n");
  state_ = State::fields;
}

void HeadWriter::status_line(int status, std::string_view reason) {
  const bool valid = state_ == State::start_line && status >= 100 && status <= 999 && is_field_value(reason);
  if (!accept(valid)) return;
  char digits[3];
  std::to_chars(digits, digits + sizeof digits, status);
  out_.append("HTTP/1.1 ").append(digits, sizeof digits).append(" ").append(reason).append("\r\n");
  state_ = State::fields;
}

void HeadWriter::field(std::string_view name, std::string_view value) {
  if (!accept(state_ == State::fields && is_field_name(name) && is_field_value(value))) return;
  if (same_name(name, "content-length") || same_name(name, "transfer-encoding")) {
    if (!accept(!framed_)) return;  // RFC 9112 §6.2: two lengths are read differently by two parsers.
    framed_ = true;
  }
  append_field(name, value);
}

void HeadWriter::append_field(std::string_view name, std::string_view value) {
  out_.append(name).append(": ").append(value).append("\r\n");
}

void HeadWriter::content_length(std::uint64_t length) {
  char digits[20];
  const auto [end, error] = std::to_chars(digits, digits + sizeof digits, length);
  field("Content-Length", {digits, static_cast<std::size_t>(end - digits)});
}

void HeadWriter::chunked() { field("Transfer-Encoding", "chunked"); }

bool HeadWriter::end() {
  if (!accept(state_ == State::fields)) return false;
  out_.append("\r\n");
  state_ = State::ended;
  return true;
}

std::size_t chunk_prefix(std::size_t size, char (&out)[20]) {
  char* const end = std::to_chars(out, out + 16, size, 16).ptr;
  end[0] = '\r';
  end[1] = '\n';
  return static_cast<std::size_t>(end - out) + 2;
}

}  // namespace postern::wire
