#include "wire/host.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <idn2.h>
#include <libpsl.h>
#include <memory>
#include <string>
#include <utility>

namespace postern::wire {
namespace {

constexpr std::size_t name_bytes_max = 253;  // RFC 1035 §2.3.4: 255 on the wire
constexpr std::size_t label_bytes_max = 63;
// Before mapping a name may be longer: UTF-8 takes up to 4 bytes, and ignored code points vanish.
constexpr std::size_t raw_bytes_max = 4 * (name_bytes_max + 1);

constexpr auto label_bytes = [] {
  std::array<bool, 256> allowed{};
  for (unsigned char c = 'a'; c <= 'z'; ++c) allowed[c] = true;
  for (unsigned char c = '0'; c <= '9'; ++c) allowed[c] = true;
  allowed['-'] = allowed['_'] = true;
  return allowed;
}();

bool is_digit(char c) { return c >= '0' && c <= '9'; }

std::string_view without_trailing_dot(std::string_view name) {
  if (name.ends_with('.')) name.remove_suffix(1);
  return name;
}

/// What keeps `name` from being canonical, or nullptr.
const char* name_fault(std::string_view name) {
  if (name.empty()) return "the host is empty";
  if (name.size() > name_bytes_max) return "the host name is longer than 253 bytes";
  std::size_t label_start = 0;
  for (std::size_t i = 0; i <= name.size(); ++i) {
    if (i < name.size() && label_bytes[static_cast<unsigned char>(name[i])]) continue;
    if (i < name.size() && name[i] != '.') return "the host name has a character that no host name may have";
    if (i == label_start) return "the host name has an empty label";
    if (i - label_start > label_bytes_max) return "the host name has a label longer than 63 bytes";
    label_start = i + 1;
  }
  return nullptr;
}

/// WHATWG "IPv4 number parser" for lower-case text: decimal, 0-octal or 0x-hexadecimal. The value saturates.
std::optional<std::uint64_t> parse_ipv4_number(std::string_view text) {
  if (text.empty()) return std::nullopt;
  int base = 10;
  if (text.starts_with("0x")) {
    base = 16;
    text.remove_prefix(2);
  } else if (text.size() > 1 && text[0] == '0') {
    base = 8;
    text.remove_prefix(1);
  }
  if (text.empty()) return 0;  // "0x" is zero
  std::uint64_t value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value, base);
  if (end != text.data() + text.size()) return std::nullopt;
  return error == std::errc::result_out_of_range ? UINT64_MAX : value;
}

/// WHATWG "ends in a number checker": then the host is IPv4 or nothing. `name` is canonical.
bool ends_in_number(std::string_view name) {
  const std::string_view last = name.substr(name.rfind('.') + 1);
  if (!is_digit(last[0])) return false;
  return std::ranges::all_of(last, is_digit) || parse_ipv4_number(last).has_value();
}

/// WHATWG "IPv4 parser": one to four numbers, the last of which fills the bytes that are left.
std::optional<IpAddress> parse_url_ipv4(std::string_view name) {
  const auto count = static_cast<unsigned>(std::ranges::count(name, '.')) + 1;
  if (count > 4) return std::nullopt;
  std::uint64_t address = 0;
  for (unsigned i = 0; i < count; ++i) {
    const std::size_t dot = std::min(name.find('.'), name.size());
    const auto number = parse_ipv4_number(name.substr(0, dot));
    name.remove_prefix(std::min(dot + 1, name.size()));
    const bool is_last = i + 1 == count;
    const unsigned bits = is_last ? 8 * (4 - i) : 8;
    if (!number || *number >> bits != 0) return std::nullopt;
    address |= is_last ? *number : *number << (24 - 8 * i);
  }
  return IpAddress::v4(static_cast<std::uint32_t>(address));
}

Host literal(const IpAddress& address) { return Host{address.to_string(), address}; }

Result<Host> bracketed_ipv6(std::string_view raw) {
  if (!raw.ends_with(']')) return fail(Reason::malformed_host, "a bracket in the host is not closed");
  const auto address = IpAddress::parse(raw.substr(1, raw.size() - 2));
  if (!address || address->is_v4()) {
    return fail(Reason::malformed_host, "the host in brackets is not an IPv6 address without zone");
  }
  return literal(*address);
}

struct Idn2Free {
  void operator()(std::uint8_t* text) const { idn2_free(text); }
};

/// UTS-46 ToASCII, non-transitional. libidn2 also applies IDNA2008, so symbols and emoji are refused, and so
/// are hyphens at the ends of a label: stricter than WHATWG, never another name.
Result<std::string> map_unicode(std::string_view raw) {
  // Unicode 15.1 changed what capital sharp s maps to ("ss" before, "ß" now): two readers, two hosts.
  if (raw.find("\u1E9E") != std::string_view::npos) {
    return fail(Reason::malformed_host, "the host name has a capital sharp s, which is read in two ways");
  }
  if (raw.find('\0') != std::string_view::npos)
    return fail(Reason::malformed_host, "the host name has a NUL");
  const std::string terminated(raw);
  std::uint8_t* text = nullptr;
  const int status = idn2_lookup_u8(reinterpret_cast<const std::uint8_t*>(terminated.c_str()), &text,
                                    IDN2_NFC_INPUT | IDN2_NONTRANSITIONAL);
  const std::unique_ptr<std::uint8_t, Idn2Free> owned(text);
  if (status != IDN2_OK) {
    return fail(Reason::malformed_host,
                std::string("the host name is not a valid international name: ") + idn2_strerror(status));
  }
  return std::string(reinterpret_cast<const char*>(text));
}

Result<std::string> map_name(std::string_view raw) {
  std::string name(raw);
  bool ascii = true;
  for (char& c : name) {
    if (c >= 'A' && c <= 'Z') c = static_cast<char>(c - 'A' + 'a');
    ascii = ascii && static_cast<unsigned char>(c) < 0x80;
  }
  // A name that is ASCII already is only lowered, A-labels too: their bytes are what DNS and certificates
  // hold.
  return ascii ? Result<std::string>(std::move(name)) : map_unicode(raw);
}

Result<Host> name_or_ipv4(std::string_view name) {
  if (!ends_in_number(name)) return Host{std::string(name), std::nullopt};
  const auto address = parse_url_ipv4(name);
  if (!address) return fail(Reason::malformed_host, "the host ends in a number but is not an IPv4 address");
  return literal(*address);
}

std::optional<std::uint16_t> parse_port(std::string_view text) {
  // "080" is 80 for some readers and an octal or an error for others.
  if (text.empty() || text[0] == '0' || !std::ranges::all_of(text, is_digit)) return std::nullopt;
  std::uint16_t port = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), port);
  if (error != std::errc() || end != text.data() + text.size()) return std::nullopt;
  return port;
}

