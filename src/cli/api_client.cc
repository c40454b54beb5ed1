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
constexpr std::size_t mistakes_max = 50;
constexpr long connect_seconds = 10;
constexpr long answer_seconds = 120;
constexpr long posted_answer_seconds = 10;
constexpr std::size_t posted_answer_bytes_max = 64 * 1024;
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
  decltype(&::curl_easy_send) send = nullptr;
  decltype(&::curl_easy_recv) receive = nullptr;
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
           find(free_all, "curl_slist_free_all") && find(send, "curl_easy_send") &&
           find(receive, "curl_easy_recv") && find(set, "curl_easy_setopt") && find(get, "curl_easy_getinfo");
  }
};

std::string first_of(std::initializer_list<const char*> variables, const char* otherwise) {
  for (const char* name : variables)
    if (const char* value = std::getenv(name); value && *value) return value;
  return otherwise;
}

ClientFailure unreachable(std::string sentence) { return {ClientExit::unreachable, std::move(sentence), {}}; }

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

/// ["body", "proxy_config", "rules", 2, "name"]: "proxy_config.rules[2].name"
std::string place_of(const nlohmann::json& entry) {
  std::string place;
  const auto found = entry.find("loc");
  if (found == entry.end() || !found->is_array()) return place;
  for (std::size_t i = 0; i < found->size(); ++i) {
    const auto& step = (*found)[i];
    if (step.is_number_unsigned()) place += fmt::format("[{}]", step.get<std::size_t>());
    if (!step.is_string() || (i == 0 && step == "body")) continue;
    if (!place.empty()) place += '.';
    place += step.get_ref<const std::string&>();
  }
  return printable(place);
}

std::vector<ClientFailure::Mistake> mistakes_of(const nlohmann::json& list) {
  std::vector<ClientFailure::Mistake> mistakes;
  for (const auto& entry : list) {
    if (!entry.is_object() || mistakes.size() == mistakes_max) continue;
    const auto message = entry.find("msg");
    if (message == entry.end() || !message->is_string()) continue;
    mistakes.push_back({place_of(entry), printable(message->get_ref<const std::string&>())});
  }
  return mistakes;
}

/// A request's head fields, of which one is the key.
class HeadFields {
 public:
  explicit HeadFields(const Curl& api) : api_(api) {}
  ~HeadFields() {
    for (const curl_slist* at = list_; at; at = at->next) ::explicit_bzero(at->data, std::strlen(at->data));
    if (list_) api_.free_all(list_);
  }
  HeadFields(const HeadFields&) = delete;
  void add(const char* line) {
    if (curl_slist* longer = api_.append(list_, line)) list_ = longer;
  }
  curl_slist* list() const { return list_; }

 private:
  const Curl& api_;
  curl_slist* list_ = nullptr;
};

}  // namespace

ClientFailure failure_of(long status, const std::string& body) {
  // What nests deeper is no answer of ours, and would be walked through by recursion.
  const auto shallow = [](int depth, nlohmann::json::parse_event_t, nlohmann::json&) { return depth <= 8; };
  const auto document = nlohmann::json::parse(body, shallow, false);
  ClientFailure failure;
  std::string said;
  if (document.is_object() && document.contains("detail")) {
    const auto& detail = document["detail"];
    if (detail.is_object() && detail.contains("message") && detail["message"].is_string())
      said = detail["message"].get<std::string>();
    else if (detail.is_array())
      failure.mistakes = mistakes_of(detail);
    else if (detail.is_string())
      said = detail.get<std::string>();
  }
  if (!failure.mistakes.empty()) {
    const auto& [where, message] = failure.mistakes.front();
    said = where.empty() ? message : where + ": " + message;
  }
  failure.sentence = said.empty() ? fmt::format("the server answered with status {}", status)
                                  : fmt::format("the server refuses: {}", printable(said));
  return failure;
}

std::unexpected<ClientFailure> refused(std::string sentence) {
  return std::unexpected(ClientFailure{ClientExit::refused, std::move(sentence), {}});
}

std::unexpected<ClientFailure> misused(std::string sentence) {
  return std::unexpected(ClientFailure{ClientExit::usage, std::move(sentence), {}});
}

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
  std::string key_field;  ///< "X-Api-Key: ..."
  std::string base;
  ~Handle() {
    ::explicit_bzero(key_field.data(), key_field.size());
    if (curl) api.cleanup(curl);
  }
};

