#include "credential/callback.h"

#include <algorithm>
#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "credential/base64.h"
#include "credential/caller.h"
#include "credential/digest.h"
#include "policy/tree.h"
#include "wire/http1.h"

namespace postern::credential {

namespace {

using Json = nlohmann::ordered_json;

constexpr std::string_view subject_claim = "langsmith-sandbox-callback";
constexpr const char* signature_header = "X-LangSmith-Signature-JWT";
constexpr std::chrono::seconds signature_lifetime{300};

std::unexpected<Error> failed(std::string why) {
  return fail(Reason::callback_failed, std::move(why), Side::origin);
}

Json describe(const ShownRequest& request, const Subject& subject) {
  Json out;
  out["method"] = request.method;
  out["url"] = request.url;
  out["scheme"] = request.scheme;
  out["host"] = subject.host.name;
  out["path"] = request.path;
  if (!request.query.empty()) out["query"] = request.query;
  Json headers = Json::object();
  for (const auto& [name, value] : request.fields) headers[name].push_back(value);
  out["headers"] = std::move(headers);
  std::string body;
  body.reserve(base64_size(request.body.size()));
  append_base64(request.body, body);
  out["body_base64"] = std::move(body);
  out["body_truncated"] = request.body_truncated;
  return out;
}

}  // namespace

std::string callback_question(const Subject& subject, const ShownRequest* request) {
  Json out;
  out["host"] = subject.host.name;
  out["port"] = subject.port;
  out["identity"] = {{"tenant_id", *subject.workspace}, {"sandbox_id", *subject.sandbox}};
  if (request) out["request"] = describe(*request, subject);
  // A header value may be any bytes; JSON is UTF-8.
  return out.dump(-1, ' ', false, Json::error_handler_t::replace);
}

std::string callback_claims(const CallbackSigner& signer, const wire::Url& url, WallTime now,
                            std::string_view body) {
  const auto seconds = std::chrono::floor<std::chrono::seconds>(now);
  JwtClaims claims;
  claims.text("iss", signer.issuer)
      .text("sub", subject_claim)
      .text("aud", url.text)
      .time("iat", seconds)
      .time("nbf", seconds)
      .time("exp", seconds + signature_lifetime)
      .text("jti", random_token_id())
      .text("body_sha256", hex(sha256(body)));
  return std::move(claims).json();
}

Result<std::vector<InjectedHeader>> read_callback_answer(std::string_view body, const std::string& label) {
  // The strict reader of policies: duplicate keys and deep nesting are refused, and its tree is wiped.
  auto tree = policy::read_tree(body, policy::Format::json);
  if (!tree) return failed("the answer is not JSON");
  using Kind = policy::Node::Kind;
  const policy::Node* headers = tree->kind == Kind::mapping ? tree->find("headers") : nullptr;
  if (!headers || headers->kind != Kind::mapping) return failed("the answer has no object 'headers'");
  if (headers->members.size() > callback_headers_max)
    return failed(fmt::format("the answer has more than {} headers", callback_headers_max));
  std::vector<InjectedHeader> out;
  out.reserve(headers->members.size());
  for (const policy::Member& member : headers->members) {
    // Not quoted: the name may be where the value should stand.
    if (!wire::is_field_name(member.key) || member.key.size() > policy::header_name_bytes_max)
      return failed("the answer has a header whose name is none");
    if (policy::is_reserved_header(member.key))
      return failed(fmt::format("the answer sets {}, which belongs to the connection", member.key));
    if (member.value.kind != Kind::string)
      return failed(fmt::format("the answer's value for {} is not a string", member.key));
    if (std::ranges::any_of(out, [&](const auto& other) { return wire::same_name(other.name, member.key); }))
      return failed(fmt::format("the answer sets {} twice", member.key));
    auto made = make_header(member.key, label, member.value.text);
    if (!made) return failed(std::move(made.error()));
    out.push_back(std::move(*made));
  }
  return out;
}

CallbackSource::CallbackSource(std::shared_ptr<const policy::Snapshot> snapshot, std::uint32_t index,
                               std::span<const InjectedHeader> headers,
                               std::shared_ptr<const CallbackSigner> signer)
    : snapshot_(std::move(snapshot)),
      index_(index),
      headers_(headers),
      signer_(std::move(signer)),
      label_("callback:" + snapshot_->callbacks()[index].url.host.name) {}

io::Task<Result<Grant>> CallbackSource::ask(Caller& caller, const Subject& subject,
                                            const ShownRequest* request, TimePoint deadline) const {
  const std::string body = callback_question(subject, request);
  const Secret signature =
      signer_->key.mint(callback_claims(*signer_, callback().url, caller.clock().wall(), body));
  const HeaderField fields[] = {{"Content-Type", "application/json"},
                                {"Accept", "application/json"},
                                {signature_header, signature.unwrap()}};
  const Call call{.url = callback().url,
                  .fields = fields,
                  .credentials = headers_,
                  .body = body,
                  .answer_bytes_max = callback_answer_bytes_max,
                  .deadline = deadline,
                  .repeatable = true};
  const TimePoint asked = caller.clock().now();
  auto answer = co_await caller.call(call);
  if (!answer) co_return failed(describe(answer.error()));
  if (answer->status < 200 || answer->status > 299)
    co_return failed(fmt::format("the callback answered {}", answer->status));
  auto headers = read_callback_answer(answer->body.view(), label_);
  if (!headers) co_return std::unexpected(std::move(headers.error()));
  Grant grant;
  grant.headers = std::move(*headers);
  // Counted from the question: what the endpoint thought of it is not known.
  if (cached()) grant.expire_after(callback().ttl, asked, caller.clock());
  co_return grant;
}

}  // namespace postern::credential
