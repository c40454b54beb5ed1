#pragma once
// Bodies in S3's own chunks (`Content-Encoding: aws-chunked`), each signed in a chain that begins with the
// signature of the head: taken apart strictly, and put together again with signatures of ours.
//
// The bytes that come out are exactly as many as went in, since a signature is always 64 digits: the head's
// Content-Length and x-amz-decoded-content-length stay true, and can be signed and sent before the body is
// known. That is why a chunk is never split or merged: another framing would have another length.
//
// A chunk's signature stands before its data but covers it, so a signed chunk is held until it is whole. SDKs
// send 64 KiB (Go, Rust, minio-go, the CRT) to 128 KiB (Java) at a time, .NET 80 KiB; aws_chunk_bytes_max is
// eight times the largest, and what is larger is refused rather than held. Unsigned chunks (Python sends 1
// MiB) are never held: they are looked at and go on as they came.
//
// AWS: "Signature Calculations for the Authorization Header: Transferring Payload in Multiple Chunks", and
// "... Including Trailing Headers".

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>

#include "base/result.h"
#include "base/units.h"
#include "credential/digest.h"
#include "credential/signer.h"

namespace postern::credential {

inline constexpr std::size_t aws_chunk_bytes_max = 1 * MiB;   // of a signed chunk's data; held in memory
inline constexpr std::size_t aws_chunk_line_bytes_max = 128;  // 99 for the largest size with its signature
inline constexpr std::size_t aws_chunk_trailer_bytes_max = 4 * KiB;  // a checksum or two, and a signature

enum class AwsChunkForm : std::uint8_t {
  signed_chunks,                 // STREAMING-AWS4-HMAC-SHA256-PAYLOAD
  signed_chunks_with_trailer,    // STREAMING-AWS4-HMAC-SHA256-PAYLOAD-TRAILER
  unsigned_chunks_with_trailer,  // STREAMING-UNSIGNED-PAYLOAD-TRAILER
};

/// What the chain of signatures begins with: that of the request's head.
struct AwsChunkSeed {
  std::shared_ptr<HmacSha256> key;  ///< The signing key of the head's date, region and service.
  std::string amz_date;             ///< "20130524T000000Z"
  std::string scope;                ///< "20130524/us-east-1/s3/aws4_request"
  std::string signature;            ///< 64 hexadecimal digits.
  std::optional<std::uint64_t> decoded_length = {};  ///< What the data of all chunks is said to be.
};

/// One body. Belongs to one loop. Holds one chunk at most, and nothing of unsigned ones.
class AwsChunkResigner final : public BodySigner {
 public:
  /// `seed` is not looked at with unsigned chunks.
  AwsChunkResigner(AwsChunkForm form, AwsChunkSeed seed);

  /// Up to the end of a chunk. Refuses also bytes behind the end, a chunk that is too large to hold (the
  /// sentence names the limit), and data that is longer or shorter than its head said.
  Result<Step> step(std::string_view input) override;
  bool finished() const override { return state_ == State::finished; }

 private:
  enum class State : std::uint8_t {
    size_line,
    data,
    data_return,     // CR behind the data
    data_line_feed,  // and its LF
    trailer,         // behind the last chunk: fields, or just an empty line
    finished,
    failed,
  };

  std::unexpected<Error> refuse(std::string detail);
  bool is_signed() const { return form_ != AwsChunkForm::unsigned_chunks_with_trailer; }
  Result<bool> take_line(std::string_view& rest, std::size_t limit);
  Result<void> take(std::string_view& rest);
  void take_data(std::string_view& rest);
  Result<void> begin_chunk();
  void end_chunk();
  Result<void> end_trailer_line();
  void sign_chunk();
  Result<void> sign_trailer();
  void sign(std::string_view message, std::size_t at);

  AwsChunkForm form_;
  AwsChunkSeed seed_;
  State state_ = State::size_line;
  std::uint64_t remaining_ = 0;   ///< Of this chunk's data.
  std::uint64_t total_ = 0;       ///< Of all chunks so far.
  std::string held_;              ///< The signed chunk so far; of an unsigned one just its size line.
  std::size_t line_at_ = 0;       ///< In held_: the line that is being read,
  std::size_t trailer_at_ = 0;    ///< the trailer section,
  std::size_t signature_at_ = 0;  ///< and the digits that will be replaced.
  bool whole_ = false;            ///< held_ is complete, and given out.
  Sha256 hash_;                   ///< Of the chunk's data so far.
  std::string previous_;          ///< The chain's last signature.
  std::string message_;           ///< What is signed; kept for its memory.
};

}  // namespace postern::credential
