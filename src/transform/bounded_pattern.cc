#include "transform/bounded_pattern.h"

#include <algorithm>
#include <bitset>
#include <charconv>
#include <fmt/format.h>
#include <optional>
#include <vector>

namespace postern::transform {
namespace {

constexpr int depth_max = 20;
constexpr std::size_t repeat_max = pattern_match_max;
constexpr std::size_t written_max = 64 << 10;  // of the longest text that is made of a pattern

using Bytes = std::bitset<256>;

/// A part of a pattern, written out.
struct Part {
  std::string exact, scan, beginning;
  std::size_t shortest = 0, longest = 0;
};

std::string group(const std::string& text) { return "(?:" + text + ")"; }

/// A set of bytes as a class that both engines read alike.
std::string class_of(const Bytes& bytes) {
  std::string out = "[";
  for (unsigned from = 0; from < bytes.size();) {
    if (!bytes[from]) {
      ++from;
      continue;
    }
    unsigned to = from;
    while (to + 1 < bytes.size() && bytes[to + 1]) ++to;
    out += fmt::format("\\x{:02x}", from);
    if (to > from) out += fmt::format("-\\x{:02x}", to);
    from = to + 1;
  }
  return out + "]";
}

Part one_of(const Bytes& bytes) {
  const std::string text = class_of(bytes);
  return {text, text, text + "?", 1, 1};
}

Part one(unsigned char byte) {
  const std::string text = fmt::format("\\x{:02x}", byte);
  return {text, text, text + "?", 1, 1};
}

Part followed_by(const Part& first, const Part& rest) {
  return {first.exact + rest.exact, first.scan + rest.scan,
          group(first.beginning + "|" + first.exact + rest.beginning), first.shortest + rest.shortest,
          first.longest + rest.longest};
}

Part either(const Part& one, const Part& other) {
  return {one.exact + "|" + other.exact, one.scan + "|" + other.scan, one.beginning + "|" + other.beginning,
          std::min(one.shortest, other.shortest), std::max(one.longest, other.longest)};
}

Part repeated(const Part& part, std::size_t least, std::size_t most) {
  const std::string times = fmt::format("{{{},{}}}", least, most);
  Part out{
      group(part.exact) + times, group(part.scan) + times, {}, part.shortest * least, part.longest * most};
  out.beginning = most > 1
                      ? group(group(part.exact) + fmt::format("{{0,{}}}", most - 1) + group(part.beginning))
                      : group(part.beginning);
  return out;
}

Bytes range(unsigned from, unsigned to) {
  Bytes bytes;
  for (unsigned c = from; c <= to; ++c) bytes.set(c);
  return bytes;
}

std::optional<Bytes> named_class(char letter) {
  const Bytes digits = range('0', '9');
  const Bytes words = digits | range('a', 'z') | range('A', 'Z') | range('_', '_');
  const Bytes spaces = range('\t', '\n') | range('\f', '\r') | range(' ', ' ');
  switch (letter) {
    case 'd': return digits;
    case 'D': return ~digits;
    case 'w': return words;
    case 'W': return ~words;
    case 's': return spaces;
    case 'S': return ~spaces;
    default: return std::nullopt;
  }
}

std::optional<Bytes> posix_class(std::string_view name) {
  const Bytes digits = range('0', '9'), lower = range('a', 'z'), upper = range('A', 'Z');
  if (name == "digit") return digits;
  if (name == "lower") return lower;
  if (name == "upper") return upper;
  if (name == "alpha") return lower | upper;
  if (name == "alnum") return lower | upper | digits;
  if (name == "xdigit") return digits | range('a', 'f') | range('A', 'F');
  if (name == "space") return range('\t', '\r') | range(' ', ' ');
  return std::nullopt;
}

bool is_ascii(char c) { return static_cast<unsigned char>(c) < 0x80; }
bool is_word(char c) {
  return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_';
}

/// Recursive descent. The first complaint stays; whatever is returned after it is not looked at.
class Reader {
 public:
  explicit Reader(std::string_view text) : rest_(text) {}

