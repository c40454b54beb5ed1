#pragma once
// What would become of one request, without a sandbox and without a network: the very functions are asked
// that the road asks. No secret is shown: headers are named with their templates.

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "model/http.h"
#include "policy/decide.h"
#include "policy/snapshot.h"
#include "transform/operations.h"
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
  /// What its body asks for; nullopt: that was not said.
  std::optional<std::vector<transform::Operation>> operations;
};

struct Explanation {
  Reason reason = Reason::internal;
  bool intercept = false;
  /// It depends on what the body asks for, which the question does not say: only `intercept` means anything.
  bool wants_operations = false;
  const policy::Rule* rule = nullptr;  ///< The one that matches; the snapshot's, as all here.
  std::uint32_t rule_index = policy::no_rule;
  const policy::Rewrite* rewrite = nullptr;    ///< Where it would be sent instead.
  const policy::Rule* credentials = nullptr;   ///< The rule whose credentials it would get.
  const policy::Callback* callback = nullptr;  ///< Who would be asked for credentials.
  std::string path;                            ///< As it would be sent.
  std::string detail;

  bool allowed() const { return reason == Reason::allowed && !wants_operations; }
};

/// `target`: https://host[:port]/path, http://..., HOST:PORT, or HOST (HTTPS). `headers`: "name: value", as
/// the sandbox would send them; they outlive the question. `operations`: "mutation createIssue",
/// "tools/list"; none: it is not said what the body asks for. Errors name what is wrong, and quote no value
/// of a header.
Result<Question> read_question(std::string_view target, std::string_view method,
                               std::span<const std::string> headers,
                               std::span<const std::string> operations = {});

Explanation explain(const policy::Snapshot& snapshot, const Question& question);

/// The sentence that the sandbox would read in a refusal.
std::string sentence(const policy::Snapshot& snapshot, const Question& question, const Explanation& answer);

/// "GET https://api.example.com/v1"
std::string requested(const Question& question);

/// Without the query, where tokens are put.
std::string printable(const wire::Url& url);

/// "https://mirror.example:8443/npm/left-pad": where a rewritten request goes.
std::string sent_to(const Explanation& answer);

/// What a rule does with the requests that it lets through, besides their credential, one clause for each
/// thing and in its order: "takes out email, credit_card", "at most 10 requests a second". Values of headers
/// are not told.
std::vector<std::string> treatment_of(const policy::Rule& rule);
/// "at most 10 requests a second, 5 requests at once"
std::string described(const policy::Limits& limits);

/// Decision ("depends" when the operations decide), reason, rule and what it does, header names. The first
/// `operator_rules` of the snapshot are not in the document of whoever asks, who is told their names and what
/// they do alone: numbers of rules are those of that document.
std::string explanation_json(const policy::Snapshot& snapshot, const Question& question,
                             const Explanation& answer, std::size_t operator_rules = 0);

}  // namespace postern::proxy
