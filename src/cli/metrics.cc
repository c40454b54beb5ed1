#include "cli/metrics.h"

#include <algorithm>
#include <charconv>
#include <filesystem>
#include <fmt/format.h>
#include <fstream>
#include <iterator>
#include <unistd.h>

#include "credential/grant_counts.h"

namespace postern::cli {

namespace {

constexpr std::array<std::string_view, 8> methods{"GET",   "HEAD",   "POST",    "PUT",
                                                  "PATCH", "DELETE", "OPTIONS", ""};

std::string_view known_method(std::string_view method) {
  const auto found = std::ranges::find(methods, method);
  return found == methods.end() ? "other" : *found;
}

std::string_view class_of(int status) {
  constexpr std::array<std::string_view, 6> classes{"none", "1xx", "2xx", "3xx", "4xx", "5xx"};
  const auto index = static_cast<std::size_t>(std::max(status, 0) / 100);
  return index < classes.size() ? classes[index] : "none";
}

void describe(std::string& out, std::string_view name, std::string_view type, std::string_view help) {
  fmt::format_to(std::back_inserter(out), "# HELP {0} {1}\n# TYPE {0} {2}\n", name, help, type);
}

void one(std::string& out, std::string_view name, std::string_view type, std::string_view help,
         std::uint64_t value) {
  describe(out, name, type, help);
  fmt::format_to(std::back_inserter(out), "{} {}\n", name, value);
}

std::uint64_t resident_bytes() {
  std::ifstream in("/proc/self/statm");
  std::uint64_t all = 0, resident = 0;
  in >> all >> resident;
  return resident * static_cast<std::uint64_t>(::sysconf(_SC_PAGESIZE));
}

std::uint64_t open_descriptors() {
  std::error_code error;
  std::uint64_t count = 0;
  for (auto entry = std::filesystem::directory_iterator("/proc/self/fd", error);
       !error && entry != std::filesystem::directory_iterator(); entry.increment(error))
    ++count;
  return count;
}

void write_calls(const audit::Journal& journal, std::string& out) {
  const audit::Counts& counts = journal.counts();
  describe(out, "postern_requests_total", "counter",
           "Calls of sandboxes that are over, by what became of them.");
  for (std::size_t i = 0; i < audit::Counts::reasons; ++i) {
    const auto reason = static_cast<Reason>(i);
    fmt::format_to(std::back_inserter(out), "postern_requests_total{{decision=\"{}\",reason=\"{}\"}} {}\n",
                   token(decision_of(reason)), token(reason),
                   counts.by_reason[i].load(std::memory_order_relaxed));
  }
  one(out, "postern_request_bytes_total", "counter", "Bytes from sandboxes to origins.",
      counts.request_bytes.load(std::memory_order_relaxed));
  one(out, "postern_response_bytes_total", "counter", "Bytes from origins to sandboxes.",
      counts.response_bytes.load(std::memory_order_relaxed));
  one(out, "postern_journal_queued", "gauge", "Records that wait to be written.", journal.queued());
  one(out, "postern_journal_accepting", "gauge",
      "0 while nothing new starts, since it could not be recorded.", journal.accepting() ? 1 : 0);
}

void write_boxes(const platform::Boxes& boxes, std::string& out) {
  const platform::BoxCounts& counts = boxes.counts();
  one(out, "postern_boxes_running", "gauge", "Boxes that run.", boxes.running());
  one(out, "postern_boxes_created_total", "counter", "Boxes that were made, and ran.", counts.created);
  one(out, "postern_boxes_stopped_total", "counter",
      "Boxes that were stopped: by request, for being idle, or since they ended by themselves.",
      counts.stopped);
  one(out, "postern_boxes_failed_total", "counter", "Boxes that could not be started.", counts.failed);
  one(out, "postern_boxes_deleted_total", "counter", "Boxes that were deleted.", counts.removed);
  constexpr std::string_view name = "postern_box_start_duration_seconds";
  describe(out, name, "histogram", "Starts of boxes, until commands can be given.");
  std::uint64_t total = 0;
  for (std::size_t i = 0; i < counts.starts.size(); ++i) {
    total += counts.starts[i];
    const auto& bounds = platform::BoxCounts::bounds;
    const std::string bound = i < bounds.size() ? fmt::format("{}", bounds[i]) : "+Inf";
    fmt::format_to(std::back_inserter(out), "{}_bucket{{le=\"{}\"}} {}\n", name, bound, total);
  }
  fmt::format_to(std::back_inserter(out), "{0}_sum {1}\n{0}_count {2}\n", name,
                 static_cast<double>(counts.start_microseconds) / 1e6, total);
}

void write_grants(std::string& out) {
  const credential::GrantCounts& callbacks = credential::grant_counts_of(Reason::callback_failed);
  const credential::GrantCounts& others = credential::grant_counts_of(Reason::credential_unavailable);
  const auto both = [&](std::string_view name, std::string_view help,
                        std::atomic<std::uint64_t> credential::GrantCounts::* which) {
    describe(out, name, "counter", help);
    fmt::format_to(std::back_inserter(out), "{0}{{source=\"callback\"}} {1}\n{0}{{source=\"token\"}} {2}\n",
                   name, (callbacks.*which).load(), (others.*which).load());
  };
  both("postern_credentials_asked_total", "Questions for credentials that were sent.",
       &credential::GrantCounts::asked);
  both("postern_credentials_failed_total", "Questions without a usable answer.",
       &credential::GrantCounts::failed);
  both("postern_credentials_cached_total", "Requests that needed no question.",
       &credential::GrantCounts::cached);
}

}  // namespace

void ApiCounts::add(const control::AccessRecord& record) {
  const double seconds = std::chrono::duration<double>(record.took).count();
  const auto bound = static_cast<std::size_t>(std::ranges::lower_bound(bounds, seconds) - bounds.begin());
  const std::lock_guard lock(mutex_);
  Histogram& histogram = requests_[{record.route, known_method(record.method), class_of(record.status)}];
  ++histogram.counts[bound];
  histogram.seconds += seconds;
}

void ApiCounts::write(std::string& out) const {
  constexpr std::string_view name = "postern_api_request_duration_seconds";
  describe(out, name, "histogram", "Requests of the API; WebSockets and streams until their end.");
  const std::lock_guard lock(mutex_);
  for (const auto& [key, histogram] : requests_) {
    const std::string labels = fmt::format("route=\"{}\",method=\"{}\",status=\"{}\"", std::get<0>(key),
                                           std::get<1>(key), std::get<2>(key));
    std::uint64_t total = 0;
    for (std::size_t i = 0; i < histogram.counts.size(); ++i) {
      total += histogram.counts[i];
      const std::string bound = i < bounds.size() ? fmt::format("{}", bounds[i]) : "+Inf";
      fmt::format_to(std::back_inserter(out), "{}_bucket{{{},le=\"{}\"}} {}\n", name, labels, bound, total);
    }
    fmt::format_to(std::back_inserter(out), "{0}_sum{{{1}}} {2}\n{0}_count{{{1}}} {3}\n", name, labels,
                   histogram.seconds, total);
  }
}

std::string metrics_text(const audit::Journal& journal, const audit::NetworkLog& log, const OtlpSender* otlp,
                         const platform::Boxes& boxes, const ApiCounts& api) {
  std::string out;
  write_calls(journal, out);
  one(out, "postern_network_log_written_bytes_total", "counter", "Ever written to the network log.",
      log.end());
  one(out, "postern_network_log_bytes", "gauge", "Kept of the network log.", log.kept_bytes());
  if (otlp) {
    one(out, "postern_log_otlp_sent_total", "counter", "Records that the collector took.", otlp->sent());
    one(out, "postern_log_otlp_dropped_total", "counter", "Records that did not reach it.", otlp->dropped());
    one(out, "postern_log_otlp_queued", "gauge", "Records that wait to be sent.", otlp->queued());
  }
  write_boxes(boxes, out);
  write_grants(out);
  api.write(out);
  one(out, "process_resident_memory_bytes", "gauge", "Memory of the server itself.", resident_bytes());
  one(out, "process_open_fds", "gauge", "Its open descriptors.", open_descriptors());
  return out;
}

}  // namespace postern::cli
