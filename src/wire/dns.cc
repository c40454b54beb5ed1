#include "wire/dns.h"

#include <algorithm>
#include <expected>
#include <utility>

#include "wire/byte_reader.h"

namespace postern::wire {
namespace {

constexpr std::size_t header_bytes = 12;
constexpr std::size_t label_bytes_max = 63;  // RFC 1035 §2.3.4
constexpr std::size_t name_bytes_max = 255;  // with lengths and the root

// RFC 1035 §4.1.1, RFC 4035 §3.1.6
constexpr std::uint16_t response_flag = 0x8000;
constexpr std::uint16_t opcode_mask = 0x7800;
constexpr std::uint16_t authoritative_flag = 0x0400;
constexpr std::uint16_t recursion_desired_flag = 0x0100;
constexpr std::uint16_t recursion_available_flag = 0x0080;
constexpr std::uint16_t checking_disabled_flag = 0x0010;

constexpr std::uint16_t class_in = 1;
constexpr std::uint16_t type_opt = 41;
constexpr std::uint16_t dnssec_ok_flag = 0x8000;
constexpr std::uint16_t payload_offered = dns_query_bytes_max;
constexpr std::size_t opt_record_bytes = 11;

/// Why a message is refused, and with which code to answer it.
struct Refusal {
  DnsCode code = DnsCode::format_error;
  const char* detail = "";
};

std::unexpected<Refusal> refuse(const char* detail, DnsCode code = DnsCode::format_error) {
  return std::unexpected(Refusal{code, detail});
}

bool is_host_byte(char c) {
  return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '-' || c == '_';
}

/// RFC 1035 §5.1: `\.`, `\\`, and `\DDD` for what cannot be seen, so that a record of it is safe to print.
void append_presentation(std::string& name, char c) {
  auto value = static_cast<unsigned char>(c);
  if (value <= 0x20 || value >= 0x7f) {
    name += '\\';
    name += static_cast<char>('0' + value / 100);
    name += static_cast<char>('0' + value / 10 % 10);
    name += static_cast<char>('0' + value % 10);
    return;
  }
  if (c == '.' || c == '\\') name += '\\';
  name += c;
}

std::expected<void, Refusal> read_name(ByteReader& reader, DnsQuery& query) {
  const std::size_t start = reader.position();
  bool is_host = true;
  for (;;) {
    std::size_t length = reader.u8();
    // RFC 1035 §4.1.4: the two high bits mark a pointer (11) or are reserved (01, 10).
    if (length > label_bytes_max)
      return refuse("The question's name is compressed or has a reserved label type.");
    std::string_view label = reader.take(length);
    if (!reader.ok()) return refuse("The question is cut short.");
    if (reader.position() - start > name_bytes_max)
      return refuse("The question's name is longer than 255 bytes.");
    if (length == 0) break;
    if (!query.name.empty()) query.name += '.';
    for (char c : label) {
      is_host = is_host && is_host_byte(c);
      append_presentation(query.name, c);
    }
  }
  query.name_is_host = is_host && !query.name.empty();
  return {};
}

/// RFC 6891 §6.1.2: (code, length, bytes)*. Nothing in them concerns us, but they must add up.
bool options_add_up(std::string_view options) {
  ByteReader reader(options);
  while (reader.ok() && reader.remaining() > 0) {
    reader.u16();
    reader.take_with_u16_length();
  }
  return reader.ok();
}

std::expected<void, Refusal> read_opt_record(ByteReader& reader, DnsQuery& query) {
  const bool root = reader.u8() == 0;
  const std::uint16_t type = reader.u16();
  const std::uint16_t payload = reader.u16();
  reader.u8();  // extended code, of no meaning in a query
  const std::uint8_t version = reader.u8();
  const std::uint16_t flags = reader.u16();
  std::string_view options = reader.take_with_u16_length();
  if (!reader.ok()) return refuse("The additional record is cut short.");
  if (!root || type != type_opt) return refuse("An additional record is not OPT.");
  if (version != 0) return refuse("The EDNS version is unknown.", DnsCode::bad_version);
  if (!options_add_up(options)) return refuse("The EDNS options do not add up.");
  query.edns = true;
  query.dnssec_ok = (flags & dnssec_ok_flag) != 0;
  query.edns_payload = std::max<std::uint16_t>(payload, 512);  // RFC 6891 §6.2.3
  return {};
}

/// Nothing may be answered: there is no id to answer to, or it is an answer itself.
bool unanswerable(std::string_view message) {
  return message.size() < header_bytes || (static_cast<std::uint8_t>(message[2]) & 0x80) != 0;
}

/// Requires that the message is answerable.
std::expected<DnsQuery, Refusal> read_query(std::string_view message) {
  ByteReader reader(message);
  DnsQuery query;
  query.id = reader.u16();
  const std::uint16_t flags = reader.u16();
  const std::uint16_t questions = reader.u16();
  const std::uint16_t answers = reader.u16();
  const std::uint16_t authorities = reader.u16();
  const std::uint16_t additionals = reader.u16();
  if ((flags & opcode_mask) != 0) return refuse("The opcode is not QUERY.", DnsCode::not_implemented);
  if (message.size() > dns_query_bytes_max) return refuse("The query is too long.");
  if (questions != 1) return refuse("The query does not have exactly one question.");  // RFC 9619
  if (answers != 0 || authorities != 0) return refuse("The query holds answers.");
  if (additionals > 1) return refuse("The query has more than one additional record.");
  query.recursion_desired = (flags & recursion_desired_flag) != 0;
  query.checking_disabled = (flags & checking_disabled_flag) != 0;

  if (auto read = read_name(reader, query); !read) return std::unexpected(read.error());
  query.type = reader.u16();
  const std::uint16_t question_class = reader.u16();
  if (!reader.ok()) return refuse("The question is cut short.");
  query.question = message.substr(header_bytes, reader.position() - header_bytes);
  if (additionals == 1) {
    if (auto read = read_opt_record(reader, query); !read) return std::unexpected(read.error());
  }
  if (!reader.finished()) return refuse("Bytes follow the query.");
  if (question_class != class_in) return refuse("The question's class is not IN.", DnsCode::refused);
  return query;
}

// Writing

void put_u8(std::string& out, unsigned value) { out += static_cast<char>(value); }
void put_u16(std::string& out, unsigned value) {
  put_u8(out, value >> 8 & 0xff);
  put_u8(out, value & 0xff);
}
void put_u32(std::string& out, std::uint32_t value) {
  put_u16(out, value >> 16);
  put_u16(out, value & 0xffff);
}
void set_u16(std::string& out, std::size_t at, unsigned value) {
  out[at] = static_cast<char>(value >> 8 & 0xff);
  out[at + 1] = static_cast<char>(value & 0xff);
}

constexpr std::size_t answer_count_at = 6;
constexpr std::size_t authority_count_at = 8;
constexpr std::size_t additional_count_at = 10;

/// The four counts are zero and are set as sections are written.
void put_header(std::string& out, std::uint16_t id, std::uint16_t flags, DnsCode code) {
  put_u16(out, id);
  put_u16(out, static_cast<unsigned>(flags | response_flag | (static_cast<unsigned>(code) & 0x0f)));
  out.append(8, '\0');
}

/// RFC 6891 §6.1.3
void put_opt_record(std::string& out, DnsCode code, bool dnssec_ok) {
  put_u8(out, 0);
  put_u16(out, type_opt);
  put_u16(out, payload_offered);
  put_u8(out, static_cast<unsigned>(code) >> 4);
  put_u8(out, 0);  // version
  put_u16(out, dnssec_ok ? dnssec_ok_flag : 0);
  put_u16(out, 0);
  set_u16(out, additional_count_at, 1);
}

void put_address_record(std::string& out, const IpAddress& address, std::uint32_t ttl) {
  const std::size_t size = address.is_v4() ? 4 : 16;
  put_u16(out, 0xc000 | header_bytes);  // RFC 1035 §4.1.4: the question's name
  put_u16(out, std::to_underlying(address.is_v4() ? DnsType::a : DnsType::aaaa));
  put_u16(out, class_in);
  put_u32(out, ttl);
  put_u16(out, static_cast<unsigned>(size));
  out.append(reinterpret_cast<const char*>(address.bytes().data()), size);
}

unsigned put_addresses(std::string& out, const DnsQuery& query, const DnsAnswer& answer, std::uint32_t ttl) {
  const bool wants_v4 = query.type == std::to_underlying(DnsType::a);
  const bool wants_v6 = query.type == std::to_underlying(DnsType::aaaa);
  const std::size_t record_bytes = wants_v4 ? 16 : 28;
  const std::size_t room = dns_response_bytes_max - (query.edns ? opt_record_bytes : 0);
  unsigned count = 0;
  for (const IpAddress& address : answer.addresses) {
    if (address.is_v4() ? !wants_v4 : !wants_v6) continue;
    if (out.size() + record_bytes > room) break;
    put_address_record(out, address, ttl);
    ++count;
  }
  return count;
}

/// RFC 2308 §3: the SOA's TTL and its last field say how long the absence may be remembered. It is the
/// root's, an ancestor of every name, so that it is in bailiwick for whoever checks.
void put_soa_record(std::string& out, std::uint32_t ttl) {
  using std::string_view_literals::operator""sv;
  constexpr std::string_view primary = "\7postern\7invalid\0"sv;  // RFC 2606 §2
  put_u8(out, 0);
  put_u16(out, std::to_underlying(DnsType::soa));
  put_u16(out, class_in);
  put_u32(out, ttl);
  put_u16(out, primary.size() + 1 + 20);
  out += primary;
  put_u8(out, 0);        // nobody's mailbox
  put_u32(out, 1);       // serial
  put_u32(out, 3600);    // refresh
  put_u32(out, 600);     // retry
  put_u32(out, 86'400);  // expire
  put_u32(out, ttl);
  set_u16(out, authority_count_at, 1);
}

}  // namespace

Result<DnsQuery> parse_dns_query(std::string_view message) {
  if (unanswerable(message)) {
    return fail(Reason::malformed_dns_query, "The message is no DNS query at all.", Side::sandbox);
  }
  auto query = read_query(message);
  if (!query) return fail(Reason::malformed_dns_query, query.error().detail, Side::sandbox);
  return std::move(*query);
}

std::string build_dns_response(const DnsQuery& query, const DnsAnswer& answer) {
  const bool known = answer.code == DnsCode::no_error || answer.code == DnsCode::no_such_name;
  const std::uint32_t ttl = std::min<std::uint32_t>(answer.ttl_seconds, 0x7fffffff);  // RFC 2181 §8
  unsigned flags = recursion_available_flag;
  if (known) flags |= authoritative_flag;
  if (query.recursion_desired) flags |= recursion_desired_flag;
  if (query.checking_disabled) flags |= checking_disabled_flag;

  std::string out;
  out.reserve(dns_response_bytes_max);
  put_header(out, query.id, static_cast<std::uint16_t>(flags), answer.code);
  out += query.question;
  set_u16(out, 4, 1);
  unsigned count = answer.code == DnsCode::no_error ? put_addresses(out, query, answer, ttl) : 0;
  set_u16(out, answer_count_at, count);
  if (known && count == 0) put_soa_record(out, ttl);
  if (query.edns) put_opt_record(out, answer.code, query.dnssec_ok);
  return out;
}

DnsCode dns_error_code(std::string_view message) {
  if (unanswerable(message)) return DnsCode::format_error;
  auto query = read_query(message);
  return query ? DnsCode::server_failure : query.error().code;
}

std::string build_dns_error(std::string_view message, DnsCode code) {
  if (unanswerable(message)) return {};
  ByteReader reader(message);
  const std::uint16_t id = reader.u16();
  // RFC 1035 §4.1.1: opcode and RD are copied. The question is not: it may be what could not be read.
  const auto copied = static_cast<std::uint16_t>(reader.u16() & (opcode_mask | recursion_desired_flag));
  std::string out;
  put_header(out, id, static_cast<std::uint16_t>(copied | recursion_available_flag), code);
  // Without an OPT record the code would lose its upper bits and read as NOERROR.
  if (code == DnsCode::bad_version) put_opt_record(out, code, false);
  return out;
}

}  // namespace postern::wire
