#include "wire/path.h"

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>

namespace postern::wire {
namespace {

enum class Byte : std::uint8_t {
  plain,      // pchar of RFC 3986 §3.3 without '%'; unreserved and sub-delims
  slash,      // ends a segment
  percent,    // begins an escape
  escape,     // printable, but not legal in a path: written as an escape
  ambiguous,  // backslash, '#', space, control, non-ASCII
};

constexpr auto bytes = [] {
  std::array<Byte, 256> table{};
  for (auto& kind : table) kind = Byte::ambiguous;
  for (unsigned char c = 'a'; c <= 'z'; ++c) table[c] = Byte::plain;
  for (unsigned char c = 'A'; c <= 'Z'; ++c) table[c] = Byte::plain;
  for (unsigned char c = '0'; c <= '9'; ++c) table[c] = Byte::plain;
  for (const unsigned char c : std::string_view("-._~!$&'()*+,;=:@")) table[c] = Byte::plain;
  for (const unsigned char c : std::string_view("\"<>^`{|}")) table[c] = Byte::escape;
  table['/'] = Byte::slash;
  table['%'] = Byte::percent;
  return table;
}();

Byte kind_of(char c) { return bytes[static_cast<unsigned char>(c)]; }

bool is_control(unsigned byte) { return byte < 0x20 || byte == 0x7f; }

bool is_unreserved(unsigned byte) {
  return (byte >= 'a' && byte <= 'z') || (byte >= 'A' && byte <= 'Z') || (byte >= '0' && byte <= '9') ||
         byte == '-' || byte == '.' || byte == '_' || byte == '~';
}

constexpr unsigned no_escape = 256;

unsigned hex_value(char c) {
  if (c >= '0' && c <= '9') return static_cast<unsigned>(c - '0');
  if (c >= 'A' && c <= 'F') return static_cast<unsigned>(c - 'A') + 10;
  if (c >= 'a' && c <= 'f') return static_cast<unsigned>(c - 'a') + 10;
  return no_escape;
}

/// The byte of the escape that begins at `at`, or no_escape.
unsigned escaped_byte(std::string_view text, std::size_t at) {
  if (at + 2 >= text.size()) return no_escape;
  const unsigned high = hex_value(text[at + 1]);
  const unsigned low = hex_value(text[at + 2]);
  return high == no_escape || low == no_escape ? no_escape : high << 4 | low;
}

/// Why the escape at `at` of a text without needless escapes is read differently, or nullptr.
const char* escape_ambiguity(std::string_view text, std::size_t at) {
  const unsigned byte = escaped_byte(text, at);
  if (byte == '/') return "an encoded slash";
  if (byte == '\\') return "an encoded backslash";
  if (is_control(byte)) return "an encoded control character";
  if (byte == '%') {
    // A server that decodes twice: "%252e", and "%25252e" for one that goes on.
    std::size_t digits = at + 1;
    while (text.substr(digits, 2) == "25") digits += 2;
    const unsigned inner = escaped_byte(text, digits - 1);
    if (is_unreserved(inner) || inner == '/' || inner == '\\' || is_control(inner)) {
      return "a doubly encoded character";
    }
  }
  // RFC 3629 §10: "/" as C0 AF, "." as E0 80 AE: lenient decoders see what a check before them did not.
  const unsigned next = at + 3 < text.size() && text[at + 3] == '%' ? escaped_byte(text, at + 3) : no_escape;
  const bool overlong = byte == 0xc0 || byte == 0xc1 || (byte == 0xe0 && next >= 0x80 && next < 0xa0) ||
                        (byte == 0xf0 && next >= 0x80 && next < 0x90);
  return overlong ? "an overlong UTF-8 sequence" : nullptr;
}

/// Why a canonical segment that is no dot segment is read as one somewhere: Java servers cut "..;x" at the
/// ';'.
bool is_dot_segment_with_parameters(std::string_view segment) {
  if (!segment.starts_with('.')) return false;
  segment.remove_prefix(segment.starts_with("..") ? 2 : 1);
  return segment.starts_with(';') || segment.starts_with("%3B");
}

bool is_dot_segment(std::string_view segment) { return segment == "." || segment == ".."; }

/// True when the escape at `at` is canonical and read the same everywhere.
bool is_settled_escape(std::string_view path, std::size_t at) {
  const unsigned byte = escaped_byte(path, at);
  if (byte == no_escape || is_unreserved(byte)) return false;
  if (path[at + 1] >= 'a' || path[at + 2] >= 'a') return false;
  return escape_ambiguity(path, at) == nullptr;
}

/// True when the segment that begins at `at` with a dot is an ordinary one, such as ".well-known".
bool is_ordinary_dotted_segment(std::string_view path, std::size_t at) {
  const std::string_view segment = path.substr(at, path.find('/', at) - at);
  return !is_dot_segment(segment) && !is_dot_segment_with_parameters(segment);
}

/// The request path's fast case: canonical and unambiguous as it stands.
bool is_settled(std::string_view path) {
  if (!path.starts_with('/')) return false;
  for (std::size_t i = 0; i < path.size(); ++i) {
    switch (kind_of(path[i])) {
      case Byte::plain: break;
      case Byte::slash:
        if (i + 1 < path.size() && path[i + 1] == '.' && !is_ordinary_dotted_segment(path, i + 1))
          return false;
        break;
      case Byte::percent:
        if (!is_settled_escape(path, i)) return false;
        i += 2;
        break;
      case Byte::escape:
      case Byte::ambiguous: return false;
    }
  }
  return true;
}

const char* raw_ambiguity(char c) {
  if (c == '\\') return "a backslash";
  if (c == '#') return "a fragment";
  if (c == ' ') return "a space";
  return static_cast<unsigned char>(c) >= 0x80 ? "a byte that is not ASCII" : "a control character";
}

/// Writes the canonical form of a path into a string, segment by segment.
class Canonicalizer {
 public:
  explicit Canonicalizer(std::string& out) : out_(out) {}

