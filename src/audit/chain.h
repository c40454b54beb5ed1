#pragma once
// A log whose lines hold each other (`--log-chain`): each has a number and a hash over its own bytes and the
// hash before it, and every few of them a signature says how far the log had come. Who may write to the file
// can work out hashes, but not sign: see docs/log.md for what is found and what is not.
//
//   {"time":...,"kind":"http",...,"seq":7,"chain":"<64 hexadecimal digits>"}
//
// `chain` is SHA-256 over the 32 bytes of the hash before and the line's bytes up to `,"chain":`. Lines of
// kind "chain" are ours and no records: where a chain begins, where it goes on (the next file, the next
// process), and what is signed. A signature stands behind the hash that it signs: a JWS (RFC 7515 §7.1) of
// {"log","seq","chain"}.

#include <array>
#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <string_view>

#include "base/clock.h"
#include "base/result.h"

namespace postern::audit {

using ChainHash = std::array<std::uint8_t, 32>;

/// How far a chain has come.
struct ChainEnd {
  std::string log;        ///< Which chain: 32 hexadecimal digits. Empty: none.
  std::uint64_t seq = 0;  ///< Of the last line.
  ChainHash hash{};
};

/// `payload` signed, as a compact JWS. On the journal's writer.
using SignPayload = std::function<std::string(std::string_view payload)>;

/// Writes a chain.
class Chain {
 public:
  static constexpr std::uint64_t unsigned_lines_max = 256;  // one signature takes 30 µs
  static constexpr std::chrono::seconds unsigned_time{2};   // what a thief who comes at once may change

  /// A new chain.
  explicit Chain(SignPayload sign);
  /// One that goes on.
  Chain(ChainEnd from, SignPayload sign) : end_(std::move(from)), sign_(std::move(sign)) {}

  /// Appends `lines`, whole lines of JSON objects, with their numbers and hashes, and signatures where they
  /// are due.
  void append(std::string_view lines, WallTime now, std::string& out);
  /// The first line of a chain, of a file or of what a process writes. `missing`: how many lines are known
  /// to have been cut off.
  void open(WallTime now, std::uint64_t missing, std::string& out);
  /// What was written so far is signed; nothing when it is already, but for the `last` line, at which the
  /// chain rests.
  void sign(WallTime now, bool last, std::string& out);

  const ChainEnd& end() const { return end_; }
  std::uint64_t unsigned_lines() const { return unsigned_lines_; }

 private:
  void add(std::string_view object, std::string& out);

  ChainEnd end_;
  SignPayload sign_;
  std::uint64_t unsigned_lines_ = 0;
};

/// How far a chain had come with this line. nullopt: it has none.
std::optional<ChainEnd> chain_end_of(std::string_view line);

/// The payload of a signature whose key is known and whose signature is right; else an error, in words.
using CheckSignature = std::function<Result<std::string>(std::string_view token)>;

/// Reads a chain again, line for line. Pure.
class ChainCheck {
 public:
  /// `check`: empty when there is no key; then nobody knows whether somebody else wrote it all.
  explicit ChainCheck(CheckSignature check) : check_(std::move(check)) {}

  /// The next line, without its end. Errors: what is wrong, in a sentence. Nothing is asked after that.
  Result<void> line(std::string_view line);
  /// What is read next is another file.
  void next_file() { at_start_ = true; }

  const ChainEnd& end() const { return end_; }
  std::uint64_t first() const { return first_; }  ///< Number of the first line; 0 before it.
  std::uint64_t lines() const { return first_ == 0 ? 0 : end_.seq - first_ + 1; }
  std::uint64_t signatures() const { return signatures_; }
  /// Lines since the last signature.
  std::uint64_t unsigned_lines() const { return unsigned_lines_; }
  bool at_rest() const { return at_rest_; }  ///< The last line says that it was the last.

 private:
  Result<void> check_mark(std::string_view line, const ChainEnd& stated);

  CheckSignature check_;
  ChainEnd end_;
  std::uint64_t first_ = 0, signatures_ = 0, unsigned_lines_ = 0;
  bool at_start_ = true, at_rest_ = false;
};

std::string chain_hex(const ChainHash& hash);

}  // namespace postern::audit
