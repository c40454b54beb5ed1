#pragma once
// Our own API as a caller of it sees it: for the commands that speak to a server (`postern log`, `postern
// sandbox`). On libcurl; one request at a time. Nothing is sent anywhere but to the server that was named: no
// redirect is followed. What a server answers is bounded, and believed only as far as it was looked at.

#include <cstdint>
#include <expected>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "credential/wiped_string.h"

namespace postern::cli {

struct ServerOptions {
  std::string url;           ///< Empty: POSTERN_URL, LANGSMITH_ENDPOINT, http://127.0.0.1:8080
  std::string api_key_file;  ///< Empty: POSTERN_API_KEY, LANGSMITH_API_KEY
};

/// What became of a command that speaks to a server, as its exit code.
enum class ClientExit : int { done = 0, refused = 1, usage = 2, unreachable = 3 };
inline constexpr const char* client_exits_help =
    "The exit status is 0 when it is done, 1 when the server refuses, 2 for a mistake in the command line, 3 "
    "when "
    "there is no server or no key to ask it with.";

struct ClientFailure {
  /// One entry of the list in which the server names what is wrong with a document.
  struct Mistake {
    std::string where;  ///< "proxy_config.rules[2].name", or empty.
    std::string message;
  };
  ClientExit exit = ClientExit::refused;
  std::string sentence;           ///< Fit for a terminal, as all of this.
  std::vector<Mistake> mistakes;  ///< Usually empty.
};
template <class T>
using Asked = std::expected<T, ClientFailure>;

std::unexpected<ClientFailure> refused(std::string sentence);
std::unexpected<ClientFailure> misused(std::string sentence);

/// A text that a sandbox or a server chose: what a terminal would obey becomes '?'.
std::string printable(std::string_view text);

/// Escaped for a query or a segment of a path (RFC 3986 §2.1).
std::string url_escaped(std::string_view text);

/// A connection to the server on which nothing was said yet: what follows is not HTTP as libcurl speaks it.
class ServerLink {
 public:
  virtual ~ServerLink() = default;
  /// To be polled; may be read before the descriptor says so, as TLS has a buffer of its own.
  virtual int descriptor() const = 0;
  /// How many bytes were moved; 0: the connection is over. nullopt: none now.
  virtual std::optional<std::size_t> read(std::span<char> into) = 0;
  virtual std::optional<std::size_t> write(std::string_view bytes) = 0;
  /// "GET /base/path HTTP/1.1" with Host and the key, without the empty line at its end. To be wiped.
  virtual std::string request_head(const std::string& path) const = 0;
};

class ApiClient {
 public:
  static Asked<ApiClient> open(const ServerOptions& options);
  ApiClient(ApiClient&&) noexcept;
  ApiClient& operator=(ApiClient&&) = delete;
  ~ApiClient();

  enum class Method { post, patch, remove };

  /// The body of a good answer. `path`: "/api/v2/sandboxes/boxes?limit=5".
  Asked<std::string> get(const std::string& path);
  /// `json`: empty for none; read in place and never copied, it may hold a secret.
  Asked<std::string> send(Method method, const std::string& path, std::string_view json = {});

  /// Fills a piece of a body; 0 at its end, nullopt: it cannot be read, and nothing of it counts.
  using Fill = std::function<std::optional<std::size_t>(std::span<char> into)>;
  /// POSTs bytes as they come. `size`: when it is known.
  Asked<std::string> upload(const std::string& path, const Fill& fill, std::optional<std::uint64_t> size);
  /// Takes a piece of a body; false: it cannot be kept.
  using Take = std::function<bool(std::string_view piece)>;
  /// GETs bytes as they come, of a good answer only; failed if they were not all.
  Asked<void> download(const std::string& path, const Take& take);

  /// The data of each server-sent event (`name`: empty for plain ones), until the answer ends.
  using OnEvent = std::function<void(std::string_view name, std::string_view data)>;
  Asked<void> follow(const std::string& path, const OnEvent& on_event);

  Asked<std::unique_ptr<ServerLink>> into_link() &&;

 private:
  struct Handle;
  struct Answer;
  struct Request;
  class Link;
  explicit ApiClient(std::unique_ptr<Handle> handle);
  Asked<void> perform(const std::string& path, const Request& request, Answer& answer);

  std::unique_ptr<Handle> handle_;
};

/// Posts JSON to somebody else's server, one document at a time, on any one thread.
class JsonPoster {
 public:
  struct Answer {
    long status = 0;    ///< 0: there was none.
    std::string body;   ///< The start of it.
    std::string error;  ///< Why there was none.
  };
  /// `url` as it was checked; `fields`: "Name: value" for every request. Errors: libcurl is not there.
  static Asked<JsonPoster> open(std::string url, std::vector<credential::WipedString> fields);
  JsonPoster(JsonPoster&&) noexcept;
  ~JsonPoster();
  Answer post(std::string_view json);

 private:
  struct Handle;
  explicit JsonPoster(std::unique_ptr<Handle> handle);
  std::unique_ptr<Handle> handle_;
};

/// What is wrong, of an answer that is no good one.
ClientFailure failure_of(long status, const std::string& body);

}  // namespace postern::cli
