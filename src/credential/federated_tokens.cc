#include "credential/federated_tokens.h"

#include <fmt/format.h>
#include <fmt/ranges.h>
#include <nlohmann/json.hpp>

#include "credential/caller.h"
#include "credential/expiry.h"
#include "policy/tree.h"

namespace postern::credential {

namespace {

using Kind = policy::Node::Kind;

constexpr std::string_view impersonation_scope = "https://www.googleapis.com/auth/cloud-platform";
constexpr std::chrono::seconds google_token_lifetime{3600};  // the longest without a policy of its own
constexpr std::string_view entra_audience = "api://AzureADTokenExchange";
constexpr const char* nobody_signs = "there is nobody who signs the token that the cloud trusts";

}  // namespace

// ---- Google
// ---------------------------------------------------------------------------------------------------------

GoogleFederationSource::GoogleFederationSource(policy::GcpFederation settings,
                                               std::vector<std::string> scopes,
                                               std::shared_ptr<const WorkloadIdentity> identity)
    : KeptSource("gcp:" + (settings.service_account_email.empty() ? settings.provider
                                                                  : settings.service_account_email)),
      settings_(std::move(settings)),
      scopes_(std::move(scopes)),
      identity_(std::move(identity)),
      exchange_url_(wire::parse_url("https://sts.googleapis.com/v1/token").value()) {
  const std::string& account = settings_.service_account_email;
  if (account.empty()) return;
  impersonation_url_ =
      wire::parse_url(
          fmt::format(
              "https://iamcredentials.googleapis.com/v1/projects/-/serviceAccounts/{}:generateAccessToken",
              account))
          .value();
  impersonation_body_ =
      nlohmann::ordered_json{{"scope", scopes_},
                             {"lifetime", fmt::format("{}s", google_token_lifetime.count())}}
          .dump();
}

Secret GoogleFederationSource::exchange_question(const Subject& subject, WallTime now) const {
  // The provider's name with the scheme is what Google expects unless told otherwise.
  const Secret token = identity_token(*identity_, identity_subject(*subject.workspace, settings_.subject),
                                      "https:" + settings_.provider, now);
  // Whoever impersonates needs no more than the right to.
  const std::string scope =
      impersonation_url_ ? std::string(impersonation_scope) : fmt::format("{}", fmt::join(scopes_, " "));
  WipedString body(1024 + 3 * (scope.size() + settings_.provider.size()) + token.unwrap().size());
  append_form("grant_type", "urn:ietf:params:oauth:grant-type:token-exchange", body.bytes());
  append_form("audience", settings_.provider, body.bytes());
  append_form("scope", scope, body.bytes());
  append_form("requested_token_type", "urn:ietf:params:oauth:token-type:access_token", body.bytes());
  append_form("subject_token_type", "urn:ietf:params:oauth:token-type:jwt", body.bytes());
  append_form("subject_token", token.unwrap(), body.bytes());
  return std::move(body).seal();
}

io::Task<Result<TokenAnswer>> GoogleFederationSource::impersonate(Caller& caller, const Secret& federated,
                                                                  TimePoint deadline) const {
  auto header = bearer_header(federated.unwrap(), label_);
  if (!header) co_return std::unexpected(std::move(header.error()));
  const HeaderField fields[] = {{"Content-Type", "application/json"}, {"Accept", "application/json"}};
  const Call call{.url = *impersonation_url_,
                  .fields = fields,
                  .credentials = std::span(&*header, 1),
                  .body = impersonation_body_,
                  .answer_bytes_max = token_answer_bytes_max,
                  .deadline = deadline,
                  .repeatable = true};
  auto answer = co_await caller.call(call);
  if (!answer) co_return unavailable(describe(answer.error()));
  if (answer->status != 200)
    co_return unavailable(fmt::format("Google answered {} to the question for {}'s token", answer->status,
                                      settings_.service_account_email));
  auto tree = policy::read_tree(answer->body.view(), policy::Format::json);
  const auto text = [&](std::string_view name) -> std::string_view {
    const policy::Node* found = tree && tree->kind == Kind::mapping ? tree->find(name) : nullptr;
    return found && found->kind == Kind::string ? std::string_view(found->text) : std::string_view();
  };
  const auto expires = parse_utc(text("expireTime"));
  if (text("accessToken").empty() || !expires)
    co_return unavailable("Google's answer has no accessToken with its end");
  const auto left = std::chrono::floor<std::chrono::seconds>(*expires - caller.clock().wall());
  if (left <= std::chrono::seconds(0)) co_return unavailable("Google's accessToken has ended already");
  TokenAnswer out;
  out.access_token = copy_of(text("accessToken"));
  out.lifetime = std::min(left, google_token_lifetime);
  co_return out;
}

io::Task<Result<Grant>> GoogleFederationSource::ask(Caller& caller, const Subject& subject,
                                                    const ShownRequest*, TimePoint deadline) const {
  if (!identity_) co_return unavailable(nobody_signs);
  const Secret body = exchange_question(subject, caller.clock().wall());
  const TimePoint asked = caller.clock().now();
  auto token = co_await ask_for_token(caller, exchange_url_, body.unwrap(), {}, deadline, true);
  if (!token) co_return std::unexpected(std::move(token.error()));
  if (impersonation_url_) {
    token = co_await impersonate(caller, token->access_token, deadline);
    if (!token) co_return std::unexpected(std::move(token.error()));
  }
  co_return grant_of(bearer_header(token->access_token.unwrap(), label_), token->lifetime, asked,
                     caller.clock());
}

// ---- Entra
// ----------------------------------------------------------------------------------------------------------

AzureFederationSource::AzureFederationSource(policy::AzureFederation settings,
                                             std::shared_ptr<const WorkloadIdentity> identity)
    : KeptSource("azure:" + settings.client_id),
      settings_(std::move(settings)),
      identity_(std::move(identity)),
      url_(wire::parse_url(
               fmt::format("https://login.microsoftonline.com/{}/oauth2/v2.0/token", settings_.tenant_id))
               .value()) {}

std::string_view AzureFederationSource::family_of(std::string_view host) const {
  const auto resource = policy::azure_resource_of(host);
  return resource ? policy::azure_resources[static_cast<std::size_t>(*resource)] : host;
}

io::Task<Result<Grant>> AzureFederationSource::ask(Caller& caller, const Subject& subject,
                                                   const ShownRequest*, TimePoint deadline) const {
  if (!identity_) co_return unavailable(nobody_signs);
  if (!policy::azure_resource_of(subject.host.name))
    co_return unavailable("Entra gives out no token for this host");
  const Secret token = identity_token(*identity_, identity_subject(*subject.workspace, settings_.subject),
                                      entra_audience, caller.clock().wall());
  WipedString body(1024 + token.unwrap().size());
  append_form("grant_type", "client_credentials", body.bytes());
  append_form("client_id", settings_.client_id, body.bytes());
  append_form("scope", fmt::format("{}/.default", family_of(subject.host.name)), body.bytes());
  append_form("client_assertion_type", "urn:ietf:params:oauth:client-assertion-type:jwt-bearer",
              body.bytes());
  append_form("client_assertion", token.unwrap(), body.bytes());
  const TimePoint asked = caller.clock().now();
  auto answer = co_await ask_for_token(caller, url_, body.view(), {}, deadline, true);
  if (!answer) co_return std::unexpected(std::move(answer.error()));
  co_return grant_of(bearer_header(answer->access_token.unwrap(), label_), answer->lifetime, asked,
                     caller.clock());
}

}  // namespace postern::credential
