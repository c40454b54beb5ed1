#include "proxy/http1_body.h"

#include "proxy/limits.h"
#include "wire/http_writer.h"

namespace postern::proxy {

void BodyReader::start(BodyFraming framing, std::uint64_t length) {
  framing_ = framing;
  remaining_ = length;
  if (framing == BodyFraming::chunked) decoder_.reset();
  taken_ = 0;
  ahead_.reset();
  ahead_error_.reset();
  decoded_ = bulk_ = false;
  complete_ = framing == BodyFraming::none || (framing == BodyFraming::length && length == 0);
}

void BodyReader::release_piece() {
  input_->consume(taken_);
  taken_ = 0;
}

Error BodyReader::ended_early() const {
  const bool sandbox = stream_->side() == Side::sandbox;
  return Error{sandbox ? Reason::sandbox_closed : Reason::origin_closed, stream_->side(), Retry::never,
               "the body ended before its announced end"};
}

io::Task<Result<std::size_t>> BodyReader::fill(TimePoint deadline) {
  // While nothing comes no buffer is held.
  if (input_->empty()) {
    input_->release();
    co_await co_await stream_->wait_readable(deadline);
  }
  if (bulk_) input_->reserve(io::BufferPool::large_bytes);
  const std::size_t count = co_await co_await stream_->read(input_->room(limits::piece_bytes), deadline);
  bulk_ = count >= io::BufferPool::block_bytes;
  input_->filled(count);
  co_return count;
}

Result<void> BodyReader::step(std::string_view& data) {
  auto step = decoder_.step(input_->bytes().substr(taken_));
  if (!step) {
    Error error = std::move(step.error());
    error.side = stream_->side();
    error.reason =
        error.side == Side::sandbox ? Reason::malformed_request : Reason::origin_malformed_response;
    return std::unexpected(std::move(error));
  }
  taken_ += step->consumed;
  data = step->data;
  decoded_ = step->finished;
  return {};
}

io::Task<Result<BodyPiece>> BodyReader::next(TimePoint deadline) {
  if (complete_) co_return BodyPiece{{}, true, false};
  if (!ahead_) release_piece();

  if (framing_ != BodyFraming::chunked) {
    if (input_->empty()) {
      const std::size_t count = co_await co_await fill(deadline);
      if (count == 0) {
        if (framing_ == BodyFraming::length) co_return std::unexpected(ended_early());
        complete_ = true;
        co_return BodyPiece{{}, true, false};
      }
    }
    std::string_view data = input_->bytes();
    if (framing_ == BodyFraming::length) {
      data = data.substr(0, static_cast<std::size_t>(std::min<std::uint64_t>(data.size(), remaining_)));
      remaining_ -= data.size();
      complete_ = remaining_ == 0;
    }
    taken_ = data.size();
    co_return BodyPiece{data, complete_, false};
  }

  if (ahead_error_) co_return std::unexpected(std::move(*ahead_error_));
  std::string_view data;
  if (ahead_) {
    data = *ahead_;
    ahead_.reset();
  } else {
    while (data.empty() && !decoded_) {
      if (taken_ < input_->size()) {
        co_await step(data);
        continue;
      }
      release_piece();
      const std::size_t count = co_await co_await fill(deadline);
      if (count == 0) co_return std::unexpected(ended_early());
    }
  }
  // Look ahead, so that the end of the body travels with its last data and small chunks travel together.
  while (!decoded_ && !ahead_ && !ahead_error_ && taken_ < input_->size()) {
    std::string_view following;
    const std::size_t before = taken_;
    if (auto stepped = step(following); !stepped) ahead_error_ = std::move(stepped.error());
    if (!following.empty()) ahead_ = following;
    if (taken_ == before) break;
  }
  complete_ = decoded_ && !ahead_;
  co_return BodyPiece{data, complete_, ahead_.has_value()};
}

void BodyWriter::append(BodyPiece piece, std::span<const HeaderField> trailers) {
  if (framing_ != BodyFraming::chunked) {
    out_->append(piece.data);
    return;
  }
  char prefix[20];
  if (!piece.data.empty()) {
    out_->append(prefix, wire::chunk_prefix(piece.data.size(), prefix));
    out_->append(piece.data);
    out_->append("\r\n");
  }
  if (piece.last) {
    out_->append(prefix, wire::chunk_prefix(0, prefix));
    for (const HeaderField& field : trailers) {
      // The decoder checked both; a trailer is written from what was parsed, like a head.
      out_->append(field.name).append(": ").append(field.value).append("\r\n");
    }
    out_->append("\r\n");
  }
}

io::Task<Result<void>> BodyWriter::send(BodyPiece piece, std::span<const HeaderField> trailers,
                                        TimePoint deadline) {
  if (framing_ == BodyFraming::none) co_return co_await flush(deadline);
  if (out_->empty() && framing_ != BodyFraming::chunked) {
    if (!piece.data.empty()) co_return co_await stream_->write_all(piece.data, deadline);
    co_return Result<void>{};
  }
  append(piece, trailers);
  if (!piece.last && piece.more_ready && out_->size() < limits::gather_bytes) co_return Result<void>{};
  co_return co_await flush(deadline);
}

io::Task<Result<void>> BodyWriter::flush(TimePoint deadline) {
  if (out_->empty()) co_return Result<void>{};
  auto written = co_await stream_->write_all(*out_, deadline);
  out_->clear();
  co_return written;
}

}  // namespace postern::proxy
