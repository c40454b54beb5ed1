#include "credential/token_sources.h"

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "credential/caller.h"
#include "credential/digest.h"
#include "credential/wiped_string.h"
#include "policy/tree.h"

namespace postern::credential {

namespace {

using Kind = policy::Node::Kind;

constexpr std::chrono::seconds github_assertion_lifetime{540};  // ten minutes is the most that GitHub takes
constexpr std::chrono::seconds clock_skew{60};

}  // namespace

// ---- Google
// ---------------------------------------------------------------------------------------------------------

GoogleSource::GoogleSource(GoogleServiceAccount account, wire::Url token_url, std::vector<std::string> scopes)
    : KeptSource("gcp:" + account.client_email),
      account_(std::move(account)),
      token_url_(std::move(token_url)),
      scopes_(std::move(scopes)) {}

io::Task<Result<Grant>> GoogleSource::ask(Caller& caller, const Subject&, const ShownRequest*,
                                          TimePoint deadline) const {
  const auto now = std::chrono::floor<std::chrono::seconds>(caller.clock().wall());
  const Secret body = google_token_request(google_assertion(account_, scopes_, now));
  const TimePoint asked = caller.clock().now();
  auto answer = co_await ask_for_token(caller, token_url_, body.unwrap(), {}, deadline, true);
  if (!answer) co_return std::unexpected(std::move(answer.error()));
  co_return grant_of(bearer_header(answer->access_token.unwrap(), label_), answer->lifetime, asked,
                     caller.clock());
}

// ---- OAuth 2.0
// ------------------------------------------------------------------------------------------------------

Oauth2Source::Oauth2Source(const policy::Oauth2Auth& settings, Secret client_secret, Secret refresh_token,
                           std::shared_ptr<RefreshTokens> kept)
    : KeptSource("oauth2:" + settings.token_url.host.name),
      token_url_(settings.token_url),
      grant_(settings.grant),
      client_id_(settings.client_id),
      client_secret_(std::move(client_secret)),
      scopes_(settings.scopes),
      kept_(std::move(kept)),
      refresh_token_(std::move(refresh_token)) {
  if (grant_ != policy::Oauth2Auth::Grant::refresh_token || !kept_) return;
  // Of the configured one: another one given by the user is another line of descent.
  const std::string first(refresh_token_.unwrap());
  key_ = hex(sha256(fmt::format("{}\n{}\n{}", token_url_.text, client_id_, hex(sha256(first)))));
  if (auto newest = kept_->newest(key_)) refresh_token_ = std::move(*newest);
}

Secret Oauth2Source::body() const {
  const bool refreshes = grant_ == policy::Oauth2Auth::Grant::refresh_token;
  const std::lock_guard lock(mutex_);
  WipedString body(512 + 3 * (refresh_token_.unwrap().size() + client_id_.size()) + 16 * 1024);
  append_form("grant_type", refreshes ? "refresh_token" : "client_credentials", body.bytes());
  if (refreshes) append_form("refresh_token", refresh_token_.unwrap(), body.bytes());
  if (client_secret_.empty()) append_form("client_id", client_id_, body.bytes());  // RFC 6749 §3.2.1
  if (!scopes_.empty()) append_form("scope", fmt::format("{}", fmt::join(scopes_, " ")), body.bytes());
  return std::move(body).seal();
}

Result<void> Oauth2Source::take_refresh_token(Secret token) const {
  const std::lock_guard lock(mutex_);
  if (token.unwrap() == refresh_token_.unwrap()) return {};
  // On disk first: the old one may be good for nothing from now on.
  if (kept_)
    if (auto written = kept_->keep(key_, token); !written) return written;
  refresh_token_ = std::move(token);
  return {};
}

io::Task<Result<Grant>> Oauth2Source::ask(Caller& caller, const Subject&, const ShownRequest*,
                                          TimePoint deadline) const {
  std::vector<InjectedHeader> credentials;
  if (!client_secret_.empty()) {
    // RFC 6749 §2.3.1: both parts are form-encoded before they are joined.
    WipedString user(3 * client_id_.size() + 8), password(3 * client_secret_.unwrap().size() + 8);
    append_form("", client_id_, user.bytes());
    append_form("", client_secret_.unwrap(), password.bytes());
    constexpr std::size_t equals = 1;  // of the empty name
    auto header = basic_header(user.view().substr(equals), password.view().substr(equals), label_);
    if (!header) co_return std::unexpected(std::move(header.error()));
    credentials.push_back(std::move(*header));
  }
  const Secret question = body();
  const TimePoint asked = caller.clock().now();
  const bool repeatable =
      grant_ == policy::Oauth2Auth::Grant::client_credentials;  // a refresh may be used up
  auto answer =
      co_await ask_for_token(caller, token_url_, question.unwrap(), credentials, deadline, repeatable);
  if (!answer) co_return std::unexpected(std::move(answer.error()));
  if (answer->refresh_token && grant_ == policy::Oauth2Auth::Grant::refresh_token)
    if (auto taken = take_refresh_token(std::move(*answer->refresh_token)); !taken)
      co_return unavailable("the new refresh token could not be kept: " + taken.error().detail);
  co_return grant_of(bearer_header(answer->access_token.unwrap(), label_), answer->lifetime, asked,
                     caller.clock());
}

// ---- GitHub Apps
// ----------------------------------------------------------------------------------------------------

GithubAppSource::GithubAppSource(const policy::GithubAppAuth& settings, JwtKey key)
    : KeptSource("github_app:" + settings.app_id),
      key_(std::move(key)),
      app_id_(settings.app_id),
      url_(wire::parse_url(fmt::format("{}{}/access_tokens", token_url, settings.installation_id)).value()) {
  nlohmann::ordered_json body = nlohmann::ordered_json::object();
  if (!settings.repositories.empty()) body["repositories"] = settings.repositories;
  for (const auto& [name, value] : settings.permissions) body["permissions"][name] = value;
  body_ = body.dump(-1, ' ', true, nlohmann::ordered_json::error_handler_t::replace);
}

io::Task<Result<Grant>> GithubAppSource::ask(Caller& caller, const Subject& subject, const ShownRequest*,
                                             TimePoint deadline) const {
  const auto now = std::chrono::floor<std::chrono::seconds>(caller.clock().wall());
  JwtClaims claims;
  claims.time("iat", now - clock_skew).time("exp", now + github_assertion_lifetime).text("iss", app_id_);
  const Secret assertion = key_.mint(std::move(claims).json());
  auto header = bearer_header(assertion.unwrap(), label_);
  if (!header) co_return std::unexpected(std::move(header.error()));
  const HeaderField fields[] = {{"Content-Type", "application/json"},
                                {"Accept", "application/vnd.github+json"},
                                {"X-GitHub-Api-Version", "2022-11-28"},
                                {"User-Agent", "postern"}};
  const Call call{.url = url_,
                  .fields = fields,
                  .credentials = std::span(&*header, 1),
                  .body = body_,
                  .answer_bytes_max = token_answer_bytes_max,
                  .deadline = deadline,
                  .repeatable = true};
  const TimePoint asked = caller.clock().now();
  auto answer = co_await caller.call(call);
  if (!answer) co_return unavailable(describe(answer.error()));
  if (answer->status != 201 && answer->status != 200)
    co_return unavailable(
        fmt::format("GitHub answered {} to the App's question for a token", answer->status));
  auto tree = policy::read_tree(answer->body.view(), policy::Format::json);
  const policy::Node* token = tree && tree->kind == Kind::mapping ? tree->find("token") : nullptr;
  if (!token || token->kind != Kind::string || token->text.empty())
    co_return unavailable("GitHub's answer has no token");
  // Installation tokens live for an hour.
  constexpr std::chrono::seconds lifetime{3600};
  auto signed_in = subject.host.name == "github.com" ? basic_header("x-access-token", token->text, label_)
                                                     : bearer_header(token->text, label_);
  co_return grant_of(std::move(signed_in), lifetime, asked, caller.clock());
}

}  // namespace postern::credential
