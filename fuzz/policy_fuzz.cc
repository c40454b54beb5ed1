// A policy of any bytes: reading, compiling and judging never crash, and the printed form is read again as
// the same document.

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <string_view>

#include "policy/decide.h"
#include "policy/document.h"
#include "policy/snapshot.h"
#include "wire/host.h"

namespace {

using namespace postern;
using namespace postern::policy;

void require(bool holds, const char* what) {
  if (holds) return;
  std::fprintf(stderr, "broken: %s\n", what);
  std::abort();
}

void judge(const Snapshot& snapshot) {
  static const std::vector<Host> hosts = [] {
    std::vector<Host> out;
    for (const char* name :
         {"api.example.com", "example.com", "a.b.c.d.e.f.g", "localhost", "8.8.8.8", "10.0.0.1", "[::1]"}) {
      out.push_back(wire::canonical_host(name).value());
    }
    return out;
  }();
  const HeaderField fields[] = {{"x-team", "blue"}, {"X-HTTP-Method-Override", "DELETE"}};
  for (const Host& host : hosts) {
    for (const Transport transport : {Transport::tcp, Transport::tls, Transport::http}) {
      const std::uint16_t port = transport == Transport::http ? 80 : 443;
      const auto destination = judge_destination(snapshot, {host, port, transport});
      require(destination.reason == Reason::allowed || !destination.intercept,
              "a denied destination is not decrypted");
      if (host.literal && transport != Transport::http)
        require(destination.reason == Reason::literal_address, "literals are refused");
      if (host.literal && !is_public(*host.literal))
        require(destination.reason != Reason::allowed, "private addresses are refused");
      if (transport == Transport::tcp) continue;
      const auto verdict =
          decide(snapshot, {host, port, transport == Transport::tls, "GET", "/v1/x", fields});
      require(destination.reason == Reason::allowed || verdict.reason == destination.reason,
              "a request reaches no further than its connection");
      require(verdict.rule == nullptr || (verdict.rule->enabled && destination.intercept),
              "only enabled rules of covered hosts match");
      require(verdict.reason == Reason::allowed || !verdict.rule || verdict.rule->action == Action::deny ||
                  transport == Transport::http,
              "an allowing rule allows");
    }
  }
}

void exercise(std::string_view text, Format format, UnknownFields unknown) {
  auto document = parse_document(text, format, unknown);
  if (!document) {
    require(!document.error().empty(), "a refusal says why");
    for (const auto& problem : document.error())
      require(!describe(problem, "policy").empty(), "a problem has words");
    return;
  }
  const std::string printed = print(*document);
  auto again = parse_document(printed, Format::json, UnknownFields::refuse);
  require(again.has_value(), "the printed form is accepted");
  for (auto& rule : document->rules) {
    for (auto& header : rule.headers) header.value = Secret();
  }
  require(print(*again) == print(*document), "the printed form means the same");
  for (const DefaultEgress egress : {DefaultEgress::everything, DefaultEgress::hosts_of_rules}) {
    auto copy = parse_document(printed, Format::json);
    const auto snapshot = compile(std::move(*copy), {.default_egress = egress});
    if (snapshot) judge(**snapshot);
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  if (size == 0) return 0;
  const std::string_view text(reinterpret_cast<const char*>(data) + 1, size - 1);
  // The first byte chooses how to read: bit 0 JSON, bit 1 tolerant (seeds begin with a blank or a digit).
  exercise(text, (data[0] & 1) != 0 ? Format::json : Format::yaml,
           (data[0] & 2) != 0 ? UnknownFields::tolerate : UnknownFields::refuse);
  return 0;
}
