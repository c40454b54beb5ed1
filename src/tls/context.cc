#include "tls/context.h"

#include <cstdlib>
#include <filesystem>
#include <openssl/err.h>
#include <openssl/sha.h>
#include <openssl/ssl.h>
#include <openssl/x509v3.h>
#include <unordered_map>

namespace postern::tls {

namespace {

constexpr std::size_t sessions_max = 4096;  // about 2 KiB each; beyond it all are dropped and made anew

SSL_CTX* must(SSL_CTX* context) {
  if (!context) std::abort();  // Out of memory at start-up.
  return context;
}

void configure(SSL_CTX* context) {
  SSL_CTX_set_min_proto_version(context, TLS1_2_VERSION);
  SSL_CTX_set_mode(context, SSL_MODE_RELEASE_BUFFERS | SSL_MODE_ENABLE_PARTIAL_WRITE |
                                SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER);
  SSL_CTX_set_options(context, SSL_OP_NO_COMPRESSION | SSL_OP_NO_RENEGOTIATION);
  // As strong as anybody asks for, and the cheapest: AES-128 before AES-256, and SHA-256, for which
  // processors have instructions, before SHA-384, which was a sixth of a handshake.
  if (SSL_CTX_set_ciphersuites(context,
                               "TLS_AES_128_GCM_SHA256:TLS_AES_256_GCM_SHA384:"
                               "TLS_CHACHA20_POLY1305_SHA256") != 1)
    std::abort();
  SSL_CTX_set_read_ahead(context, 1);
}

// In the wire form of RFC 7301 §3.1, in the order of preference.
std::string_view protocols(Alpn alpn) {
  switch (alpn) {
    case Alpn::any: return {"\x02h2\x08http/1.1", 12};
    case Alpn::http1: return {"\x08http/1.1", 9};
    case Alpn::http2: return {"\x02h2", 3};
  }
  return {};
}

// Each server connection carries its preference.
const void* const prefers_http1 = "HTTP/1.1 first";

int select_alpn(SSL* connection, const unsigned char** out, unsigned char* out_length,
                const unsigned char* in, unsigned in_length, void*) {
  const bool http1_first = SSL_get_app_data(connection) == prefers_http1;
  const std::string_view ours =
      http1_first ? std::string_view("\x08http/1.1\x02h2", 12) : protocols(Alpn::any);
  unsigned char* chosen = nullptr;
  if (SSL_select_next_proto(&chosen, out_length, reinterpret_cast<const unsigned char*>(ours.data()),
                            static_cast<unsigned>(ours.size()), in, in_length) != OPENSSL_NPN_NEGOTIATED)
    return SSL_TLSEXT_ERR_ALERT_FATAL;
  *out = chosen;
  return SSL_TLSEXT_ERR_OK;
}

}  // namespace

namespace {

Result<void> load_files(X509_STORE* store, const std::vector<std::string>& files) {
  for (const std::string& file : files)
    if (X509_STORE_load_file(store, file.c_str()) != 1) {
      ERR_clear_error();
      return fail(Reason::invalid_configuration, "'" + file + "' holds no readable PEM certificate");
    }
  ERR_clear_error();
  return {};
}

// The directory form of the system's roots (<hash>.0) is read certificate by certificate when one is needed;
// the bundle file takes 17 ms to parse, whoever is asked for.
bool is_default(const char* variable, const char* standard) {
  const char* value = std::getenv(variable);
  std::error_code error;
  return !value || std::filesystem::equivalent(value, standard, error);
}

bool use_hashed_directory(X509_STORE* store) {
  if (!is_default(X509_get_default_cert_file_env(), X509_get_default_cert_file()) ||
      !is_default(X509_get_default_cert_dir_env(), X509_get_default_cert_dir()))
    return false;
  const char* directory = X509_get_default_cert_dir();
  std::error_code error;
  for (const auto& entry : std::filesystem::directory_iterator(directory, error)) {
    if (entry.path().extension() != ".0") continue;
    X509_LOOKUP* lookup = X509_STORE_add_lookup(store, X509_LOOKUP_hash_dir());
    return lookup && X509_LOOKUP_add_dir(lookup, directory, X509_FILETYPE_PEM) == 1;
  }
  return false;
}

}  // namespace

Result<TrustStore> TrustStore::load(const std::vector<std::string>& extra_files) {
  TrustStore trust;
  trust.store_ = std::shared_ptr<X509_STORE>(X509_STORE_new(), X509_STORE_free);
  if (!trust.store_) return fail(Reason::internal, "out of memory");
  if (!use_hashed_directory(trust.store_.get())) X509_STORE_set_default_paths(trust.store_.get());
  ERR_clear_error();
  if (auto loaded = load_files(trust.store_.get(), extra_files); !loaded)
    return std::unexpected(std::move(loaded.error()));
  return trust;
}

Result<void> TrustStore::check(const std::vector<std::string>& extra_files) {
  const std::unique_ptr<X509_STORE, decltype(&X509_STORE_free)> store(X509_STORE_new(), X509_STORE_free);
  if (!store) return fail(Reason::internal, "out of memory");
  return load_files(store.get(), extra_files);
}

SandboxContext::SandboxContext() : context_(must(SSL_CTX_new(TLS_server_method()))) {
  configure(context_);
  SSL_CTX_set_options(context_, SSL_OP_CIPHER_SERVER_PREFERENCE | SSL_OP_PRIORITIZE_CHACHA);
  SSL_CTX_set_num_tickets(context_, 1);
  SSL_CTX_set_session_cache_mode(context_, SSL_SESS_CACHE_OFF);  // tickets only: no table to fill
  SSL_CTX_set_max_early_data(context_, 0);                       // a replayed request is a second request
  SSL_CTX_set_alpn_select_cb(context_, select_alpn, nullptr);
}

SandboxContext::~SandboxContext() { SSL_CTX_free(context_); }

ssl_st* SandboxContext::new_connection(x509_st* leaf, evp_pkey_st* key, std::string_view session_scope,
                                       Alpn alpn) {
  SSL* connection = SSL_new(context_);
  if (!connection) return nullptr;
  if (alpn == Alpn::http1) SSL_set_app_data(connection, const_cast<void*>(prefers_http1));
  unsigned char scope[SHA256_DIGEST_LENGTH];
  SHA256(reinterpret_cast<const unsigned char*>(session_scope.data()), session_scope.size(), scope);
  if (SSL_use_certificate(connection, leaf) != 1 || SSL_use_PrivateKey(connection, key) != 1 ||
      SSL_set_session_id_context(connection, scope, sizeof scope) != 1) {
    ERR_clear_error();
    SSL_free(connection);
    return nullptr;
  }
  SSL_set_accept_state(connection);
  return connection;
}

struct OriginContext::Sessions {
  std::unordered_map<std::string, SSL_SESSION*> by_key;

