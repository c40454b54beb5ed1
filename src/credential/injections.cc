#include "credential/injections.h"

#include <algorithm>
#include <fmt/format.h>
#include <fmt/ranges.h>
#include <variant>

#include "credential/aws_role.h"
#include "credential/aws_signing.h"
#include "credential/azure_signing.h"
#include "credential/base64.h"
#include "credential/federated_tokens.h"
#include "credential/wiped_string.h"
#include "policy/pattern.h"

namespace postern::credential {

/// Builds the Injections of one snapshot and collects what is wrong on the way.
struct Buildup {
  const SecretStore& secrets;
  const ResolveOptions& options;
  Injections out;
  std::vector<policy::Problem> problems;
  std::uint64_t newest = 0;  ///< Version of the secrets that were filled in since it was last 0.

  void fail(const std::string& where, policy::Position at, std::string message) {
    if (problems.size() < policy::problems_max) problems.push_back({where, at, std::move(message)});
  }

  void add_rule(const policy::Rule& rule, std::size_t index) {
    auto& headers = out.rules_.emplace_back();
    auto& source = out.sources_.emplace_back();
    out.versions_.emplace_back();
    if (!rule.enabled) return;
    const std::string where = fmt::format("rules[{}].{}", index, policy::type_of(rule.provider));
    if (const policy::TokenSubject* subject = rule.token_subject()) check_subject(*subject, where);
    newest = 0;
    source =
        std::visit([&](const auto& provider) { return make_source(provider, rule, where); }, rule.provider);
    out.versions_.back() = newest;
    headers.reserve(rule.headers.size());
    for (std::size_t i = 0; i < rule.headers.size(); ++i) {
      add_header(rule.headers[i], fmt::format("rules[{}].headers[{}].value", index, i), headers);
    }
  }

  void check_subject(const policy::TokenSubject& subject, const std::string& where) {
    if (subject.tag.empty() || std::ranges::find(options.tag_values, subject.tag) != options.tag_values.end())
      return;
    fail(where + ".subject_scope", subject.at,
         fmt::format("the sandbox has no tag value {} (accepted: workspace{}{})", subject.tag,
                     options.tag_values.empty() ? "" : ", tag:", fmt::join(options.tag_values, ", tag:")));
  }

  void add_callback(const policy::Callback& callback, std::size_t index) {
    auto& headers = out.callbacks_.emplace_back();
    for (std::size_t i = 0; i < callback.request_headers.size(); ++i) {
      const std::string where = fmt::format("callbacks[{}].request_headers[{}].value", index, i);
      add_header(callback.request_headers[i], where, headers);
    }
  }

  void add_header(const policy::Header& header, const std::string& where,
                  std::vector<InjectedHeader>& headers) {
    switch (header.type) {
      case policy::HeaderType::plaintext:
        return finish(header, where, "plaintext", header.text, headers, SecretSpans{});
      case policy::HeaderType::opaque:
        if (!header.from.empty()) {
          if (const Secret* found = find_kept(header.from, where, header.at))
            finish(header, where, "opaque", found->unwrap(), headers);
          return;
        }
        if (header.value.empty())
          return fail(where, header.at, fmt::format("no value is set for the opaque header {}", header.name));
        return finish(header, where, "opaque", header.value.unwrap(), headers);
      case policy::HeaderType::workspace_secret: return add_template(header, where, headers);
    }
  }

  /// What stands behind a `from`; nullptr after a problem.
  const Secret* find_kept(const std::string& from, const std::string& where, policy::Position at) {
    const Secret* found = secrets.find(from);
    if (!found) fail(where, at, "what its 'from' names was not read");
    return found;
  }

  void add_template(const policy::Header& header, const std::string& where,
                    std::vector<InjectedHeader>& headers) {
    std::string source = "workspace_secret:";
    newest = 0;
    if (const auto value = fill(header.text, where, header.at, source))
      finish(header, where, std::move(source), value->view(), headers, secrets_within(header.text), newest);
  }

  /// Where the secrets stand in a template that was filled in.
  SecretSpans secrets_within(const std::string& text) const {
    SecretSpans spans;
    std::uint32_t at = 0;
    const auto parsed = policy::parse_template(text);
    for (const auto& piece : parsed->pieces) {
      const auto size = static_cast<std::uint32_t>(piece.is_key ? secrets.find(piece.text)->unwrap().size()
                                                                : piece.text.size());
      if (piece.is_key) spans.push_back({at, size});
      at += size;
    }
    return spans;
  }

