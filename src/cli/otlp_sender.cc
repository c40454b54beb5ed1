#include "cli/otlp_sender.h"

#include <algorithm>
#include <cstdlib>
#include <fmt/format.h>
#include <random>
#include <unistd.h>

#include "cli/steps.h"
#include "credential/file_secret.h"
#include "wire/http1.h"
#include "wire/url.h"

namespace postern::cli {

namespace {

constexpr std::size_t header_bytes_max = 16 * 1024;

bool is_header_name(std::string_view name) {
  return !name.empty() && std::ranges::all_of(name, [](char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '-' || c == '_';
  });
}

std::string host_name() {
  char name[256] = "";
  return ::gethostname(name, sizeof name - 1) == 0 ? name : "";
}

[[noreturn]] void refuse_header(const std::string& option, const std::string& why) {
  complain(fmt::format("--log-otlp-header '{}' {} (accepted: NAME=VALUE, NAME=env:VARIABLE, NAME=file:PATH)",
                       option.substr(0, option.find('=')), why));
  throw Stop{};
}

/// "Name: value".
credential::WipedString header_line(const std::string& option) {
  const auto equals = option.find('=');
  const std::string name = option.substr(0, equals);
  if (equals == std::string::npos || !is_header_name(name)) refuse_header(option, "has no name or no value");
  const std::string said = option.substr(equals + 1);
  credential::WipedString line(header_bytes_max + 1);
  line.append(name + ": ");
  if (said.starts_with("env:")) {
    const char* value = std::getenv(said.c_str() + 4);
    if (!value || !*value) refuse_header(option, "names a variable that is not set");
    line.append(value);
  } else if (said.starts_with("file:")) {
    auto content = credential::read_whole_file(said.substr(5), header_bytes_max / 2);
    if (!content) refuse_header(option, "names a file that cannot be read");
    credential::cut_line_end(*content);
    line.append(content->view());
  } else {
    line.append(said);
  }
  if (!wire::is_field_value(line.view())) refuse_header(option, "has a value that no header can have");
  return line;
}

std::vector<std::string> lines_of(std::string_view text) {
  std::vector<std::string> lines;
  while (!text.empty()) {
    const std::size_t end = std::min(text.find('\n'), text.size() - 1);
    lines.emplace_back(text.substr(0, end));
    text.remove_prefix(end + 1);
  }
  return lines;
}

}  // namespace

std::unique_ptr<OtlpSender> OtlpSender::start(const OtlpSettings& settings, const std::string& version) {
  if (settings.url.empty()) {
    if (settings.headers.empty()) return nullptr;
    complain("--log-otlp-header needs --log-otlp URL");
    throw Stop{};
  }
  if (const auto url = wire::parse_url(settings.url); !url) {
    complain(fmt::format("--log-otlp {} (for example http://127.0.0.1:4318/v1/logs)", url.error().detail));
    throw Stop{};
  }
  std::vector<credential::WipedString> fields;
  fields.reserve(settings.headers.size());
  for (const std::string& option : settings.headers) fields.push_back(header_line(option));
  auto poster = JsonPoster::open(settings.url, std::move(fields));
  if (!poster) {
    complain("--log-otlp: " + poster.error().sentence);
    throw Stop{};
  }
  return std::unique_ptr<OtlpSender>(new OtlpSender(std::move(*poster), version));
}

OtlpSender::OtlpSender(JsonPoster poster, const std::string& version)
    : poster_(std::move(poster)), resource_{version, host_name()}, thread_([this] { work(); }) {}

OtlpSender::~OtlpSender() { close(); }

void OtlpSender::hear(std::string_view lines) {
  auto fresh = lines_of(lines);
  const std::lock_guard lock(mutex_);
  for (std::string& line : fresh) {
    if (closing_ || queued_bytes_ + line.size() > queued_bytes_max) {
      dropped_.fetch_add(1, std::memory_order_relaxed);
      continue;
    }
    queued_bytes_ += line.size();
    queue_.push_back(std::move(line));
    waiting_.fetch_add(1, std::memory_order_relaxed);
  }
  if (queue_.size() >= batch_lines_max || queued_bytes_ >= batch_bytes_max) wake_.notify_one();
}

void OtlpSender::work() {
  std::unique_lock lock(mutex_);
  while (true) {
    // Nobody is woken for a single record: it is looked once a second.
    wake_.wait_for(lock, batch_time, [this] {
      return closing_ || queue_.size() >= batch_lines_max || queued_bytes_ >= batch_bytes_max;
    });
    if (queue_.empty() && closing_) return;
    if (queue_.empty()) continue;
    std::vector<std::string> batch;
    for (std::size_t bytes = 0;
         !queue_.empty() && batch.size() < batch_lines_max && bytes < batch_bytes_max;) {
      bytes += queue_.front().size();
      batch.push_back(std::move(queue_.front()));
      queue_.pop_front();
    }
    lock.unlock();
    send(batch);
    std::size_t bytes = 0;
    for (const std::string& line : batch) bytes += line.size();
    waiting_.fetch_sub(batch.size(), std::memory_order_relaxed);
    lock.lock();
    queued_bytes_ -= bytes;
  }
}

/// Until it is taken, refused for good, or there is no time left. OTLP/HTTP: 429, 502, 503 and 504 may be
/// tried again.
void OtlpSender::send(const std::vector<std::string>& batch) {
  const std::string body = audit::otlp_request(batch, resource_);
  thread_local std::minstd_rand random(std::random_device{}());
  for (std::chrono::milliseconds pause = retry_min;; pause = std::min(2 * pause, retry_max)) {
    const JsonPoster::Answer answer = poster_.post(body);
    const long status = answer.status;
    if (status / 100 == 2) {
      const auto rejected = std::min<std::uint64_t>(audit::otlp_rejected(answer.body), batch.size());
      sent_.fetch_add(batch.size() - rejected, std::memory_order_relaxed);
      dropped_.fetch_add(rejected, std::memory_order_relaxed);
      if (rejected != 0)
        complain_once("the collector of --log-otlp did not take some records");
      else
        complaint_.clear();
      return;
    }
    const bool again = status == 0 || status == 429 || (status >= 502 && status <= 504);
    complain_once(
        fmt::format("the collector of --log-otlp {}{}",
                    status == 0 ? "cannot be reached: " + answer.error : fmt::format("answers {}", status),
                    again ? "; it is tried again" : "; these records are dropped"));
    const auto jittered =
        pause / 2 + std::chrono::milliseconds(random() % static_cast<std::uint64_t>(pause.count()));
    if (!again || !rest(jittered)) {
      dropped_.fetch_add(batch.size(), std::memory_order_relaxed);
      return;
    }
  }
}

/// False: Postern is ending, and its patience with the collector has ended.
bool OtlpSender::rest(std::chrono::milliseconds time) {
  std::unique_lock lock(mutex_);
  const bool ending = wake_.wait_for(lock, time, [this] { return closing_; });
  if (!ending) return true;
  const auto now = std::chrono::steady_clock::now();
  if (now >= give_up_) return false;
  // Once more, a little later.
  wake_.wait_for(lock, std::min<std::chrono::steady_clock::duration>(retry_min, give_up_ - now),
                 [] { return false; });
  return true;
}

void OtlpSender::complain_once(const std::string& what) {
  if (what == complaint_) return;
  complaint_ = what;
  complain(what);
}

std::uint64_t OtlpSender::close() {
  {
    const std::lock_guard lock(mutex_);
    if (!closing_) give_up_ = std::chrono::steady_clock::now() + patience;
    closing_ = true;
  }
  wake_.notify_one();
  if (thread_.joinable()) thread_.join();
  return dropped();
}

void complain_about_dropped(std::uint64_t records) {
  if (records == 0) return;
  complain(
      fmt::format("{} record{} did not reach the collector of --log-otlp", records, records == 1 ? "" : "s"));
}

}  // namespace postern::cli
