// Request paths: the canonical form is a fixed point, holds no dot segment, and when nothing is ambiguous the
// scan that spares the copy agrees with the writer.

#include <cstdint>
#include <cstdlib>
#include <string>
#include <string_view>

#include "wire/path.h"

namespace {

void require(bool condition) {
  if (!condition) std::abort();
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using postern::wire::canonical_path;
  const std::string_view target(reinterpret_cast<const char*>(data), size);
  std::string scratch;
  const auto once = canonical_path(target, scratch);
  require(target.ends_with(once.query));
  require(once.query.empty() || once.query.front() == '?');

  std::string scratch_again;
  const auto again = canonical_path(once.path, scratch_again);
  require(again.path == once.path && again.query.empty());
  if (once.ambiguity == nullptr) {
    require(again.ambiguity == nullptr);
    require(again.path.data() == once.path.data());
    require(once.path == "*" || once.path.starts_with('/'));
  }
  if (target.starts_with('/')) {
    const std::string path = std::string(once.path) + "/";
    require(path.starts_with('/'));
    require(path.find("/../") == std::string::npos && path.find("/./") == std::string::npos);
  }
  return 0;
}
