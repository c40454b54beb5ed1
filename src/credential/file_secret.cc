#include "credential/file_secret.h"

#include <cerrno>
#include <fcntl.h>
#include <fmt/format.h>
#include <string.h>
#include <unistd.h>

#include "base/fd.h"

namespace postern::credential {

namespace {
std::unexpected<Error> refuse(std::string detail) {
  return fail(Reason::invalid_configuration, std::move(detail));
}
}  // namespace

Result<WipedString> read_whole_file(const std::string& path, std::size_t bytes_max) {
  const Fd file(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NOCTTY));
  if (!file) return refuse(fmt::format("{}: cannot be read: {}", path, ::strerror(errno)));
  WipedString out(bytes_max + 1);
  std::string& bytes = out.bytes();
  bytes.resize(bytes_max + 1);  // within the reserved capacity
  std::size_t length = 0;
  while (length < bytes.size()) {
    const ssize_t count = ::read(file.get(), bytes.data() + length, bytes.size() - length);
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) return refuse(fmt::format("{}: cannot be read: {}", path, ::strerror(errno)));
    if (count == 0) break;
    length += static_cast<std::size_t>(count);
  }
  if (length > bytes_max) return refuse(fmt::format("{}: more than {} bytes", path, bytes_max));
  bytes.resize(length);
  return out;
}

Result<Secret> read_secret_file(const std::string& path, std::size_t bytes_max) {
  auto text = read_whole_file(path, bytes_max);
  if (!text) return std::unexpected(std::move(text.error()));
  cut_line_end(*text);
  return std::move(*text).seal();
}

void cut_line_end(WipedString& text) {
  if (text.view().ends_with('\n')) text.bytes().pop_back();
  if (text.view().ends_with('\r')) text.bytes().pop_back();
}

}  // namespace postern::credential
