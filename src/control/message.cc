#include "control/message.h"

#include <algorithm>
#include <cstdlib>

#include "base/utf8.h"
#include "wire/http1.h"

namespace postern::control {

namespace {

int hex_digit(char c) {
  if (c >= '0' && c <= '9') return c - '0';
  const char small = wire::lower(c);
  return small >= 'a' && small <= 'f' ? small - 'a' + 10 : -1;
}

enum class Plus : std::uint8_t { is_plus, is_space };

std::expected<std::string, std::string_view> decode(std::string_view text, Plus plus) {
  std::string out;
  out.reserve(text.size());
  for (std::size_t at = 0; at < text.size(); ++at) {
    char c = text[at];
    if (c == '%') {
      const int high = at + 2 < text.size() ? hex_digit(text[at + 1]) : -1;
      const int low = at + 2 < text.size() ? hex_digit(text[at + 2]) : -1;
      if (high < 0 || low < 0) return std::unexpected("a '%' without two hexadecimal digits");
      c = static_cast<char>(high * 16 + low);
      at += 2;
    } else if (c == '+' && plus == Plus::is_space) {
      c = ' ';
    }
    if (c == '\0') return std::unexpected("a NUL");
    out += c;
  }
  if (!is_utf8(out)) return std::unexpected("what is not UTF-8");
  return out;
}

}  // namespace

const std::string* find_field(const Fields& fields, std::string_view name) {
  const auto found =
      std::ranges::find_if(fields, [&](const Field& field) { return wire::same_name(field.name, name); });
  return found == fields.end() ? nullptr : &found->value;
}

std::size_t count_fields(const Fields& fields, std::string_view name) {
  return static_cast<std::size_t>(
      std::ranges::count_if(fields, [&](const Field& field) { return wire::same_name(field.name, name); }));
}

const std::string& Request::parameter(std::string_view name) const {
  const auto found = std::ranges::find(parameters, name, &Field::name);
  if (found == parameters.end()) std::abort();  // The pattern and its handler disagree.
  return found->value;
}

const std::string* Request::query_value(std::string_view name) const {
  const auto found = std::ranges::find(query, name, &Field::name);
  return found == query.end() ? nullptr : &found->value;
}

Response json_response(int status, std::string document) {
  Response response;
  response.status = status;
  response.fields.push_back({"Content-Type", "application/json"});
  response.body = std::move(document);
  return response;
}

std::string_view reason_phrase(int status) {
  switch (status) {
    case 101: return "Switching Protocols";
    case 200: return "OK";
    case 201: return "Created";
    case 202: return "Accepted";
    case 204: return "No Content";
    case 206: return "Partial Content";
    case 302: return "Found";
    case 304: return "Not Modified";
    case 400: return "Bad Request";
    case 401: return "Unauthorized";
    case 403: return "Forbidden";
    case 404: return "Not Found";
    case 405: return "Method Not Allowed";
    case 408: return "Request Timeout";
    case 409: return "Conflict";
    case 412: return "Precondition Failed";
    case 413: return "Content Too Large";
    case 415: return "Unsupported Media Type";
    case 416: return "Range Not Satisfiable";
    case 417: return "Expectation Failed";
    case 421: return "Misdirected Request";
    case 422: return "Unprocessable Content";
    case 426: return "Upgrade Required";
    case 429: return "Too Many Requests";
    case 431: return "Request Header Fields Too Large";
    case 500: return "Internal Server Error";
    case 501: return "Not Implemented";
    case 502: return "Bad Gateway";
    case 503: return "Service Unavailable";
    case 504: return "Gateway Timeout";
    default: return {};
  }
}

std::expected<std::string, std::string_view> decode_segment(std::string_view segment) {
  return decode(segment, Plus::is_plus);
}

std::expected<Fields, std::string_view> parse_query(std::string_view target) {
  Fields fields;
  const std::size_t mark = target.find('?');
  std::string_view rest = mark == std::string_view::npos ? std::string_view() : target.substr(mark + 1);
  while (!rest.empty()) {
    const std::string_view pair = rest.substr(0, rest.find('&'));
    rest.remove_prefix(std::min(rest.size(), pair.size() + 1));
    if (pair.empty()) continue;
    const std::size_t equals = pair.find('=');
    auto name = decode(pair.substr(0, equals), Plus::is_space);
    if (!name) return std::unexpected(name.error());
    auto value = decode(equals == std::string_view::npos ? std::string_view() : pair.substr(equals + 1),
                        Plus::is_space);
    if (!value) return std::unexpected(value.error());
    fields.push_back({std::move(*name), std::move(*value)});
  }
  return fields;
}

}  // namespace postern::control
