// What comes back holds no form of a secret any more, is as long as it was, and is otherwise the same,
// however it is cut. The first two bytes say how long the secret is and how to cut; then the secret, and then
// the text: a byte 0 or 1..5 in it plants the secret, or one of its encodings.

#include <cstdint>
#include <cstdlib>
#include <fmt/format.h>

#include "credential/base64.h"
#include "credential/scrubber.h"

using namespace postern;
using namespace postern::credential;

namespace {

void require(bool condition) {
  if (!condition) std::abort();
}

/// What a header's value may hold, and nothing that what is written over it ("[redacted]***") is made of:
/// with what stands beside, that would be the secret again.
std::string printable(std::string_view bytes) {
  std::string out;
  for (const char byte : bytes) {
    const char c = static_cast<char>('!' + static_cast<unsigned char>(byte) % 94);
    out += std::string_view("*[]").contains(c) ? 'x' : c;
  }
  return out == "redacted" ? "detcader" : out;
}

std::vector<std::string> forms_of(const std::string& secret) {
  std::string base64, base64url, hex, percent;
  append_base64(secret, base64);
  append_base64url(secret, base64url);
  for (const char c : secret) {
    hex += fmt::format("{:02x}", static_cast<unsigned char>(c));
    const bool plain = (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') ||
                       std::string_view("-._~").contains(c);
    percent += plain ? std::string(1, c) : fmt::format("%{:02X}", static_cast<unsigned char>(c));
  }
  // The last characters of base64 hold bits of what follows.
  base64.resize(secret.size() * 8 / 6);
  base64url.resize(secret.size() * 8 / 6);
  return {secret, base64, base64url, hex, percent};
}

std::string planted(std::string_view bytes, const std::vector<std::string>& forms) {
  std::string out;
  for (const char c : bytes) {
    const auto byte = static_cast<unsigned char>(c);
    if (byte < forms.size())
      out += forms[byte];
    else
      out += c;
  }
  return out;
}

std::string scrubbed(const std::shared_ptr<const Scrubber>& scrubber, std::string_view text,
                     std::size_t step) {
  ScrubbedStream stream(std::span(&scrubber, 1));
  std::string out;
  for (std::size_t at = 0; at < text.size(); at += step) {
    out += stream.pass(std::string(text.substr(at, step)), false);
    require(out.size() <= std::min(text.size(), at + step));
  }
  out += stream.pass({}, true);
  return out;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  if (size < 2) return 0;
  const std::size_t secret_size = Scrubber::secret_bytes_min + data[0] % 60;
  const std::size_t step = data[1] % 100 + 1U;
  std::string_view rest(reinterpret_cast<const char*>(data) + 2, size - 2);
  if (rest.size() < secret_size) return 0;
  const std::string secret = printable(rest.substr(0, secret_size));
  rest.remove_prefix(secret_size);
  const auto header =
      make_header("X-Key", "fuzz", secret, SecretSpans{{0, static_cast<std::uint32_t>(secret_size)}});
  require(header.has_value());
  const InjectedHeader* const headers[] = {&*header};
  const auto scrubber = Scrubber::make(headers);
  require(scrubber != nullptr);

  const std::vector<std::string> forms = forms_of(secret);
  const std::string text = planted(rest, forms);
  const std::string whole = scrubbed(scrubber, text, text.size() + 1);
  const std::string cut = scrubbed(scrubber, text, step);
  require(whole.size() == text.size() && cut.size() == text.size());
  for (const std::string& form : forms)
    for (const std::string* out : {&whole, &cut}) require(out->find(form) == std::string::npos);
  // What no occurrence covers stays. There are more forms than these, so only a text without any is compared.
  std::vector<Scrubber::Match> matches;
  scrubber->find(text, matches);
  std::vector<bool> covered(text.size());
  for (const auto& match : matches)
    for (std::size_t i = match.begin; i < match.end; ++i) covered[i] = true;
  for (std::size_t i = 0; i < text.size(); ++i)
    require(covered[i] || (whole[i] == text[i] && cut[i] == text[i]));
  return 0;
}
