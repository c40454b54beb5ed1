#pragma once
// What those share who ask a token endpoint (RFC 6749 §3.2): the question as a form, the answer as a token,
// and the header that carries it.

#include <chrono>
#include <optional>
#include <span>
#include <string>
#include <string_view>

#include "base/result.h"
#include "base/secret.h"
#include "credential/source.h"
#include "wire/url.h"

namespace postern::credential {

inline constexpr std::size_t token_answer_bytes_max = 256 * 1024;

/// What a token endpoint said (RFC 6749 §5.1).
struct TokenAnswer {
  Secret access_token;
  std::optional<Secret> refresh_token;
  std::chrono::seconds lifetime{
      3600};  ///< When it does not say, an hour: nobody's is shorter without saying so.
};
/// Errors: credential_unavailable, in words that quote nothing of the answer but RFC 6749 §5.2's `error`.
Result<TokenAnswer> read_token_answer(int status, std::string_view body);

/// application/x-www-form-urlencoded, appended (WHATWG URL §5.2).
void append_form(std::string_view name, std::string_view value, std::string& out);

/// credential_unavailable, of the side that was asked.
std::unexpected<Error> unavailable(std::string why);

/// One question, in a form. What it is given outlives the task. `repeatable`: Call::repeatable.
io::Task<Result<TokenAnswer>> ask_for_token(Caller& caller, const wire::Url& url, std::string_view body,
                                            std::span<const InjectedHeader> credentials, TimePoint deadline,
                                            bool repeatable);

/// Authorization: Bearer (RFC 6750 §2.1), Basic (RFC 7617 §2). `label` becomes its source. Errors:
/// credential_unavailable when no header can hold it.
Result<InjectedHeader> bearer_header(std::string_view token, const std::string& label);
Result<InjectedHeader> basic_header(std::string_view user, std::string_view password,
                                    const std::string& label);

/// One header, good until a little before the end of `lifetime`.
Result<Grant> grant_of(Result<InjectedHeader> header, std::chrono::seconds lifetime, TimePoint asked,
                       const Clock& clock);
/// The same margin for what is no header: clocks differ, and requests take time.
std::chrono::seconds with_margin(std::chrono::seconds lifetime);

}  // namespace postern::credential
