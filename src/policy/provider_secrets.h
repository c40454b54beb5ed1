#pragma once
// The secrets of a rule with a `type`, by the names of their fields: for whoever treats them all alike.

#include <string_view>
#include <variant>

#include "policy/document.h"

namespace postern::policy {

/// `each(name, secret)` for every secret that the provider has. With a mutable provider, mutable secrets.
template <class AnyProvider, class Each>
void each_secret(AnyProvider& provider, Each each) {
  const auto optional = [&each](std::string_view name, auto& secret) {
    if (secret) each(name, *secret);
  };
  if (auto* aws = std::get_if<AwsAuth>(&provider)) {
    if (aws->role) return;
    each("access_key_id", aws->access_key_id);
    each("secret_access_key", aws->secret_access_key);
    optional("session_token", aws->session_token);
  } else if (auto* gcp = std::get_if<GcpAuth>(&provider)) {
    if (!gcp->federation) each("service_account_json", gcp->service_account_json);
  } else if (auto* azure = std::get_if<AzureAuth>(&provider)) {
    optional("account_key", azure->account_key);
    optional("sas_token", azure->sas_token);
  } else if (auto* oauth2 = std::get_if<Oauth2Auth>(&provider)) {
    optional("client_secret", oauth2->client_secret);
    optional("refresh_token", oauth2->refresh_token);
  } else if (auto* app = std::get_if<GithubAppAuth>(&provider)) {
    each("private_key", app->private_key);
  }
}

}  // namespace postern::policy
