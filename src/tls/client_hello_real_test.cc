// The ClientHellos of a real client, read by wire/client_hello.h and by the TLS library's server: both must
// see the same name, however the bytes are cut. Here and not in wire/, which knows no TLS library.

#include <gtest/gtest.h>
#include <memory>
#include <openssl/err.h>
#include <openssl/ssl.h>
#include <string>

#include "wire/client_hello.h"

namespace postern::tls {
namespace {

template <class T, void (*release)(T*)>
struct Free {
  void operator()(T* value) const { release(value); }
};
using SslPtr = std::unique_ptr<SSL, Free<SSL, SSL_free>>;
using SslContextPtr = std::unique_ptr<SSL_CTX, Free<SSL_CTX, SSL_CTX_free>>;

struct Client {
  const char* server_name = "api.example.com";
  std::string alpn = std::string("\x02h2\x08http/1.1");
  int max_version = TLS1_3_VERSION;
  std::size_t share_bytes = 0;  ///< As many bytes as a post-quantum key share adds.
};

constexpr unsigned stand_in_extension = 0xff42;  // private use

int add_share(SSL*, unsigned, unsigned, const unsigned char** out, std::size_t* length, X509*, std::size_t,
              int*, void* bytes) {
  auto* share = static_cast<std::string*>(bytes);
  *out = reinterpret_cast<const unsigned char*>(share->data());
  *length = share->size();
  return 1;
}

std::string first_flight(const Client& wish) {
  SslContextPtr context(SSL_CTX_new(TLS_client_method()));
  std::string share(wish.share_bytes, 'q');
  if (!share.empty()) {
    SSL_CTX_add_custom_ext(context.get(), stand_in_extension, SSL_EXT_CLIENT_HELLO, add_share, nullptr,
                           &share, nullptr, nullptr);
  }
  SSL_CTX_set_max_proto_version(context.get(), wish.max_version);
  SslPtr client(SSL_new(context.get()));
  if (wish.server_name) SSL_set_tlsext_host_name(client.get(), wish.server_name);
  if (!wish.alpn.empty()) {
    SSL_set_alpn_protos(client.get(), reinterpret_cast<const unsigned char*>(wish.alpn.data()),
                        static_cast<unsigned>(wish.alpn.size()));
  }
  BIO* in = BIO_new(BIO_s_mem());
  BIO* out = BIO_new(BIO_s_mem());
  SSL_set_bio(client.get(), in, out);
  SSL_connect(client.get());
  ERR_clear_error();
  char* bytes = nullptr;
  const long length = BIO_get_mem_data(out, &bytes);
  return std::string(bytes, static_cast<std::size_t>(length));
}

/// What the library's server makes of the same bytes: the name, "-" for none, "error" when it refuses them.
int remember_name(SSL* server, int* alert, void* into) {
  (void)alert;
  const unsigned char* body = nullptr;
  std::size_t length = 0;
  auto& name = *static_cast<std::string*>(into);
  name = "-";
  // RFC 6066 §3: list length, type, name length.
  if (SSL_client_hello_get0_ext(server, TLSEXT_TYPE_server_name, &body, &length) == 1 && length > 5) {
    name.assign(reinterpret_cast<const char*>(body) + 5, length - 5);
  }
  return SSL_CLIENT_HELLO_RETRY;  // no further: there is no certificate
}

std::string name_by_the_library(const std::string& bytes) {
  SslContextPtr context(SSL_CTX_new(TLS_server_method()));
  std::string name = "error";
  SSL_CTX_set_client_hello_cb(context.get(), remember_name, &name);
  SslPtr server(SSL_new(context.get()));
  BIO* in = BIO_new(BIO_s_mem());
  BIO_write(in, bytes.data(), static_cast<int>(bytes.size()));
  SSL_set_bio(server.get(), in, BIO_new(BIO_s_mem()));
  SSL_accept(server.get());
  ERR_clear_error();
  return name;
}

wire::ClientHello parsed(const std::string& bytes) {
  auto hello = wire::parse_client_hello(bytes);
  if (!hello || !*hello) {
    ADD_FAILURE() << (hello ? "more bytes are asked for" : hello.error().detail);
    return {};
  }
  return std::move(**hello);
}

/// The same handshake bytes in records of `piece` bytes.
std::string in_records_of(const std::string& flight, std::size_t piece) {
  const std::string message = flight.substr(5);
  std::string out;
  for (std::size_t at = 0; at < message.size(); at += piece) {
    const std::string fragment = message.substr(at, piece);
    out += flight.substr(0, 3);
    out += static_cast<char>(fragment.size() >> 8);
    out += static_cast<char>(fragment.size() & 0xff);
    out += fragment;
  }
  return out;
}

TEST(RealClientHello, SaysWhatTheClientWasToldToAsk) {
  wire::ClientHello hello = parsed(first_flight({}));
  EXPECT_EQ(hello.server_name, "api.example.com");
  EXPECT_EQ(hello.alpn, (std::vector<std::string>{"h2", "http/1.1"}));
  EXPECT_TRUE(hello.tls13);
  EXPECT_FALSE(hello.encrypted_client_hello);
}

TEST(RealClientHello, WithoutNameAlpnOrTls13) {
  wire::ClientHello hello =
      parsed(first_flight({.server_name = nullptr, .alpn = "", .max_version = TLS1_2_VERSION}));
  EXPECT_EQ(hello.server_name, "");
  EXPECT_TRUE(hello.alpn.empty());
  EXPECT_FALSE(hello.tls13);
}

TEST(RealClientHello, OfPostQuantumSizeCutAtEveryByteAsksForMore) {
  const std::string bytes = first_flight({.share_bytes = 1216});  // X25519MLKEM768's client share
  ASSERT_GT(bytes.size(), 1400u) << "more than one segment";
  for (std::size_t size = 0; size < bytes.size(); ++size) {
    auto part = wire::parse_client_hello(std::string_view(bytes).substr(0, size));
    ASSERT_TRUE(part.has_value()) << "after " << size << " bytes: " << part.error().detail;
    ASSERT_FALSE(part->has_value()) << "after " << size << " bytes";
  }
  EXPECT_EQ(parsed(bytes).server_name, "api.example.com");
}

TEST(RealClientHello, SpreadOverRecordsIsReadAsTheLibraryReadsIt) {
  const std::string bytes = first_flight({.share_bytes = 1216});
  for (std::size_t piece : {1u, 2u, 3u, 4u, 5u, 43u, 100u, 512u, 1400u}) {
    const std::string spread = in_records_of(bytes, piece);
    EXPECT_EQ(parsed(spread).server_name, "api.example.com") << "records of " << piece;
    EXPECT_EQ(name_by_the_library(spread), "api.example.com") << "records of " << piece;
  }
}

TEST(RealClientHello, NoFlippedByteMakesTheTwoReadersSeeDifferentNames) {
  const std::string bytes = first_flight({});
  std::size_t accepted = 0;
  std::size_t compared = 0;
  for (std::size_t at = 0; at < bytes.size(); ++at) {
    for (int change : {0x01, 0x02, 0x80, 0xff}) {
      std::string flipped = bytes;
      flipped[at] = static_cast<char>(flipped[at] ^ change);
      auto ours = wire::parse_client_hello(flipped);
      if (!ours || !*ours) continue;
      ++accepted;
      const std::string theirs = name_by_the_library(flipped);
      if (theirs == "error") continue;
      ++compared;
      EXPECT_EQ((*ours)->server_name.empty() ? "-" : (*ours)->server_name, theirs) << at << " ^ " << change;
    }
  }
  EXPECT_GT(accepted, bytes.size()) << "random, session id and names may hold anything";
  EXPECT_GT(compared, bytes.size());
}

}  // namespace
}  // namespace postern::tls
