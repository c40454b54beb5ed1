#pragma once
// Finds secrets that were put on requests in what comes back (threats 45, 46): an origin that echoes a
// request, or prints its configuration, must not hand the sandbox what it never had.
//
// Looked for in each secret's own bytes, and as they stand in base64 and base64url (at any of the three
// alignments, so also within longer encoded text), percent-encoded, JSON-escaped, and in hexadecimal; of
// Basic credentials also the user and password within. Not found: other encodings, encodings of encodings, a
// secret cut into pieces, and secrets shorter than secret_bytes_min, which ordinary text would hold by
// chance.
//
// What is found is written over with "[redacted]" and asterisks, to the same length: lengths that were
// announced (Content-Length, a gRPC message's, a WebSocket frame's) stay true.

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/secret.h"
#include "credential/injected_header.h"

namespace postern::credential {

/// The forms of some secrets, made ready to be searched for all at once: only every `stride_`th place of a
/// text is looked at, where whatever is as long as a form shows one of its blocks (Karp and Rabin's
/// fingerprints, 1987, of samples). Immutable, shared.
class Scrubber {
 public:
  static constexpr std::size_t secret_bytes_min = 8;

  Scrubber(const Scrubber&) = delete;
  ~Scrubber();

  /// nullptr when there is nothing secret in them. Milliseconds for some hundred headers.
  static std::shared_ptr<const Scrubber> make(std::span<const InjectedHeader* const> headers);

  struct Match {
    std::size_t begin, end;
  };
  /// Appends where some form stands in `text`, by their ends; they may overlap.
  void find(std::string_view text, std::vector<Match>& out) const;
  /// No form is shorter.
  std::size_t shortest() const { return shortest_; }
  /// The first place from which `text`, up to its end, is the beginning of some form and not all of one that
  /// no longer one begins with. text.size() when there is none.
  std::size_t open_from(std::string_view text) const;

 private:
  friend class ScrubberMaker;
  struct Form {
    std::uint32_t begin, size;  ///< In forms_.
  };
  /// A block of a form's, by the upper half of its hash.
  struct Block {
    std::uint32_t hash;
    std::uint32_t form : 26;  ///< Of a policy's 64 MiB, where a secret takes some 100 bytes, and has 25.
    std::uint32_t step : 6;   ///< How far from the first of the form's blocks.
  };
  Scrubber() = default;
  std::string_view text_of(const Form& form) const;
  void index();
  void look_closer(std::string_view text, std::size_t at, std::uint64_t hash, std::vector<Match>& out) const;

  Secret forms_;           ///< All of them behind each other.
  std::vector<Form> all_;  ///< In the order of their texts.
  std::size_t shortest_ = 0, longest_ = 0;
  std::size_t stride_ = 0;     ///< Places apart that are looked at.
  std::size_t block_ = 0;      ///< Bytes that are looked at together, 4 to 8.
  std::vector<Block> blocks_;  ///< Sorted by hash. Of each form `stride_` of them, one a place.
  std::vector<std::uint64_t> seen_,
      starts_;  ///< Bits, by hashes: of these blocks; of forms' first four bytes.
  std::uint64_t seen_mask_ = 0, starts_mask_ = 0;  ///< What of a hash is a place there.
};

/// What is found in a stream of bytes, however it is cut into pieces. Holds back only what may be the
/// beginning of a secret.
class ScrubbedStream {
 public:
  using Scrubbers = std::span<const std::shared_ptr<const Scrubber>>;
  /// They outlive it.
  explicit ScrubbedStream(Scrubbers scrubbers) : scrubbers_(scrubbers) {}

  /// What may go on now: of earlier pieces and of this one. Valid until the next call, and while `piece` is.
  /// After the `last` nothing is held back, and the next piece begins anew.
  std::string_view pass(std::string_view piece, bool last);
  /// Whether a whole text is long enough to hold anything.
  bool concerns(std::string_view text) const {
    for (const auto& scrubber : scrubbers_)
      if (text.size() >= scrubber->shortest()) return true;
    return false;
  }
  /// What was written over, so far.
  std::uint64_t found() const { return found_; }

 private:
  void write_over(std::size_t held_from);

  const Scrubbers scrubbers_;
  std::string work_;  ///< What goes on, in a copy of our own.
  std::string held_;
  std::size_t covered_ = 0;  ///< So many of held_ belong to something whose beginning went on already.
  std::vector<Scrubber::Match> matches_;
  std::uint64_t found_ = 0;
};

}  // namespace postern::credential
