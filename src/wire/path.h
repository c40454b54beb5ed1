#pragma once
// The one canonical form of a request path: the form that rules match is the form that is sent.
//
// A rule about `/repos/*` is worth nothing when the origin reads `/repos/..%2fadmin` in another way than
// Postern did. So the path is brought to one form (RFC 3986 §6.2.2), and whatever two servers may still read
// differently is named: the caller refuses it where rules look at paths. What is left alone is what every
// careful server keeps apart: case, empty segments, the escapes of reserved characters. Servers that do not
// are what lenient_path() is for.

#include <optional>
#include <string>
#include <string_view>

namespace postern::wire {

struct CanonicalPath {
  /// Without the query. Points into the input when that was canonical already, else into `scratch`.
  std::string_view path;
  /// "?..." as sent, or empty. Points into the input.
  std::string_view query;
  /// Why servers may disagree about this target; a literal for people, nullptr when they agree: no leading
  /// slash; an encoded slash, backslash, dot segment or control character; one of these, or an unreserved
  /// character, encoded twice; overlong UTF-8; a dot segment with parameters ("..;"); a raw backslash, '#',
  /// space, control or non-ASCII byte; a broken escape.
  const char* ambiguity = nullptr;
};

/// `target` is origin-form (RFC 9112 §3.2.1): "/path?query", or the "*" of OPTIONS. Percent-escapes of
/// unreserved characters are decoded, other escapes get upper-case digits, the printable characters that RFC
/// 3986 does not allow in a path (`"<>^{|}` and the backtick) and a '%' without digits are escaped, dot
/// segments are removed, and empty segments stay. Idempotent. `scratch` must live as long as the result and
/// must not hold `target`. No allocation when the path is canonical.
CanonicalPath canonical_path(std::string_view target, std::string& scratch);

/// The path with the escapes of reserved characters decoded: "/a%3Ab" is "/a:b" to many servers.
std::string decode_reserved(std::string_view canonical);

/// How a lenient server may read a canonical path. For closing paths only: what is sent stays canonical.
struct LenientPath {
  std::string decoded;  ///< decode_reserved(), and empty segments merged away.
  std::string
      bare;  ///< Besides, parameters cut ("/a;x/b", RFC 3986 §3.3), and all behind an escaped '?' or '#'.
};

/// nullopt when there is only the strict reading, which is the usual case and allocates nothing.
std::optional<LenientPath> lenient_path(std::string_view canonical);

}  // namespace postern::wire
