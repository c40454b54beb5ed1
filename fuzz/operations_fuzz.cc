// Whatever a body or a query says, what it asks for is within the limits and made of good words, and what is
// not certain is not said. A model's answer costs the same however it is cut. The first byte says where the
// input stands, the second how to cut.

#include <algorithm>
#include <cstdint>
#include <cstdlib>

#include "base/utf8.h"
#include "transform/graphql.h"
#include "transform/llm_usage.h"
#include "transform/operations.h"

using namespace postern;
using namespace postern::transform;

namespace {

void require(bool condition) {
  if (!condition) std::abort();
}

void check(const std::optional<std::vector<Operation>>& operations) {
  if (!operations) return;
  require(!operations->empty() && operations->size() <= operations_max);
  static const OperationPattern anything = OperationPattern::parse("*").value();
  for (const Operation& operation : *operations) {
    require(!operation.name.empty() && operation.name.size() <= operation_bytes_max);
    require(operation.argument.size() <= operation_bytes_max);
    require(is_utf8(operation.name) && is_utf8(operation.argument));
    for (const char c : operation.text()) require(static_cast<unsigned char>(c) >= 0x20);
    require(anything.matches(operation));
  }
}

/// A fragment more, or the same once more, asks for no less.
void check_document(std::string_view text) {
  std::vector<Operation> once, twice;
  if (!read_graphql(text, once)) return;
  check(once);
  const std::string doubled = std::string(text) + "\n{...FuzzedF} fragment FuzzedF on Q {a}";
  if (read_graphql(doubled, twice)) {
    require(twice.size() == once.size() + 1);
    require(std::equal(once.begin(), once.end(), twice.begin()));
  }
}

void check_usage(std::string_view text, std::size_t step) {
  LlmUsage whole, cut;
  whole.feed(text);
  for (std::size_t at = 0; at < text.size(); at += step) cut.feed(text.substr(at, step));
  require(whole.tokens() == cut.tokens());
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  if (size < 2) return 0;
  const std::string_view text(reinterpret_cast<const char*>(data) + 2, size - 2);
  switch (data[0] % 4) {
    case 0:
      check(
          read_operations({.method = "POST", .query = {}, .content_type = "application/json", .body = text}));
      break;
    case 1: check_document(text); break;
    case 2: check(read_operations({.method = "GET", .query = text, .content_type = {}, .body = {}})); break;
    default: check_usage(text, data[1] % 50 + 1U);
  }
  return 0;
}
