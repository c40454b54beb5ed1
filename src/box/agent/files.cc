#include "box/agent/files.h"

#include <algorithm>
#include <charconv>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <fnmatch.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <string_view>
#include <sys/stat.h>
#include <unistd.h>
#include <utility>

namespace postern::box {

namespace {

constexpr std::size_t depth_max = 128;               // folders below each other
constexpr std::size_t line_bytes_max = 4096;         // of a line that was found; the rest of it is left out
constexpr std::size_t looked_at_for_nul = 8 * 1024;  // a file with NUL there is no text
constexpr std::size_t copy_bytes = 64 * 1024;

int trouble(int number) {
  char text[16];
  const auto end = std::to_chars(text, text + sizeof text, number).ptr;
  (void)!write(2, text, static_cast<std::size_t>(end - text));
  return file_trouble;
}

class File {
 public:
  explicit File(int number) : number_(number) {}
  File(const File&) = delete;
  ~File() {
    if (number_ >= 0) close(number_);
  }
  int get() const { return number_; }
  explicit operator bool() const { return number_ >= 0; }

 private:
  int number_;
};

bool write_all(int to, std::string_view bytes) {
  while (!bytes.empty()) {
    const ssize_t size = write(to, bytes.data(), bytes.size());
    if (size < 0 && errno == EINTR) continue;
    if (size < 0) return false;
    bytes.remove_prefix(static_cast<std::size_t>(size));
  }
  return true;
}

/// What is written goes out in large pieces.
class Output {
 public:
  ~Output() { flush(); }
  void field(std::string_view text) {
    gathered_.append(text).push_back('\0');
    if (gathered_.size() >= copy_bytes) flush();
  }
  void field(long long number) {
    char text[24];
    field(std::string_view(
        text, static_cast<std::size_t>(std::to_chars(text, text + sizeof text, number).ptr - text)));
  }
  void flush() {
    if (!write_all(1, gathered_)) _exit(file_trouble);  // Nobody reads it any more.
    gathered_.clear();
  }