/// libpsl wants C strings; a canonical name fits in here.
class TerminatedName {
 public:
  explicit TerminatedName(std::string_view name) { name.copy(text_.data(), text_.size() - 1); }
  const char* c_str() const { return text_.data(); }

 private:
  std::array<char, name_bytes_max + 1> text_{};
};

}  // namespace

Result<Host> canonical_host(std::string_view raw) {
  if (raw.starts_with('[')) return bracketed_ipv6(raw);
  const std::string_view as_sent = without_trailing_dot(raw);
  if (name_fault(as_sent) == nullptr) return name_or_ipv4(as_sent);

  if (raw.size() > raw_bytes_max) return fail(Reason::malformed_host, "the host name is too long");
  const auto mapped = map_name(raw);
  if (!mapped) return std::unexpected(mapped.error());
  const std::string_view name = without_trailing_dot(*mapped);
  if (const char* fault = name_fault(name)) return fail(Reason::malformed_host, fault);
  return name_or_ipv4(name);
}

Result<Authority> parse_authority(std::string_view raw) {
  // The last colon outside of brackets; a second one, and a userinfo's '@', are no characters of a host.
  const std::size_t bracket = raw.rfind(']');
  const std::size_t colon = raw.find(':', bracket == std::string_view::npos ? 0 : bracket);
  auto host = canonical_host(raw.substr(0, colon));
  if (!host) return std::unexpected(std::move(host.error()));
  Authority authority{std::move(*host), std::nullopt};
  if (colon == std::string_view::npos) return authority;
  authority.port = parse_port(raw.substr(colon + 1));
  if (!authority.port) return fail(Reason::malformed_host, "the port is not a number from 1 to 65535");
  return authority;
}

bool is_public_suffix(std::string_view name) {
  if (name.empty() || name.size() > name_bytes_max) return false;
  return psl_is_public_suffix(psl_builtin(), TerminatedName(name).c_str()) != 0;
}

std::string_view registrable_domain(std::string_view name) {
  if (name.empty() || name.size() > name_bytes_max) return {};
  const TerminatedName terminated(name);
  const char* domain = psl_registrable_domain(psl_builtin(), terminated.c_str());
  if (domain == nullptr) return {};
  return name.substr(static_cast<std::size_t>(domain - terminated.c_str()));
}

}  // namespace postern::wire