  const char* run(std::string_view path) {
    out_.clear();
    out_.reserve(path.size() + 16);
    if (!path.starts_with('/')) note("no leading slash");
    for (std::size_t i = 0; i < path.size(); ++i) {
      switch (kind_of(path[i])) {
        case Byte::plain: out_ += path[i]; break;
        case Byte::slash:
          if (!end_segment()) out_ += '/';
          segment_ = out_.size();
          break;
        case Byte::percent: i += escape(path, i); break;
        case Byte::escape: write_escape(static_cast<unsigned char>(path[i])); break;
        case Byte::ambiguous:
          note(raw_ambiguity(path[i]));
          out_ += path[i];
          break;
      }
    }
    end_segment();
    note_escapes();
    return ambiguity_;
  }

 private:
  void note(const char* ambiguity) {
    if (ambiguity_ == nullptr) ambiguity_ = ambiguity;
  }

  void write_escape(unsigned byte) {
    constexpr char digits[] = "0123456789ABCDEF";
    out_ += '%';
    out_ += digits[byte >> 4];
    out_ += digits[byte & 0xf];
  }

  /// Handles the '%' at `at`; returns how many bytes after it are done with.
  std::size_t escape(std::string_view path, std::size_t at) {
    const unsigned byte = escaped_byte(path, at);
    if (byte == no_escape) {
      note("a broken percent-escape");
      write_escape('%');  // a '%' left bare could join what follows to a new escape: "%%32e"
      return 0;
    }
    if (is_unreserved(byte)) {
      out_ += static_cast<char>(byte);
      encoded_dot_ = encoded_dot_ || byte == '.';
    } else {
      write_escape(byte);
    }
    return 2;
  }

