#include "credential/token_sources.h"

#include <algorithm>
#include <charconv>
#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "credential/base64.h"
#include "credential/caller.h"
#include "credential/digest.h"
#include "policy/tree.h"
#include "wire/http1.h"

namespace postern::credential {

namespace {

using Kind = policy::Node::Kind;

constexpr const char* form = "application/x-www-form-urlencoded";
constexpr std::chrono::seconds lifetime_max{24 * 3600};
constexpr std::chrono::seconds github_assertion_lifetime{540};  // ten minutes is the most that GitHub takes
constexpr std::chrono::seconds clock_skew{60};

std::unexpected<Error> failed(std::string why) {
  return fail(Reason::credential_unavailable, std::move(why), Side::origin);
}

/// RFC 6749 §5.2: a code of the standard's own characters, so that it can be said.
std::string error_code(const policy::Node& answer) {
  const policy::Node* error = answer.find("error");
  if (!error || error->kind != Kind::string || error->text.size() > 64) return {};
  const bool plain =
      std::ranges::all_of(error->text, [](char c) { return (c >= 'a' && c <= 'z') || c == '_'; });
  return plain ? ": " + error->text : std::string();
}

std::optional<std::chrono::seconds> read_lifetime(const policy::Node& answer) {
  const policy::Node* said = answer.find("expires_in");
  if (!said || (said->kind != Kind::number && said->kind != Kind::string)) return std::nullopt;
  std::int64_t seconds = 0;
  const auto read = std::from_chars(said->text.data(), said->text.data() + said->text.size(), seconds);
  if (read.ec != std::errc() || seconds <= 0) return std::nullopt;
  return std::min(std::chrono::seconds(seconds), lifetime_max);
}

/// Given up a little before its end: clocks differ, and requests take time.
std::chrono::seconds with_margin(std::chrono::seconds lifetime) {
  return lifetime - std::min(lifetime / 10, std::chrono::seconds(60));
}

/// RFC 6750 §2.1.
Result<InjectedHeader> bearer_header(std::string_view token, const std::string& label) {
  WipedString value(token.size() + 16);
  value.bytes().append("Bearer ").append(token);
  auto header = make_header("Authorization", label, value.view());
  if (!header) return failed(std::move(header.error()));
  return std::move(*header);
}

/// RFC 7617 §2.
Result<InjectedHeader> basic_header(std::string_view user, std::string_view password,
                                    const std::string& label) {
  WipedString pair(user.size() + password.size() + 1);
  pair.bytes().append(user).append(":").append(password);
  WipedString value(base64_size(pair.view().size()) + 8);
  value.bytes() = "Basic ";
  append_base64(pair.view(), value.bytes());
  auto header = make_header("Authorization", label, value.view());
  if (!header) return failed(std::move(header.error()));
  return std::move(*header);
}

Result<Grant> grant_of(Result<InjectedHeader> header, std::chrono::seconds lifetime, TimePoint asked,
                       const Clock& clock) {
  if (!header) return std::unexpected(std::move(header.error()));
  Grant grant;
  grant.headers.push_back(std::move(*header));
  grant.expire_after(with_margin(lifetime), asked, clock);
  return grant;
}

/// One question to a token endpoint, in a form.
io::Task<Result<TokenAnswer>> ask_for_token(Caller& caller, const wire::Url& url, std::string_view body,
                                            std::span<const InjectedHeader> credentials, TimePoint deadline,
                                            bool repeatable) {
  const HeaderField fields[] = {{"Content-Type", form}, {"Accept", "application/json"}};
  const Call call{.url = url,
                  .fields = fields,
                  .credentials = credentials,
                  .body = body,
                  .answer_bytes_max = token_answer_bytes_max,
                  .deadline = deadline,
                  .repeatable = repeatable};
  auto answer = co_await caller.call(call);
  if (!answer) co_return failed(describe(answer.error()));
  co_return read_token_answer(answer->status, answer->body.view());
}

}  // namespace

void append_form(std::string_view name, std::string_view value, std::string& out) {
  constexpr char digits[] = "0123456789ABCDEF";
  const auto append = [&](std::string_view text) {
    for (const char c : text) {
      const bool plain = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
                         c == '-' || c == '.' || c == '_' || c == '*';
      const auto byte = static_cast<unsigned char>(c);
      if (plain)
        out += c;
      else if (c == ' ')
        out += '+';
      else
        (out += '%') += {digits[byte >> 4], digits[byte & 15]};
    }
  };
  if (!out.empty()) out += '&';
  append(name);
  out += '=';
  append(value);
}

Result<TokenAnswer> read_token_answer(int status, std::string_view body) {
  auto tree = policy::read_tree(body, policy::Format::json);
  if (status < 200 || status > 299)
    return failed(fmt::format("the token endpoint answered {}{}", status,
                              tree && tree->kind == Kind::mapping ? error_code(*tree) : ""));
  if (!tree || tree->kind != Kind::mapping) return failed("the token endpoint's answer is not JSON");
  const policy::Node* token = tree->find("access_token");
  if (!token || token->kind != Kind::string || token->text.empty())
    return failed("the token endpoint's answer has no access_token");
  const policy::Node* type = tree->find("token_type");
  if (type && (type->kind != Kind::string || !wire::same_name(type->text, "bearer")))
    return failed("the token endpoint's answer is no bearer token");
  TokenAnswer answer;
  answer.access_token = copy_of(token->text);
  if (const auto lifetime = read_lifetime(*tree)) answer.lifetime = *lifetime;
  if (const policy::Node* refresh = tree->find("refresh_token");
      refresh && refresh->kind == Kind::string && !refresh->text.empty())
    answer.refresh_token = copy_of(refresh->text);
  return answer;
}

// ---- Google
// ---------------------------------------------------------------------------------------------------------

GoogleSource::GoogleSource(GoogleServiceAccount account, wire::Url token_url, std::vector<std::string> scopes)
    : account_(std::move(account)),
      token_url_(std::move(token_url)),
      scopes_(std::move(scopes)),
      label_("gcp:" + account_.client_email) {}

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
    : token_url_(settings.token_url),
      grant_(settings.grant),
      client_id_(settings.client_id),
      client_secret_(std::move(client_secret)),
      scopes_(settings.scopes),
      kept_(std::move(kept)),
      label_("oauth2:" + settings.token_url.host.name),
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
      co_return failed("the new refresh token could not be kept: " + taken.error().detail);
  co_return grant_of(bearer_header(answer->access_token.unwrap(), label_), answer->lifetime, asked,
                     caller.clock());
}

// ---- GitHub Apps
// ----------------------------------------------------------------------------------------------------

GithubAppSource::GithubAppSource(const policy::GithubAppAuth& settings, JwtKey key)
    : key_(std::move(key)),
      app_id_(settings.app_id),
      url_(wire::parse_url(fmt::format("{}{}/access_tokens", token_url, settings.installation_id)).value()),
      label_("github_app:" + settings.app_id) {
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
  if (!answer) co_return failed(describe(answer.error()));
  if (answer->status != 201 && answer->status != 200)
    co_return failed(fmt::format("GitHub answered {} to the App's question for a token", answer->status));
  auto tree = policy::read_tree(answer->body.view(), policy::Format::json);
  const policy::Node* token = tree && tree->kind == Kind::mapping ? tree->find("token") : nullptr;
  if (!token || token->kind != Kind::string || token->text.empty())
    co_return failed("GitHub's answer has no token");
  // Installation tokens live for an hour.
  constexpr std::chrono::seconds lifetime{3600};
  auto signed_in = subject.host.name == "github.com" ? basic_header("x-access-token", token->text, label_)
                                                     : bearer_header(token->text, label_);
  co_return grant_of(std::move(signed_in), lifetime, asked, caller.clock());
}

}  // namespace postern::credential
