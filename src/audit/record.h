#pragma once
// What became of one exchange, connection or denied name: exactly one record each. Never holds a secret, a
// query value or a header value.

#include <chrono>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "base/reason.h"

namespace postern::audit {

enum class Kind : std::uint8_t { http, tls, tcp, dns };

struct Credential {
  std::string_view header;    ///< Both live as long as the policy snapshot that `policy` below keeps alive.
  std::string_view source;    ///< "workspace_secret:OPENAI_API_KEY"
  std::uint64_t version = 0;  ///< Of the newest workspace secret in it; 0: unknown, or there is none.
  bool cached = false;        ///< What was asked for earlier was used again.
};

/// What was taken out of a request.
struct Redaction {
  std::string_view detector;  ///< Static, or as long as the snapshot.
  std::uint64_t count = 0;
};

/// Phases that did not happen are zero.
struct Timings {
  std::chrono::microseconds dns{0};
  std::chrono::microseconds connect{0};
  std::chrono::microseconds tls{0};
  std::chrono::microseconds first_byte{0};
};

struct Record {
  std::chrono::system_clock::time_point time;
  std::shared_ptr<const std::string> sandbox;  ///< Its name.
  std::shared_ptr<const std::string> workspace;
  std::shared_ptr<const void> policy;  ///< Keeps `rule` and `credentials` valid.
  Kind kind = Kind::http;
  std::string exchange;  ///< Name of an exchange that has two records; empty: this is the only one.
  bool begins = false;   ///< The first of two: what is about to be sent.
  Reason reason = Reason::abandoned;
  std::string_view rule;  ///< Empty when none matched.
  std::string method;
  std::string_view scheme;  ///< Static: "https", "http", or empty.
  std::string host;
  std::uint16_t port = 0;
  std::string path;           ///< Without the query.
  int status = 0;             ///< What the sandbox read; 0 when there was no HTTP answer.
  std::string_view protocol;  ///< Static: "HTTP/1.1".
  bool intercepted = false;
  std::string origin_address;
  std::vector<Credential> credentials;
  std::uint64_t request_bytes = 0;
  std::uint64_t response_bytes = 0;
  std::chrono::microseconds duration{0};
  Timings timings;
  std::uint64_t policy_version = 0;
  std::vector<Redaction> redactions;
  std::uint64_t scrubbed = 0;  ///< Injected values that were found in the answer.
  std::string_view limit;      ///< Name of the limit that was hit. Static, or as long as the snapshot.
  std::string rewritten_to;    ///< "host:port" where it went instead.
  std::string operation;  ///< Of GraphQL or JSON-RPC, as the client named it: bounded by who fills it in.
  std::string detail;     ///< A sentence about a failure; may be empty.

  /// Back to its first state; strings keep their memory.
  void clear();
};

/// One JSON object and a newline, appended.
void append_json(const Record& record, std::string& out);

// As values stand in such a line.
std::string time_text(std::chrono::system_clock::time_point time);  ///< "2026-01-31T12:34:56.123456Z"
std::string json_text(std::string_view value);                      ///< Without the quotes.

}  // namespace postern::audit
