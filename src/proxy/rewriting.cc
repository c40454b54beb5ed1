#include "proxy/rewriting.h"

#include <algorithm>
#include <array>

#include "wire/http1.h"
#include "wire/prefix.h"

namespace postern::proxy {

std::string authority_of(const Destination& destination) {
  const Host& host = *destination.host;
  const bool six = host.literal && !host.literal->is_v4();
  std::string out = six ? "[" + host.name + "]" : host.name;
  if (!destination.has_default_port()) out += ":" + std::to_string(destination.port);
  return out;
}

bool carries_credential(std::string_view field_name) {
  // What package managers, SDKs and clouds send; a field that is not known here is not a credential.
  constexpr std::array<std::string_view, 22> names = {"authorization",
                                                      "cookie",
                                                      "cookie2",
                                                      "x-api-key",
                                                      "api-key",
                                                      "apikey",
                                                      "x-auth-token",
                                                      "x-access-token",
                                                      "x-session-token",
                                                      "x-amz-security-token",
                                                      "x-goog-api-key",
                                                      "x-goog-iam-authorization-token",
                                                      "x-goog-authenticated-user-jwt",
                                                      "x-ms-authorization-auxiliary",
                                                      "ocp-apim-subscription-key",
                                                      "private-token",
                                                      "job-token",
                                                      "deploy-token",
                                                      "x-github-token",
                                                      "x-vault-token",
                                                      "x-jfrog-art-api",
                                                      "x-nuget-apikey"};
  return std::ranges::any_of(names, [&](std::string_view name) { return wire::same_name(name, field_name); });
}

std::string_view redacted(std::string_view field_name, std::string_view value) {
  constexpr std::array<std::string_view, 7> schemes = {
      "Bearer redacted",    "Basic redacted", "Digest redacted", "token redacted",
      "Negotiate redacted", "NTLM redacted",  "ApiKey redacted"};
  constexpr std::string_view nothing = "redacted";
  if (!wire::same_name(field_name, "authorization")) return nothing;
  const std::string_view scheme = value.substr(0, value.find(' '));
  for (const std::string_view known : schemes)
    if (wire::same_name(known.substr(0, known.find(' ')), scheme)) return known;
  return nothing;
}

std::string mapped_back(std::string_view location, const policy::Rewrite& there, const Destination& asked) {
  const Destination to{&there.host, there.port, there.tls};
  std::string_view rest = location;
  const std::string_view scheme = there.tls ? "https://" : "http://";
  if (!wire::starts_with_ignoring_case(rest, scheme)) return {};
  rest.remove_prefix(scheme.size());
  const std::string_view authority = rest.substr(0, rest.find_first_of("/?#"));
  const bool explicit_default =
      to.has_default_port() && wire::same_name(authority, there.host.name + ":" + std::to_string(there.port));
  if (!explicit_default && !wire::same_name(authority, authority_of(to))) return {};
  rest.remove_prefix(authority.size());
  if (!there.path_prefix.empty() && rest.starts_with(there.path_prefix)) {
    const std::string_view behind = rest.substr(there.path_prefix.size());
    if (behind.empty() || behind.find_first_of("/?#") == 0) rest = behind;
  }
  std::string out = asked.tls ? "https://" : "http://";
  return out.append(authority_of(asked)).append(rest);
}

}  // namespace postern::proxy
