#pragma once
// A message body of HTTP/1.1 as a sequence of pieces, read from one side and written to the other. Pieces
// point into the reader's buffer; nothing is copied unless several small ones are ready and go out together.

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "io/buffer.h"
#include "io/stream.h"
#include "model/http.h"
#include "wire/http1.h"

namespace postern::proxy {

class BodyReader {
 public:
  BodyReader(io::Stream& stream, io::Buffer& input) : stream_(&stream), input_(&input) {}

  void start(BodyFraming framing, std::uint64_t length);
  /// Errors: those of the stream; malformed_request or origin_malformed_response; <side>_closed when the body
  /// ends before its length.
  io::Task<Result<BodyPiece>> next(TimePoint deadline);
  bool complete() const { return complete_; }
  /// Something of the body is in the buffer already.
  bool ready() const { return ahead_.has_value() || !input_->empty(); }
  std::span<const HeaderField> trailers() const { return decoder_.trailers(); }
  /// Lets go of the last piece; the buffer holds what came after it.
  void release_piece();

 private:
  io::Task<Result<std::size_t>> fill(TimePoint deadline);
  Result<void> step(std::string_view& data);
  Error ended_early() const;

  io::Stream* stream_;
  io::Buffer* input_;
  BodyFraming framing_ = BodyFraming::none;
  std::uint64_t remaining_ = 0;
  wire::ChunkDecoder decoder_;
  std::size_t taken_ = 0;  ///< Bytes of the buffer that pieces given out so far occupy.
  std::optional<std::string_view> ahead_;
  std::optional<Error> ahead_error_;
  bool decoded_ = false;  ///< The chunk decoder has finished.
  bool bulk_ = false;     ///< A full block was read: fewer, larger pieces from now on.
  bool complete_ = true;
};

class BodyWriter {
 public:
  /// `out`: bytes that were not written yet, for example the head; they go out with the first piece.
  BodyWriter(io::Stream& stream, std::string& out) : stream_(&stream), out_(&out) {}

  void start(BodyFraming framing) { framing_ = framing; }
  /// Writes the piece, or keeps it for the next write when more is ready. The last piece flushes everything.
  io::Task<Result<void>> send(BodyPiece piece, std::span<const HeaderField> trailers, TimePoint deadline);
  io::Task<Result<void>> flush(TimePoint deadline);

 private:
  void append(BodyPiece piece, std::span<const HeaderField> trailers);

  io::Stream* stream_;
  std::string* out_;
  BodyFraming framing_ = BodyFraming::none;
};

}  // namespace postern::proxy
