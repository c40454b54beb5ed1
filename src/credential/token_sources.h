#pragma once
// Access tokens that are asked for at a token endpoint and put on requests: Google service accounts (RFC
// 7523), OAuth 2.0 (RFC 6749 §4.4, §6), GitHub Apps. Each is a Source.

#include <functional>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "credential/google_service_account.h"
#include "credential/jwt.h"
#include "credential/source.h"
#include "credential/token_endpoint.h"
#include "policy/document.h"

namespace postern::credential {

class GoogleSource final : public KeptSource {
 public:
  GoogleSource(GoogleServiceAccount account, wire::Url token_url, std::vector<std::string> scopes);
  io::Task<Result<Grant>> ask(Caller& caller, const Subject& subject, const ShownRequest* request,
                              TimePoint deadline) const override;

 private:
  GoogleServiceAccount account_;
  wire::Url token_url_;
  std::vector<std::string> scopes_;
};

/// Where a refresh token that the server changed is kept (RFC 6749 §6: the old one may be good for nothing).
class RefreshTokens {
 public:
  virtual ~RefreshTokens() = default;
  /// The newest one for `key`; nullopt: none was kept.
  virtual std::optional<Secret> newest(const std::string& key) = 0;
  virtual Result<void> keep(const std::string& key, const Secret& token) = 0;
};

class Oauth2Source final : public KeptSource {
 public:
  /// `refresh_token` as configured; a newer one in `kept` wins. `kept` may be nullptr, then it is only kept
  /// in memory.
  Oauth2Source(const policy::Oauth2Auth& settings, Secret client_secret, Secret refresh_token,
               std::shared_ptr<RefreshTokens> kept);
  io::Task<Result<Grant>> ask(Caller& caller, const Subject& subject, const ShownRequest* request,
                              TimePoint deadline) const override;

 private:
  Secret body() const;
  Result<void> take_refresh_token(Secret token) const;

  wire::Url token_url_;
  policy::Oauth2Auth::Grant grant_;
  std::string client_id_;
  Secret client_secret_;
  std::vector<std::string> scopes_;
  std::shared_ptr<RefreshTokens> kept_;
  std::string key_;           ///< In `kept`.
  mutable std::mutex mutex_;  ///< Of the token: loops take turns in asking.
  mutable Secret refresh_token_;
};

class GithubAppSource final : public KeptSource {
 public:
  static constexpr std::string_view token_url = "https://api.github.com/app/installations/";

  GithubAppSource(const policy::GithubAppAuth& settings, JwtKey key);
  /// The API wants Bearer, and git over HTTPS Basic.
  bool per_destination() const override { return true; }
  io::Task<Result<Grant>> ask(Caller& caller, const Subject& subject, const ShownRequest* request,
                              TimePoint deadline) const override;

 private:
  JwtKey key_;
  std::string app_id_;
  wire::Url url_;
  std::string body_;
};

}  // namespace postern::credential
