#include "audit/log_file.h"

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <cstring>
#include <fcntl.h>
#include <fmt/format.h>
#include <nlohmann/json.hpp>
#include <sys/file.h>
#include <sys/stat.h>

#include "base/private_directory.h"

namespace postern::audit {

namespace {

constexpr std::size_t line_bytes_max = 4 * 1024 * 1024;  // above any line that record.h writes
constexpr std::chrono::seconds retry_time{10};           // after turning over failed

std::unexpected<Error> refuse(std::string sentence) {
  return fail(Reason::invalid_configuration, std::move(sentence));
}

/// `size` bytes from `offset` on, as many as there are.
std::string read_at(const Fd& file, std::uint64_t offset, std::size_t size) {
  std::string out(size, '\0');
  std::size_t got = 0;
  while (got < size) {
    const ssize_t count = ::pread(file.get(), out.data() + got, size - got, static_cast<off_t>(offset + got));
    if (count < 0 && errno == EINTR) continue;
    if (count <= 0) break;
    got += static_cast<std::size_t>(count);
  }
  out.resize(got);
  return out;
}

bool is_regular(const Fd& file) {
  struct stat info{};
  return ::fstat(file.get(), &info) == 0 && S_ISREG(info.st_mode);
}

bool is_pipe(int fd) {
  struct stat info{};
  return ::fstat(fd, &info) == 0 && S_ISFIFO(info.st_mode);
}

std::uint64_t size_of(const Fd& file) {
  struct stat info{};
  return ::fstat(file.get(), &info) == 0 ? static_cast<std::uint64_t>(info.st_size) : 0;
}

bool same_file(const Fd& one, const Fd& other) {
  struct stat a{}, b{};
  return ::fstat(one.get(), &a) == 0 && ::fstat(other.get(), &b) == 0 && a.st_dev == b.st_dev &&
         a.st_ino == b.st_ino;
}

std::string head_path(const std::string& directory, const std::string& log) { return directory + "/" + log; }

}  // namespace

LogFile::LogFile(Fd file) : file_(std::move(file)) {}

LogFile::LogFile(LogFileOptions options, const Clock& clock, void (*complain)(const std::string&))
    : options_(std::move(options)), clock_(&clock), complain_(complain) {}

Result<std::unique_ptr<LogFile>> LogFile::open(LogFileOptions options, const Clock& clock,
                                               void (*complain)(const std::string&)) {
  std::unique_ptr<LogFile> log(new LogFile(std::move(options), clock, complain));
  if (auto begun = log->begin(); !begun) return std::unexpected(std::move(begun.error()));
  return log;
}

Result<Fd> LogFile::open_standard_output() const {
  // A pipe that nobody reads must not hold up the writer for good; another description of it, as ours is the
  // program's, too.
  if (is_pipe(STDOUT_FILENO)) {
    Fd own(::open("/proc/self/fd/1", O_WRONLY | O_NONBLOCK | O_CLOEXEC));
    if (own) return own;
  }
  return Fd(::fcntl(STDOUT_FILENO, F_DUPFD_CLOEXEC, 3));
}

Result<Fd> LogFile::open_path() const {
  const std::string& path = options_.path;
  const int mode = options_.chain ? O_RDWR : O_WRONLY;  // a chain is read to go on
  Fd file(::open(path.c_str(), mode | O_CREAT | O_APPEND | O_CLOEXEC | O_NOFOLLOW, 0600));
  if (!file) return refuse(fmt::format("--log '{}' cannot be opened: {}", path, std::strerror(errno)));
  if (is_pipe(file.get())) ::fcntl(file.get(), F_SETFL, O_WRONLY | O_APPEND | O_NONBLOCK);
  if (options_.chain && is_regular(file) && ::flock(file.get(), LOCK_EX | LOCK_NB) != 0)
    return refuse(
        fmt::format("--log '{}' has a chain, and another process writes it; give each its own", path));
  return file;
}

void LogFile::use(Fd file) {
  file_ = std::move(file);
  size_ = is_regular(file_) ? size_of(file_) : 0;
  opened_ = false;
}

Result<void> LogFile::begin() {
  auto file = options_.path == "-" ? open_standard_output() : open_path();
  if (!file) return std::unexpected(std::move(file.error()));
  use(std::move(*file));
  signed_at_ = clock_->now();
  if (options_.chain) {
    if (auto taken = take_up_chain(); !taken) return taken;
  }
  if (options_.rotate_bytes != 0 && size_ >= options_.rotate_bytes) turn_over();
  return {};
}

/// Where the file's lines end, the chain goes on.
Result<void> LogFile::take_up_chain() {
  const auto& [sign, heads] = *options_.chain;
  if (!is_regular(file_) || size_ == 0) {
    chain_.emplace(sign);
    return {};
  }
  const std::string tail = read_at(file_, size_ - std::min<std::uint64_t>(size_, line_bytes_max),
                                   std::min<std::uint64_t>(size_, line_bytes_max));
  const std::size_t line_end = tail.rfind('\n');
  const std::string head = read_at(file_, 0, std::min<std::uint64_t>(size_, 4096));
  const auto first = nlohmann::json::parse(head.substr(0, head.find('\n')), nullptr, false);
  std::optional<ChainEnd> end;
  if (line_end != std::string::npos) {
    const std::size_t before = line_end == 0 ? std::string::npos : tail.rfind('\n', line_end - 1);
    const std::size_t begin = before == std::string::npos ? 0 : before + 1;
    end = chain_end_of(std::string_view(tail).substr(begin, line_end - begin));
  }
  if (!end || !first.is_object() || !first.contains("kind") || first["kind"] != "chain" ||
      !first.contains("log") || !first["log"].is_string())
    return refuse(fmt::format(
        "--log '{}' ends with a line that has no chain; give --log-chain a file of its own", options_.path));
  end->log = first["log"].get<std::string>();
  // What a crash tore off: a line of which nobody was told that it is there.
  const std::uint64_t torn = tail.size() - line_end - 1;
  if (torn != 0 && ::ftruncate(file_.get(), static_cast<off_t>(size_ - torn)) != 0)
    return refuse(fmt::format("--log '{}' cannot be cut: {}", options_.path, std::strerror(errno)));
  size_ -= torn;
  chain_.emplace(*end, sign);
  if (const std::uint64_t known = signed_lines(); known > end->seq) {
    missing_ = known - end->seq;
    complain_(
        fmt::format("--log '{}': {} lines at its end are missing that were signed: somebody cut them off, "
                    "or they were lost with the power",
                    options_.path, missing_));
  }
  return {};
}

/// How many lines of this log were signed, as it was kept.
std::uint64_t LogFile::signed_lines() const {
  const std::string& log = chain_->end().log;
  const bool plain = log.size() == 32 && log.find_first_not_of("0123456789abcdef") == std::string::npos;
  if (options_.chain->heads_directory.empty() || !plain) return 0;
  const Fd file(
      ::open(head_path(options_.chain->heads_directory, log).c_str(), O_RDONLY | O_CLOEXEC | O_NOFOLLOW));
  const std::string text = file ? read_at(file, 0, 128) : "";
  std::uint64_t seq = 0;
  std::from_chars(text.data(), text.data() + text.size(), seq);
  return seq;
}

// In place: one short line. Whoever loses it knows less, and nothing wrong.
void LogFile::keep_head() const {
  if (options_.chain->heads_directory.empty()) return;
  const Fd file(::open(head_path(options_.chain->heads_directory, signed_.log).c_str(),
                       O_WRONLY | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600));
  const std::string text = fmt::format("{} {}\n", signed_.seq, chain_hex(signed_.hash));
  if (file) (void)!::pwrite(file.get(), text.data(), text.size(), 0);
}

bool LogFile::turn_over() {
  (void)::fdatasync(file_.get());  // Nobody will ask for it later.
  const auto name = [this](std::size_t number) { return fmt::format("{}.{}", options_.path, number); };
  for (std::size_t i = options_.kept; i > 1; --i) ::rename(name(i - 1).c_str(), name(i).c_str());
  bool moved = ::rename(options_.path.c_str(), name(1).c_str()) == 0;
  if (moved) {
    if (auto file = open_path(); file) {
      use(std::move(*file));
      return true;
    }
    moved = ::rename(name(1).c_str(), options_.path.c_str()) == 0;
  }
  complain_(
      fmt::format("--log '{}' cannot be turned over: {}; it grows on", options_.path, std::strerror(errno)));
  not_before_ = clock_->now() + retry_time;
  return false;
}

void LogFile::open_again() {
  if (options_.path.empty() || options_.path == "-") return;
  // The lock on the file that we have is ours, and this may be the same one.
  auto file = open_path();
  if (!file) {
    if (const Fd same(::open(options_.path.c_str(), O_WRONLY | O_APPEND | O_CLOEXEC | O_NOFOLLOW));
        !same || !same_file(same, file_))
      complain_(file.error().detail + "; the log goes on in the file that it had");
    return;
  }
  if (!same_file(*file, file_)) use(std::move(*file));
}

std::string_view LogFile::prepare(std::string_view lines) {
  if (reopen_.exchange(false, std::memory_order_relaxed)) open_again();
  const bool may_turn = options_.rotate_bytes != 0 && !options_.rotate_at_start_only && size_ != 0 &&
                        size_ + lines.size() > options_.rotate_bytes;
  if (may_turn && clock_->now() >= not_before_ && is_regular(file_)) turn_over();
  if (!chain_) {
    size_ += lines.size();
    return lines;
  }
  text_.clear();
  const WallTime now = clock_->wall();
  if (!opened_ && !lines.empty()) {
    chain_->open(now, std::exchange(missing_, 0), text_);
    opened_ = true;
  }
  if (!lines.empty()) chain_->append(lines, now, text_);
  if (lines.empty() || clock_->now() - signed_at_ >= Chain::unsigned_time) chain_->sign(now, false, text_);
  if (chain_->unsigned_lines() == 0) {
    signed_ = chain_->end();
    signed_at_ = clock_->now();
  }
  size_ += text_.size();
  return text_;
}

std::string_view LogFile::finish() {
  text_.clear();
  if (!chain_ || !opened_) return text_;
  chain_->sign(clock_->wall(), true, text_);
  signed_ = chain_->end();
  return text_;
}

void LogFile::written() {
  if (!chain_ || signed_.seq == kept_.seq) return;
  kept_ = signed_;
  keep_head();
}

ssize_t LogFile::write(std::string_view bytes) { return ::write(file_.get(), bytes.data(), bytes.size()); }

bool LogFile::sync() {
  if (::fdatasync(file_.get()) == 0) return true;
  return errno == EINVAL;  // a pipe: what it has taken is its reader's
}

}  // namespace postern::audit