struct ApiClient::Request {
  const char* method = "GET";
  const char* content_type = nullptr;  ///< There is a body.
  std::string_view body = {};
  const Fill* fill = nullptr;  ///< Instead of `body`.
  std::optional<std::uint64_t> size = {};
};

struct ApiClient::Answer {
  explicit Answer(const Handle& of) : handle(of) {}
  const Handle& handle;
  std::string body;
  const OnEvent* on_event = nullptr;
  const Take* take_piece = nullptr;
  const Fill* fill = nullptr;
  bool unkept = false;

  static std::size_t on_piece(char* data, std::size_t size, std::size_t count, void* self) {
    return static_cast<Answer*>(self)->take({data, size * count}) ? size * count : 0;
  }
  static std::size_t on_room(char* data, std::size_t size, std::size_t count, void* self) {
    auto& answer = *static_cast<Answer*>(self);
    const auto filled = answer.fill ? (*answer.fill)({data, size * count}) : std::size_t{0};
    answer.unkept |= !filled;
    return filled ? *filled : CURL_READFUNC_ABORT;
  }
  bool take(std::string_view piece) {
    long status = 0;
    handle.api.get(handle.curl, CURLINFO_RESPONSE_CODE, &status);
    if (take_piece && status == 200) {
      unkept = !(*take_piece)(piece);
      return !unkept;
    }
    body += piece;
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
  // The SDKs bear them, too.
  for (const std::string_view end : {"/api/v1", "/api"})
    if (handle->base.ends_with(end)) handle->base.erase(handle->base.size() - end.size());
  if (!handle->base.starts_with("http://") && !handle->base.starts_with("https://"))
    return misused("--url must begin with http:// or https:// (http://127.0.0.1:8080)");
  if (handle->base.find_first_of("@?#") != std::string::npos)
    return misused("--url must be no more than scheme, host and path (http://127.0.0.1:8080)");
  if (!handle->api.load())
    return std::unexpected(unreachable("libcurl.so.4 is not installed (Debian: apt-get install libcurl4)"));
  const Curl& api = handle->api;
  api.global_init(CURL_GLOBAL_DEFAULT);
  handle->curl = api.init();
  handle->key_field = "X-Api-Key: " + *key;
  ::explicit_bzero(key->data(), key->size());
  if (!handle->curl) return std::unexpected(unreachable("libcurl cannot be used"));
  CURL* curl = handle->curl;
  api.set(curl, CURLOPT_PROTOCOLS_STR, "http,https");
  api.set(curl, CURLOPT_FOLLOWLOCATION, 0L);  // The key is for this server only.
  api.set(curl, CURLOPT_NOPROXY, "localhost,127.0.0.1,::1");
  api.set(curl, CURLOPT_NOSIGNAL, 1L);
  api.set(curl, CURLOPT_CONNECTTIMEOUT, connect_seconds);
  api.set(curl, CURLOPT_WRITEFUNCTION, &Answer::on_piece);
  api.set(curl, CURLOPT_READFUNCTION, &Answer::on_room);
  return ApiClient(std::move(handle));
}

Asked<void> ApiClient::perform(const std::string& path, const Request& request, Answer& answer) {
  CURL* curl = handle_->curl;
  const Curl& api = handle_->api;
  const std::string url = handle_->base + path;
  HeadFields fields(api);
  fields.add(handle_->key_field.c_str());
  fields.add("Expect:");
  if (request.content_type) fields.add(request.content_type);
  if (request.fill && !request.size) fields.add("Transfer-Encoding: chunked");
  api.set(curl, CURLOPT_URL, url.c_str());
  api.set(curl, CURLOPT_HTTPHEADER, fields.list());
  api.set(curl, CURLOPT_HTTPGET, 1L);  // Undoes what an earlier request had of a body.
  if (request.content_type) {
    api.set(curl, CURLOPT_POST, 1L);
    api.set(curl, CURLOPT_POSTFIELDS, request.fill ? nullptr : request.body.data());
    api.set(curl, CURLOPT_POSTFIELDSIZE_LARGE,
            request.fill ? static_cast<curl_off_t>(request.size ? static_cast<curl_off_t>(*request.size) : -1)
                         : static_cast<curl_off_t>(request.body.size()));
  }
  api.set(curl, CURLOPT_CUSTOMREQUEST, request.method);
  answer.fill = request.fill;
  api.set(curl, CURLOPT_READDATA, &answer);
  api.set(curl, CURLOPT_WRITEDATA, &answer);
  const bool streams = answer.on_event || answer.take_piece || request.fill;
  api.set(curl, CURLOPT_TIMEOUT, streams ? 0L : answer_seconds);
  api.set(curl, CURLOPT_LOW_SPEED_LIMIT, streams ? 1L : 0L);
  api.set(curl, CURLOPT_LOW_SPEED_TIME, streams ? silent_seconds : 0L);
  const CURLcode done = api.perform(curl);
  api.set(curl, CURLOPT_HTTPHEADER, nullptr);
  long status = 0;
  api.get(curl, CURLINFO_RESPONSE_CODE, &status);
  if (answer.unkept) return refused("it was given up");  // Whoever gave it up knows better words.
  // A server that refuses an upload need not read it to its end.
  if (done != CURLE_OK && !(done == CURLE_SEND_ERROR && status / 100 >= 4))
    return std::unexpected(
        unreachable(fmt::format("no answer from {}: {}", printable(handle_->base), api.strerror(done))));
  if (status / 100 != 2) return std::unexpected(failure_of(status, answer.body));
  return {};
}

Asked<std::string> ApiClient::get(const std::string& path) {
  Answer answer(*handle_);
  if (auto done = perform(path, {}, answer); !done) return std::unexpected(std::move(done.error()));
  return std::move(answer.body);
}

Asked<std::string> ApiClient::send(Method method, const std::string& path, std::string_view json) {
  Answer answer(*handle_);
  Request request;
  request.method = method == Method::post ? "POST" : method == Method::patch ? "PATCH" : "DELETE";
  request.body = json;
  if (!json.empty() || method != Method::remove) request.content_type = "Content-Type: application/json";
  if (json.empty() && method != Method::remove) request.body = "{}";
  if (auto done = perform(path, request, answer); !done) return std::unexpected(std::move(done.error()));
  return std::move(answer.body);
}

Asked<std::string> ApiClient::upload(const std::string& path, const Fill& fill,
                                     std::optional<std::uint64_t> size) {
  Answer answer(*handle_);
  Request request;
  request.method = "POST";
  request.content_type = "Content-Type: application/octet-stream";
  request.fill = &fill;
  request.size = size;
  if (auto done = perform(path, request, answer); !done) return std::unexpected(std::move(done.error()));
  return std::move(answer.body);
}

Asked<void> ApiClient::download(const std::string& path, const Take& take) {
  Answer answer(*handle_);
  answer.take_piece = &take;
  return perform(path, {}, answer);
}

Asked<void> ApiClient::follow(const std::string& path, const OnEvent& on_event) {
  Answer answer(*handle_);
  answer.on_event = &on_event;
  return perform(path, {}, answer);
}

class ApiClient::Link final : public ServerLink {
 public:
  Link(std::unique_ptr<Handle> handle, int descriptor)
      : handle_(std::move(handle)), descriptor_(descriptor) {}

