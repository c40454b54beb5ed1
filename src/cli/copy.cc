#include "cli/copy.h"

#include <cerrno>
#include <cstring>
#include <fcntl.h>
#include <filesystem>
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/fd.h"

namespace postern::cli {

namespace {

struct InSandbox {
  std::string name, path;
};

/// "NAME:PATH". What begins with '.' or '/' is a file here, even with a colon in it.
std::optional<InSandbox> in_sandbox(const std::string& text) {
  const auto colon = text.find(':');
  if (colon == std::string::npos || colon == 0 || text.starts_with('/') || text.starts_with('.'))
    return std::nullopt;
  return InSandbox{text.substr(0, colon), text.substr(colon + 1)};
}

std::string last_of(const std::string& path) { return path.substr(path.find_last_of('/') + 1); }

std::string file_path(std::string_view verb, const InSandbox& file) {
  return fmt::format("/api/v2/sandboxes/{}/{}?path={}", url_escaped(file.name), verb, url_escaped(file.path));
}

std::unexpected<ClientFailure> trouble(const std::string& file, std::string_view what) {
  return misused(fmt::format("'{}' {}: {}", printable(file), what, std::strerror(errno)));
}

Asked<void> put_in(ApiClient& client, const std::string& from, InSandbox to) {
  if (to.path.empty() || to.path.ends_with('/')) to.path += from == "-" ? "" : last_of(from);
  if (to.path.empty() || to.path.ends_with('/')) return misused("the file in the sandbox needs a name");
  const Fd file(from == "-" ? ::fcntl(STDIN_FILENO, F_DUPFD_CLOEXEC, 3)
                            : ::open(from.c_str(), O_RDONLY | O_CLOEXEC | O_NOCTTY));
  struct stat about{};
  if (!file || ::fstat(file.get(), &about) != 0) return trouble(from, "cannot be read");
  if (S_ISDIR(about.st_mode))
    return misused(fmt::format(
        "'{0}' is a directory; a whole one goes with tar: tar c {0} | postern sandbox exec {1} -- tar x",
        printable(from), printable(to.name)));
  int error = 0;
  const auto fill = [&](std::span<char> into) -> std::optional<std::size_t> {
    ssize_t count = 0;
    do count = ::read(file.get(), into.data(), into.size());
    while (count < 0 && errno == EINTR);
    if (count >= 0) return static_cast<std::size_t>(count);
    error = errno;
    return std::nullopt;
  };
  std::optional<std::uint64_t> size;
  if (S_ISREG(about.st_mode) && from != "-") size = static_cast<std::uint64_t>(about.st_size);
  const auto done = client.upload(file_path("upload", to), fill, size);
  errno = error;
  if (error != 0) return trouble(from, "cannot be read");
  if (!done) return std::unexpected(done.error());
  return {};
}

/// A file here that is there whole, or not at all.
class NewFile {
 public:
  explicit NewFile(std::string path) : path_(std::move(path)), temporary_(path_ + ".postern-XXXXXX") {
    struct stat about{};
    in_place_ = path_ == "-" || (::stat(path_.c_str(), &about) == 0 && !S_ISREG(about.st_mode));
    if (path_ == "-")
      file_ = Fd(::fcntl(STDOUT_FILENO, F_DUPFD_CLOEXEC, 3));
    else if (in_place_)
      file_ = Fd(::open(path_.c_str(), O_WRONLY | O_CLOEXEC | O_NOCTTY));
    else
      file_ = Fd(::mkostemp(temporary_.data(), O_CLOEXEC));
  }
  ~NewFile() {
    if (file_ && !in_place_ && !kept_) ::unlink(temporary_.c_str());
  }
  NewFile(const NewFile&) = delete;

  bool good() const { return static_cast<bool>(file_); }
  bool write(std::string_view bytes) {
    while (!bytes.empty()) {
      const ssize_t count = ::write(file_.get(), bytes.data(), bytes.size());
      if (count < 0 && errno == EINTR) continue;
      if (count <= 0) return false;
      bytes.remove_prefix(static_cast<std::size_t>(count));
    }
    return true;
  }
  bool keep() {
    if (in_place_) return true;
    const mode_t mask = ::umask(0);
    ::umask(mask);
    kept_ = ::fchmod(file_.get(), 0666 & ~mask) == 0 && ::rename(temporary_.c_str(), path_.c_str()) == 0;
    return kept_;
  }

 private:
  const std::string path_;
  std::string temporary_;
  bool in_place_ = false;
  bool kept_ = false;
  Fd file_;
};

Asked<void> get_out(ApiClient& client, const InSandbox& from, std::string to) {
  std::error_code ignored;
  if (to != "-" && std::filesystem::is_directory(to, ignored)) {
    const std::string name = last_of(from.path);
    if (name.empty() || name == "." || name == "..") return misused("the file here needs a name");
    to += "/" + name;
  }
  NewFile file(to);
  if (!file.good()) return trouble(to, "cannot be written");
  int error = 0;
  const auto take = [&](std::string_view piece) {
    if (file.write(piece)) return true;
    error = errno;
    return false;
  };
  const auto done = client.download(file_path("download", from), take);
  if (done && !file.keep()) error = errno;
  errno = error;
  if (error != 0) return trouble(to, "cannot be written");
  return done;
}

}  // namespace

Asked<void> copy(const ServerOptions& server, const std::string& from, const std::string& to) {
  const auto source = in_sandbox(from), target = in_sandbox(to);
  if (source.has_value() == target.has_value())
    return misused("one of the two is in a sandbox, as NAME:PATH; ./a:b is a file here");
  auto client = ApiClient::open(server);
  if (!client) return std::unexpected(std::move(client.error()));
  return target ? put_in(*client, from, *target) : get_out(*client, *source, to);
}

}  // namespace postern::cli
