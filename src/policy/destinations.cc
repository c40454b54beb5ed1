#include "policy/destinations.h"

#include <algorithm>

namespace postern::policy {

void Ports::add(std::optional<std::uint16_t> port) {
  if (!port) {
    every_ = true;
    return;
  }
  some_.push_back(*port);
}

void Ports::finish() {
  std::ranges::sort(some_);
  const auto twice = std::ranges::unique(some_);
  some_.erase(twice.begin(), twice.end());
}

bool Ports::contains(std::uint16_t port) const { return every_ || std::ranges::binary_search(some_, port); }

bool Destinations::add(const DestinationPattern& pattern) {
  ++size_;
  switch (pattern.form) {
    case DestinationPattern::Form::everything: everything_.add(pattern.port); return true;
    case DestinationPattern::Form::host: hosts_.exact(pattern.text).add(pattern.port); return true;
    case DestinationPattern::Form::subdomains: hosts_.below(pattern.text).add(pattern.port); return true;
    case DestinationPattern::Form::network: networks_.push_back(*pattern.network); return true;
    case DestinationPattern::Form::regex: return regexes_.add(pattern.text);
  }
  return false;
}

bool Destinations::compile() {
  hosts_.each([](Ports& ports) { ports.finish(); });
  everything_.finish();
  return regexes_.compile();
}

/// `accept` judges the ports of the entry that covers the host; CIDRs and regular expressions have every
/// port.
template <class Accept>
bool Destinations::find(const Host& host, Accept accept) const {
  if (const Ports* ports = hosts_.find_exact(host.name); ports != nullptr && accept(*ports)) return true;
  if (host.literal) {
    if (side_ == Side::deny && accept(everything_)) return true;
    return std::ranges::any_of(networks_,
                               [&](const Cidr& network) { return network.contains(*host.literal); });
  }
  return accept(everything_) || hosts_.any_below(host.name, accept) || regexes_.match(host.name);
}

bool Destinations::contains(const Host& host, std::uint16_t port) const {
  return find(host, [port](const Ports& ports) { return ports.contains(port); });
}

bool Destinations::contains_some_port(const Host& host) const {
  return find(host, [](const Ports& ports) { return !ports.empty(); });
}

bool Destinations::contains_every_port(const Host& host) const {
  return find(host, [](const Ports& ports) { return ports.every(); });
}

}  // namespace postern::policy
