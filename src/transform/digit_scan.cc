#include "transform/digit_scan.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cstring>

#if defined(__SSE2__)
#include <emmintrin.h>
#endif

namespace postern::transform {
namespace {

constexpr std::size_t block_bytes = 64;

struct Masks {
  std::uint64_t digit = 0, dash = 0, dot = 0, space = 0, plus = 0, upper = 0;
};

#if defined(__SSE2__)

std::uint64_t mask_of(__m128i equal, unsigned quarter) {
  return static_cast<std::uint64_t>(static_cast<unsigned>(_mm_movemask_epi8(equal))) << (16 * quarter);
}

/// Bytes of which `lowest` is the first of `count` in a row: one signed comparison after a shift of the
/// scale.
__m128i within(__m128i bytes, char lowest, int count) {
  const __m128i shifted = _mm_sub_epi8(bytes, _mm_set1_epi8(static_cast<char>(lowest + 128)));
  return _mm_cmplt_epi8(shifted, _mm_set1_epi8(static_cast<char>(-128 + count)));
}

std::uint64_t digits_of(const char* block) {
  std::uint64_t out = 0;
  for (unsigned i = 0; i < 4; ++i)
    out |= mask_of(within(_mm_loadu_si128(reinterpret_cast<const __m128i*>(block + 16 * i)), '0', 10), i);
  return out;
}

void others_of(const char* block, Masks& masks) {
  for (unsigned i = 0; i < 4; ++i) {
    const __m128i bytes = _mm_loadu_si128(reinterpret_cast<const __m128i*>(block + 16 * i));
    masks.dash |= mask_of(_mm_cmpeq_epi8(bytes, _mm_set1_epi8('-')), i);
    masks.dot |= mask_of(_mm_cmpeq_epi8(bytes, _mm_set1_epi8('.')), i);
    masks.space |= mask_of(_mm_cmpeq_epi8(bytes, _mm_set1_epi8(' ')), i);
    masks.plus |= mask_of(_mm_cmpeq_epi8(bytes, _mm_set1_epi8('+')), i);
    masks.upper |= mask_of(within(bytes, 'A', 26), i);
  }
}

#else

std::uint64_t digits_of(const char* block) {
  std::uint64_t out = 0;
  for (unsigned i = 0; i < block_bytes; ++i) out |= std::uint64_t{block[i] >= '0' && block[i] <= '9'} << i;
  return out;
}

void others_of(const char* block, Masks& masks) {
  for (unsigned i = 0; i < block_bytes; ++i) {
    const char c = block[i];
    masks.dash |= std::uint64_t{c == '-'} << i;
    masks.dot |= std::uint64_t{c == '.'} << i;
    masks.space |= std::uint64_t{c == ' '} << i;
    masks.plus |= std::uint64_t{c == '+'} << i;
    masks.upper |= std::uint64_t{c >= 'A' && c <= 'Z'} << i;
  }
}

#endif

/// This block's bits and those of the one before, so that shapes may lie across.
struct Pair {
  std::uint64_t now, before;

  /// The bits of `back` bytes ago, 0 < back < 64.
  std::uint64_t ago(unsigned back) const { return now << back | before >> (64 - back); }
  Pair later(unsigned back) const { return {ago(back), before << back}; }
};

Pair operator&(Pair a, Pair b) { return {a.now & b.now, a.before & b.before}; }
Pair operator|(Pair a, Pair b) { return {a.now | b.now, a.before | b.before}; }

void report(std::uint64_t ends, Hint hint, std::size_t at, std::vector<Hinted>& found) {
  for (; ends; ends &= ends - 1)
    found.push_back({hint, at + static_cast<std::size_t>(std::countr_zero(ends)) + 1});
}

void find_shapes(const Masks& now, const Masks& before, unsigned wanted, std::size_t at,
                 std::vector<Hinted>& found) {
  const Pair digit{now.digit, before.digit}, dash{now.dash, before.dash}, dot{now.dot, before.dot},
      space{now.space, before.space};
  const Pair two = digit & digit.later(1);
  const Pair three = two & digit.later(2);
  const Pair four = two & two.later(2);
  if (wanted & bit(Hint::plus_digit))
    report(now.digit & Pair{now.plus, before.plus}.ago(1), Hint::plus_digit, at, found);
  if (wanted & bit(Hint::iban_start)) {
    const Pair upper{now.upper, before.upper};
    report(two.now & upper.ago(2) & upper.ago(3), Hint::iban_start, at, found);
  }
  if (wanted & bit(Hint::dotted)) {
    const Pair point = dot.later(1) & digit & digit.later(2);
    const Pair second = point & (point.later(2) | point.later(3) | point.later(4));
    if (second.now)
      report(second.now & (second.ago(2) | second.ago(3) | second.ago(4)), Hint::dotted, at, found);
  }
  if (!four.now) return;
  if (wanted & bit(Hint::phone_digits))
    report(four.now & (dash | dot | space).ago(4) & three.ago(5), Hint::phone_digits, at, found);
  if (wanted & bit(Hint::card_groups))
    report(four.now & (dash | space).ago(4) & four.ago(5), Hint::card_groups, at, found);
  if (wanted & bit(Hint::ssn_digits))
    report(four.now & dash.ago(4) & two.ago(5) & dash.ago(7) & three.ago(8), Hint::ssn_digits, at, found);
  if (wanted & bit(Hint::card_run)) {
    const Pair eight = four & four.later(4);
    if (eight.now)
      report(eight.now & four.ago(8) & digit.ago(12) & ~(digit | dot).ago(13), Hint::card_run, at, found);
  }
}

}  // namespace

void scan_digits(std::string_view text, std::size_t begin, unsigned wanted, std::vector<Hinted>& found) {
  Masks before;
  // From a block earlier: where a row of digits began decides what it is.
  const std::size_t start = begin - std::min(begin, block_bytes);
  const std::size_t known = found.size();
  for (std::size_t at = start; at < text.size(); at += block_bytes) {
    std::array<char, block_bytes> padded;
    const char* block = text.data() + at;
    if (text.size() - at < block_bytes) {
      padded.fill('\0');
      std::memcpy(padded.data(), block, text.size() - at);
      block = padded.data();
    }
    Masks now;
    now.digit = digits_of(block);
    if (now.digit || before.digit) others_of(block, now);
    // A shape ends with a digit. What leads to one may lie in a block that has none: "+", then "1".
    if (now.digit && !before.digit && at > start) others_of(text.data() + at - block_bytes, before = {});
    if (now.digit) find_shapes(now, before, wanted, at, found);
    before = now;
  }
  const auto fresh = std::find_if(found.begin() + static_cast<std::ptrdiff_t>(known), found.end(),
                                  [begin](const Hinted& hinted) { return hinted.end > begin; });
  found.erase(found.begin() + static_cast<std::ptrdiff_t>(known), fresh);
}

}  // namespace postern::transform
