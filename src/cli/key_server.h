#pragma once
// The small listener for what programs beside us come to read: the keys that questions for credentials are
// signed with, and metrics.

#include <functional>
#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "base/fd.h"
#include "base/result.h"
#include "io/loop.h"

namespace postern::cli {

/// Serves a few documents over HTTP/1.1, on a thread of its own: whoever asks it cannot hold up a
/// sandbox.
class KeyServer {
 public:
  static constexpr std::size_t connections_max = 64;
  static constexpr std::chrono::seconds request_time{5};

  /// Listens on ADDRESS:PORT, IPv6 in brackets; port 0 takes any. Errors: invalid_configuration.
  /// `option`: who asked for it, for the sentence.
  static Result<std::unique_ptr<KeyServer>> listen(const std::string& address, const std::string& option);
  ~KeyServer();
  KeyServer(const KeyServer&) = delete;

  /// Before start(). `path`: "/.well-known/jwks.json" (RFC 7517 §5) and its like.
  void publish(std::string path, std::string document) {
    publish(std::move(path), "application/json", 300, [document = std::move(document)] { return document; });
  }
  /// One that is made for each reader, on this listener's thread.
  void publish(std::string path, std::string type, int max_age_seconds, std::function<std::string()> make) {
    documents_.push_back({std::move(path), std::move(type), max_age_seconds, std::move(make)});
  }

  /// Starts the thread; who connected before is served then. Once.
  void start();

  /// "http://127.0.0.1:8090"
  const std::string& origin() const { return origin_; }

 private:
  KeyServer(Fd listening, std::string origin);
  struct Document {
    std::string path, type;
    int max_age_seconds;
    std::function<std::string()> make;
  };
  const Document* document_at(std::string_view path) const;
  void run();
  io::Task<void> serve(Fd accepted);

  SystemClock clock_;
  Fd listening_;
  std::string origin_;
  std::vector<Document> documents_;
  io::Loop loop_;
  std::size_t open_ = 0;
  std::thread thread_;
};

}  // namespace postern::cli
