#pragma once
// What a server counts, as Prometheus reads it (text format 0.0.4). Nothing here is about one caller, box or
// host: every label has few values, all of them ours.

#include <array>
#include <cstdint>
#include <map>
#include <mutex>
#include <string>
#include <string_view>
#include <tuple>

#include "audit/journal.h"
#include "audit/network_log.h"
#include "cli/otlp_sender.h"
#include "control/http_server.h"
#include "platform/boxes.h"

namespace postern::cli {

/// Requests of the API, counted by its access log: on I/O threads of the API, which no sandbox waits for.
class ApiCounts {
 public:
  static constexpr std::array<double, 10> bounds{0.001, 0.005, 0.025, 0.1, 0.25,
                                                 0.5,   1,     2.5,   10,  60};  // seconds

  void add(const control::AccessRecord& record);
  void write(std::string& out) const;

 private:
  struct Histogram {
    std::array<std::uint64_t, bounds.size() + 1> counts{};
    double seconds = 0;
  };
  /// Route pattern (empty: none matched), method, and class of the status ("2xx"). Routes are as many as the
  /// router has.
  using Key = std::tuple<std::string, std::string_view, std::string_view>;
  mutable std::mutex mutex_;
  std::map<Key, Histogram> requests_;
};

/// All outlive the call. `otlp`: nullptr when no collector is told.
std::string metrics_text(const audit::Journal& journal, const audit::NetworkLog& log, const OtlpSender* otlp,
                         const platform::Boxes& boxes, const ApiCounts& api);

}  // namespace postern::cli