  int descriptor() const override { return descriptor_; }
  std::optional<std::size_t> read(std::span<char> into) override {
    std::size_t moved = 0;
    const CURLcode done = handle_->api.receive(handle_->curl, into.data(), into.size(), &moved);
    return done == CURLE_AGAIN ? std::nullopt : std::optional(done == CURLE_OK ? moved : 0);
  }
  std::optional<std::size_t> write(std::string_view bytes) override {
    std::size_t moved = 0;
    const CURLcode done = handle_->api.send(handle_->curl, bytes.data(), bytes.size(), &moved);
    if (done == CURLE_AGAIN || (done == CURLE_OK && moved == 0)) return std::nullopt;
    return done == CURLE_OK ? moved : 0;
  }
  std::string request_head(const std::string& path) const override {
    std::string_view rest(handle_->base);
    rest.remove_prefix(rest.find("://") + 3);
    const std::string_view authority = rest.substr(0, rest.find('/'));
    return fmt::format("GET {}{} HTTP/1.1\r\nHost: {}\r\n{}\r\n", rest.substr(authority.size()), path,
                       authority, handle_->key_field);
  }

 private:
  std::unique_ptr<Handle> handle_;
  const int descriptor_;
};

Asked<std::unique_ptr<ServerLink>> ApiClient::into_link() && {
  CURL* curl = handle_->curl;
  const Curl& api = handle_->api;
  api.set(curl, CURLOPT_URL, handle_->base.c_str());
  api.set(curl, CURLOPT_CONNECT_ONLY, 1L);
  api.set(curl, CURLOPT_HTTPPROXYTUNNEL, 1L);
  api.set(curl, CURLOPT_SSL_ENABLE_ALPN, 0L);  // HTTP/1.1
  api.set(curl, CURLOPT_TIMEOUT, answer_seconds);
  const CURLcode done = api.perform(curl);
  curl_socket_t descriptor = CURL_SOCKET_BAD;
  api.get(curl, CURLINFO_ACTIVESOCKET, &descriptor);
  if (done != CURLE_OK || descriptor == CURL_SOCKET_BAD)
    return std::unexpected(
        unreachable(fmt::format("no answer from {}: {}", printable(handle_->base), api.strerror(done))));
  return std::make_unique<Link>(std::move(handle_), descriptor);
}

struct JsonPoster::Handle {
  Curl api;
  CURL* curl = nullptr;
  std::string url;
  std::vector<credential::WipedString> fields;
  std::string answer;
  ~Handle() {
    if (curl) api.cleanup(curl);
  }
  static std::size_t on_piece(char* data, std::size_t size, std::size_t count, void* self) {
    std::string& answer = static_cast<Handle*>(self)->answer;
    if (answer.size() < posted_answer_bytes_max) answer.append(data, size * count);
    return size * count;
  }
};

JsonPoster::JsonPoster(std::unique_ptr<Handle> handle) : handle_(std::move(handle)) {}
JsonPoster::JsonPoster(JsonPoster&&) noexcept = default;
JsonPoster::~JsonPoster() = default;

Asked<JsonPoster> JsonPoster::open(std::string url, std::vector<credential::WipedString> fields) {
  auto handle = std::make_unique<Handle>();
  handle->url = std::move(url);
  handle->fields = std::move(fields);
  if (!handle->api.load())
    return std::unexpected(unreachable("libcurl.so.4 is not installed (Debian: apt-get install libcurl4)"));
  const Curl& api = handle->api;
  api.global_init(CURL_GLOBAL_DEFAULT);
  CURL* curl = handle->curl = api.init();
  if (!curl) return std::unexpected(unreachable("libcurl cannot be used"));
  api.set(curl, CURLOPT_URL, handle->url.c_str());
  api.set(curl, CURLOPT_PROTOCOLS_STR, "http,https");
  api.set(curl, CURLOPT_FOLLOWLOCATION, 0L);  // The fields are for this server only.
  api.set(curl, CURLOPT_NOPROXY, "localhost,127.0.0.1,::1");
  api.set(curl, CURLOPT_NOSIGNAL, 1L);
  api.set(curl, CURLOPT_POST, 1L);
  api.set(curl, CURLOPT_CONNECTTIMEOUT, connect_seconds);
  api.set(curl, CURLOPT_TIMEOUT, posted_answer_seconds);
  api.set(curl, CURLOPT_WRITEFUNCTION, &Handle::on_piece);
  api.set(curl, CURLOPT_WRITEDATA, handle.get());
  return JsonPoster(std::move(handle));
}

JsonPoster::Answer JsonPoster::post(std::string_view json) {
  const Curl& api = handle_->api;
  CURL* curl = handle_->curl;
  handle_->answer.clear();
  HeadFields fields(api);
  fields.add("Content-Type: application/json");
  fields.add("Expect:");
  for (credential::WipedString& field : handle_->fields) fields.add(field.bytes().c_str());
  api.set(curl, CURLOPT_HTTPHEADER, fields.list());
  api.set(curl, CURLOPT_POSTFIELDS, json.data());
  api.set(curl, CURLOPT_POSTFIELDSIZE_LARGE, static_cast<curl_off_t>(json.size()));
  const CURLcode done = api.perform(curl);
  api.set(curl, CURLOPT_HTTPHEADER, nullptr);
  Answer answer;
  if (done == CURLE_OK)
    api.get(curl, CURLINFO_RESPONSE_CODE, &answer.status);
  else
    answer.error = api.strerror(done);
  answer.body = std::move(handle_->answer);
  return answer;
}

}  // namespace postern::cli