  std::expected<BoundedPattern, std::string> read() {
    BoundedPattern out;
    out.ignore_case = take("(?i)");
    ignore_case_ = out.ignore_case;
    const Part whole = alternatives(0);
    if (complaint_.empty() && !rest_.empty()) complain("closes a group that it did not open");
    if (complaint_.empty() && whole.shortest == 0) complain("matches the empty text");
    if (complaint_.empty()) check_size(whole);
    if (!complaint_.empty()) return std::unexpected(complaint_);
    const std::string flags = out.ignore_case ? "(?i)" : "";
    out.exact = flags + whole.exact;
    out.scan = whole.scan;
    out.beginning = flags + group(whole.beginning);
    out.length_max = whole.longest;
    return out;
  }

 private:
  Part alternatives(int depth) {
    if (depth > depth_max) return complain("nests groups too deeply");
    Part out = sequence(depth);
    while (take("|")) out = either(out, sequence(depth));
    return out;
  }

  Part sequence(int depth) {
    std::vector<Part> parts;
    while (complaint_.empty() && !rest_.empty() && rest_.front() != '|' && rest_.front() != ')')
      parts.push_back(piece(depth));
    if (parts.empty()) return {};
    // From the end, so that beginnings nest to the right.
    Part out = std::move(parts.back());
    for (auto part = parts.rbegin() + 1; part != parts.rend() && complaint_.empty(); ++part) {
      out = followed_by(*part, out);
      check_size(out);
    }
    return out;
  }

  Part piece(int depth) {
    Part out = atom(depth);
    if (complaint_.empty() && !rest_.empty()) {
      std::size_t least = 0, most = 1;
      if (!repeat(least, most)) return out;
      out = repeated(out, least, most);
      (void)take("?");  // lazy or not, the longest match is taken
      if (!rest_.empty() && std::string_view("*+?{").contains(rest_.front()))
        return complain("repeats a repeat: put a group around it");
      check_size(out);
    }
    return out;
  }

  bool repeat(std::size_t& least, std::size_t& most) {
    if (rest_.front() == '*' || rest_.front() == '+') {
      complain(fmt::format("has no upper bound for '{}': write {}", rest_.front(),
                           rest_.front() == '*' ? "{0,64}" : "{1,64}"));
      return false;
    }
    if (take("?")) return true;
    if (!take("{")) return false;
    const auto number = [this](std::size_t& value) {
      const auto read = std::from_chars(rest_.data(), rest_.data() + rest_.size(), value);
      if (read.ec != std::errc()) return false;
      rest_.remove_prefix(static_cast<std::size_t>(read.ptr - rest_.data()));
      return true;
    };
    if (!number(least)) {
      complain("has a '{' that is no repeat: write \\{");
      return false;
    }
    most = least;
    if (take(",") && !number(most)) {
      complain("has a repeat without an upper bound");
      return false;
    }
    if (!take("}") || most < least || most == 0 || most > repeat_max) {
      complain("has a repeat that cannot be");
      return false;
    }
    return true;
  }

  Part atom(int depth) {
    if (take("(")) return inner(depth);
    if (take("[")) return one_of(char_class());
    if (take(".")) return one_of(~range('\n', '\n'));
    if (take("\\")) return escape();
    const char c = rest_.front();
    if (c == '^' || c == '$') return complain("has an anchor, which a stream cannot keep");
    if (std::string_view("*+?{").contains(c)) return complain("repeats nothing");
    return literal();
  }

  Part inner(int depth) {
    if (take("?") && !take(":"))
      return complain("has a group with flags or a name; only (?i) in front and (?:...) are known");
    const Part out = alternatives(depth + 1);
    if (!take(")")) return complain("does not close a group");
    return {group(out.exact), group(out.scan), group(out.beginning), out.shortest, out.longest};
  }

  /// One character, which is several bytes outside of ASCII.
  Part literal() {
    const char first = rest_.front();
    rest_.remove_prefix(1);
    if (is_ascii(first)) return one(static_cast<unsigned char>(first));
    if (ignore_case_) return complain("has characters beyond ASCII, whose case is not ignored");
    std::string bytes(1, first);
    while (!rest_.empty() && (static_cast<unsigned char>(rest_.front()) & 0xc0U) == 0x80) {
      bytes += rest_.front();
      rest_.remove_prefix(1);
    }
    Part out = one(static_cast<unsigned char>(bytes.back()));
    for (std::size_t i = bytes.size() - 1; i-- > 0;)
      out = followed_by(one(static_cast<unsigned char>(bytes[i])), out);
    return {group(out.exact), group(out.scan), out.beginning, out.shortest, out.longest};
  }

