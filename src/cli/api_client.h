#pragma once
// Our own API as a caller of it sees it: for the commands that speak to a server (`postern log`). On libcurl;
// one request at a time.

#include <expected>
#include <functional>
#include <memory>
#include <string>
#include <string_view>

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
  ClientExit exit = ClientExit::refused;
  std::string sentence;  ///< Fit for a terminal.
};
template <class T>
using Asked = std::expected<T, ClientFailure>;

/// A text that a sandbox or a server chose: what a terminal would obey becomes '?'.
std::string printable(std::string_view text);

/// Escaped for a query or a segment of a path (RFC 3986 §2.1).
std::string url_escaped(std::string_view text);

class ApiClient {
 public:
  static Asked<ApiClient> open(const ServerOptions& options);
  ApiClient(ApiClient&&) noexcept;
  ApiClient& operator=(ApiClient&&) = delete;
  ~ApiClient();

  /// The body of a good answer. `path`: "/api/v2/sandboxes/boxes?limit=5".
  Asked<std::string> get(const std::string& path);
  /// The data of each server-sent event (`name`: empty for plain ones), until the answer ends.
  using OnEvent = std::function<void(std::string_view name, std::string_view data)>;
  Asked<void> follow(const std::string& path, const OnEvent& on_event);

 private:
  struct Handle;
  struct Answer;
  explicit ApiClient(std::unique_ptr<Handle> handle);
  Asked<void> perform(const std::string& path, Answer& answer);

  std::unique_ptr<Handle> handle_;
};

}  // namespace postern::cli
