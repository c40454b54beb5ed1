#pragma once
// For tests: a peer's byte stream read to the end as a connection would read it, and everything it said.

#include <algorithm>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "wire/http1.h"

namespace postern::wire::kit {

using Fields = std::vector<std::pair<std::string, std::string>>;

struct Message {
  std::string method, target, authority;  // requests
  int status = 0;                         // responses
  std::string reason_phrase;
  Fields fields;
  BodyFraming framing = BodyFraming::none;
  std::uint64_t content_length = 0;
  std::string upgrade;
  int minor_version = 1;
  bool keep_alive = true;
  bool expects_continue = false;
  std::string body;
  Fields trailers;
  bool complete = false;  ///< The body's end was seen.
  bool operator==(const Message&) const = default;
};

struct Reading {
  std::vector<Message> messages;
  std::optional<Reason> refused;
  bool refused_after_close = false;  ///< Bytes after a message that said to be the last one.
  std::string beyond;                ///< What came after an upgrade.
  bool head_pending = false;         ///< The bytes end inside a head.
  bool operator==(const Reading&) const = default;
};

enum class Kind : std::uint8_t { requests, responses };

/// Reads a stream that arrives in pieces.
class Reader {
 public:
  explicit Reader(Kind kind, std::string request_method = "GET")
      : kind_(kind), request_method_(std::move(request_method)) {}

  void feed(std::string_view piece) {
    buffer_ += piece;
    while (!reading_.refused && advance()) {
    }
    reading_.head_pending = state_ == State::head && !buffer_.empty();
  }
  const Reading& reading() const { return reading_; }

 private:
  enum class State : std::uint8_t { head, length, chunks, until_close, beyond, closed };

  bool advance() {
    switch (state_) {
      case State::head: return advance_head();
      case State::length: return advance_length();
      case State::chunks: return advance_chunks();
      case State::until_close: reading_.messages.back().body += take(buffer_.size()); return false;
      case State::beyond: reading_.beyond += take(buffer_.size()); return false;
      case State::closed:
        if (buffer_.find_first_not_of("\r\n") == std::string::npos) return false;
        reading_.refused_after_close = true;
        reading_.refused = Reason::malformed_request;
        return false;
    }
    return false;
  }

  bool advance_head() {
    const Result<std::size_t> length = scanner_.scan(buffer_);
    if (!length) return refuse(length.error());
    if (*length == 0) return false;
    const std::string head = take(*length);
    scanner_.reset();
    Message& message = reading_.messages.emplace_back();
    Result<void> parsed =
        kind_ == Kind::requests ? read_request(head, message) : read_response(head, message);
    if (!parsed) {
      reading_.messages.pop_back();
      return refuse(parsed.error());
    }
    remaining_ = message.content_length;
    decoder_.reset();
    switch (message.framing) {
      case BodyFraming::none: finish(); break;
      case BodyFraming::length: state_ = State::length; break;
      case BodyFraming::chunked: state_ = State::chunks; break;
      case BodyFraming::until_close: state_ = State::until_close; break;
    }
    return true;
  }

  Result<void> read_request(std::string_view head, Message& message) {
    RequestHead out;
    Result<void> parsed = parse_request_head(head, storage_, out);
    if (!parsed) return parsed;
    message.method = out.method;
    message.target = out.target;
    message.authority = out.authority;
    message.expects_continue = out.expects_continue;
    copy_common(out, message);
    return parsed;
  }

  Result<void> read_response(std::string_view head, Message& message) {
    ResponseHead out;
    Result<void> parsed = parse_response_head(head, request_method_, storage_, out);
    if (!parsed) return parsed;
    message.status = out.status;
    message.reason_phrase = out.reason_phrase;
    copy_common(out, message);
    return parsed;
  }

  void copy_common(const auto& out, Message& message) {
    for (const HeaderField& field : out.fields) message.fields.emplace_back(field.name, field.value);
    message.framing = out.framing;
    message.content_length = out.content_length;
    message.upgrade = out.upgrade;
    message.minor_version = out.minor_version;
    message.keep_alive = out.keep_alive;
  }

  bool advance_length() {
    const std::uint64_t length = std::min<std::uint64_t>(remaining_, buffer_.size());
    reading_.messages.back().body += take(length);
    remaining_ -= length;
    if (remaining_ == 0) finish();
    return remaining_ == 0;
  }

  bool advance_chunks() {
    const Result<ChunkDecoder::Step> step = decoder_.step(buffer_);
    if (!step) return refuse(step.error());
    Message& message = reading_.messages.back();
    message.body += step->data;
    if (step->finished) {
      for (const HeaderField& field : decoder_.trailers()) {
        message.trailers.emplace_back(field.name, field.value);
      }
    }
    take(step->consumed);
    if (step->finished) finish();
    return step->finished || step->consumed > 0;
  }

  void finish() {
    Message& message = reading_.messages.back();
    message.complete = true;
    if (!message.upgrade.empty()) {
      state_ = State::beyond;
    } else {
      state_ = message.keep_alive ? State::head : State::closed;
    }
  }

  bool refuse(const Error& error) {
    reading_.refused = error.reason;
    return false;
  }

  std::string take(std::size_t length) {
    std::string taken = buffer_.substr(0, length);
    buffer_.erase(0, length);
    return taken;
  }

  const Kind kind_;
  const std::string request_method_;
  std::string buffer_;
  State state_ = State::head;
  std::uint64_t remaining_ = 0;
  HeadScanner scanner_;
  ChunkDecoder decoder_;
  std::vector<HeaderField> storage_;
  Reading reading_;
};

inline Reading read(Kind kind, std::string_view bytes, std::string_view request_method = "GET") {
  Reader reader(kind, std::string(request_method));
  reader.feed(bytes);
  return reader.reading();
}

/// What is wrong with reading `bytes` in pieces; empty when every split says the same as the whole.
inline std::string find_split_that_differs(Kind kind, std::string_view bytes,
                                           std::string_view request_method = "GET") {
  const Reading whole = read(kind, bytes, request_method);
  // A refusal may come before or after a message was told; what came before it must be the same.
  for (std::size_t at = 0; at <= bytes.size(); ++at) {
    Reader reader(kind, std::string(request_method));
    reader.feed(bytes.substr(0, at));
    reader.feed(bytes.substr(at));
    if (!(reader.reading() == whole)) return "split at " + std::to_string(at);
  }
  Reader reader(kind, std::string(request_method));
  for (std::size_t at = 0; at < bytes.size(); ++at) reader.feed(bytes.substr(at, 1));
  if (!(reader.reading() == whole)) return "byte by byte";
  return {};
}

}  // namespace postern::wire::kit