  /// `source`: the keys are added. Their versions go into newest.
  std::optional<WipedString> fill(const std::string& text, const std::string& where, policy::Position at,
                                  std::string& source) {
    const auto parsed = policy::parse_template(text);
    if (!parsed) {
      fail(where, at, parsed.error());
      return std::nullopt;
    }
    std::size_t size = 0;
    bool complete = true;
    std::vector<std::string_view> values;
    for (const auto& piece : parsed->pieces) {
      if (!piece.is_key) {
        values.push_back(piece.text);
      } else if (const Secret* secret = secrets.find(piece.text)) {
        values.push_back(secret->unwrap());
        newest = std::max(newest, secrets.version_of(piece.text));
        source += source.ends_with(':') ? piece.text : "," + piece.text;
      } else {
        fail(where, at, fmt::format("there is no secret named {}", piece.text));
        complete = false;
        continue;
      }
      size += values.back().size();
    }
    if (!complete) return std::nullopt;
    WipedString value(size);
    for (const std::string_view part : values) value.bytes() += part;
    return value;
  }

  /// Empty after a problem.
  Secret secret_of(const policy::SecretValue& secret, const std::string& where, std::string_view key) {
    const std::string place = fmt::format("{}.{}.value", where, key);
    if (!secret.from.empty()) {
      const Secret* found = find_kept(secret.from, place, secret.at);
      return found ? copy_of(found->unwrap()) : Secret();
    }
    if (secret.type == policy::HeaderType::opaque) {
      if (secret.value.empty()) fail(place, secret.at, fmt::format("no value is set for the opaque {}", key));
      return copy_of(secret.value.unwrap());
    }
    std::string source = "workspace_secret:";
    auto value = fill(secret.text, place, secret.at, source);
    return value ? std::move(*value).seal() : Secret();
  }
  Secret secret_of(const std::optional<policy::SecretValue>& secret, const std::string& where,
                   std::string_view key) {
    return secret ? secret_of(*secret, where, key) : Secret();
  }

  using SourceRef = std::unique_ptr<const Source>;

  SourceRef make_source(const std::monostate&, const policy::Rule&, const std::string&) { return nullptr; }

  SourceRef make_source(const policy::GcpAuth& gcp, const policy::Rule&, const std::string& where) {
    if (gcp.federation) {
      if (!out.google_) out.google_ = GoogleIdentity{{}, gcp.federation->service_account_email, gcp.scopes};
      return std::make_unique<GoogleFederationSource>(*gcp.federation, gcp.scopes, options.identity);
    }
    const Secret json = secret_of(gcp.service_account_json, where, "service_account_json");
    if (json.empty()) return nullptr;
    const std::string place = where + ".service_account_json";
    auto account = parse_google_service_account(json);
    if (!account) {
      fail(place, gcp.service_account_json.at, account.error().detail);
      return nullptr;
    }
    auto url = wire::parse_url(account->token_uri);
    if (!url) {
      fail(place, gcp.service_account_json.at, "its token_uri " + url.error().detail);
      return nullptr;
    }
    // The assertion is for whoever stands there, and what comes back is put on requests: nobody but Google.
    const bool google =
        url->host.name == "accounts.google.com" || url->host.name.ends_with(".googleapis.com");
    if (!google || url->port != 443) {
      fail(place, gcp.service_account_json.at,
           "its token_uri is none of Google's (accepted: https://oauth2.googleapis.com/token, and other "
           "hosts below "
           "googleapis.com)");
      return nullptr;
    }
    if (!out.google_) out.google_ = GoogleIdentity{account->project_id, account->client_email, gcp.scopes};
    return std::make_unique<GoogleSource>(std::move(*account), std::move(*url), gcp.scopes);
  }

  SourceRef make_source(const policy::Oauth2Auth& oauth2, const policy::Rule&, const std::string& where) {
    return std::make_unique<Oauth2Source>(oauth2, secret_of(oauth2.client_secret, where, "client_secret"),
                                          secret_of(oauth2.refresh_token, where, "refresh_token"),
                                          options.kept);
  }