  /// RFC 3986 §5.2.4 for the segment just written. True when it was a dot segment and is gone, so that the
  /// output ends with the slash before it (or its parent's).
  bool end_segment() {
    const std::string_view segment = std::string_view(out_).substr(segment_);
    const bool encoded_dot = encoded_dot_;
    encoded_dot_ = false;
    if (is_dot_segment_with_parameters(segment)) note("a dot segment with parameters");
    // Before the first slash there is no segment: a target without one is ambiguous and stays.
    if (segment_ == 0 || !is_dot_segment(segment)) return false;
    if (encoded_dot) note("an encoded dot segment");
    const bool up = segment.size() == 2;
    out_.resize(segment_);
    if (up && segment_ > 1) {
      const std::size_t slash = out_.rfind('/', segment_ - 2);
      // Without a leading slash the first "segment" has none to stop at; it stays.
      if (slash != std::string::npos) out_.resize(slash + 1);
    }
    return true;
  }

  /// On the output: only there are "%25%32e" and "%252e" the same.
  void note_escapes() {
    for (std::size_t at = out_.find('%'); at != std::string::npos; at = out_.find('%', at + 1)) {
      if (const char* why = escape_ambiguity(out_, at)) return note(why);
    }
  }

  std::string& out_;
  std::size_t segment_ = 0;  // where the current segment begins in out_
  bool encoded_dot_ = false;
  const char* ambiguity_ = nullptr;
};

/// Reserved characters that RFC 3986 §3.3 allows in a segment: escaped or not, many servers read the same.
bool is_reserved_in_segment(unsigned byte) {
  return byte < 0x80 && std::string_view("!$&'()*+,;=:@").contains(static_cast<char>(byte));
}

/// For servers that take a path apart again after decoding it.
std::string_view before_escaped_query(std::string_view path) {
  return path.substr(0, std::min(path.find("%3F"), path.find("%23")));
}

std::string without_parameters(std::string_view path) {
  std::string out;
  out.reserve(path.size());
  bool parameters = false;
  for (const char c : path) {
    if (c == '/') parameters = false;
    if (c == ';') parameters = true;
    if (!parameters) out += c;
  }
  return out;
}

std::string without_empty_segments(std::string path) {
  const auto rest = std::ranges::unique(path, [](char a, char b) { return a == '/' && b == '/'; });
  path.erase(rest.begin(), rest.end());
  return path;
}

/// A query is sent as it is; only what ends a request line or a target elsewhere is named.
const char* query_ambiguity(std::string_view query) {
  for (const char c : query) {
    if (c == '#' || c == ' ' || is_control(static_cast<unsigned char>(c))) return raw_ambiguity(c);
  }
  return nullptr;
}

}  // namespace

CanonicalPath canonical_path(std::string_view target, std::string& scratch) {
  const std::size_t question = std::min(target.find('?'), target.size());
  CanonicalPath result{target.substr(0, question), target.substr(question), nullptr};
  if (!is_settled(result.path) && target != "*") {
    result.ambiguity = Canonicalizer(scratch).run(result.path);
    if (scratch != result.path) result.path = scratch;
  }
  if (result.ambiguity == nullptr) result.ambiguity = query_ambiguity(result.query);
  return result;
}

std::string decode_reserved(std::string_view canonical) {
  std::string out;
  out.reserve(canonical.size());
  for (std::size_t i = 0; i < canonical.size(); ++i) {
    const unsigned byte = canonical[i] == '%' ? escaped_byte(canonical, i) : no_escape;
    const bool decode = byte != no_escape && is_reserved_in_segment(byte);
    out += decode ? static_cast<char>(byte) : canonical[i];
    if (decode) i += 2;
  }
  return out;
}

std::optional<LenientPath> lenient_path(std::string_view canonical) {
  if (canonical.find_first_of(";%") == std::string_view::npos && !canonical.contains("//"))
    return std::nullopt;
  return LenientPath{
      .decoded = without_empty_segments(decode_reserved(canonical)),
      .bare = without_empty_segments(without_parameters(decode_reserved(before_escaped_query(canonical)))),
  };
}

}  // namespace postern::wire
