#include "credential/token_endpoint.h"

#include <algorithm>
#include <charconv>
#include <fmt/format.h>

#include "credential/base64.h"
#include "credential/caller.h"
#include "policy/tree.h"
#include "wire/http1.h"

namespace postern::credential {

namespace {

using Kind = policy::Node::Kind;

constexpr const char* form = "application/x-www-form-urlencoded";
constexpr std::chrono::seconds lifetime_max{24 * 3600};

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

}  // namespace

std::chrono::seconds with_margin(std::chrono::seconds lifetime) {
  return lifetime - std::min(lifetime / 10, std::chrono::seconds(60));
}

std::unexpected<Error> unavailable(std::string why) {
  return fail(Reason::credential_unavailable, std::move(why), Side::origin);
}

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
    return unavailable(fmt::format("the token endpoint answered {}{}", status,
                                   tree && tree->kind == Kind::mapping ? error_code(*tree) : ""));
  if (!tree || tree->kind != Kind::mapping) return unavailable("the token endpoint's answer is not JSON");
  const policy::Node* token = tree->find("access_token");
  if (!token || token->kind != Kind::string || token->text.empty())
    return unavailable("the token endpoint's answer has no access_token");
  const policy::Node* type = tree->find("token_type");
  if (type && (type->kind != Kind::string || !wire::same_name(type->text, "bearer")))
    return unavailable("the token endpoint's answer is no bearer token");
  TokenAnswer answer;
  answer.access_token = copy_of(token->text);
  if (const auto lifetime = read_lifetime(*tree)) answer.lifetime = *lifetime;
  if (const policy::Node* refresh = tree->find("refresh_token");
      refresh && refresh->kind == Kind::string && !refresh->text.empty())
    answer.refresh_token = copy_of(refresh->text);
  return answer;
}

Result<InjectedHeader> bearer_header(std::string_view token, const std::string& label) {
  WipedString value(token.size() + 16);
  value.bytes().append("Bearer ").append(token);
  auto header = make_header("Authorization", label, value.view());
  if (!header) return unavailable(std::move(header.error()));
  return std::move(*header);
}

Result<InjectedHeader> basic_header(std::string_view user, std::string_view password,
                                    const std::string& label) {
  WipedString pair(user.size() + password.size() + 1);
  pair.bytes().append(user).append(":").append(password);
  WipedString value(base64_size(pair.view().size()) + 8);
  value.bytes() = "Basic ";
  append_base64(pair.view(), value.bytes());
  auto header = make_header("Authorization", label, value.view());
  if (!header) return unavailable(std::move(header.error()));
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
  if (!answer) co_return unavailable(describe(answer.error()));
  co_return read_token_answer(answer->status, answer->body.view());
}

}  // namespace postern::credential
