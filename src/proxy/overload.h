#pragma once
// How much a loop holds, and how much it may. Above a soft limit it sheds: idle connections go, answers end
// their connections, the pool keeps less. At the hard limit it refuses: new connections are reset when they
// are accepted, new requests are answered with 503 overloaded. What is under way is never harmed.
//
// Connections and exchanges are counted per loop, and for each tenant on it; the memory and the descriptors
// of the process are measured once a second, away from the requests. One per Worker; its thread only.

#include <atomic>
#include <cstddef>
#include <cstdint>

#include "base/fd.h"
#include "proxy/limits.h"

namespace postern::proxy {

/// What a process uses, or may.
struct ProcessUse {
  std::uint64_t memory_bytes = UINT64_MAX;  ///< Resident.
  std::uint64_t descriptors = UINT64_MAX;
};

/// Reads /proc/self. Cheap enough for once a second on a loop: two or three system calls.
class ProcessMeter {
 public:
  ProcessMeter();
  ProcessUse measure() const;

 private:
  Fd memory_;
};

/// What this process may use: of memory the least of the machine's, its control groups' and its own limits.
ProcessUse allowed_to_process();

struct LoadLimits {
  std::size_t connections_max = limits::connections_max;
  std::size_t exchanges_max = limits::exchanges_max;
  ProcessUse process;
};

/// What one tenant holds on one loop.
struct TenantLoad {
  std::size_t connections = 0;
  std::size_t exchanges = 0;
  std::size_t held_bytes = 0;  ///< Of bodies that must be known before they are sent.
};

class Overload {
 public:
  explicit Overload(const LoadLimits& limits) : limits_(limits) {}
  Overload(const Overload&) = delete;

  /// A soft limit is passed.
  bool shedding() const {
    return connections() > soft(limits_.connections_max) || exchanges_ > soft(limits_.exchanges_max) ||
           memory_ != Pressure::none || descriptors_ != Pressure::none;
  }
  bool short_of_memory() const { return memory_ != Pressure::none; }
  bool many_connections() const { return connections() >= soft(limits_.connections_max); }

  /// May another begin? `descriptor`: the accepted connection's, the lowest that was free, so that all below
  /// it are taken.
  bool admits_connection(const TenantLoad& tenant, int descriptor) const;
  bool admits_exchange(const TenantLoad& tenant) const {
    return within_share(tenant.exchanges, exchanges_, limits_.exchanges_max) && !refusing(exchanges_);
  }

  /// What was measured. Holds until the next time.
  void measured(const ProcessUse& use);

  /// Any thread.
  std::size_t connections() const { return connections_.load(std::memory_order_relaxed); }
  std::size_t exchanges() const { return exchanges_; }

  /// Counts while it lives.
  class ConnectionPlace {
   public:
    ConnectionPlace(Overload& all, TenantLoad& tenant) : all_(all), tenant_(tenant) {
      all_.count_connections(1);
      ++tenant_.connections;
    }
    ConnectionPlace(const ConnectionPlace&) = delete;
    ~ConnectionPlace() {
      all_.count_connections(-1);
      --tenant_.connections;
    }

   private:
    Overload& all_;
    TenantLoad& tenant_;
  };
  class ExchangePlace {
   public:
    ExchangePlace(Overload& all, TenantLoad& tenant)
        : all_(all), tenant_(tenant), admitted_(all.admits_exchange(tenant)) {
      ++all_.exchanges_;
      ++tenant_.exchanges;
    }
    ExchangePlace(const ExchangePlace&) = delete;
    ~ExchangePlace() {
      --all_.exchanges_;
      --tenant_.exchanges;
    }
    /// False: it is only there to be refused.
    bool admitted() const { return admitted_; }

   private:
    Overload& all_;
    TenantLoad& tenant_;
    const bool admitted_;
  };

 private:
  enum class Pressure : std::uint8_t { none, soft, hard };

  static constexpr std::uint64_t soft(std::uint64_t hard) { return hard - hard / 4; }
  static Pressure pressure_of(std::uint64_t use, std::uint64_t allowed, std::uint64_t hard);
  /// A tenant may hold four times of what nobody holds (Choudhury and Hahne's dynamic threshold): alone it
  /// gets four fifths of all, beside another greedy one four ninths, and there is always something left for
  /// the next.
  static bool within_share(std::size_t of_tenant, std::size_t of_all, std::size_t most) {
    return of_all < most && of_tenant < tenant_share * (most - of_all);
  }
  /// Memory that nobody here holds must not shut the loop for good: some are always served.
  bool refusing(std::size_t held) const {
    return (memory_ == Pressure::hard || descriptors_ == Pressure::hard) && held >= always_served;
  }

  static constexpr std::size_t tenant_share = 4;
  static constexpr std::size_t always_served = 16;

  // Only the loop's own thread writes: no need for an atomic addition.
  void count_connections(int change) {
    connections_.store(connections() + static_cast<std::size_t>(change), std::memory_order_relaxed);
  }

  const LoadLimits limits_;
  std::atomic<std::size_t> connections_ = 0;
  std::size_t exchanges_ = 0;
  Pressure memory_ = Pressure::none;
  Pressure descriptors_ = Pressure::none;
};

}  // namespace postern::proxy