  ~Sessions() { clear(); }
  void clear() {
    for (auto& [key, session] : by_key) SSL_SESSION_free(session);
    by_key.clear();
  }
  void put(const std::string& key, SSL_SESSION* session) {
    if (by_key.size() >= sessions_max && !by_key.contains(key)) clear();
    SSL_SESSION*& slot = by_key[key];
    if (slot) SSL_SESSION_free(slot);
    slot = session;
  }
  SSL_SESSION* find(const std::string& key) const {
    const auto at = by_key.find(key);
    return at == by_key.end() ? nullptr : at->second;
  }
};

namespace {

// Each connection carries the key under which its sessions are kept.
int key_index() {
  static const int index = SSL_get_ex_new_index(
      0, nullptr, nullptr, nullptr,
      [](void*, void* key, CRYPTO_EX_DATA*, int, long, void*) { delete static_cast<std::string*>(key); });
  return index;
}

}  // namespace

int OriginContext::on_new_session(ssl_st* connection, ssl_session_st* session) {
  auto* sessions = static_cast<Sessions*>(SSL_CTX_get_app_data(SSL_get_SSL_CTX(connection)));
  const auto* key = static_cast<const std::string*>(SSL_get_ex_data(connection, key_index()));
  if (!key || SSL_get_verify_result(connection) != X509_V_OK) return 0;
  sessions->put(*key, session);
  return 1;  // The reference is ours now.
}

OriginContext::OriginContext(const TrustStore& trust)
    : context_(must(SSL_CTX_new(TLS_client_method()))), sessions_(std::make_unique<Sessions>()) {
  configure(context_);
  SSL_CTX_set1_cert_store(context_, trust.get());
  SSL_CTX_set_verify(context_, SSL_VERIFY_PEER, nullptr);
  SSL_CTX_set_session_cache_mode(context_, SSL_SESS_CACHE_CLIENT | SSL_SESS_CACHE_NO_INTERNAL);
  SSL_CTX_set_app_data(context_, sessions_.get());
  SSL_CTX_sess_set_new_cb(context_, &OriginContext::on_new_session);
}

OriginContext::~OriginContext() { SSL_CTX_free(context_); }

ssl_st* OriginContext::new_connection(std::string_view host, bool host_is_address, const std::string& key,
                                      Alpn alpn) {
  SSL* connection = SSL_new(context_);
  if (!connection) return nullptr;
  const std::string name(host);
  X509_VERIFY_PARAM* verify = SSL_get0_param(connection);
  X509_VERIFY_PARAM_set_hostflags(verify,
                                  X509_CHECK_FLAG_NO_PARTIAL_WILDCARDS | X509_CHECK_FLAG_NEVER_CHECK_SUBJECT);
  // RFC 9525: the name that was asked for, in the certificate's subject alternative names.
  const bool bound = host_is_address ? X509_VERIFY_PARAM_set1_ip_asc(verify, name.c_str()) == 1
                                     : X509_VERIFY_PARAM_set1_host(verify, name.data(), name.size()) == 1 &&
                                           SSL_set_tlsext_host_name(connection, name.c_str()) == 1;
  if (!bound) {
    ERR_clear_error();
    SSL_free(connection);
    return nullptr;
  }
  const std::string_view offered = protocols(alpn);
  SSL_set_alpn_protos(connection, reinterpret_cast<const unsigned char*>(offered.data()),
                      static_cast<unsigned>(offered.size()));
  SSL_set_ex_data(connection, key_index(), new std::string(key));
  if (SSL_SESSION* session = sessions_->find(key)) SSL_set_session(connection, session);
  SSL_set_connect_state(connection);
  return connection;
}

}  // namespace postern::tls
