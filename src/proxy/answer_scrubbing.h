#pragma once
// One answer, searched for the secrets that requests to its host carry, and what is found written over: in
// its fields, its body in whatever coding, its trailers, and in the messages of a WebSocket. What cannot be
// looked into is not passed on; so that it need not come to that, the request asks for what can be.

#include <array>
#include <cstdint>
#include <deque>
#include <forward_list>
#include <memory>
#include <optional>
#include <string>
#include <string_view>

#include "credential/scrubber.h"
#include "model/http.h"
#include "proxy/sides.h"
#include "transform/codings.h"

namespace postern::proxy {

/// Frames of a WebSocket on their way from the origin (RFC 6455 §5.2). A message is searched as a whole,
/// however it is fragmented, and held back no further than its end.
class WebSocketScrubbing {
 public:
  /// `scrubbers` outlive it.
  explicit WebSocketScrubbing(credential::ScrubbedStream::Scrubbers scrubbers)
      : messages_(scrubbers), controls_(scrubbers) {}

  /// What may go on; valid until the next call. Errors: uninspectable_answer (a frame that is masked, or
  /// compressed although nobody agreed to that, or malformed).
  Result<std::string_view> pass(std::string_view bytes, bool last);
  std::uint64_t found() const { return messages_.found() + controls_.found(); }

 private:
  struct Segment {
    bool payload = false;  ///< So many bytes of messages; else `fixed`, as it is.
    std::size_t size = 0;
    std::string fixed;
  };
  Result<void> take_head();
  void take_payload(std::string_view bytes, bool last);
  void release();

  credential::ScrubbedStream messages_, controls_;
  std::string head_;     ///< Of the frame that is being read, as far as it came.
  std::string control_;  ///< The payload of a control frame, likewise.
  std::uint64_t payload_left_ = 0;
  bool in_payload_ = false, control_frame_ = false, final_frame_ = false;
  std::deque<Segment> waiting_;  ///< In order; those in front of a payload that is held back.
  std::string released_;         ///< Payload that may go on and has not.
  std::string out_;
};

class AnswerScrubbing {
 public:
  /// What the rules of the host put on requests, what was granted for this one, and what was before that;
  /// without gaps.
  using Scrubbers = std::array<std::shared_ptr<const credential::Scrubber>, 3>;
  AnswerScrubbing(Scrubbers scrubbers, std::size_t count)
      : scrubbers_(std::move(scrubbers)),
        body_(std::span(scrubbers_).first(count)),
        fields_(std::span(scrubbers_).first(count)),
        count_(count) {}
  AnswerScrubbing(const AnswerScrubbing&) = delete;

  /// The origin is a cloud's own service, whose clients cannot do without ranges: parts are searched as they
  /// come. Nobody else's program answers there, which could hand out a secret piece by piece.
  void accept_parts() { accepts_parts_ = true; }
  /// Of a request's fields, those stay with which its answer can be looked into: no ranges, which could cut a
  /// secret in two, no codings that we do not know, no compression of messages. Views are into this object.
  void ask_for_inspectable(FieldList& fields);

  /// Of a head, or trailers. Views that change are into this object from then on.
  void scrub_fields(FieldList& fields);
  std::string_view scrub_phrase(std::string_view phrase);

  /// How the body comes. Errors: uninspectable_answer.
  Result<void> begin_body(const ResponseHead& head);
  /// The body goes on with another length than was announced.
  bool changes_length() const { return decoder_.has_value(); }
  /// As transform::Decoder::feed().
  void feed(std::string_view piece, bool last);
  /// What goes on: empty, and not the last, when another piece is needed.
  Result<BodyPiece> pull();

  /// The connection becomes a tunnel of WebSocket frames, or of bytes of which nothing is known.
  void begin_tunnel(bool websocket);
  Result<std::string_view> pass_tunnel(std::string_view bytes, bool last);

  std::uint64_t found() const {
    return body_.found() + fields_.found() + (websocket_ ? websocket_->found() : 0);
  }

 private:
  const Scrubbers scrubbers_;
  credential::ScrubbedStream body_, fields_;
  const std::size_t count_;
  std::forward_list<std::string> kept_;  ///< Values that changed.
  std::optional<transform::Decoder> decoder_;
  std::optional<transform::Encoder> encoder_;
  std::unique_ptr<WebSocketScrubbing> websocket_;
  std::string_view piece_;
  bool fed_ = false, last_ = false, flushed_ = false, accepts_parts_ = false;
};

}  // namespace postern::proxy
