#include "audit/network_log.h"

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <cstring>
#include <dirent.h>
#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/private_directory.h"

namespace postern::audit {

namespace {

constexpr std::string_view suffix = ".jsonl";
constexpr std::size_t place_digits = 20;
constexpr std::chrono::minutes clock_slack{1};  // by which somebody may have set the clock back meanwhile

template <class Number>
std::optional<Number> number(std::string_view text) {
  Number value{};
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc{} || end != text.data() + text.size()) return std::nullopt;
  return value;
}

std::unexpected<Error> system_failure(const std::string& doing) {
  return fail(Reason::internal, doing + ": " + std::strerror(errno));
}

/// True: `out` holds `size` bytes from `offset` on.
bool read_at(const Fd& file, std::uint64_t offset, std::size_t size, std::string& out) {
  out.resize(size);
  std::size_t got = 0;
  while (got < size) {
    const ssize_t count = ::pread(file.get(), out.data() + got, size - got, static_cast<off_t>(offset + got));
    if (count < 0 && errno == EINTR) continue;
    if (count <= 0) return false;
    got += static_cast<std::size_t>(count);
  }
  return true;
}

WallTime wall_time(const timespec& time) {
  return WallTime(std::chrono::duration_cast<WallTime::duration>(std::chrono::seconds(time.tv_sec) +
                                                                 std::chrono::nanoseconds(time.tv_nsec)));
}

}  // namespace

std::string NetworkLog::name_of(const Segment& segment) {
  return fmt::format(
      "{:020}-{}{}", segment.begin,
      std::chrono::duration_cast<std::chrono::seconds>(segment.begun.time_since_epoch()).count(), suffix);
}

Result<std::unique_ptr<NetworkLog>> NetworkLog::open(const std::string& directory, const LogLimits& limits,
                                                     const Clock& clock) {
  auto opened = open_private_directory(directory);
  if (!opened) return std::unexpected(std::move(opened.error()));
  std::unique_ptr<NetworkLog> log(new NetworkLog(std::move(*opened), limits, clock));
  if (auto loaded = log->load(directory); !loaded) return std::unexpected(std::move(loaded.error()));
  log->tend();
  return log;
}

