// Texts are redacted alike however they are cut, decoders give what they give however they are fed and never
// more than their limit, and what an encoder writes is read back. The first bytes say how to cut, and which
// coding.

#include <algorithm>
#include <cstdint>
#include <cstdlib>

#include "transform/body_schema.h"
#include "transform/codings.h"
#include "transform/redactor.h"

using namespace postern;
using namespace postern::transform;

namespace {

void require(bool condition) {
  if (!condition) std::abort();
}

std::shared_ptr<const DetectorSet> detectors() {
  std::vector<DetectorSpec> specs;
  for (std::string_view name : builtin_detectors()) specs.push_back({std::string(name)});
  specs.push_back({"ticket", "ACME-[0-9]{6}"});
  specs.push_back({"repeats", "(?:ab|abc){1,4}d?"});
  return DetectorSet::compile(specs).value();
}

template <class Coder>
Result<std::string> run(Coder& coder, std::string_view text, std::size_t step) {
  std::string out;
  do {
    const std::size_t size = std::min(step, text.size());
    coder.feed(text.substr(0, size), size == text.size());
    text.remove_prefix(size);
    while (true) {
      const auto pulled = coder.pull();
      if (!pulled) return std::unexpected(pulled.error());
      if (pulled->empty()) break;
      require(pulled->size() <= coding_step_bytes_max);
      out += *pulled;
    }
  } while (!text.empty());
  return out;
}

void check_redactor(std::string_view text, std::size_t step) {
  static const auto set = detectors();
  Redactor whole(set), cut(set);
  const std::string expected(whole.pass(text, true));
  std::string got;
  for (std::size_t at = 0; at < text.size(); at += step) {
    got += cut.pass(std::string(text.substr(at, step)), false);
    require(at + step <= got.size() + 8192 || whole.changed());
  }
  got += cut.pass({}, true);
  require(got == expected && whole.counts() == cut.counts());
  Finder finder(set);
  require(whole.changed() == finder.whole(text).has_value());
  const bool changes = redact_form(whole, text).has_value();
  require(changes == find_in_form(finder, text).has_value());
}

void check_decoder(Coding coding, std::string_view text, std::size_t step) {
  constexpr DecodeLimits limits{.free_bytes = 1 << 20, .ratio = 100};
  Decoder whole(coding, Side::origin, limits), cut(coding, Side::origin, limits);
  const auto expected = run(whole, text, text.size());
  const auto got = run(cut, text, step);
  if (expected) require(expected->size() <= limits.free_bytes + limits.ratio * (text.size() + 1));
  // What a library reads ahead counts as taken, so a bomb may be refused a little earlier or later.
  for (const auto* one : {&expected, &got})
    if (!*one && one->error().detail.contains("beyond")) return;
  require(expected.has_value() == got.has_value() && (!expected || *expected == *got));
}

void check_encoder(Coding coding, std::string_view text, std::size_t step) {
  Encoder encoder(coding);
  const auto coded = run(encoder, text, step);
  require(coded.has_value());
  Decoder decoder(coding, Side::origin, {.free_bytes = 64 << 20});
  const auto back = run(decoder, *coded, step);
  require(back && *back == text);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  if (size < 2) return 0;
  const std::size_t step = data[0] % 100 + 1U;
  const std::string_view text(reinterpret_cast<const char*>(data) + 2, size - 2);
  const auto coding = static_cast<Coding>(data[1] / 2 % 5);
  if (data[1] % 2 == 0) {
    check_redactor(text, step);
    check_encoder(coding, text, step);
  } else {
    check_decoder(coding, text, step);
    static const auto schema =
        BodySchema::compile(R"({"properties":{"a":{"$ref":"#"}},"uniqueItems":true})").value();
    (void)schema->validate(text);
    (void)BodySchema::compile(text);
  }
  return 0;
}
