#include "proxy/refusal.h"

#include <fmt/format.h>
#include <nlohmann/json.hpp>

namespace postern::proxy {

namespace {

std::string message_for(const Refusal& refusal) {
  const std::string where =
      refusal.port ? fmt::format("{}:{}", refusal.host, refusal.port) : std::string(refusal.host);
  switch (refusal.reason) {
    case Reason::not_in_allow_list:
      return fmt::format("This sandbox may not reach {}: it is not on its allow list. Allowed: {}.", where,
                         refusal.allowed.empty() ? "nothing" : refusal.allowed);
    case Reason::in_deny_list:
      if (!refusal.rule.empty())
        return fmt::format("The rule '{}' sends requests for {} to a destination that is denied.",
                           refusal.rule, where);
      return fmt::format("This sandbox may not reach {}: it is on its deny list.", where);
    case Reason::denied_by_rule:
      return fmt::format("The rule '{}' of this sandbox's policy denies this request to {}.", refusal.rule,
                         where);
    case Reason::literal_address:
      return fmt::format("This sandbox reaches hosts by name, not by address. Use a host name instead of {}.",
                         where);
    case Reason::private_address:
      return fmt::format("{} leads to a private, local or metadata address, which sandboxes never reach.",
                         where);
    case Reason::no_server_name:
      return "The TLS connection did not say which host it wants (no SNI). Connect by host name.";
    case Reason::protocol_not_allowed:
      return fmt::format("Only HTTP and TLS are spoken on this port of {}.", where);
    case Reason::plaintext_credential:
      return fmt::format(
          "{} a credential on this request, which is only done over HTTPS. Use https://{}/.",
          refusal.rule.empty() ? "A callback puts" : fmt::format("The rule '{}' puts", refusal.rule),
          refusal.host);
    case Reason::content_blocked:
      return fmt::format("The rule '{}' lets nothing of this kind leave the sandbox: {}.", refusal.rule,
                         refusal.detail);
    case Reason::limit_exceeded: return fmt::format("A limit is reached: {}.", refusal.detail);
    case Reason::unsupported_content:
      return fmt::format("The rule '{}' does not let this content through: {}.", refusal.rule,
                         refusal.detail);
    case Reason::schema_violation:
      return fmt::format("The body is not what the rule '{}' requires: {}.", refusal.rule, refusal.detail);
    case Reason::method_not_allowed: return "This method is not passed on.";
    case Reason::misdirected_request:
      return fmt::format(
          "The request names another host than the connection was made for ({}). Use one connection per "
          "host.",
          where);
    case Reason::ambiguous_path:
      return fmt::format("Servers may disagree about what this path means ({}), so it is not passed on.",
                         refusal.detail);
    case Reason::malformed_request:
    case Reason::malformed_host:
    case Reason::head_too_large:
      return fmt::format("The request is not acceptable HTTP: {}.", refusal.detail);
    case Reason::body_too_large: return fmt::format("The request is too large: {}.", refusal.detail);
    case Reason::unsignable_request: return fmt::format("The request cannot be signed: {}.", refusal.detail);
    case Reason::expectation_failed: return "Only 'Expect: 100-continue' is understood.";
    case Reason::sandbox_timeout: return "The request did not arrive in time.";
    case Reason::name_not_found: return fmt::format("The host {} does not exist.", refusal.host);
    case Reason::resolve_failed:
      return fmt::format("The host {} could not be resolved right now. Try again later.", refusal.host);
    case Reason::connect_failed: return fmt::format("{} did not accept the connection.", where);
    case Reason::connect_timeout:
      return fmt::format("{} did not answer the connection attempt in time.", where);
    case Reason::origin_certificate_invalid:
      return fmt::format("The certificate of {} could not be verified, so nothing was sent to it.", where);
    case Reason::origin_tls_failed: return fmt::format("No TLS connection could be made with {}.", where);
    case Reason::origin_malformed_response:
      return fmt::format("The answer of {} was not acceptable HTTP.", where);
    case Reason::uninspectable_answer:
      return fmt::format("The answer of {} could not be searched for secrets, so it is not passed on.",
                         where);
    case Reason::origin_closed: return fmt::format("{} closed the connection before it answered.", where);
    case Reason::origin_timeout: return fmt::format("{} did not answer in time.", where);
    case Reason::credential_unavailable:
      return "The credential for this request could not be had, so it was not sent.";
    case Reason::callback_failed:
      return "callback resolution failed: the endpoint that gives the credential for this request did not "
             "give "
             "one, so the request was not sent. Try again later.";
    case Reason::audit_unavailable:
      return "Requests cannot be recorded right now, so none are passed on. Try again later.";
    case Reason::overloaded: return "Postern is at its limit. Try again later.";
    case Reason::shutting_down: return "Postern is shutting down.";
    default: return "The request could not be carried out.";
  }
}

}  // namespace

std::string refusal_body(const Refusal& refusal) {
  nlohmann::ordered_json error;
  error["reason"] = token(refusal.reason);
  error["message"] = message_for(refusal);
  error["host"] = refusal.host;
  if (!refusal.rule.empty()) error["rule"] = refusal.rule;
  error["docs"] = fmt::format("docs/refusals.md#{}", token(refusal.reason));
  // `replace`: a host name that is not UTF-8 must not end in an exception.
  return nlohmann::ordered_json{{"error", std::move(error)}}.dump(-1, ' ', true,
                                                                  nlohmann::json::error_handler_t::replace) +
         "\n";
}

std::string grpc_message(const Refusal& refusal) {
  std::string out;
  for (const char c : message_for(refusal)) {
    if (c >= ' ' && c <= '~' && c != '%')
      out += c;
    else
      out += fmt::format("%{:02X}", static_cast<unsigned char>(c));
  }
  return out;
}

int grpc_status_of(Reason reason) {
  constexpr int invalid_argument = 3, deadline_exceeded = 4, permission_denied = 7, unimplemented = 12,
                internal = 13, unavailable = 14, unauthenticated = 16, resource_exhausted = 8;
  switch (http_status_of(reason)) {
    case 400:
    case 405:
    case 415:
    case 417:
    case 422:
    case 431: return invalid_argument;
    case 401: return unauthenticated;
    case 403: return permission_denied;
    case 404: return unimplemented;
    case 413:
    case 429: return resource_exhausted;
    case 408:
    case 504: return deadline_exceeded;
    case 421:
    case 502:
    case 503: return unavailable;
    default: return internal;
  }
}

std::string_view reason_phrase(int status) {
  switch (status) {
    case 200: return "OK";
    case 201: return "Created";
    case 202: return "Accepted";
    case 203: return "Non-Authoritative Information";
    case 204: return "No Content";
    case 205: return "Reset Content";
    case 206: return "Partial Content";
    case 207: return "Multi-Status";
    case 300: return "Multiple Choices";
    case 301: return "Moved Permanently";
    case 302: return "Found";
    case 303: return "See Other";
    case 304: return "Not Modified";
    case 307: return "Temporary Redirect";
    case 308: return "Permanent Redirect";
    case 400: return "Bad Request";
    case 401: return "Unauthorized";
    case 402: return "Payment Required";
    case 403: return "Forbidden";
    case 404: return "Not Found";
    case 405: return "Method Not Allowed";
    case 406: return "Not Acceptable";
    case 407: return "Proxy Authentication Required";
    case 408: return "Request Timeout";
    case 409: return "Conflict";
    case 410: return "Gone";
    case 411: return "Length Required";
    case 412: return "Precondition Failed";
    case 413: return "Content Too Large";
    case 414: return "URI Too Long";
    case 415: return "Unsupported Media Type";
    case 416: return "Range Not Satisfiable";
    case 417: return "Expectation Failed";
    case 421: return "Misdirected Request";
    case 422: return "Unprocessable Content";
    case 425: return "Too Early";
    case 426: return "Upgrade Required";
    case 428: return "Precondition Required";
    case 429: return "Too Many Requests";
    case 431: return "Request Header Fields Too Large";
    case 451: return "Unavailable For Legal Reasons";
    case 500: return "Internal Server Error";
    case 501: return "Not Implemented";
    case 502: return "Bad Gateway";
    case 503: return "Service Unavailable";
    case 504: return "Gateway Timeout";
    default: return {};
  }
}

}  // namespace postern::proxy
