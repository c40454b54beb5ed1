#pragma once
// DNS messages (RFC 1035, EDNS RFC 6891): strict reading of one question, and the few answers Postern gives.
//
// Postern answers every question itself and never passes a sandbox's message on, so nothing but the question
// is kept of it. What clients do with each kind of answer decided the rules here: an empty NOERROR, and not
// an error code, for what a name does not have; never a truncated answer; the question echoed to the byte.

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "model/address.h"

namespace postern::wire {

inline constexpr std::size_t dns_query_bytes_max = 1232;  // the common EDNS payload; a question needs 271
inline constexpr std::size_t dns_response_bytes_max =
    512;  // RFC 1035 §2.3.4: fits whatever the client announced

enum class DnsType : std::uint16_t {
  a = 1,
  ns = 2,
  cname = 5,
  soa = 6,
  ptr = 12,
  mx = 15,
  txt = 16,
  aaaa = 28,
  srv = 33,
  svcb = 64,
  https = 65,
  any = 255
};
enum class DnsCode : std::uint8_t {
  no_error = 0,
  format_error = 1,
  server_failure = 2,
  no_such_name = 3,
  not_implemented = 4,
  refused = 5,
  bad_version = 16  ///< RFC 6891 §6.1.3; its upper bits travel in the OPT record.
};

struct DnsQuery {
  std::uint16_t id = 0;
  bool recursion_desired = false;
  bool checking_disabled = false;
  std::string question;  ///< The question section's bytes, to be echoed exactly (0x20 case is kept).
  std::string name;      ///< Presentation form as asked, without the trailing dot; '.' and '\' within a label
                         ///< and bytes outside visible ASCII are escaped (RFC 1035 §5.1). The root is empty.
  bool name_is_host = false;  ///< One or more labels, all of letters, digits, hyphens and underscores.
  std::uint16_t type = 0;
  bool edns = false;
  bool dnssec_ok = false;  ///< Echoed as RFC 3225 §3 asks; nothing is ever signed.
  std::uint16_t edns_payload = 512;
};

/// Exactly one question of class IN, opcode QUERY, no record but one OPT, no byte too many; a compressed name
/// in a question is refused, since nothing precedes it that it could point at. Errors: malformed_dns_query by
/// the sandbox; answer with build_dns_error, which says whether to answer at all.
Result<DnsQuery> parse_dns_query(std::string_view message);

struct DnsAnswer {
  DnsCode code = DnsCode::no_error;
  std::vector<IpAddress>
      addresses;  ///< What the name has. Only those of the family that was asked for are given, so
                  ///< that AAAA for a name with IPv4 only is NOERROR and empty, as musl needs.
  std::uint32_t ttl_seconds = 60;
};

/// The response to `query`: at most 512 bytes (addresses that do not fit are left out), TC never set, EDNS
/// echoed, RA set, AA set unless it is a failure; an SOA in the authority section for NODATA and NXDOMAIN so
/// that resolvers cache them (RFC 2308 §2).
std::string build_dns_response(const DnsQuery& query, const DnsAnswer& answer);

/// The code with which to answer a message that parse_dns_query refused: FORMERR, NOTIMP, REFUSED or BADVERS.
DnsCode dns_error_code(std::string_view message);

/// For a message that could not be parsed: its id with `code`; empty when nothing may be answered (no whole
/// header, or itself a response: answering those would let two servers talk to each other for ever).
std::string build_dns_error(std::string_view message, DnsCode code);
inline std::string build_dns_error(std::string_view message) {
  return build_dns_error(message, dns_error_code(message));
}

}  // namespace postern::wire
