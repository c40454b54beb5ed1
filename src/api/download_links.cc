#include "api/download_links.h"

#include <algorithm>
#include <fmt/format.h>
#include <nlohmann/json.hpp>
#include <utility>

#include "api/body.h"
#include "api/download.h"
#include "api/files.h"

namespace postern::api {

namespace {

using nlohmann::json;
using std::chrono::seconds;

constexpr std::string_view purpose = "download";
constexpr std::size_t body_bytes_max = 64 * 1024;
constexpr std::size_t link_path_bytes_max = 2048;  // stands in a URL
constexpr std::size_t type_bytes_max = 255;
constexpr std::int64_t seconds_max = std::int64_t{10} * 366 * 24 * 3600;

/// What a page may do in its sandbox. None of them gives it an origin, or the window that it is shown in.
constexpr std::string_view harmless_flags[] = {"allow-downloads", "allow-forms", "allow-modals",
                                               "allow-popups", "allow-scripts"};

constexpr std::string_view token_signs = "!#$%&'*+-.^_`|~";

bool is_token(std::string_view text) {
  const auto good = [](char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
           token_signs.find(c) != std::string_view::npos;
  };
  return !text.empty() && std::ranges::all_of(text, good);
}

/// RFC 9110 §8.3.1, and nothing that could end the header.
bool is_media_type(std::string_view text) {
  const std::string_view essence = text.substr(0, text.find_first_of("; "));
  const std::size_t slash = essence.find('/');
  return slash != std::string_view::npos && is_token(essence.substr(0, slash)) &&
         is_token(essence.substr(slash + 1)) &&
         std::ranges::all_of(text, [](char c) { return c >= ' ' && c <= '~'; });
}

/// RFC 6266: the file's name, in characters that mean nothing in a header.
std::string disposition_of(std::string_view kind, std::string_view path) {
  std::string name;
  for (const char c : path.substr(path.rfind('/') + 1)) {
    const bool plain = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
                       c == '.' || c == '-' || c == '_';
    name += plain ? std::string(1, c) : fmt::format("%{:02X}", static_cast<unsigned char>(c));
  }
  return fmt::format("{}; filename*=UTF-8''{}", kind, name);
}

control::ApiError no_link() {
  return control::forbidden("This link is not one of this server's, or it has ended.");
}

json read_link(BodyFields& fields, WallTime now) {
  const auto path = fields.text("path", link_path_bytes_max);
  if (fields.good() && (!path || path->empty())) fields.note("path", "is required");
  const auto lasts = fields.integer("expires_in_seconds", 1, seconds_max);
  const std::string type = fields.text("content_type", type_bytes_max).value_or("application/octet-stream");
  if (!is_media_type(type)) fields.note("content_type", "is no media type");
  const std::string shown = fields.text("content_disposition").value_or("attachment");
  if (shown != "attachment" && shown != "inline")
    fields.note("content_disposition", "must be attachment or inline");
  if (!fields.flag("csp_sandbox").value_or(true))
    fields.note("csp_sandbox", "cannot be off: what a sandbox serves has no origin here");
  std::string flags;
  for (const std::string& flag :
       fields.list("csp_sandbox_flags", std::size(harmless_flags)).value_or(std::vector<std::string>())) {
    if (std::ranges::find(harmless_flags, flag) == std::end(harmless_flags))
      fields.note("csp_sandbox_flags",
                  "may hold allow-downloads, allow-forms, allow-modals, allow-popups and "
                  "allow-scripts only");
    else
      flags += " " + flag;
  }
  if (const auto bundles = fields.list("csp_source_bundles", 16); bundles && !bundles->empty())
    fields.note("csp_source_bundles", "are not known to this server");
  if (!fields.good()) return {};
  const auto end = lasts ? std::chrono::floor<seconds>(now) + seconds(*lasts) : WallTime{};
  return {{"path", *path},
          {"end", std::chrono::duration_cast<seconds>(end.time_since_epoch()).count()},
          {"type", type},
          {"shown", shown},
          {"flags", flags}};
}

}  // namespace

void DownloadLinks::make(const std::shared_ptr<control::Call>& call, const control::Principal& caller,
                         const std::string& origin, BodyFields& fields) const {
  json link = read_link(fields, clock_.wall());
  if (!fields.good()) return call->answer(fields.refusal());
  auto box = boxes_.find({caller.workspace}, call->request().parameter("name"));
  if (!box) return call->answer(std::move(box.error()));
  if (!key_) return call->answer(control::overloaded("The server is sealed: it signs no links."));
  link["workspace"] = caller.workspace;
  link["box"] = box->id;
  const std::int64_t end = link["end"];
  const std::string token = key_->sign(purpose, link.dump(-1, ' ', false, json::error_handler_t::replace));
  const json answer = {{"download_url", fmt::format("{}/downloads?token={}", origin, token)},
                       {"token", token},
                       {"expires_at", end == 0 ? json() : json(date_text(WallTime(seconds(end))))}};
  call->answer(control::json_response(200, answer.dump()));
}

void DownloadLinks::serve(const std::shared_ptr<control::Call>& call) const {
  const std::string* const token = call->request().query_value("token");
  const auto payload = key_ && token ? key_->open(purpose, *token) : std::nullopt;
  if (!payload) return call->answer(no_link());
  const json link = json::parse(*payload);  // We wrote it.
  const std::int64_t end = link.at("end");
  if (end != 0 && clock_.wall() >= WallTime(seconds(end))) return call->answer(no_link());
  const std::string path = link.at("path"), shown = link.at("shown"), flags = link.at("flags");
  FileLook look;
  look.content_type = link.at("type");
  look.fields = {{"Content-Disposition", disposition_of(shown, path)},
                 {"Content-Security-Policy", "sandbox" + flags + "; frame-ancestors 'none'"},
                 {"X-Content-Type-Options", "nosniff"},
                 {"Referrer-Policy", "no-referrer"}};
  const control::Principal holder{link.at("workspace"), control::Scope::read_only, {}};
  call->note_caller(holder.workspace, {});
  download_file(call, door_, holder, link.at("box"), path, std::move(look));
}

std::vector<control::Route> DownloadLinks::making_routes(Identify identify, Origin origin) const {
  // A link outlives the key that asked for it: reading is not enough.
  return {admitting_route(
      "POST", "/boxes/{name}/download-url", std::move(identify), control::Scope::workspace,
      [this, origin](const std::shared_ptr<control::Call>& call, const control::Principal& caller) {
        with_body(call, body_bytes_max, [this, call, origin, caller](BodyFields& fields) {
          make(call, caller, origin(call->request()), fields);
        });
      })};
}

std::vector<control::Route> DownloadLinks::serving_routes() const {
  return {{"GET", "/downloads", [this](const std::shared_ptr<control::Call>& call) { serve(call); }}};
}

}  // namespace postern::api
