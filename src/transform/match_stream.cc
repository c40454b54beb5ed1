#include "transform/match_stream.h"

#include <algorithm>
#include <cstdlib>
#include <tuple>
#include <utility>

namespace postern::transform {

void MatchStream::begin(std::shared_ptr<const DetectorSet> set) {
  set_ = std::move(set);
  resume_.assign(set_->parts().patterns.size(), 0);
}

void MatchStream::rest() {
  begin_anew();
  begin_ = 0;
  ended_ = false;
  set_.reset();
}

void MatchStream::pass(std::string_view piece, bool last) {
  if (std::exchange(ended_, last)) begin_anew();
  take(piece);
  cuts_.clear();
  kept_.clear();
  matches_.clear();
  limit_ = text_.size();
  find(last);
  std::sort(matches_.begin(), matches_.end(), [](const Match& a, const Match& b) {
    return std::tuple(a.begin, b.end, a.detector) < std::tuple(b.begin, a.end, b.detector);
  });
  advance_remainders();
  std::size_t at = begin_;
  for (const Match& match : matches_) {
    if (match.begin < begin_) continue;  // decided when that was at hand
    if (match.begin >= limit_) break;
    at = std::max(at, std::min(gone_, limit_));
    if (match.begin >= gone_) {
      keep(at, match.begin);
      cuts_.push_back({match.begin, match.end, match.detector});
    }
    cut_out(match);
  }
  keep(std::max(at, std::min(gone_, limit_)), limit_);
}

void MatchStream::begin_anew() {
  text_.clear();
  limit_ = gone_ = 0;
  key_ = token_ = {};
  std::fill(resume_.begin(), resume_.end(), 0);
}

/// Makes room: what went on before is only looked back at.
void MatchStream::take(std::string_view piece) {
  begin_ = limit_;
  const std::size_t drop = begin_ > look_behind ? begin_ - look_behind : 0;
  text_.erase(0, drop);
  text_ += piece;
  begin_ -= drop;
  gone_ = gone_ > drop ? gone_ - drop : 0;
  key_.shift(drop);
  token_.shift(drop);
  for (std::size_t& at : resume_) at = at > drop ? at - drop : 0;
}

void MatchStream::find(bool last) {
  const DetectorSet::Parts& parts = set_->parts();
  const Window window{text_, begin_, last};
  const std::string_view fresh = window.text.substr(begin_);
  hits_.clear();
  hinted_.clear();
  // Without memory to look there is no way on: nothing may pass unseen.
  if (!parts.literals.empty() && !fresh.empty() && !parts.literals.scan(fresh, hits_)) std::abort();
  if (parts.digits) scan_digits(text_, begin_, parts.digits, hinted_);
  if (!last) {
    for (const Hint hint : parts.holding) limit_ = std::min(limit_, begin_ + earliest_beginning(fresh, hint));
    // The end of a key may depend on what a backslash escapes.
    if (fresh.ends_with('\\') &&
        parts.detector_of_hint[static_cast<unsigned>(Hint::key_line)] != DetectorSet::Parts::none)
      limit_ = std::min(limit_, text_.size() - 1);
  }
  for (const auto& hit : hits_)
    if (hit.id < hint_count) look_at_hint(window, {static_cast<Hint>(hit.id), begin_ + hit.end});
  for (const Hinted& hinted : hinted_) look_at_hint(window, hinted);
  for (std::size_t i = 0; i < parts.patterns.size(); ++i) {
    const std::size_t open = last ? text_.size() : begin_ + parts.patterns[i].earliest_beginning(fresh);
    limit_ = std::min(limit_, open);
  }
  for (const auto& hit : hits_)
    if (hit.id >= hint_count) find_pattern(hit.id - hint_count);
}

void MatchStream::look_at_hint(const Window& window, Hinted hinted) {
  const Found found = look_closer(window, hinted);
  if (found.state == Found::State::undecided) limit_ = std::min(limit_, std::max(begin_, found.begin));
  if (found.state == Found::State::yes)
    matches_.push_back({found.begin, found.end,
                        set_->parts().detector_of_hint[static_cast<unsigned>(hinted.hint)], found.rest});
}

/// One after the other, each from the end of the one before. Those that begin behind the limit may yet
/// change, and are found again.
void MatchStream::find_pattern(std::size_t index) {
  const DetectorSet::Parts& parts = set_->parts();
  std::size_t from = std::max(resume_[index], begin_), begin = 0, end = 0;
  while (from < text_.size() && parts.patterns[index].find(text_, from, begin, end) && begin < limit_) {
    matches_.push_back({begin, end, parts.detector_of_pattern[index], Rest::none});
    resume_[index] = from = end;
  }
}

void MatchStream::cut_out(const Match& match) {
  gone_ = std::max(gone_, match.end);
  Remainder* const remainder = match.rest == Rest::none ? nullptr : match.rest == Rest::jwt ? &token_ : &key_;
  // One that begins within another of its kind is part of that, however far both go.
  if (remainder && match.begin >= remainder->end()) *remainder = Remainder(match.rest, match.end);
  advance_remainders();
}

void MatchStream::advance_remainders() {
  for (Remainder* remainder : {&key_, &token_}) {
    if (!remainder->open()) continue;
    remainder->advance(text_, limit_);
    gone_ = std::max(gone_, remainder->end());
  }
}

void MatchStream::keep(std::size_t begin, std::size_t end) {
  if (begin < end) kept_.push_back({begin, end, cuts_.size()});
}

}  // namespace postern::transform