 private:
  std::string gathered_;
};

bool parse_number(std::string_view text, unsigned long long& number) {
  const auto read = std::from_chars(text.data(), text.data() + text.size(), number);
  return read.ec == std::errc() && read.ptr == text.data() + text.size();
}

long long nanoseconds(const timespec& time) { return time.tv_sec * 1'000'000'000LL + time.tv_nsec; }

void put_entry(Output& out, std::string_view path, const struct stat& info) {
  const char kind = S_ISREG(info.st_mode)   ? 'f'
                    : S_ISDIR(info.st_mode) ? 'd'
                    : S_ISLNK(info.st_mode) ? 'l'
                                            : 'o';
  out.field(path);
  out.field(std::string_view(&kind, 1));
  out.field(static_cast<long long>(info.st_size));
  out.field(nanoseconds(info.st_mtim));
  char tag[80];
  const int size =
      snprintf(tag, sizeof tag, "%llx-%llx-%llx-%llx", static_cast<unsigned long long>(info.st_ino),
               static_cast<unsigned long long>(info.st_size),
               static_cast<unsigned long long>(nanoseconds(info.st_mtim)),
               static_cast<unsigned long long>(nanoseconds(info.st_ctim)));
  out.field(std::string_view(tag, static_cast<std::size_t>(size)));
}

// ---- one file

int stat_file(const std::string& path) {
  struct stat info{};
  if (stat(path.c_str(), &info) != 0) return trouble(errno);
  Output out;
  put_entry(out, path, info);
  return 0;
}

int read_file(const std::string& path, const std::string& offset_text, const std::string& length_text) {
  unsigned long long offset = 0, length = ULLONG_MAX;
  if (!parse_number(offset_text, offset) || (length_text != "end" && !parse_number(length_text, length)))
    return 2;
  // A pipe or a device would hold it up, or give what is no content.
  const File file(open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK));
  struct stat info{};
  if (!file || fstat(file.get(), &info) != 0) return trouble(errno);
  if (S_ISDIR(info.st_mode)) return trouble(EISDIR);
  if (!S_ISREG(info.st_mode)) return trouble(EINVAL);
  std::vector<char> piece(copy_bytes);
  while (length > 0) {
    const std::size_t wanted = static_cast<std::size_t>(std::min<unsigned long long>(length, piece.size()));
    const ssize_t size = pread(file.get(), piece.data(), wanted, static_cast<off_t>(offset));
    if (size < 0 && errno == EINTR) continue;
    if (size < 0) return trouble(errno);
    if (size == 0) return 0;
    if (!write_all(1, {piece.data(), static_cast<std::size_t>(size)})) return trouble(errno);
    offset += static_cast<unsigned long long>(size);
    length -= static_cast<unsigned long long>(size);
  }
  return 0;
}

bool make_folders(const std::string& path) {
  for (std::size_t at = path.find('/', 1); at != std::string::npos; at = path.find('/', at + 1))
    if (mkdir(path.substr(0, at).c_str(), 0777) != 0 && errno != EEXIST) return false;
  return true;
}

char* unfinished = nullptr;  // for a handler of signals

/// The upload broke off.
void give_up_unfinished(int) {
  if (unfinished != nullptr) unlink(unfinished);
  _exit(file_trouble);
}

/// Into a file beside it, which takes its name when everything is there.
int write_file(const std::string& path) {
  struct stat old{};
  const bool replaces = stat(path.c_str(), &old) == 0;
  if (replaces && S_ISDIR(old.st_mode)) return trouble(EISDIR);
  if (replaces && !S_ISREG(old.st_mode)) return trouble(EINVAL);
  if (!make_folders(path)) return trouble(errno);
  // Through a link the file that it leads to is written, as every program does.
  char* const resolved = replaces ? realpath(path.c_str(), nullptr) : nullptr;
  const std::string target = resolved ? resolved : path;
  free(resolved);
  std::string name = target + ".postern-XXXXXX";
  // Never a moment with the file and without who takes it away.
  sigset_t ends;
  sigemptyset(&ends);
  sigaddset(&ends, SIGTERM);
  sigprocmask(SIG_BLOCK, &ends, nullptr);
  const File file(mkostemp(name.data(), O_CLOEXEC));
  if (!file) return trouble(errno);
  unfinished = name.data();
  signal(SIGTERM, give_up_unfinished);
  sigprocmask(SIG_UNBLOCK, &ends, nullptr);
  const auto give_up = [&] {
    const int number = errno;
    unlink(name.c_str());
    return trouble(number);
  };
  std::vector<char> piece(copy_bytes);
  while (true) {
    const ssize_t size = read(0, piece.data(), piece.size());
    if (size < 0 && errno == EINTR) continue;
    if (size < 0) return give_up();
    if (size == 0) break;
    if (!write_all(file.get(), {piece.data(), static_cast<std::size_t>(size)})) return give_up();
  }
  const mode_t mask = umask(0);
  umask(mask);
  if (fchmod(file.get(), replaces ? old.st_mode & 07777 : 0666 & ~mask) != 0) return give_up();
  if (rename(name.c_str(), target.c_str()) != 0) return give_up();
  signal(SIGTERM, SIG_DFL);
  return stat_file(path);
}

// ---- many

/// Parts of a pattern between slashes.
std::vector<std::string> split(std::string_view pattern) {
  std::vector<std::string> parts;
  while (true) {
    const std::size_t slash = pattern.find('/');
    const std::string_view part = pattern.substr(0, slash);
    // Several ** in a row are one; else matching could take for ever.
    if (!part.empty() && part != "." && !(part == "**" && !parts.empty() && parts.back() == "**"))
      parts.emplace_back(part);
    if (slash == std::string_view::npos) return parts;
    pattern.remove_prefix(slash + 1);
  }
}

/// Which parts of a pattern may come next, after the folders so far: bit i for parts[i], bit parts.size() for
/// the end. A set, so that each folder is looked at once however many ** there are.
class Matcher {
 public:
  using Places = std::vector<bool>;
  explicit Matcher(std::vector<std::string> parts) : parts_(std::move(parts)) {}

  Places begin() const {
    Places places(parts_.size() + 1, false);
    enter(places, 0);
    return places;
  }
  Places after(const Places& places, const char* name) const {
    Places next(parts_.size() + 1, false);
    for (std::size_t i = 0; i < parts_.size(); ++i) {
      if (!places[i]) continue;
      if (parts_[i] == "**")
        enter(next, i);
      else if (fnmatch(parts_[i].c_str(), name, FNM_NOESCAPE) == 0)
        enter(next, i + 1);
    }
    return next;
  }
  bool matched(const Places& places) const { return places.back(); }
  /// Something below may match.
  static bool goes_on(const Places& places) {
    return std::find(places.begin(), places.end() - 1, true) != places.end() - 1;
  }

