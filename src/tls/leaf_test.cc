#include "tls/leaf.h"

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <gtest/gtest.h>
#include <openssl/err.h>
#include <openssl/pem.h>
#include <openssl/ssl.h>
#include <openssl/x509v3.h>
#include <string>

#include "model/address.h"
#include "tls/context.h"

namespace postern::tls {
namespace {

namespace fs = std::filesystem;
using std::chrono::hours;
using std::chrono::system_clock;

template <class T, void (*release)(T*)>
struct Free {
  void operator()(T* value) const { release(value); }
};
using SslPtr = std::unique_ptr<SSL, Free<SSL, SSL_free>>;
using SslContextPtr = std::unique_ptr<SSL_CTX, Free<SSL_CTX, SSL_CTX_free>>;
using StorePtr = std::unique_ptr<X509_STORE, Free<X509_STORE, X509_STORE_free>>;
using StoreContextPtr = std::unique_ptr<X509_STORE_CTX, Free<X509_STORE_CTX, X509_STORE_CTX_free>>;

class LeafTest : public testing::Test {
 protected:
  LeafTest() : root_(make_root()), ca_(load(root_, now_)), minter_(LeafMinter::create(ca_).value()) {}
  ~LeafTest() override { fs::remove_all(root_); }

  static std::string make_root() {
    std::string pattern = (fs::temp_directory_path() / "postern-leaf-XXXXXX").string();
    return mkdtemp(pattern.data());
  }
  static WorkspaceCa load(const std::string& directory, WallTime now) {
    return WorkspaceCa::load_or_create(directory, now).value();
  }
  CertificatePtr mint(std::string_view host) {
    return std::move(minter_.leaf_for(host, now_).value().certificate);
  }

  /// X509_V_OK or why a strict client refuses the leaf for `host` at `when`. The leaf is encoded and read
  /// again first, as a client reads it.
  int verdict(X509* leaf, const std::string& host, WallTime when) {
    unsigned char* der = nullptr;
    const int length = i2d_X509(leaf, &der);
    const unsigned char* at = der;
    CertificatePtr received(d2i_X509(nullptr, &at, length));
    OPENSSL_free(der);
    if (!received) return -1;
    StorePtr store(X509_STORE_new());
    X509_STORE_add_cert(store.get(), ca_.certificate());
    StoreContextPtr context(X509_STORE_CTX_new());
    X509_STORE_CTX_init(context.get(), store.get(), received.get(), nullptr);
    X509_VERIFY_PARAM* wish = X509_STORE_CTX_get0_param(context.get());
    X509_VERIFY_PARAM_set_flags(wish, X509_V_FLAG_X509_STRICT | X509_V_FLAG_CHECK_SS_SIGNATURE);
    X509_VERIFY_PARAM_set_purpose(wish, X509_PURPOSE_SSL_SERVER);
    X509_VERIFY_PARAM_set_auth_level(wish, 2);
    X509_VERIFY_PARAM_set_time(wish, system_clock::to_time_t(when));
    if (IpAddress::parse(host)) {
      X509_VERIFY_PARAM_set1_ip_asc(wish, host.c_str());
    } else {
      X509_VERIFY_PARAM_set1_host(wish, host.data(), host.size());
    }
    X509_verify_cert(context.get());
    const int error = X509_STORE_CTX_get_error(context.get());
    ERR_clear_error();
    return error;
  }
  int verdict(X509* leaf, const std::string& host) { return verdict(leaf, host, now_); }

