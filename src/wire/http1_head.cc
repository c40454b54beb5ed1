// Request and response heads. One pass over the bytes; the fields that decide where the message ends are
// noted while they go by, and judged together at the end.

#include <charconv>
#include <optional>

#include "wire/http1.h"
#include "wire/http1_bytes.h"
#include "wire/http_rules.h"

namespace postern::wire {

namespace {

using http1::skip;
using rules::is_host_value;
using rules::judge_method;
using rules::malformed;
using rules::malformed_response;
using rules::read_length;
using rules::refuse_request;

/// What the fields say about framing, routing and the connection.
struct Notes {
  unsigned hosts = 0;
  std::string_view host;
  unsigned lengths = 0;
  std::string_view length;
  unsigned codings = 0;
  std::string_view coding;
  unsigned upgrades = 0;
  std::string_view upgrade;
  bool close = false;
  bool keep_alive = false;
  bool upgrade_named = false;
  bool expects_continue = false;
  bool expects_other = false;
};

void note_connection(std::string_view value, Notes& notes) {
  notes.close |= has_token(value, "close");
  notes.keep_alive |= has_token(value, "keep-alive");
  notes.upgrade_named |= has_token(value, "upgrade");
}

void note(const HeaderField& field, Notes& notes) {
  switch (field.name.size()) {
    case 4:
      if (!same_name(field.name, "host")) return;
      ++notes.hosts;
      notes.host = field.value;
      return;
    case 6:
      if (!same_name(field.name, "expect")) return;
      (same_name(field.value, "100-continue") ? notes.expects_continue : notes.expects_other) = true;
      return;
    case 7:
      if (!same_name(field.name, "upgrade")) return;
      ++notes.upgrades;
      notes.upgrade = field.value;
      return;
    case 10:
      if (same_name(field.name, "connection")) note_connection(field.value, notes);
      return;
    case 14:
      if (!same_name(field.name, "content-length")) return;
      ++notes.lengths;
      notes.length = field.value;
      return;
    case 17:
      if (!same_name(field.name, "transfer-encoding")) return;
      ++notes.codings;
      notes.coding = field.value;
      return;
    default: return;
  }
}

constexpr char too_many_fields[] = "too many fields";
constexpr std::size_t usual_fields = 16;  // room is made once for most heads

/// Adds the fields up to the empty line to `storage`, which must be the last two bytes. Returns why not, or
/// nullptr.
const char* read_fields(const char* at, const char* end, std::vector<HeaderField>& storage, Notes& notes) {
  if (storage.capacity() == 0) storage.reserve(usual_fields);
  while (at != end && *at != '\r') {
    if (storage.size() == head_fields_max) return too_many_fields;
    HeaderField& field = storage.emplace_back();
    if (const char* why = http1::read_field(at, end, field)) return why;
    note(field, notes);
  }
  if (end - at != 2 || at[0] != '\r' || at[1] != '\n') return "the head does not end with one empty line";
  return nullptr;
}

struct Length {
  BodyFraming framing = BodyFraming::none;
  std::uint64_t content_length = 0;
};

/// RFC 9112 §6.3 with every "ought to be handled as an error" taken at its word, on both sides.
const char* judge_length(const Notes& notes, int minor_version, Length& out) {
  if (notes.codings > 0) {
    if (notes.lengths > 0) return "Content-Length with Transfer-Encoding";
    if (notes.codings > 1 || !same_name(notes.coding, "chunked")) {
      return "a Transfer-Encoding other than chunked";
    }
    if (minor_version == 0) return "Transfer-Encoding in HTTP/1.0";  // RFC 9112 §6.1: faulty framing
    out.framing = BodyFraming::chunked;
  } else if (notes.lengths > 0) {
    if (notes.lengths > 1) return "several Content-Length fields";
    const std::optional<std::uint64_t> length = read_length(notes.length);
    if (!length) return "malformed Content-Length";
    out = {BodyFraming::length, *length};
  }
  return nullptr;
}

/// RFC 9112 §9.3: persistent by default from HTTP/1.1 on; close wins.
bool keeps_alive(const Notes& notes, int minor_version) {
  return !notes.close && (minor_version > 0 || notes.keep_alive);
}

/// "HTTP/1.0" or "HTTP/1.1" at `at`, moved behind it; -1 for anything else (RFC 9112 §2.3).
int read_version(const char*& at, const char* end) {
  constexpr std::string_view prefix = "HTTP/1.";
  if (end - at < 8 || std::memcmp(at, prefix.data(), prefix.size()) != 0) return -1;
  const char minor = at[7];
  if (minor != '0' && minor != '1') return -1;
  at += 8;
  return minor - '0';
}

bool read_line_end(const char*& at, const char* end) {
  if (end - at < 2 || at[0] != '\r' || at[1] != '\n') return false;
  at += 2;
  return true;
}

/// RFC 9112 §3: exactly `method SP request-target SP HTTP-version CRLF`.
const char* read_request_line(const char*& at, const char* end, RequestHead& out) {
  const char* const method = at;
  at = skip(at, end, http1::token_byte);
  out.method = {method, static_cast<std::size_t>(at - method)};
  if (out.method.empty() || out.method.size() > method_bytes_max) return "malformed method";
  if (at == end || *at != ' ') return "malformed method";
  const char* const target = ++at;
  at = skip(at, end, http1::target_byte);
  out.target = {target, static_cast<std::size_t>(at - target)};
  if (out.target.empty() || at == end || *at != ' ') return "malformed target";
  ++at;
  out.minor_version = read_version(at, end);
  if (out.minor_version < 0 || !read_line_end(at, end)) return "malformed HTTP version";
  return nullptr;
}

/// `authority` without ":80" or ":443", whichever is the scheme's default.
std::string_view without_default_port(std::string_view authority, std::string_view port) {
  if (authority.ends_with(port)) authority.remove_suffix(port.size());
  return authority;
}

/// RFC 9112 §3.2.2: `out.target` is absolute-form. Afterwards it is origin-form (or "*", §3.2.4).
Result<void> split_absolute_form(RequestHead& out) {
  const std::string_view target = out.target;
  const std::size_t colon = target.find("://");
  if (colon == std::string_view::npos) return malformed("malformed target");
  const std::string_view scheme = target.substr(0, colon);
  const bool plain = same_name(scheme, "http");
  if (!plain && !same_name(scheme, "https")) return malformed("the target's scheme is not http or https");

  const std::string_view rest = target.substr(colon + 3);
  const std::size_t slash = rest.find_first_of("/?");
  const std::string_view authority = rest.substr(0, slash);
  if (!is_host_value(authority)) return refuse_request(Reason::malformed_host, "malformed target authority");
  if (slash == std::string_view::npos) {
    out.target = out.method == "OPTIONS" ? "*" : "/";
  } else if (rest[slash] == '/') {
    out.target = rest.substr(slash);
  } else {
    return malformed("the target has a query but no path");
  }

  const std::string_view port = plain ? ":80" : ":443";
  const bool same_host =
      same_name(without_default_port(authority, port), without_default_port(out.authority, port));
  const bool host_may_be_absent = out.authority.empty() && out.minor_version == 0;
  if (!same_host && !host_may_be_absent) {
    return refuse_request(Reason::malformed_host, "the Host field and the target's authority differ");
  }
  out.authority = authority;
  return {};
}

/// RFC 9112 §3.2: who is asked for what, said once.
Result<void> judge_target(const Notes& notes, RequestHead& out) {
  if (notes.hosts > 1) return refuse_request(Reason::malformed_host, "several Host fields");
  if (notes.hosts == 0 && out.minor_version > 0) {
    return refuse_request(Reason::malformed_host, "no Host field");
  }
  if (notes.hosts == 1 && !is_host_value(notes.host)) {
    return refuse_request(Reason::malformed_host, "malformed Host field");
  }
  out.authority = notes.host;
  if (out.target.front() == '/') return {};
  if (out.target == "*") {
    if (out.method != "OPTIONS") return malformed("the target * is for OPTIONS only");
    return {};
  }
  return split_absolute_form(out);
}

/// The value of Upgrade when it is meant (RFC 9110 §7.8: Connection names it; ignored in HTTP/1.0).
std::string_view upgrade_of(const Notes& notes, int minor_version) {
  return notes.upgrade_named && minor_version > 0 ? notes.upgrade : std::string_view{};
}

/// RFC 9110 §15. Three digits, the reason phrase and the space before it are optional for old servers' sake.
const char* read_status_line(const char*& at, const char* end, ResponseHead& out) {
  out.minor_version = read_version(at, end);
  if (out.minor_version < 0 || at == end || *at != ' ') return "malformed HTTP version";
  ++at;
  const char* const digits = at;
  while (at != end && at - digits < 3 && *at >= '0' && *at <= '9') ++at;
  if (at - digits != 3 || *digits == '0') return "malformed status";
  std::from_chars(digits, at, out.status);
  if (at != end && *at == ' ') {
    const char* const phrase = ++at;
    at = http1::find_control(at, end);
    out.reason_phrase = {phrase, static_cast<std::size_t>(at - phrase)};
  }
  if (!read_line_end(at, end)) return "malformed status line";
  return nullptr;
}

/// RFC 9112 §6.3 rules 1, 2 and 8: what the status and the request's method have to say.
void judge_response_body(const Notes& notes, std::string_view request_method, const Length& length,
                         ResponseHead& out) {
  const bool never_has_body = out.status < 200 || out.status == 204;
  if (never_has_body || out.status == 304 || request_method == "HEAD") {
    out.framing = BodyFraming::none;
    // RFC 9110 §8.6, RFC 9112 §6.1: forbidden there. An origin that announces a body may also send it.
    if (never_has_body && (notes.codings > 0 || length.content_length > 0)) out.keep_alive = false;
    return;
  }
  out.framing = length.framing;
  out.content_length = length.content_length;
  if (length.framing == BodyFraming::none) {
    out.framing = BodyFraming::until_close;
    out.keep_alive = false;
  }
}

}  // namespace

Result<std::size_t> HeadScanner::scan(std::string_view bytes) {
  const bool full = bytes.size() >= head_bytes_max;
  const http1::End found =
      http1::find_end(bytes.substr(0, head_bytes_max), scanned_, http1::FirstLine::may_be_empty);
  if (found.refused != nullptr) return malformed(found.refused);
  if (found.length == 0 && full) {
    return fail(Reason::head_too_large, "the head has more than 64 KiB", Side::sandbox);
  }
  if (found.length > 0) scanned_ = 0;
  return found.length;
}

Result<void> parse_request_head(std::string_view head, std::vector<HeaderField>& storage, RequestHead& out) {
  out = RequestHead{};
  storage.clear();
  if (head.size() > head_bytes_max) return refuse_request(Reason::head_too_large, "more than 64 KiB");
  const char* at = head.data();
  const char* const end = at + head.size();
  read_line_end(at, end);  // RFC 9112 §2.2: some clients send a stray CRLF after a body.
  if (const char* why = read_request_line(at, end, out)) return malformed(why);

  Notes notes;
  if (const char* why = read_fields(at, end, storage, notes)) {
    return refuse_request(why == too_many_fields ? Reason::head_too_large : Reason::malformed_request, why);
  }
  out.fields = storage;
  Result<void> judged = judge_method(out.method);
  if (judged) judged = judge_target(notes, out);
  if (!judged) return judged;

  Length length;
  if (const char* why = judge_length(notes, out.minor_version, length)) return malformed(why);
  out.framing = length.framing;
  out.content_length = length.content_length;
  out.keep_alive = keeps_alive(notes, out.minor_version);
  out.upgrade = upgrade_of(notes, out.minor_version);
  if (!out.upgrade.empty() && notes.upgrades > 1) return malformed("several Upgrade fields");
  if (out.minor_version == 0) return {};  // RFC 9110 §10.1.1: HTTP/1.0 expects nothing.
  if (notes.expects_other) return refuse_request(Reason::expectation_failed, "unknown expectation");
  out.expects_continue = notes.expects_continue;
  return {};
}

Result<void> parse_response_head(std::string_view head, std::string_view request_method,
                                 std::vector<HeaderField>& storage, ResponseHead& out) {
  out = ResponseHead{};
  storage.clear();
  if (head.size() > head_bytes_max) return malformed_response("the head has more than 64 KiB");
  const char* at = head.data();
  const char* const end = at + head.size();
  if (const char* why = read_status_line(at, end, out)) return malformed_response(why);

  Notes notes;
  if (const char* why = read_fields(at, end, storage, notes)) return malformed_response(why);
  out.fields = storage;
  Length length;
  if (const char* why = judge_length(notes, out.minor_version, length)) return malformed_response(why);
  out.keep_alive = keeps_alive(notes, out.minor_version);
  judge_response_body(notes, request_method, length, out);
  if (out.status != 101) return {};
  out.upgrade = upgrade_of(notes, out.minor_version);
  // RFC 9110 §15.2.2: it must say to what. Without that nobody knows how to read the next byte.
  if (out.upgrade.empty() || notes.upgrades > 1) return malformed_response("101 without one Upgrade");
  return {};
}

}  // namespace postern::wire