 private:
  void enter(Places& places, std::size_t i) const {
    places[i] = true;
    if (i < parts_.size() && parts_[i] == "**") enter(places, i + 1);  // which may be nothing
  }
  std::vector<std::string> parts_;
};

struct Named {
  std::string name;
  struct stat info;
};

/// By name. Links are told, and not followed: they may lead back.
std::vector<Named> entries_of(int folder) {
  std::vector<Named> out;
  const int copy = openat(folder, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  DIR* const stream = copy < 0 ? nullptr : fdopendir(copy);
  if (stream == nullptr) {
    if (copy >= 0) close(copy);
    return out;
  }
  while (const dirent* const entry = readdir(stream)) {
    if (strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0) continue;
    Named named{entry->d_name, {}};
    if (fstatat(folder, entry->d_name, &named.info, AT_SYMLINK_NOFOLLOW) == 0)
      out.push_back(std::move(named));
  }
  closedir(stream);
  std::sort(out.begin(), out.end(), [](const Named& a, const Named& b) { return a.name < b.name; });
  return out;
}

std::string below(const std::string& folder, const std::string& name) {
  return folder.ends_with('/') ? folder + name : folder + "/" + name;
}

/// `each(folder, entry, path, places)` for everything below; false ends it. What cannot be opened is left
/// out.
template <class Each>
bool walk(int folder, const std::string& path, const Matcher& matcher, const Matcher::Places& places,
          std::size_t depth, Each& each) {
  for (const Named& entry : entries_of(folder)) {
    const Matcher::Places next = matcher.after(places, entry.name.c_str());
    const std::string here = below(path, entry.name);
    if (matcher.matched(next) && !each(folder, entry, here)) return false;
    if (!S_ISDIR(entry.info.st_mode) || !Matcher::goes_on(next) || depth == depth_max) continue;
    const File inner(openat(folder, entry.name.c_str(), O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC));
    if (inner && !walk(inner.get(), here, matcher, next, depth + 1, each)) return false;
  }
  return true;
}

template <class Each>
int walk_from(const std::string& path, std::vector<std::string> pattern, Each each) {
  const File folder(open(path.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (!folder) return trouble(errno);
  const Matcher matcher(std::move(pattern));
  walk(folder.get(), path, matcher, matcher.begin(), 0, each);
  return 0;
}

int glob_files(const std::string& pattern, const std::string& path, const std::string& limit_text) {
  unsigned long long limit = 0;
  if (!parse_number(limit_text, limit)) return 2;
  Output out;
  unsigned long long found = 0;
  return walk_from(path, split(pattern), [&](int, const Named& entry, const std::string& here) {
    put_entry(out, here, entry.info);
    return ++found <= limit;
  });
}

/// False: enough.
bool search_file(int folder, const Named& entry, const std::string& path, const std::string& text,
                 unsigned long long& found, unsigned long long limit, Output& out) {
  const File file(openat(folder, entry.name.c_str(), O_RDONLY | O_NOFOLLOW | O_CLOEXEC | O_NONBLOCK));
  if (!file) return true;
  std::vector<char> piece(copy_bytes);
  std::string line;  // What was read of it before.
  bool first = true;
  long long number = 1;
  const auto end_line = [&] {
    if (line.find(text) != std::string::npos) {
      out.field(path);
      out.field(number);
      out.field(std::string_view(line).substr(0, std::min(line_bytes_max, line.find('\0'))));
      if (++found > limit) return false;
    }
    line.clear();
    ++number;
    return true;
  };
  while (true) {
    const ssize_t size = read(file.get(), piece.data(), piece.size());
    if (size <= 0) break;
    std::string_view rest(piece.data(), static_cast<std::size_t>(size));
    if (first && rest.substr(0, looked_at_for_nul).find('\0') != std::string_view::npos) return true;
    first = false;
    for (std::size_t newline = rest.find('\n'); newline != std::string_view::npos;
         newline = rest.find('\n')) {
      line.append(rest.substr(0, newline));
      rest.remove_prefix(newline + 1);
      if (!end_line()) return false;
    }
    line.append(rest);
    if (line.size() > 64 * copy_bytes) return true;  // no lines: no text
  }
  return line.empty() || end_line();
}

int grep_files(const std::string& text, const std::string& path, const std::string& glob,
               const std::string& limit_text) {
  unsigned long long limit = 0;
  if (!parse_number(limit_text, limit) || text.empty()) return 2;
  Output out;
  unsigned long long found = 0;
  struct stat info{};
  if (stat(path.c_str(), &info) != 0) return trouble(errno);
  if (S_ISREG(info.st_mode)) {
    search_file(AT_FDCWD, {path, info}, path, text, found, limit, out);
    return 0;
  }
  // A bare name is that of a file at any depth.
  std::vector<std::string> pattern = split(glob.empty() ? "**" : glob);
  if (glob.find('/') == std::string::npos && pattern.front() != "**") pattern.insert(pattern.begin(), "**");
  return walk_from(path, std::move(pattern), [&](int folder, const Named& entry, const std::string& here) {
    return !S_ISREG(entry.info.st_mode) || search_file(folder, entry, here, text, found, limit, out);
  });
}

}  // namespace

int run_file_command(const std::vector<std::string>& words) {
  const std::string_view what = words.empty() ? std::string_view() : std::string_view(words[0]);
  if (what == "stat" && words.size() == 2) return stat_file(words[1]);
  if (what == "read" && words.size() == 4) return read_file(words[1], words[2], words[3]);
  if (what == "write" && words.size() == 2) return write_file(words[1]);
  if (what == "glob" && words.size() == 4) return glob_files(words[1], words[2], words[3]);
  if (what == "grep" && words.size() == 5) return grep_files(words[1], words[2], words[3], words[4]);
  return 2;
}

}  // namespace postern::box
