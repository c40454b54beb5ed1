// AWS signatures: whatever a client says it signed, what is made of it is one signature for its own host, and
// whatever stands in a body of AWS chunks, what comes out is as long as what went in, however it is split.
// Byte 0 chooses, byte 1 says where the rest is split.

#include <cstdint>
#include <cstdlib>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "credential/aws_chunks.h"
#include "credential/aws_sigv4.h"

namespace {

using namespace postern;
using namespace postern::credential;

void require(bool condition) {
  if (!condition) std::abort();
}

constexpr const char* placeholder = "AKIAPLACEHOLDER";
constexpr std::string_view canary = "canary-of-the-session";

AwsSigner& signer() {
  static AwsSigner made(
      std::make_shared<const AwsCredentials>("AKIAREAL", Secret("secret"), Secret(std::string(canary))),
      placeholder);
  return made;
}

/// Lines: host, target, then "name:value" fields.
void head(std::string_view text) {
  const auto line = [&text] {
    const std::string_view found = text.substr(0, text.find('\n'));
    text.remove_prefix(std::min(found.size() + 1, text.size()));
    return found;
  };
  const std::string_view host = line();
  const std::string_view target = line();
  std::vector<HeaderField> fields;
  while (!text.empty() && fields.size() < 64) {
    const std::string_view field = line();
    const std::string_view name = field.substr(0, field.find(':'));
    fields.push_back({name, field.substr(std::min(name.size() + 1, field.size()))});
  }
  const auto endpoint = aws_endpoint(host);
  if (!endpoint) return;
  require(!endpoint->service.empty() && !endpoint->region.empty());
  const RequestToSign request{"PUT", target, host, host, fields, std::nullopt, true};
  const auto intent = signer().read(request, *endpoint);
  if (!intent || intent->form == AwsIntent::Form::foreign) return;
  require(!endpoint->region_in_host || intent->region == endpoint->region);
  const auto made = signer().sign(request, *intent, sha256_of_nothing, WallTime());
  if (!made) return;
  require((intent->form == AwsIntent::Form::query) == made->headers.empty());
  require(made->headers.empty() != made->target().empty());
  require((made->body != nullptr) == (intent->payload == AwsPayload::chunks));
  if (!made->target().empty())
    require(made->target().find("X-Amz-Credential=AKIAREAL%2F") != std::string_view::npos);
}

struct Outcome {
  std::string output;
  bool finished = false;
  bool refused = false;
  bool operator==(const Outcome&) const = default;
};

Outcome resign(AwsChunkForm form, std::string_view body, std::size_t piece) {
  static const auto key = std::make_shared<HmacSha256>("key");
  AwsChunkResigner chunks(form, AwsChunkSeed{key, "20130524T000000Z", "20130524/us-east-1/s3/aws4_request",
                                             std::string(64, '0')});
  Outcome outcome;
  std::size_t consumed = 0;
  while (consumed < body.size()) {
    const std::string_view input = body.substr(consumed, piece);
    const auto step = chunks.step(input);
    if (!step) return {{}, false, true};
    require(step->consumed > 0 && step->consumed <= input.size());
    outcome.output += step->output;
    consumed += step->consumed;
    outcome.finished = step->finished;
  }
  require(outcome.finished == chunks.finished());
  require(outcome.output.size() <= body.size());
  if (outcome.finished) require(outcome.output.size() == body.size());
  return outcome;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  if (size < 2) return 0;
  const std::string_view rest(reinterpret_cast<const char*>(data) + 2, size - 2);
  if (data[0] % 4 == 3) {
    head(rest);
    return 0;
  }
  const auto form = static_cast<AwsChunkForm>(data[0] % 4);
  const Outcome whole = resign(form, rest, std::string_view::npos);
  require(resign(form, rest, data[1] % 64 + 1) == whole);
  require(resign(form, rest, 1) == whole);
  if (whole.finished) require(resign(form, whole.output, std::string_view::npos) == whole);
  return 0;
}
