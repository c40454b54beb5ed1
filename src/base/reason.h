#pragma once
// Why an exchange ended as it did: one stable token each, for `X-Postern-Reason`, records and metrics.

#include <cstdint>
#include <string_view>

namespace postern {

/// How an exchange ended, as the record says it.
enum class Decision : std::uint8_t { allowed, denied, failed };

// X(identifier, decision, HTTP status that the sandbox reads)
#define POSTERN_REASONS(X)                   \
  X(allowed, allowed, 200)                   \
  /* policy */                               \
  X(not_in_allow_list, denied, 403)          \
  X(in_deny_list, denied, 403)               \
  X(denied_by_rule, denied, 403)             \
  X(literal_address, denied, 403)            \
  X(private_address, denied, 403)            \
  X(no_server_name, denied, 403)             \
  X(protocol_not_allowed, denied, 403)       \
  X(plaintext_credential, denied, 403)       \
  X(content_blocked, denied, 403)            \
  X(limit_exceeded, denied, 429)             \
  X(method_not_allowed, denied, 405)         \
  X(misdirected_request, denied, 421)        \
  X(ambiguous_path, denied, 400)             \
  /* what the sandbox sent */                \
  X(malformed_request, denied, 400)          \
  X(malformed_host, denied, 400)             \
  X(malformed_client_hello, denied, 400)     \
  X(malformed_dns_query, denied, 400)        \
  X(unsignable_request, denied, 400)         \
  X(head_too_large, denied, 431)             \
  X(body_too_large, denied, 413)             \
  X(unsupported_content, denied, 415)        \
  X(schema_violation, denied, 422)           \
  X(expectation_failed, denied, 417)         \
  X(sandbox_timeout, failed, 408)            \
  X(sandbox_closed, failed, 499)             \
  X(sandbox_tls_failed, failed, 400)         \
  /* what the origin did */                  \
  X(name_not_found, failed, 502)             \
  X(resolve_failed, failed, 502)             \
  X(connect_failed, failed, 502)             \
  X(connect_timeout, failed, 504)            \
  X(origin_certificate_invalid, failed, 502) \
  X(origin_tls_failed, failed, 502)          \
  X(origin_malformed_response, failed, 502)  \
  X(origin_closed, failed, 502)              \
  X(origin_timeout, failed, 504)             \
  X(uninspectable_answer, failed, 502)       \
  /* ourselves */                            \
  X(credential_unavailable, failed, 502)     \
  X(callback_failed, failed, 502)            \
  X(audit_unavailable, failed, 503)          \
  X(overloaded, failed, 503)                 \
  X(shutting_down, failed, 503)              \
  X(abandoned, failed, 502)                  \
  X(cancelled, failed, 499)                  \
  X(invalid_configuration, failed, 500)      \
  X(internal, failed, 500)

enum class Reason : std::uint8_t {
#define X(name, decision, status) name,
  POSTERN_REASONS(X)
#undef X
};

/// The stable token, e.g. "not_in_allow_list". Static storage.
constexpr std::string_view token(Reason reason) {
  switch (reason) {
#define X(name, decision, status) \
  case Reason::name: return #name;
    POSTERN_REASONS(X)
#undef X
  }
  return "internal";
}

constexpr Decision decision_of(Reason reason) {
  switch (reason) {
#define X(name, decision, status) \
  case Reason::name: return Decision::decision;
    POSTERN_REASONS(X)
#undef X
  }
  return Decision::failed;
}

/// The HTTP status of the refusal that the sandbox reads.
constexpr int http_status_of(Reason reason) {
  switch (reason) {
#define X(name, decision, status) \
  case Reason::name: return status;
    POSTERN_REASONS(X)
#undef X
  }
  return 500;
}

constexpr std::string_view token(Decision decision) {
  switch (decision) {
    case Decision::allowed: return "allowed";
    case Decision::denied: return "denied";
    case Decision::failed: return "failed";
  }
  return "failed";
}

}  // namespace postern
