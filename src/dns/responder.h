#pragma once
// The only nameserver that a sandbox can reach, whatever resolver it asks: every UDP and TCP message to port
// 53 arrives at the sockets given here, and is answered from the address that was asked.
//
// Nothing a sandbox asks is passed on. A name is brought to its canonical form and judged first. A denied
// name gets a synthetic address without any lookup: its connection then reaches Postern, and an HTTP client
// reads why it was refused instead of a puzzling "no such host". An allowed name is looked up by Postern
// itself, only to learn whether it exists, and its addresses stay here: the sandbox gets a synthetic one,
// which names the host when it is dialled. Every type but A and AAAA is answered "has none" at once: TXT and
// the like would carry bytes in and out past the policy, and HTTPS/SVCB would bring ECH and HTTP/3 (RFC
// 9460).
//
// One sandbox has one Responder, which lives and dies on one loop.

#include <cstdint>
#include <functional>
#include <memory>
#include <string_view>

#include "base/fd.h"
#include "base/reason.h"
#include "dns/name_table.h"
#include "io/loop.h"
#include "io/name_lookup.h"
#include "model/host.h"

namespace postern::dns {

/// Nonblocking; bound with IP_PKTINFO / IPV6_RECVPKTINFO (UDP) or listening (TCP). Any may be empty.
struct Sockets {
  Fd udp4, udp6;
  Fd tcp4, tcp6;
  io::Party party = io::nobody;  ///< The sandbox's: its questions have their turns with all else of it.
};

class ResponderCore;

class Responder {
 public:
  /// Reason::allowed, or why the sandbox may not have the name. Asked for every question, so a change of
  /// policy holds for the next one.
  using Judge = std::function<Reason(const Host& name)>;
  /// Told of a refused name once per `denied_window`, so that it can be recorded. `name` is canonical, or as
  /// asked (RFC 1035 §5.1 escapes, visible ASCII only) when it is no host; valid during the call.
  using OnDenied = std::function<void(std::string_view name, Reason reason)>;

  static constexpr std::size_t lookups_max = 256;     // in flight, UDP and TCP together; SERVFAIL above
  static constexpr std::size_t connections_max = 64;  // TCP; closed at once above
  static constexpr std::size_t datagrams_per_turn =
      64;  // per socket: a flood leaves the loop to the neighbours
  static constexpr std::size_t denied_names_max = 512;  // per window; above they are counted, not told
  static constexpr std::chrono::minutes denied_window{1};
  static constexpr std::chrono::seconds idle_timeout{10};  // TCP: to send one message, or to read an answer
  static constexpr std::uint32_t lasting_ttl_seconds = 60;
  /// For what a change of policy or of the world may make untrue soon: denied names, names that do not exist.
  static constexpr std::uint32_t passing_ttl_seconds = 10;

  struct Counters {
    std::uint64_t queries = 0;
    std::uint64_t malformed = 0;
    std::uint64_t lookups = 0;
    std::uint64_t overloaded = 0;           ///< SERVFAIL because of `lookups_max` or a full name table.
    std::uint64_t denied_untold = 0;        ///< Because of `denied_names_max`.
    std::uint64_t connections_refused = 0;  ///< Because of `connections_max`.
  };

  /// `names` and `lookup` outlive the responder; `lookup` also its own unfinished tasks. The callbacks are
  /// called on the loop, and must not destroy the responder.
  Responder(io::Loop& loop, Sockets sockets, NameTable& names, io::NameLookup& lookup, Judge judge,
            OnDenied on_denied);
  /// Closes everything at once. Lookups that are still under way find nobody to answer.
  ~Responder();
  Responder(const Responder&) = delete;
  Responder& operator=(const Responder&) = delete;

  const Counters& counters() const;
  std::size_t lookups_in_flight() const;
  std::size_t connections() const;

 private:
  std::shared_ptr<ResponderCore> core_;  ///< Shared with the lookups under way, which may end after us.
};

}  // namespace postern::dns