  SourceRef make_source(const policy::GithubAppAuth& app, const policy::Rule&, const std::string& where) {
    const Secret pem = secret_of(app.private_key, where, "private_key");
    if (pem.empty()) return nullptr;
    auto key = JwtKey::from_pem(pem);
    if (key && key->algorithm() == JwtAlgorithm::rs256)
      return std::make_unique<GithubAppSource>(app, std::move(*key));
    fail(where + ".private_key", app.private_key.at, key ? "is not an RSA key" : key.error().detail);
    return nullptr;
  }

  SourceRef make_source(const policy::AwsAuth& aws, const policy::Rule& rule, const std::string& where) {
    if (aws.role) {
      sign_with(std::make_unique<AwsSigning>(nullptr, named_hosts(rule), "aws:" + aws.role->arn));
      return std::make_unique<AwsRoleSource>(*aws.role, options.identity);
    }
    auto credentials = std::make_shared<AwsCredentials>();
    const Secret key_id = secret_of(aws.access_key_id, where, "access_key_id");
    credentials->secret_access_key = secret_of(aws.secret_access_key, where, "secret_access_key");
    credentials->session_token = secret_of(aws.session_token, where, "session_token");
    if (key_id.empty() || credentials->secret_access_key.empty()) return nullptr;
    credentials->access_key_id = key_id.unwrap();
    if (!is_aws_key_id(credentials->access_key_id))
      fail(where + ".access_key_id.value", aws.access_key_id.at,
           "is no access key of AWS (accepted: at most 128 letters and digits)");
    if (!make_header("X-Amz-Security-Token", "aws", credentials->session_token.unwrap()))
      fail(where + ".session_token.value", aws.session_token->at, "is no session token of AWS");
    sign_with(std::make_unique<AwsSigning>(std::move(credentials), named_hosts(rule), "aws"));
    return nullptr;
  }

  static std::vector<std::string> named_hosts(const policy::Rule& rule) {
    std::vector<std::string> names;
    if (rule.own_hosts) return names;
    for (const auto& host : rule.match_hosts)
      if (!host.pattern.subdomains) names.push_back(host.pattern.host);
    return names;
  }

  /// Of the rule that was added last.
  void sign_with(std::unique_ptr<const Signing> signing) {
    out.signings_.resize(out.rules_.size());
    out.signings_.back() = std::move(signing);
  }

  SourceRef make_source(const policy::AzureAuth& azure, const policy::Rule&, const std::string& where) {
    if (azure.federation) return std::make_unique<AzureFederationSource>(*azure.federation, options.identity);
    if (azure.account_key) {
      const Secret text = secret_of(*azure.account_key, where, "account_key");
      if (text.empty()) return nullptr;
      auto key = decode_base64(text.unwrap());
      if (key && !key->empty())
        sign_with(std::make_unique<AzureSharedKey>(azure.storage_account, std::move(*key)));
      else
        fail(where + ".account_key.value", azure.account_key->at, "is no key of a storage account (base64)");
      return nullptr;
    }
    Secret sas = secret_of(azure.sas_token, where, "sas_token");
    if (sas.empty()) return nullptr;
    if (AzureSas::is_sas(sas.unwrap()))
      sign_with(std::make_unique<AzureSas>(azure.storage_account, std::move(sas)));
    else
      fail(where + ".sas_token.value", azure.sas_token->at,
           "is no shared access signature (accepted: sv=...&sig=..., as Azure gives it out)");
    return nullptr;
  }

  void finish(const policy::Header& header, const std::string& where, std::string source,
              std::string_view value, std::vector<InjectedHeader>& headers,
              const std::optional<SecretSpans>& parts = std::nullopt, std::uint64_t version = 0) {
    auto made = make_header(header.name, std::move(source), value, parts);
    if (!made) return fail(where, header.at, std::move(made.error()));
    made->version = version;
    headers.push_back(std::move(*made));
  }
};

std::expected<Injections, std::vector<policy::Problem>> resolve(const policy::Snapshot& snapshot,
                                                                const SecretStore& secrets,
                                                                const ResolveOptions& options) {
  Buildup buildup{secrets, options, {}, {}, 0};
  for (std::size_t i = 0; i < snapshot.rules().size(); ++i) buildup.add_rule(snapshot.rules()[i], i);
  for (std::size_t i = 0; i < snapshot.callbacks().size(); ++i)
    buildup.add_callback(snapshot.callbacks()[i], i);
  if (!buildup.problems.empty()) return std::unexpected(std::move(buildup.problems));
  return std::move(buildup.out);
}

}  // namespace postern::credential