Result<void> NetworkLog::load(const std::string& path) {
  const int copy = ::openat(directory_.get(), ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  const std::unique_ptr<DIR, int (*)(DIR*)> listing(copy < 0 ? nullptr : ::fdopendir(copy), ::closedir);
  if (!listing) return system_failure("reading '" + path + "'");
  while (const dirent* entry = ::readdir(listing.get())) {
    std::string_view name = entry->d_name;
    if (!name.ends_with(suffix) || name.size() < place_digits + 1 + suffix.size()) continue;
    name.remove_suffix(suffix.size());
    const auto place = number<LogPlace>(name.substr(0, place_digits));
    const auto begun = number<std::int64_t>(name.substr(place_digits + 1));
    if (!place || !begun || name[place_digits] != '-') continue;
    Segment segment{*place, 0, WallTime(std::chrono::seconds(*begun)), {}};
    struct stat status{};
    if (name_of(segment) != entry->d_name ||
        ::fstatat(directory_.get(), entry->d_name, &status, AT_SYMLINK_NOFOLLOW) != 0 ||
        !S_ISREG(status.st_mode))
      continue;
    segment.size = static_cast<std::uint64_t>(status.st_size);
    segment.written = wall_time(status.st_mtim);
    segments_.push_back(segment);
  }
  std::ranges::sort(segments_, {}, &Segment::begin);
  if (segments_.empty()) {
    if (!begin_segment()) return system_failure("creating a file in '" + path + "'");
  } else {
    current_ = Fd(::openat(directory_.get(), name_of(segments_.back()).c_str(),
                           O_RDWR | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK));
    if (!current_) return system_failure("opening '" + path + "/" + name_of(segments_.back()) + "'");
    if (auto cut = cut_torn_line(path); !cut) return cut;
  }
  end_ = segments_.back().end();
  return {};
}

Result<void> NetworkLog::cut_torn_line(const std::string& path) {
  Segment& last = segments_.back();
  const std::uint64_t whole = last.size;
  std::string window;
  while (last.size > 0) {
    const std::size_t size = std::min<std::uint64_t>(last.size, window_bytes);
    if (!read_at(current_, last.size - size, size, window))
      return system_failure("reading '" + path + "/" + name_of(last) + "'");
    const std::size_t line_end = window.rfind('\n');
    last.size = line_end == std::string::npos ? last.size - size : last.size - size + line_end + 1;
    if (line_end != std::string::npos) break;
  }
  if (last.size < whole && ::ftruncate(current_.get(), static_cast<off_t>(last.size)) != 0)
    return system_failure("cutting '" + path + "/" + name_of(last) + "'");
  return {};
}

bool NetworkLog::begin_segment() {
  Segment fresh;
  fresh.begin = segments_.empty() ? 0 : segments_.back().end();
  fresh.begun = fresh.written = clock_.wall();
  Fd file(::openat(directory_.get(), name_of(fresh).c_str(),
                   O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0600));
  if (!file) return false;
  // sync() looks at the new one only.
  if (current_) (void)::fdatasync(current_.get());
  (void)::fsync(directory_.get());
  current_ = std::move(file);
  segments_.push_back(fresh);
  return true;
}

// Written at a place of our own choosing: what a full disk left behind of an earlier try is overwritten, and
// nobody reads behind `size`.
bool NetworkLog::write_at_end(std::string_view lines) {
  const Segment& last = segments_.back();
  std::size_t done = 0;
  while (done < lines.size()) {
    const ssize_t count = ::pwrite(current_.get(), lines.data() + done, lines.size() - done,
                                   static_cast<off_t>(last.size + done));
    if (count > 0) {
      done += static_cast<std::size_t>(count);
    } else if (count == 0 || errno != EINTR) {
      const int why = count == 0 ? ENOSPC : errno;
      (void)!::ftruncate(current_.get(), static_cast<off_t>(last.size));
      errno = why;
      return false;
    }
  }
  return true;
}

bool NetworkLog::append(std::string_view lines) {
  const std::lock_guard lock(mutex_);
  if (!write_at_end(lines)) return false;
  Segment& last = segments_.back();
  last.size += lines.size();
  last.written = clock_.wall();
  end_.store(last.end(), std::memory_order_release);
  // Should there be no new file, the old one grows.
  if (last.size >= limits_.segment_bytes && begin_segment()) remove_old();
  return true;
}

bool NetworkLog::sync() {
  Fd file;
  {
    const std::lock_guard lock(mutex_);
    file = Fd(::fcntl(current_.get(), F_DUPFD_CLOEXEC, 3));
  }
  return file && ::fdatasync(file.get()) == 0;
}

void NetworkLog::tend() {
  const std::lock_guard lock(mutex_);
  const Segment& last = segments_.back();
  // So that what is written slowly grows old too.
  const auto long_enough = std::max<std::chrono::seconds>(limits_.age / 30, std::chrono::minutes(1));
  if (last.size > 0 && clock_.wall() - last.begun > long_enough) (void)begin_segment();
  remove_old();
}

// The last one stays, however old: its name says where the log goes on.
void NetworkLog::remove_old() {
  std::uint64_t total = 0;
  for (const Segment& segment : segments_) total += segment.size;
  const WallTime oldest = clock_.wall() - limits_.age;
  std::size_t gone = 0;
  for (; gone + 1 < segments_.size(); ++gone) {
    const Segment& segment = segments_[gone];
    if (total <= limits_.bytes && segment.written >= oldest) break;
    if (::unlinkat(directory_.get(), name_of(segment).c_str(), 0) != 0 && errno != ENOENT) break;
    total -= segment.size;
  }
  segments_.erase(segments_.begin(), segments_.begin() + static_cast<std::ptrdiff_t>(gone));
}

std::vector<NetworkLog::Segment> NetworkLog::segments() const {
  const std::lock_guard lock(mutex_);
  return segments_;
}

std::uint64_t NetworkLog::kept_bytes() const {
  std::uint64_t total = 0;
  for (const Segment& segment : segments()) total += segment.size;
  return total;
}

Fd NetworkLog::open_to_read(const Segment& segment) const {
  return Fd(::openat(directory_.get(), name_of(segment).c_str(), O_RDONLY | O_CLOEXEC | O_NOFOLLOW));
}

NetworkLog::Page NetworkLog::newest(const LineMatcher& wanted, std::optional<LogPlace> before,
                                    std::size_t limit) const {
  const std::vector<Segment> all = segments();
  Page page;
  std::uint64_t scanned = 0, found = 0;
  std::string window;
  for (auto segment = all.rbegin(); segment != all.rend(); ++segment) {
    if (before && segment->begin >= *before) continue;
    // A call is recorded after it began: nothing in here, or before, can be new enough.
    if (wanted.since() && segment->written + clock_slack < *wanted.since()) return page;
    LogPlace at = std::min(segment->end(), before.value_or(segment->end()));
    if (at == segment->begin) continue;
    const Fd file = open_to_read(*segment);
    if (!file) return page;  // Removed just now, as all before it.
    for (std::size_t size_max = window_bytes; at > segment->begin;) {
      if (scanned >= scanned_bytes_max) {
        page.next = at;
        return page;
      }
      const std::size_t size = std::min<std::uint64_t>(at - segment->begin, size_max);
      if (!read_at(file, at - size - segment->begin, size, window)) break;
      scanned += size;
      // The line at the front is whole only where the segment begins, or behind a line's end.
      std::size_t front = 0;
      if (at - size != segment->begin) {
        front = window.find('\n') + 1;
        if (front == 0 || front == size) {  // One line is longer than all this, or it is no line.
          if (size_max < line_bytes_max)
            size_max *= 2;
          else
            at -= size;
          continue;
        }
      }
      size_max = window_bytes;
      std::string_view lines = std::string_view(window).substr(front);
      while (!lines.empty()) {
        const std::string_view whole = lines.substr(0, lines.size() - 1);
        const std::size_t begin = whole.rfind('\n') + 1;  // npos + 1 is 0
        const LogPlace place = at - lines.size() + begin;
        if (wanted.matches(whole.substr(begin))) {
          page.lines.push_back({std::string(whole.substr(begin)), at});
          found += whole.size() - begin;
          if (page.lines.size() >= limit || found >= answer_bytes_max) {
            if (place > all.front().begin) page.next = place;
            return page;
          }
        }
        lines = lines.substr(0, begin);
        at = place;
      }
    }
  }
  return page;
}

NetworkLog::Ahead NetworkLog::ahead(const LineMatcher& wanted, LogPlace from) const {
  const std::vector<Segment> all = segments();
  Ahead out;
  out.next = from;
  if (from < all.front().begin || from > all.back().end()) {
    out.lost = true;
    out.next = from < all.front().begin ? all.front().begin : all.back().end();
  }
  const auto segment = std::ranges::find_if(all, [&](const Segment& one) { return out.next < one.end(); });
  if (segment == all.end()) {
    out.at_end = true;
    return out;
  }
  out.next = std::max(out.next, segment->begin);  // Behind what a power cut took.
  const Fd file = open_to_read(*segment);
  if (!file) {  // Removed just now, which the next question finds out; or there are no descriptors.
    out = {{}, from, false, true};
    return out;
  }
  std::string window;
  for (std::size_t size_max = window_bytes;; size_max *= 2) {
    const std::size_t size = std::min<std::uint64_t>(segment->end() - out.next, size_max);
    if (!read_at(file, out.next - segment->begin, size, window)) {
      out.next = segment->end();
      return out;
    }
    if (window.find('\n') != std::string::npos) break;
    if (size_max >= line_bytes_max || size < size_max) {
      out.next += size;
      return out;
    }
  }
  std::string_view lines = window;
  for (std::size_t end = lines.find('\n'); end != std::string_view::npos; end = lines.find('\n')) {
    out.next += end + 1;
    if (wanted.matches(lines.substr(0, end)))
      out.lines.push_back({std::string(lines.substr(0, end)), out.next});
    lines.remove_prefix(end + 1);
  }
  return out;
}

LogPlace NetworkLog::first_since(WallTime when) const {
  const std::vector<Segment> all = segments();
  for (const Segment& segment : all)
    if (segment.written + clock_slack >= when) return segment.begin;
  return all.back().end();
}

bool NetworkLog::is_place(LogPlace place) const {
  const std::vector<Segment> all = segments();
  if (place < all.front().begin) return true;  // Nobody can tell any more, and nothing is there.
  for (const Segment& segment : all) {
    if (place < segment.begin || place > segment.end()) continue;
    if (place == segment.begin || place == segment.end()) return true;
    const Fd file = open_to_read(segment);
    std::string byte;
    return file && read_at(file, place - segment.begin - 1, 1, byte) && byte == "\n";
  }
  return false;
}

}  // namespace postern::audit
