#pragma once
// Matches of a DetectorSet in a text that comes in pieces, as if it had come whole.
//
// What is found is a function of the whole text: every detector finds what it finds, and what overlaps is one
// cut, under the name of the match that begins first (of those the longest, of those the first of the set). A
// piece ends anywhere, so its end is held back as far as something could begin there: earliest_beginning()
// and matches that wait for their end. All that begins before that limit is decided, once.

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "transform/detector_parts.h"
#include "transform/detectors.h"

namespace postern::transform {

class MatchStream {
 public:
  explicit MatchStream(std::shared_ptr<const DetectorSet> set) { begin(std::move(set)); }
  /// As a new one, with the memory that it has.
  void begin(std::shared_ptr<const DetectorSet> set);
  /// Lets go of everything but memory, of which it has so many bytes for texts.
  void rest();
  std::size_t memory() const { return text_.capacity(); }

  /// A place where text is taken out. Positions are in text().
  struct Cut {
    std::size_t begin;  ///< Of the match that gives it its name.
    std::size_t end;    ///< Of that match, as far as it is known.
    std::size_t detector;
  };
  /// A stretch of text() that goes on unchanged; `cuts_before` of cuts() come before it.
  struct Kept {
    std::size_t begin, end;
    std::size_t cuts_before;
  };

  /// After the last piece of a text the next one begins another.
  void pass(std::string_view piece, bool last);
  /// Of the last pass, valid until the next.
  const std::vector<Cut>& cuts() const { return cuts_; }
  const std::vector<Kept>& kept() const { return kept_; }
  std::string_view text() const { return text_; }
  const DetectorSet& set() const { return *set_; }
  /// Bytes that are held back.
  std::size_t held() const { return text_.size() - limit_; }

 private:
  struct Match {
    std::size_t begin, end;
    std::uint8_t detector;
    Rest rest;
  };

  void begin_anew();
  void take(std::string_view piece);
  void find(bool last);
  void look_at_hint(const Window& window, Hinted hinted);
  void find_pattern(std::size_t index);
  void cut_out(const Match& match);
  void keep(std::size_t begin, std::size_t end);
  void advance_remainders();

  std::shared_ptr<const DetectorSet> set_;
  std::string text_;       // what is looked back at, what was held back, and the piece
  std::size_t begin_ = 0;  // what went on before
  std::size_t limit_ = 0;  // what goes on now
  std::size_t gone_ = 0;   // the end of what is cut out, so far
  Remainder key_, token_;
  bool ended_ = false;
  std::vector<std::size_t> resume_;  // for each pattern, the end of its last match
  // Kept for their memory.
  std::vector<LiteralScanner::Hit> hits_;
  std::vector<Hinted> hinted_;
  std::vector<Match> matches_;
  std::vector<Cut> cuts_;
  std::vector<Kept> kept_;
};

}  // namespace postern::transform
