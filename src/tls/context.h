#pragma once
// What TLS connections of one loop share. Toward the sandbox: a server context without certificates of its
// own (each connection brings its leaf). Toward origins: a verifying client context and a cache of sessions.
// Not thread-safe; one of each per loop. The trust store is loaded once and shared.

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"

struct ssl_ctx_st;
struct ssl_st;
struct ssl_session_st;
struct x509_store_st;
struct x509_st;
struct evp_pkey_st;

namespace postern::tls {

/// The certificates that an origin may chain to. Shared by all loops.
class TrustStore {
 public:
  /// The system's roots plus PEM files. Errors: invalid_configuration, naming the file.
  static Result<TrustStore> load(const std::vector<std::string>& extra_files);
  /// Only the extra files, to complain about them early. Errors as load().
  static Result<void> check(const std::vector<std::string>& extra_files);
  x509_store_st* get() const { return store_.get(); }

 private:
  std::shared_ptr<x509_store_st> store_;
};

/// What is offered, or taken, by ALPN (RFC 7301).
enum class Alpn : std::uint8_t {
  any,    ///< HTTP/2 rather than HTTP/1.1.
  http1,  ///< HTTP/1.1 only; toward the sandbox: rather than HTTP/2.
  http2,  ///< HTTP/2 only.
};

class SandboxContext {
 public:
  SandboxContext();
  ~SandboxContext();
  SandboxContext(const SandboxContext&) = delete;
  SandboxContext& operator=(const SandboxContext&) = delete;

  /// A server-side connection that shows `leaf`. Tickets are bound to `session_scope` (sandbox and host), so
  /// a session of one sandbox is nothing to another. `alpn` chooses from what the client offers; who offers
  /// neither is refused. The caller owns the result (SSL_free).
  ssl_st* new_connection(x509_st* leaf, evp_pkey_st* key, std::string_view session_scope,
                         Alpn alpn = Alpn::any);

 private:
  ssl_ctx_st* context_;
};

class OriginContext {
 public:
  explicit OriginContext(const TrustStore& trust);
  ~OriginContext();
  OriginContext(const OriginContext&) = delete;
  OriginContext& operator=(const OriginContext&) = delete;

  /// A client-side connection that will verify the origin's certificate for `host` (a name or an address),
  /// and resumes the last session with `key` ("host:port") when there is one.
  ssl_st* new_connection(std::string_view host, bool host_is_address, const std::string& key,
                         Alpn alpn = Alpn::any);

 private:
  static int on_new_session(ssl_st* connection, ssl_session_st* session);
  struct Sessions;
  ssl_ctx_st* context_;
  std::unique_ptr<Sessions> sessions_;
};

}  // namespace postern::tls
