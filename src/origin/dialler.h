#pragma once
// From a judged name to a connection: resolve, check every address, dial the very address that was checked.
// RFC 8305 (happy eyeballs): families take turns, the next attempt starts when one is slow.

#include <chrono>
#include <memory>
#include <vector>

#include "io/stream.h"
#include "model/host.h"
#include "origin/resolver.h"

namespace postern::origin {

struct DialTimings {
  std::chrono::microseconds dns{0};
  std::chrono::microseconds connect{0};
};

struct Dialled {
  std::unique_ptr<io::TcpStream> stream;
  Endpoint endpoint;
};

class Dialler {
 public:
  static constexpr std::chrono::milliseconds attempt_delay{250};  // RFC 8305 §8
  static constexpr std::size_t addresses_max = 8;

  /// `allow_private`: networks that the operator opened.
  Dialler(io::Loop& loop, Resolver& resolver, std::vector<Cidr> allow_private)
      : loop_(loop), resolver_(resolver), allow_private_(std::move(allow_private)) {}

  /// Errors: name_not_found, resolve_failed, private_address, connect_failed, connect_timeout.
  /// The connection is `party`'s.
  io::Task<Result<Dialled>> dial(const Host& host, std::uint16_t port, TimePoint deadline,
                                 DialTimings& timings, io::Party party = io::nobody);

 private:
  io::Task<Result<std::vector<Endpoint>>> checked_endpoints(const Host& host, std::uint16_t port);
  bool may_reach(const IpAddress& address) const;

  io::Loop& loop_;
  Resolver& resolver_;
  std::vector<Cidr> allow_private_;
};

}  // namespace postern::origin
