#pragma once
// Records to a collector of OpenTelemetry (`--log-otlp`), in batches, on a thread of its own: whoever makes
// calls never waits for it. What a collector that is down or slow leaves waiting is bounded; beyond that the
// newest are dropped, and counted. It is told what happened, and is no proof of it: that is the log.

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <deque>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "audit/journal.h"
#include "audit/otlp.h"
#include "cli/api_client.h"

namespace postern::cli {

struct OtlpSettings {
  std::string url;  ///< http(s)://HOST[:PORT]/v1/logs; empty: nobody is told.
  /// NAME=VALUE, or NAME=file:PATH and NAME=env:VARIABLE for what must not stand on a command line.
  std::vector<std::string> headers;
};

class OtlpSender final : public audit::LineListener {
 public:
  static constexpr std::size_t queued_bytes_max = 16 * 1024 * 1024;  // some 30,000 records
  static constexpr std::size_t batch_lines_max = 512;                // collectors take 4 MiB and more
  static constexpr std::size_t batch_bytes_max = 1024 * 1024;
  static constexpr std::chrono::milliseconds batch_time{1000};  // for others to come along
  static constexpr std::chrono::milliseconds retry_min{500}, retry_max{30'000};
  static constexpr std::chrono::seconds patience{5};  // when Postern ends

  /// nullptr without a URL. Stops with a complaint about what it cannot use. `version`: of Postern.
  static std::unique_ptr<OtlpSender> start(const OtlpSettings& settings, const std::string& version);
  ~OtlpSender() override;
  OtlpSender(const OtlpSender&) = delete;

  void hear(std::string_view lines) override;
  /// Sends what waits, for `patience`, and ends. The number of records that were dropped. Idempotent.
  std::uint64_t close();

  std::uint64_t sent() const { return sent_.load(std::memory_order_relaxed); }
  std::uint64_t dropped() const { return dropped_.load(std::memory_order_relaxed); }
  std::uint64_t queued() const { return waiting_.load(std::memory_order_relaxed); }

 private:
  OtlpSender(JsonPoster poster, const std::string& version);
  void work();
  void send(const std::vector<std::string>& batch);
  bool rest(std::chrono::milliseconds time);
  void complain_once(const std::string& what);

  JsonPoster poster_;  ///< The thread's.
  const audit::OtlpResource resource_;
  std::atomic<std::uint64_t> sent_ = 0, dropped_ = 0, waiting_ = 0;
  std::mutex mutex_;
  std::condition_variable wake_;
  std::deque<std::string> queue_;
  std::size_t queued_bytes_ = 0;
  bool closing_ = false;
  std::chrono::steady_clock::time_point give_up_{};
  std::string complaint_;  ///< The thread's.
  std::thread thread_;
};

/// At the end, when there were any.
void complain_about_dropped(std::uint64_t records);

}  // namespace postern::cli
