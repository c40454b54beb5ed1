#pragma once
// Names to addresses with c-ares on the loop. Answers are cached for their TTL, questions for the same name
// are asked once. One per loop.

#include <chrono>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <unordered_map>
#include <utility>
#include <vector>

#include "io/loop.h"
#include "io/name_lookup.h"

namespace postern::origin {

/// The operator's map (`--resolve HOST=IP[:PORT]`): counts as resolved, and its addresses are never refused.
struct Override {
  IpAddress address;
  std::optional<std::uint16_t> port;
};
using Overrides = std::unordered_map<std::string, std::vector<Override>>;

class Resolver final : public io::NameLookup {
 public:
  static constexpr std::size_t cached_names_max = 4096;
  static constexpr std::chrono::seconds ttl_min{1};    // a TTL of 0 still serves the burst that asked
  static constexpr std::chrono::seconds ttl_max{300};  // a moved origin is found again within minutes

  /// How long a question stays open: a server that is silent is asked again, each time twice as patiently.
  struct Patience {
    std::chrono::milliseconds first{2000};
    int tries = 3;  // 14 s with one server: the caller would rather hear of it than wait longer
  };

  /// `servers`: addresses (with ports) to ask instead of the system's, separated by commas.
  Resolver(io::Loop& loop, std::shared_ptr<const Overrides> overrides, const std::string& servers,
           Patience patience);
  Resolver(io::Loop& loop, std::shared_ptr<const Overrides> overrides, const std::string& servers = {})
      : Resolver(loop, std::move(overrides), servers, Patience{}) {}
  ~Resolver() override;
  Resolver(const Resolver&) = delete;

  io::Task<Result<std::vector<IpAddress>>> addresses_of(std::string name) override;

  /// The operator's entry for the name, or nullptr.
  const std::vector<Override>* override_of(const std::string& name) const;

 private:
  struct Question;
  struct Channel;
  struct Cached {
    std::vector<IpAddress> addresses;
    TimePoint expires;
  };
  void answered(Question& question, int status, void* addrinfo);

  io::Loop& loop_;
  std::shared_ptr<const Overrides> overrides_;
  std::unique_ptr<Channel> channel_;
  std::unordered_map<std::string, Cached> cache_;
  std::unordered_map<std::string, std::shared_ptr<Question>> asking_;
};

}  // namespace postern::origin