  Part escape() {
    if (rest_.empty()) return complain("ends with a backslash");
    const char letter = rest_.front();
    if (letter == 'b') {
      rest_.remove_prefix(1);
      return {"\\b", "", "", 0, 0};
    }
    if (const auto bytes = named_class(letter)) {
      rest_.remove_prefix(1);
      return one_of(*bytes);
    }
    const auto byte = escaped_byte();
    return byte ? one(*byte) : Part{};
  }

  std::optional<unsigned char> escaped_byte() {
    if (rest_.empty()) return complain("ends with a backslash"), std::nullopt;
    const char letter = rest_.front();
    rest_.remove_prefix(1);
    if (letter == 'n') return '\n';
    if (letter == 't') return '\t';
    if (letter == 'r') return '\r';
    if (letter == 'x') {
      unsigned value = 0;
      const auto read =
          std::from_chars(rest_.data(), rest_.data() + std::min<std::size_t>(2, rest_.size()), value, 16);
      if (read.ec != std::errc() || read.ptr != rest_.data() + 2)
        return complain("has a \\x without two hex digits"), std::nullopt;
      if (value >= 0x80) return complain("names a byte beyond ASCII"), std::nullopt;
      rest_.remove_prefix(2);
      return static_cast<unsigned char>(value);
    }
    if (!is_ascii(letter) || is_word(letter))
      return complain(fmt::format("has an escape that is not known: \\{}", is_ascii(letter) ? letter : '?')),
             std::nullopt;
    return static_cast<unsigned char>(letter);
  }

  Bytes char_class() {
    Bytes bytes;
    const bool negated = take("^");
    for (bool first = true; complaint_.empty(); first = false) {
      if (rest_.empty()) return complain("does not close a class"), bytes;
      if (!first && take("]")) break;
      class_element(bytes);
    }
    if (ignore_case_)
      for (unsigned c = 'a'; c <= 'z'; ++c)
        if (bytes[c] || bytes[c - 32]) bytes.set(c).set(c - 32);
    if (negated) bytes.flip();
    if (complaint_.empty() && bytes.none()) complain("has a class of nothing");
    return bytes;
  }

  void class_element(Bytes& bytes) {
    if (take("[:")) {
      const std::size_t end = rest_.find(":]");
      const auto known = end == std::string_view::npos ? std::nullopt : posix_class(rest_.substr(0, end));
      if (!known) return (void)complain("has a class [:...:] that is not known");
      rest_.remove_prefix(end + 2);
      bytes |= *known;
      return;
    }
    if (rest_.size() > 1 && rest_.front() == '\\')
      if (const auto known = named_class(rest_[1])) {
        rest_.remove_prefix(2);
        bytes |= *known;
        return;
      }
    const auto from = class_byte();
    if (!from) return;
    unsigned char to = *from;
    if (rest_.size() > 1 && rest_[0] == '-' && rest_[1] != ']') {
      rest_.remove_prefix(1);
      const auto other = class_byte();
      if (!other) return;
      to = *other;
      if (to < *from) return (void)complain("has a range of a class that runs backwards");
    }
    bytes |= range(*from, to);
  }

  std::optional<unsigned char> class_byte() {
    if (take("\\")) return escaped_byte();
    const char c = rest_.front();
    if (!is_ascii(c))
      return complain("has a class with characters beyond ASCII: use alternatives"), std::nullopt;
    rest_.remove_prefix(1);
    return static_cast<unsigned char>(c);
  }

  void check_size(const Part& part) {
    if (part.longest > pattern_match_max)
      complain(fmt::format("may match more than {} bytes", pattern_match_max));
    else if (std::max({part.exact.size(), part.scan.size(), part.beginning.size()}) > written_max)
      complain("is too large");
  }

  bool take(std::string_view text) {
    if (!rest_.starts_with(text)) return false;
    rest_.remove_prefix(text.size());
    return true;
  }

  Part complain(std::string what) {
    if (complaint_.empty()) complaint_ = std::move(what);
    return {};
  }

  std::string_view rest_;
  std::string complaint_;
  bool ignore_case_ = false;
};

}  // namespace

std::expected<BoundedPattern, std::string> read_pattern(std::string_view pattern) {
  if (pattern.empty()) return std::unexpected("is empty");
  if (pattern.size() > pattern_bytes_max)
    return std::unexpected(fmt::format("is longer than {} bytes", pattern_bytes_max));
  return Reader(pattern).read();
}

}  // namespace postern::transform