  WallTime now_ = std::chrono::time_point_cast<std::chrono::seconds>(system_clock::now());
  std::string root_;
  WorkspaceCa ca_;
  LeafMinter minter_;
};

bool is_critical(X509* certificate, int nid) {
  int at = X509_get_ext_by_NID(certificate, nid, -1);
  return at >= 0 && X509_EXTENSION_get_critical(X509_get_ext(certificate, at)) == 1;
}

WallTime time_of(const ASN1_TIME* time) {
  std::tm parts{};
  EXPECT_EQ(ASN1_TIME_to_tm(time, &parts), 1);
  return system_clock::from_time_t(timegm(&parts));
}

/// "dns:NAME" or "ip:BYTES", one per alternative name.
std::vector<std::string> alternative_names(X509* certificate) {
  std::vector<std::string> names;
  auto* list =
      static_cast<GENERAL_NAMES*>(X509_get_ext_d2i(certificate, NID_subject_alt_name, nullptr, nullptr));
  for (int i = 0; i < sk_GENERAL_NAME_num(list); ++i) {
    int type = 0;
    auto* value = static_cast<ASN1_STRING*>(GENERAL_NAME_get0_value(sk_GENERAL_NAME_value(list, i), &type));
    std::string bytes(reinterpret_cast<const char*>(ASN1_STRING_get0_data(value)),
                      static_cast<std::size_t>(ASN1_STRING_length(value)));
    names.push_back((type == GEN_DNS ? "dns:" : type == GEN_IPADD ? "ip:" : "other:") + bytes);
  }
  GENERAL_NAMES_free(list);
  return names;
}

TEST_F(LeafTest, AStrictClientAcceptsItForItsHost) {
  EXPECT_EQ(verdict(mint("api.example.com").get(), "api.example.com"), X509_V_OK);
}

TEST_F(LeafTest, IsForNoOtherHost) {
  CertificatePtr leaf = mint("api.example.com");
  for (const char* other :
       {"example.com", "a.api.example.com", "www.example.com", "api.example.co", "postern leaf"}) {
    EXPECT_EQ(verdict(leaf.get(), other), X509_V_ERR_HOSTNAME_MISMATCH) << other;
  }
  EXPECT_EQ(verdict(leaf.get(), "192.0.2.1"), X509_V_ERR_IP_ADDRESS_MISMATCH);
  EXPECT_EQ(alternative_names(leaf.get()), std::vector<std::string>{"dns:api.example.com"});
}

TEST_F(LeafTest, SaysAllThatRealClientsAskOfALeaf) {
  CertificatePtr leaf = mint("api.example.com");
  EXPECT_EQ(X509_get_version(leaf.get()), X509_VERSION_3);
  EXPECT_EQ(X509_check_ca(leaf.get()), 0);
  EXPECT_NE(X509_get_ext_by_NID(leaf.get(), NID_basic_constraints, -1), -1);
  EXPECT_TRUE(is_critical(leaf.get(), NID_basic_constraints));
  EXPECT_EQ(X509_get_key_usage(leaf.get()), static_cast<std::uint32_t>(KU_DIGITAL_SIGNATURE));
  EXPECT_TRUE(is_critical(leaf.get(), NID_key_usage));
  EXPECT_EQ(X509_get_extended_key_usage(leaf.get()), static_cast<std::uint32_t>(XKU_SSL_SERVER));
  EXPECT_FALSE(is_critical(leaf.get(), NID_subject_alt_name));
  ASSERT_NE(X509_get0_authority_key_id(leaf.get()), nullptr);
  EXPECT_EQ(ASN1_OCTET_STRING_cmp(X509_get0_authority_key_id(leaf.get()),
                                  X509_get0_subject_key_id(ca_.certificate())),
            0);
  EXPECT_EQ(EVP_PKEY_get_bits(X509_get0_pubkey(leaf.get())), 256);
  EXPECT_EQ(X509_NAME_entry_count(X509_get_subject_name(leaf.get())), 1);
}

TEST_F(LeafTest, BeginsADayAgoAndLastsAWeek) {
  CertificatePtr leaf = mint("api.example.com");
  EXPECT_EQ(time_of(X509_get0_notBefore(leaf.get())), now_ - hours(24));
  EXPECT_EQ(time_of(X509_get0_notAfter(leaf.get())), now_ + hours(24 * 7));
  EXPECT_EQ(verdict(leaf.get(), "api.example.com", now_ - hours(24)), X509_V_OK);
  EXPECT_EQ(verdict(leaf.get(), "api.example.com", now_ + hours(24 * 7 + 1)), X509_V_ERR_CERT_HAS_EXPIRED);
}

TEST_F(LeafTest, AddressesStandAsAddresses) {
  CertificatePtr v4 = mint("192.0.2.1");
  EXPECT_EQ(alternative_names(v4.get()), std::vector<std::string>{std::string("ip:\xc0\x00\x02\x01", 7)});
  EXPECT_EQ(verdict(v4.get(), "192.0.2.1"), X509_V_OK);
  EXPECT_EQ(verdict(v4.get(), "192.0.2.2"), X509_V_ERR_IP_ADDRESS_MISMATCH);
  CertificatePtr v6 = mint("2001:db8::1");
  EXPECT_EQ(alternative_names(v6.get()).at(0).size(), 3u + 16);
  EXPECT_EQ(verdict(v6.get(), "2001:db8::1"), X509_V_OK);
}

TEST_F(LeafTest, HostsOfEveryLengthUpTo255FitAndAreExact) {
  for (std::size_t length = 1; length <= 255; ++length) {
    std::string host;
    while (host.size() < length) host += host.size() % 50 == 49 && host.size() + 1 < length ? '.' : 'a';
    CertificatePtr leaf = mint(host);
    ASSERT_EQ(alternative_names(leaf.get()), std::vector<std::string>{"dns:" + host}) << length;
    ASSERT_EQ(verdict(leaf.get(), host), X509_V_OK) << length;
  }
}

TEST_F(LeafTest, AHostThatCannotStandInACertificateIsRefused) {
  for (const std::string& host :
       {std::string(), std::string(256, 'a'), std::string("*.example.com"), std::string("*"),
        std::string("a\0.example.com", 14), std::string("a b"), std::string("b\xc3\xbc")}) {
    auto leaf = minter_.leaf_for(host, now_);
    ASSERT_FALSE(leaf) << testing::PrintToString(host);
    EXPECT_EQ(leaf.error().reason, Reason::malformed_host);
  }
  EXPECT_EQ(minter_.cached(LeafUse::allowed), 0u);
}

TEST_F(LeafTest, TwoLeavesHaveTwoPositiveSerials) {
  CertificatePtr first = mint("a.example");
  CertificatePtr second = mint("b.example");
  EXPECT_NE(ASN1_INTEGER_cmp(X509_get0_serialNumber(first.get()), X509_get0_serialNumber(second.get())), 0);
  EXPECT_EQ(ASN1_STRING_type(X509_get0_serialNumber(first.get())), V_ASN1_INTEGER);
  EXPECT_EQ(ASN1_STRING_length(X509_get0_serialNumber(first.get())), 16);
}

TEST_F(LeafTest, ACachedLeafIsGivenAgainUntilADayBeforeItsEnd) {
  CertificatePtr first = mint("api.example.com");
  EXPECT_EQ(minter_.leaf_for("api.example.com", now_ + hours(24 * 6) - std::chrono::seconds(1))->certificate,
            first);
  Leaf renewed = minter_.leaf_for("api.example.com", now_ + hours(24 * 6)).value();
  EXPECT_NE(renewed.certificate, first);
  EXPECT_EQ(minter_.cached(LeafUse::allowed), 1u);
  EXPECT_EQ(verdict(renewed.certificate.get(), "api.example.com", now_ + hours(24 * 12)), X509_V_OK);
}

TEST_F(LeafTest, AClockSetBackMintsALeafThatHasBegun) {
  CertificatePtr first = mint("api.example.com");
  EXPECT_EQ(minter_.leaf_for("api.example.com", now_ - hours(24))->certificate, first);
  EXPECT_NE(minter_.leaf_for("api.example.com", now_ - hours(25))->certificate, first);
}

TEST_F(LeafTest, NeverOutlivesItsCa) {
  const WallTime late = ca_.not_after() - hours(3);
  Leaf leaf = minter_.leaf_for("api.example.com", late).value();
  EXPECT_EQ(time_of(X509_get0_notAfter(leaf.certificate.get())), ca_.not_after());
  // Minting it again would not make it last longer.
  EXPECT_EQ(minter_.leaf_for("api.example.com", late + hours(2))->certificate, leaf.certificate);
  auto too_late = minter_.leaf_for("api.example.com", ca_.not_after());
  ASSERT_FALSE(too_late);
  EXPECT_EQ(too_late.error().reason, Reason::internal);
}

TEST_F(LeafTest, TheLeastRecentlyUsedLeafGoesFirst) {
  LeafMinter minter = LeafMinter::create(ca_, {.allowed_max = 2, .refusal_max = 1}).value();
  auto certificate = [&](const char* host) {
    return std::move(minter.leaf_for(host, now_).value().certificate);
  };
  CertificatePtr a = certificate("a.example");
  CertificatePtr b = certificate("b.example");
  EXPECT_EQ(certificate("a.example"), a);
  certificate("c.example");
  EXPECT_EQ(minter.cached(LeafUse::allowed), 2u);
  EXPECT_EQ(certificate("a.example"), a);
  EXPECT_NE(certificate("b.example"), b);
  EXPECT_EQ(verdict(b.get(), "b.example"), X509_V_OK) << "whoever holds it may go on using it";
}

TEST_F(LeafTest, DeniedNamesPushOutNoAllowedLeaf) {
  CertificatePtr allowed = mint("api.example.com");
  for (int i = 0; i < 2000; ++i) {
    ASSERT_TRUE(minter_.leaf_for("denied" + std::to_string(i) + ".example", now_, LeafUse::refusal));
  }
  EXPECT_EQ(minter_.cached(LeafUse::refusal), LeafLimits{}.refusal_max);
  EXPECT_EQ(minter_.cached(LeafUse::allowed), 1u);
  EXPECT_EQ(mint("api.example.com"), allowed);
}

/// A client that verifies as clients do; both ends in memory. Empty: accepted.
std::string shake_hands(Leaf leaf, const WorkspaceCa& ca, const char* host, int version) {
  SandboxContext server_side;
  SslPtr server(server_side.new_connection(leaf.certificate.get(), leaf.key.get(), "sandbox-1"));
  SslContextPtr context(SSL_CTX_new(TLS_client_method()));
  X509_STORE_add_cert(SSL_CTX_get_cert_store(context.get()), ca.certificate());
  SSL_CTX_set_verify(context.get(), SSL_VERIFY_PEER, nullptr);
  X509_VERIFY_PARAM_set_flags(SSL_CTX_get0_param(context.get()), X509_V_FLAG_X509_STRICT);
  SSL_CTX_set_min_proto_version(context.get(), version);
  SSL_CTX_set_max_proto_version(context.get(), version);
  SslPtr client(SSL_new(context.get()));
  if (!server || !client) return "no connection";
  SSL_set_tlsext_host_name(client.get(), host);
  SSL_set1_host(client.get(), host);
  BIO* near = nullptr;
  BIO* far = nullptr;
  BIO_new_bio_pair(&near, 64 * 1024, &far, 64 * 1024);
  SSL_set_bio(client.get(), near, near);
  SSL_set_bio(server.get(), far, far);
  SSL_set_connect_state(client.get());
  for (int turn = 0; turn < 6; ++turn) {
    SSL_do_handshake(client.get());
    SSL_do_handshake(server.get());
  }
  ERR_clear_error();
  if (long error = SSL_get_verify_result(client.get()); error != X509_V_OK)
    return X509_verify_cert_error_string(error);
  return SSL_is_init_finished(client.get()) && SSL_is_init_finished(server.get())
             ? ""
             : "the handshake did not finish";
}

TEST_F(LeafTest, AClientThatVerifiesTheHostCompletesTheHandshake) {
  for (int version : {TLS1_2_VERSION, TLS1_3_VERSION}) {
    EXPECT_EQ(shake_hands(minter_.leaf_for("api.example.com", now_).value(), ca_, "api.example.com", version),
              "");
    EXPECT_NE(shake_hands(minter_.leaf_for("api.example.com", now_).value(), ca_, "www.example.com", version),
              "");
  }
}

TEST_F(LeafTest, AClientOfAnotherWorkspaceRefusesIt) {
  WorkspaceCa other = load(root_ + "/other", now_);
  EXPECT_NE(shake_hands(minter_.leaf_for("api.example.com", now_).value(), other, "api.example.com",
                        TLS1_3_VERSION),
            "");
}

TEST_F(LeafTest, OutlivesItsMinter) {
  Leaf leaf = [&] {
    LeafMinter minter = LeafMinter::create(ca_).value();
    return minter.leaf_for("api.example.com", now_).value();
  }();
  EXPECT_EQ(shake_hands(std::move(leaf), ca_, "api.example.com", TLS1_3_VERSION), "");
}

TEST_F(LeafTest, TheOpensslProgramVerifiesItStrictly) {
  if (std::system("command -v openssl >/dev/null 2>&1") != 0)
    GTEST_SKIP() << "there is no openssl program here";
  CertificatePtr leaf = mint("api.example.com");
  std::unique_ptr<BIO, decltype(&BIO_free_all)> pem(BIO_new(BIO_s_mem()), BIO_free_all);
  PEM_write_bio_X509(pem.get(), leaf.get());
  char* text = nullptr;
  long length = BIO_get_mem_data(pem.get(), &text);
  std::ofstream(root_ + "/leaf.pem") << std::string(text, static_cast<std::size_t>(length));
  std::ofstream(root_ + "/root.pem") << ca_.certificate_pem();
  auto verify = [&](const std::string& host) {
    return std::system(("openssl verify -x509_strict -check_ss_sig -purpose sslserver -verify_hostname " +
                        host + " -CAfile " + root_ + "/root.pem " + root_ + "/leaf.pem >/dev/null 2>&1")
                           .c_str());
  };
  EXPECT_EQ(verify("api.example.com"), 0);
  EXPECT_NE(verify("www.example.com"), 0);
}

}  // namespace
}  // namespace postern::tls
