#include "wire/url.h"

#include <fmt/format.h>

#include "wire/host.h"
#include "wire/http1.h"

namespace postern::wire {

namespace {

std::unexpected<Error> refuse(std::string why) { return fail(Reason::invalid_configuration, std::move(why)); }

bool is_default_port(const Url& url) { return url.port == (url.tls ? 443 : 80); }

}  // namespace

std::string Url::authority() const {
  const bool six = host.literal && !host.literal->is_v4();
  const std::string name = six ? fmt::format("[{}]", host.name) : host.name;
  return is_default_port(*this) ? name : fmt::format("{}:{}", name, port);
}

std::string Url::origin() const { return fmt::format("{}://{}", tls ? "https" : "http", authority()); }

Result<Url> parse_url(std::string_view text) {
  if (text.size() > url_bytes_max) return refuse(fmt::format("is longer than {} bytes", url_bytes_max));
  Url url;
  url.text = text;
  std::string_view rest = text;
  if (rest.starts_with("https://")) {
    rest.remove_prefix(8);
  } else if (rest.starts_with("http://")) {
    rest.remove_prefix(7);
    url.tls = false;
  } else {
    return refuse("must begin with https:// (or http://, for addresses that the operator opened)");
  }
  if (rest.find('#') != std::string_view::npos) return refuse("must not have a fragment (#...)");
  const std::size_t end = std::min(rest.find_first_of("/?"), rest.size());
  const std::string_view authority_text = rest.substr(0, end);
  if (authority_text.find('@') != std::string_view::npos)
    return refuse("must not have a user or password: give those in a header of type opaque");
  auto authority = parse_authority(authority_text);
  if (!authority) return refuse("has no valid host: " + authority.error().detail);
  url.host = std::move(authority->host);
  url.port = authority->port.value_or(url.tls ? 443 : 80);
  url.target = rest.substr(end);
  if (!url.target.starts_with('/')) url.target.insert(0, "/");
  if (!is_request_target(url.target))
    return refuse("has characters that a URL must write as %XX (spaces, controls, non-ASCII)");
  return url;
}

}  // namespace postern::wire
