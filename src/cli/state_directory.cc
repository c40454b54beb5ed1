#include "cli/state_directory.h"

#include <cstdlib>
#include <filesystem>
#include <fmt/format.h>
#include <pwd.h>
#include <sys/stat.h>
#include <unistd.h>

namespace postern::cli {

namespace {

std::string chosen() {
  if (const char* own = std::getenv("POSTERN_STATE_DIR"); own && *own) return own;
  if (const char* xdg = std::getenv("XDG_STATE_HOME"); xdg && *xdg == '/')
    return std::string(xdg) + "/postern";
  const char* home = std::getenv("HOME");
  if (!home || *home != '/') {
    const passwd* entry = ::getpwuid(::geteuid());
    home = entry ? entry->pw_dir : "/";
  }
  return std::string(home) + "/.local/state/postern";
}

}  // namespace

Result<std::string> state_directory() {
  std::error_code error;
  const std::string path = std::filesystem::absolute(chosen(), error).lexically_normal();
  const mode_t mask = ::umask(077);
  std::filesystem::create_directories(path, error);
  ::umask(mask);
  if (!error) {
    std::string real = std::filesystem::canonical(path, error);
    if (!error && ::access(real.c_str(), W_OK) == 0) return real;
  }
  return fail(
      Reason::invalid_configuration,
      fmt::format(
          "the state directory '{}' cannot be used{}; set POSTERN_STATE_DIR to one that you may write", path,
          error ? ": " + error.message() : ""));
}

}  // namespace postern::cli
