#include "origin/dialler.h"

#include <algorithm>

namespace postern::origin {

namespace {

std::chrono::microseconds since(TimePoint start, TimePoint now) {
  return std::chrono::duration_cast<std::chrono::microseconds>(now - start);
}

// RFC 8305 §4: IPv6 first, then alternate.
std::vector<Endpoint> interleave(const std::vector<Endpoint>& endpoints) {
  std::vector<Endpoint> six, four, mixed;
  for (const Endpoint& endpoint : endpoints) (endpoint.address.is_v4() ? four : six).push_back(endpoint);
  for (std::size_t i = 0; i < std::max(six.size(), four.size()); ++i) {
    if (i < six.size()) mixed.push_back(six[i]);
    if (i < four.size()) mixed.push_back(four[i]);
  }
  if (mixed.size() > Dialler::addresses_max) mixed.resize(Dialler::addresses_max);
  return mixed;
}

/// Attempts that race. Shared with the attempts still under way when the race is decided.
struct Race {
  io::Event progress;
  std::size_t running = 0;
  std::unique_ptr<io::TcpStream> winner;
  Endpoint endpoint;
  std::optional<Error> last_error;
};

io::Task<void> attempt(std::shared_ptr<Race> race, io::Loop& loop, Endpoint endpoint, TimePoint deadline,
                       io::Party party) {
  auto stream = co_await io::connect(loop, endpoint, Side::origin, deadline, party);
  --race->running;
  if (stream && !race->winner) {
    race->winner = std::move(*stream);
    race->endpoint = endpoint;
  } else if (!stream) {
    race->last_error = stream.error();
  }
  race->progress.set();
}

io::Task<void> ring_after(std::shared_ptr<Race> race, io::Loop& loop, TimePoint when) {
  co_await loop.sleep_until(when);
  race->progress.set();
}

}  // namespace

bool Dialler::may_reach(const IpAddress& address) const {
  if (is_public(address)) return true;
  return std::ranges::any_of(allow_private_, [&](const Cidr& network) {
    return network.contains(address) || network.contains(address.unmapped());
  });
}

io::Task<Result<std::vector<Endpoint>>> Dialler::checked_endpoints(const Host& host, std::uint16_t port) {
  std::vector<Endpoint> endpoints;
  if (const auto* fixed = resolver_.override_of(host.name)) {
    for (const Override& entry : *fixed) endpoints.push_back({entry.address, entry.port.value_or(port)});
    co_return endpoints;
  }
  std::vector<IpAddress> addresses;
  if (host.literal)
    addresses.push_back(*host.literal);
  else
    addresses = co_await co_await resolver_.addresses_of(host.name);
  for (const IpAddress& address : addresses)
    if (may_reach(address)) endpoints.push_back({address, port});
  if (endpoints.empty())
    co_return fail(Reason::private_address, "the name leads to a private or reserved address", Side::sandbox);
  co_return interleave(endpoints);
}

io::Task<Result<Dialled>> Dialler::dial(const Host& host, std::uint16_t port, TimePoint deadline,
                                        DialTimings& timings, io::Party party) {
  const TimePoint asked = loop_.now();
  auto endpoints = co_await checked_endpoints(host, port);
  timings.dns = since(asked, loop_.now());
  if (!endpoints) co_return std::unexpected(std::move(endpoints.error()));

  const TimePoint started = loop_.now();
  if (endpoints->size() == 1) {  // The usual case needs no race.
    auto stream = co_await io::connect(loop_, endpoints->front(), Side::origin, deadline, party);
    timings.connect = since(started, loop_.now());
    if (!stream) co_return std::unexpected(std::move(stream.error()));
    co_return Dialled{std::move(*stream), endpoints->front()};
  }

  const auto race = std::make_shared<Race>();
  std::size_t next = 0;
  while (!race->winner) {
    if (next == endpoints->size() && race->running == 0) {
      timings.connect = since(started, loop_.now());
      co_return std::unexpected(*race->last_error);
    }
    race->progress.reset();
    if (next < endpoints->size()) {
      ++race->running;
      loop_.spawn(attempt(race, loop_, (*endpoints)[next++], deadline, party));
      if (race->progress.is_set()) continue;
      if (next < endpoints->size()) loop_.spawn(ring_after(race, loop_, loop_.now() + attempt_delay));
    }
    co_await race->progress.wait();
  }
  timings.connect = since(started, loop_.now());
  co_return Dialled{std::move(race->winner), race->endpoint};
}

}  // namespace postern::origin
