// A query that is accepted can be written down again from what was understood of it, byte for byte but for
// EDNS options, and every answer to it is bounded, echoes the question, and is itself refused as a query.

#include <cstdint>
#include <cstdlib>

#include "wire/dns.h"

using namespace postern;
using namespace postern::wire;

namespace {

void require(bool condition) {
  if (!condition) std::abort();
}

/// The wire form of a presentation name, read by the rules of RFC 1035 §5.1.
std::string to_wire(std::string_view name) {
  std::string out;
  std::string label;
  auto finish = [&] {
    require(!label.empty() && label.size() <= 63);
    out += static_cast<char>(label.size());
    out += label;
    label.clear();
  };
  for (std::size_t i = 0; i < name.size(); ++i) {
    if (name[i] == '.') {
      finish();
    } else if (name[i] != '\\') {
      label += name[i];
    } else if (name[i + 1] >= '0' && name[i + 1] <= '9') {
      label += static_cast<char>((name[i + 1] - '0') * 100 + (name[i + 2] - '0') * 10 + (name[i + 3] - '0'));
      i += 3;
    } else {
      label += name[++i];
    }
  }
  if (!name.empty()) finish();
  out += '\0';
  return out;
}

void check_response(const DnsQuery& query, const std::string& response) {
  require(response.size() <= dns_response_bytes_max);
  require(std::string_view(response).substr(12, query.question.size()) == query.question);
  require((static_cast<std::uint8_t>(response[2]) & 0x82) == 0x80);  // QR, not TC
  require(!parse_dns_query(response));
  require(build_dns_error(response).empty());
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  std::string_view message(reinterpret_cast<const char*>(data), size);
  auto query = parse_dns_query(message);
  if (!query) {
    std::string error = build_dns_error(message);
    require(error.empty() || (error.size() >= 12 && error.size() <= 23 && !parse_dns_query(error)));
    return 0;
  }
  std::string question = to_wire(query->name);
  question += static_cast<char>(query->type >> 8);
  question += static_cast<char>(query->type & 0xff);
  question += std::string("\0\1", 2);
  require(question == query->question);
  require(message.substr(12, question.size()) == question);

  DnsAnswer answer{.addresses = {IpAddress::v4(0x64400101), IpAddress::v6({0x20, 0x01})}, .ttl_seconds = 60};
  answer.addresses.resize(40, IpAddress::v4(0x64400102));
  check_response(*query, build_dns_response(*query, answer));
  check_response(*query, build_dns_response(*query, {.code = DnsCode::no_such_name, .addresses = {}}));
  check_response(*query, build_dns_response(*query, {.code = DnsCode::server_failure, .addresses = {}}));
  return 0;
}
