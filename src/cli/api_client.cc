#include "cli/api_client.h"

#include <cstdlib>
#include <cstring>
#include <curl/curl.h>
#include <dlfcn.h>
#include <fmt/format.h>
#include <fstream>
#include <nlohmann/json.hpp>
#include <utility>

namespace postern::cli {

namespace {

constexpr std::size_t answer_bytes_max = 64 * 1024 * 1024;
constexpr std::size_t event_bytes_max = 8 * 1024 * 1024;
constexpr std::size_t key_bytes_max = 4096;
constexpr long connect_seconds = 10;
constexpr long answer_seconds = 120;
constexpr long silent_seconds = 60;  // a heartbeat comes every 15 s

/// libcurl and the thirty libraries behind it are loaded by the commands that need them: they would cost
/// every `postern run` 12 ms.
struct Curl {
  decltype(&::curl_global_init) global_init = nullptr;
  decltype(&::curl_easy_init) init = nullptr;
  decltype(&::curl_easy_cleanup) cleanup = nullptr;
  decltype(&::curl_easy_perform) perform = nullptr;
  decltype(&::curl_easy_strerror) strerror = nullptr;
  decltype(&::curl_slist_append) append = nullptr;
  decltype(&::curl_slist_free_all) free_all = nullptr;
  // In parentheses: libcurl has macros of these names.
  decltype(&(::curl_easy_setopt)) set = nullptr;
  decltype(&(::curl_easy_getinfo)) get = nullptr;

  bool load() {
    void* const library = ::dlopen("libcurl.so.4", RTLD_NOW | RTLD_LOCAL);
    const auto find = [library](auto& function, const char* name) {
      function = reinterpret_cast<std::remove_reference_t<decltype(function)>>(::dlsym(library, name));
      return function != nullptr;
    };
    return library && find(global_init, "curl_global_init") && find(init, "curl_easy_init") &&
           find(cleanup, "curl_easy_cleanup") && find(perform, "curl_easy_perform") &&
           find(strerror, "curl_easy_strerror") && find(append, "curl_slist_append") &&
           find(free_all, "curl_slist_free_all") && find(set, "curl_easy_setopt") &&
           find(get, "curl_easy_getinfo");
  }
};

std::string first_of(std::initializer_list<const char*> variables, const char* otherwise) {
  for (const char* name : variables)
    if (const char* value = std::getenv(name); value && *value) return value;
  return otherwise;
}

ClientFailure unreachable(std::string sentence) { return {ClientExit::unreachable, std::move(sentence)}; }

Asked<std::string> read_key(const std::string& file) {
  std::string key;
  if (file.empty()) {
    key = first_of({"POSTERN_API_KEY", "LANGSMITH_API_KEY"}, "");
    if (key.empty())
      return std::unexpected(
          unreachable("there is no API key: give --api-key-file FILE or set POSTERN_API_KEY"));
  } else {
    std::ifstream in(file, std::ios::binary);
    key.resize(key_bytes_max);
    in.read(key.data(), static_cast<std::streamsize>(key.size()));
    key.resize(static_cast<std::size_t>(in.gcount()));
    while (!key.empty() && (key.back() == '\n' || key.back() == '\r')) key.pop_back();
    if (key.empty())
      return std::unexpected(unreachable(fmt::format("'{}' cannot be read, or holds no API key", file)));
  }
  for (const char c : key)
    if (c <= ' ' || c > '~') return std::unexpected(unreachable("the API key holds what no key can hold"));
  return key;
}

/// The API's envelope in one sentence.
std::string sentence_of(long status, const std::string& body) {
  const auto document = nlohmann::json::parse(body, nullptr, false);
  std::string said;
  if (document.is_object() && document.contains("detail")) {
    const auto& detail = document["detail"];
    if (detail.is_object() && detail.contains("message") && detail["message"].is_string())
      said = detail["message"].get<std::string>();
    else if (detail.is_array() && !detail.empty() && detail[0].is_object())
      said = detail[0].value("msg", "");
    else if (detail.is_string())
      said = detail.get<std::string>();
  }
  return said.empty() ? fmt::format("the server answered with status {}", status)
                      : fmt::format("the server refuses: {}", printable(said));
}

}  // namespace

std::string printable(std::string_view text) {
  std::string out(text);
  for (char& c : out)
    if (c < ' ' || c > '~') c = '?';
  return out;
}

std::string url_escaped(std::string_view text) {
  std::string out;
  for (const char c : text) {
    const bool plain = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
                       c == '-' || c == '.' || c == '_' || c == '~';
    if (plain)
      out += c;
    else
      out += fmt::format("%{:02X}", static_cast<unsigned char>(c));
  }
  return out;
}

struct ApiClient::Handle {
  Curl api;
  CURL* curl = nullptr;
  curl_slist* fields = nullptr;
  std::string base;
  ~Handle() {
    if (fields) ::explicit_bzero(fields->data, std::strlen(fields->data));  // The key.
    if (fields) api.free_all(fields);
    if (curl) api.cleanup(curl);
  }
};

struct ApiClient::Answer {
  explicit Answer(const Handle& of) : handle(of) {}
  const Handle& handle;
  std::string body;
  const OnEvent* on_event = nullptr;

