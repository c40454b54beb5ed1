// A multipart body: the file in it is the same however the body was cut into pieces, and never larger.

#include <cstdint>
#include <cstdlib>
#include <string>
#include <string_view>

#include "api/multipart.h"

using postern::api::MultipartFile;

namespace {

struct Read {
  bool good = true;
  bool complete = false;
  std::string file;
  bool operator==(const Read&) const = default;
};

Read read(std::string_view body, std::size_t piece) {
  auto parser = MultipartFile::for_type("multipart/form-data; boundary=b");
  if (!parser) std::abort();
  Read out;
  for (std::size_t at = 0; at < body.size() && out.good; at += piece)
    out.good = parser->take(body.substr(at, piece), out.file).has_value();
  out.complete = out.good && parser->complete();
  if (!out.good) out.file.clear();
  return out;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const std::string_view all(reinterpret_cast<const char*>(data), size);
  const Read whole = read(all, size + 1);
  if (whole.file.size() > size) std::abort();
  for (const std::size_t piece : {1, 2, 3, 7})
    if (read(all, piece) != whole) std::abort();
  (void)MultipartFile::for_type(all);
  return 0;
}
