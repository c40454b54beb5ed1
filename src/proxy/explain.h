#pragma once
// What would become of one request, without a sandbox and without a network: the very functions are asked
// that the road asks. No secret is shown: headers are named with their templates.

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "model/http.h"
#include "policy/decide.h"
#include "policy/snapshot.h"
#include "wire/url.h"

namespace postern::proxy {

/// One request, or only a connection.
struct Question {
  Host host;
  std::uint16_t port = 0;
  policy::Transport transport = policy::Transport::tls;
  std::string path;  ///< Origin-form; empty when only a connection is asked about.
  std::string method = "GET";
  std::vector<HeaderField> fields;  ///< Refer to what they were read from.
};

struct Explanation {
  Reason reason = Reason::internal;
  bool intercept = false;
  const policy::Rule* rule = nullptr;  ///< The snapshot's.
  std::uint32_t rule_index = policy::no_rule;
  const policy::Callback* callback = nullptr;  ///< Who would be asked for credentials.
  std::string path;                            ///< As it would be sent.
  std::string detail;
};

/// `target`: https://host[:port]/path, http://..., HOST:PORT, or HOST (HTTPS). `headers`: "name: value", as
/// the sandbox would send them; they outlive the question. Errors name what is wrong, and quote no value.
Result<Question> read_question(std::string_view target, std::string_view method,
                               std::span<const std::string> headers);

Explanation explain(const policy::Snapshot& snapshot, const Question& question);

/// The sentence that the sandbox would read in a refusal.
std::string sentence(const policy::Snapshot& snapshot, const Question& question, const Explanation& answer);

/// "GET https://api.example.com/v1"
std::string requested(const Question& question);

/// Without the query, where tokens are put.
std::string printable(const wire::Url& url);

/// Decision, reason, rule, header names.
std::string explanation_json(const policy::Snapshot& snapshot, const Question& question,
                             const Explanation& answer);

}  // namespace postern::proxy