  static std::size_t on_piece(char* data, std::size_t size, std::size_t count, void* self) {
    return static_cast<Answer*>(self)->take({data, size * count}) ? size * count : 0;
  }
  bool take(std::string_view piece) {
    body += piece;
    long status = 0;
    handle.api.get(handle.curl, CURLINFO_RESPONSE_CODE, &status);
    if (!on_event || status != 200) return body.size() <= answer_bytes_max;
    for (std::size_t end = body.find("\n\n"); end != std::string::npos; end = body.find("\n\n")) {
      tell(std::string_view(body).substr(0, end + 1));
      body.erase(0, end + 2);
    }
    return body.size() <= event_bytes_max;
  }
  /// One event (HTML standard §9.2.6), of which our server needs no more than this.
  void tell(std::string_view event) const {
    std::string_view name, data;
    while (!event.empty()) {
      const std::string_view line = event.substr(0, event.find('\n'));
      event.remove_prefix(line.size() + 1);
      if (line.starts_with("event: ")) name = line.substr(7);
      if (line.starts_with("data: ")) data = line.substr(6);
    }
    if (!data.empty()) (*on_event)(name, data);
  }
};

ApiClient::ApiClient(std::unique_ptr<Handle> handle) : handle_(std::move(handle)) {}
ApiClient::ApiClient(ApiClient&&) noexcept = default;
ApiClient::~ApiClient() = default;

Asked<ApiClient> ApiClient::open(const ServerOptions& options) {
  auto key = read_key(options.api_key_file);
  if (!key) return std::unexpected(std::move(key.error()));
  auto handle = std::make_unique<Handle>();
  handle->base = !options.url.empty()
                     ? options.url
                     : first_of({"POSTERN_URL", "LANGSMITH_ENDPOINT"}, "http://127.0.0.1:8080");
  while (handle->base.ends_with('/')) handle->base.pop_back();
  if (!handle->base.starts_with("http://") && !handle->base.starts_with("https://"))
    return std::unexpected(ClientFailure{
        ClientExit::usage, "--url must begin with http:// or https:// (http://127.0.0.1:8080)"});
  if (!handle->api.load())
    return std::unexpected(unreachable("libcurl.so.4 is not installed (Debian: apt-get install libcurl4)"));
  const Curl& api = handle->api;
  api.global_init(CURL_GLOBAL_DEFAULT);
  handle->curl = api.init();
  std::string field = "X-Api-Key: " + *key;
  handle->fields = api.append(nullptr, field.c_str());
  ::explicit_bzero(field.data(), field.size());
  ::explicit_bzero(key->data(), key->size());
  if (!handle->curl || !handle->fields) return std::unexpected(unreachable("libcurl cannot be used"));
  CURL* curl = handle->curl;
  api.set(curl, CURLOPT_HTTPHEADER, handle->fields);
  api.set(curl, CURLOPT_PROTOCOLS_STR, "http,https");
  api.set(curl, CURLOPT_FOLLOWLOCATION, 0L);  // The key is for this server only.
  api.set(curl, CURLOPT_NOPROXY, "localhost,127.0.0.1,::1");
  api.set(curl, CURLOPT_NOSIGNAL, 1L);
  api.set(curl, CURLOPT_CONNECTTIMEOUT, connect_seconds);
  api.set(curl, CURLOPT_WRITEFUNCTION, &Answer::on_piece);
  return ApiClient(std::move(handle));
}

Asked<void> ApiClient::perform(const std::string& path, Answer& answer) {
  CURL* curl = handle_->curl;
  const Curl& api = handle_->api;
  const std::string url = handle_->base + path;
  api.set(curl, CURLOPT_URL, url.c_str());
  api.set(curl, CURLOPT_WRITEDATA, &answer);
  api.set(curl, CURLOPT_TIMEOUT, answer.on_event ? 0L : answer_seconds);
  api.set(curl, CURLOPT_LOW_SPEED_LIMIT, answer.on_event ? 1L : 0L);
  api.set(curl, CURLOPT_LOW_SPEED_TIME, answer.on_event ? silent_seconds : 0L);
  const CURLcode done = api.perform(curl);
  long status = 0;
  api.get(curl, CURLINFO_RESPONSE_CODE, &status);
  if (done != CURLE_OK)
    return std::unexpected(
        unreachable(fmt::format("no answer from {}: {}", printable(handle_->base), api.strerror(done))));
  if (status / 100 != 2)
    return std::unexpected(ClientFailure{ClientExit::refused, sentence_of(status, answer.body)});
  return {};
}

Asked<std::string> ApiClient::get(const std::string& path) {
  Answer answer(*handle_);
  if (auto done = perform(path, answer); !done) return std::unexpected(std::move(done.error()));
  return std::move(answer.body);
}

Asked<void> ApiClient::follow(const std::string& path, const OnEvent& on_event) {
  Answer answer(*handle_);
  answer.on_event = &on_event;
  return perform(path, answer);
}

}  // namespace postern::cli
