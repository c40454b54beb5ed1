#include "credential/aws_role.h"

#include <algorithm>
#include <fmt/format.h>

#include "credential/caller.h"
#include "credential/expiry.h"
#include "credential/token_endpoint.h"
#include "credential/xml_texts.h"

namespace postern::credential {

namespace {

constexpr std::string_view audience = "sts.amazonaws.com";
constexpr std::size_t session_name_characters_max = 64;

/// Of the partition: the one without a region, or the one that every account has.
std::string_view sts_host(std::string_view partition) {
  if (partition == "aws-cn") return "sts.cn-north-1.amazonaws.com.cn";
  if (partition == "aws-us-gov") return "sts.us-gov-west-1.amazonaws.com";
  return "sts.amazonaws.com";
}

/// What CloudTrail shows. Only [A-Za-z0-9+=,.@_-].
std::string session_name(std::string_view sandbox) {
  std::string name = fmt::format("postern-{}", sandbox);
  name.resize(std::min(name.size(), session_name_characters_max));
  for (char& c : name) {
    const bool plain = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
                       std::string_view("+=,.@_-").find(c) != std::string_view::npos;
    if (!plain) c = '-';
  }
  return name;
}

/// An error's code: a word, so that it can be said.
std::string said_code(std::string_view code) {
  const bool word = !code.empty() && code.size() <= 64 && std::ranges::all_of(code, [](char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '.';
  });
  return word ? ": " + std::string(code) : "";
}

}  // namespace

Result<AssumedRole> read_sts_answer(int status, std::string_view body) {
  if (status != 200) {
    constexpr std::string_view code[] = {"/ErrorResponse/Error/Code"};
    const auto said = read_xml_texts(body, code);
    return unavailable(fmt::format("AWS answered {} to the question for the role{}", status,
                                   said ? said_code(said->front().view()) : ""));
  }
  constexpr std::string_view paths[] = {
      "/AssumeRoleWithWebIdentityResponse/AssumeRoleWithWebIdentityResult/Credentials/AccessKeyId",
      "/AssumeRoleWithWebIdentityResponse/AssumeRoleWithWebIdentityResult/Credentials/SecretAccessKey",
      "/AssumeRoleWithWebIdentityResponse/AssumeRoleWithWebIdentityResult/Credentials/SessionToken",
      "/AssumeRoleWithWebIdentityResponse/AssumeRoleWithWebIdentityResult/Credentials/Expiration"};
  auto texts = read_xml_texts(body, paths);
  if (!texts) return unavailable("AWS's answer cannot be read");
  const auto& [key_id, secret, token, expiration] =
      std::tie((*texts)[0], (*texts)[1], (*texts)[2], (*texts)[3]);
  if (!is_aws_key_id(key_id.view())) return unavailable("AWS's answer has no access key");
  if (secret.view().empty()) return unavailable("AWS's answer has no secret key");
  if (token.view().empty() || !make_header("X-Amz-Security-Token", "aws", token.view()))
    return unavailable("AWS's answer has no session token");
  const auto expires = parse_utc(expiration.view());
  if (!expires) return unavailable("AWS's answer does not say when its keys end");
  auto credentials = std::make_shared<AwsCredentials>();
  credentials->access_key_id = key_id.view();
  credentials->secret_access_key = copy_of(secret.view());
  credentials->session_token = copy_of(token.view());
  return AssumedRole{std::move(credentials), *expires};
}

AwsRoleSource::AwsRoleSource(policy::AwsRole role, std::shared_ptr<const WorkloadIdentity> identity)
    : KeptSource("aws:" + role.arn),
      role_(std::move(role)),
      identity_(std::move(identity)),
      url_(wire::parse_url(fmt::format("https://{}/", sts_host(role_.partition))).value()) {}

Secret AwsRoleSource::question(const Subject& subject, WallTime now) const {
  const Secret token = identity_token(*identity_, identity_subject(*subject.workspace, role_.subject),
                                      audience, now, role_.session_tags);
  WipedString body(512 + 3 * role_.arn.size() + token.unwrap().size());
  append_form("Action", "AssumeRoleWithWebIdentity", body.bytes());
  append_form("Version", "2011-06-15", body.bytes());
  append_form("RoleArn", role_.arn, body.bytes());
  append_form("RoleSessionName", session_name(*subject.sandbox), body.bytes());
  append_form("DurationSeconds", fmt::format("{}", aws_session_lifetime.count()), body.bytes());
  append_form("WebIdentityToken", token.unwrap(), body.bytes());  // base64url and dots: nothing is escaped
  return std::move(body).seal();
}

io::Task<Result<Grant>> AwsRoleSource::ask(Caller& caller, const Subject& subject, const ShownRequest*,
                                           TimePoint deadline) const {
  if (!identity_) co_return unavailable("there is nobody who signs the token that the role trusts");
  const WallTime now = caller.clock().wall();
  const Secret body = question(subject, now);
  const HeaderField fields[] = {{"Content-Type", "application/x-www-form-urlencoded"},
                                {"Accept", "text/xml"}};
  const Call call{.url = url_,
                  .fields = fields,
                  .body = body.unwrap(),
                  .answer_bytes_max = sts_answer_bytes_max,
                  .deadline = deadline,
                  .repeatable = true};
  const TimePoint asked = caller.clock().now();
  auto answer = co_await caller.call(call);
  if (!answer) co_return unavailable(describe(answer.error()));
  auto role = read_sts_answer(answer->status, answer->body.view());
  if (!role) co_return std::unexpected(std::move(role.error()));
  const auto left = std::chrono::floor<std::chrono::seconds>(role->expires - now);
  if (left <= std::chrono::seconds(0)) co_return unavailable("AWS's keys have ended already");
  Grant grant;
  grant.aws = std::move(role->credentials);
  grant.expire_after(with_margin(std::min(left, aws_session_lifetime)), asked, caller.clock());
  co_return grant;
}

}  // namespace postern::credential
