#include "sandbox/trust.h"

#include <array>
#include <filesystem>
#include <gmock/gmock.h>
#include <openssl/evp.h>
#include <stdlib.h>

namespace postern::sandbox {
namespace {

using ::testing::Contains;
using ::testing::EndsWith;
using ::testing::HasSubstr;
using ::testing::SizeIs;

// A self-signed P-256 certificate, CN=Postern Test CA, made for this test; its key was thrown away.
constexpr std::string_view certificate = R"(-----BEGIN CERTIFICATE-----
MIIBiTCCAS+gAwIBAgIUTd83f7Z4trr55OkxM7rU+upzSGMwCgYIKoZIzj0EAwIw
GjEYMBYGA1UEAwwPUG9zdGVybiBUZXN0IENBMB4XDTI2MTEyMzIyMjU1MFoXDTI2
MTIyMzIyMjU1MFowGjEYMBYGA1UEAwwPUG9zdGVybiBUZXN0IENBMFkwEwYHKoZI
zj0CAQYIKoZIzj0DAQcDQgAEU3dDTqOfb7bcAJzm9vTUZap1k0Fju4aKhWkXFQHp
RWjACHBjXtSEH39NVi2bi7Uj+09YHjMMYwx2q6ORLozRoKNTMFEwHQYDVR0OBBYE
FEIBAnUfB/YO3Kyy3XlTuR04foqeMB8GA1UdIwQYMBaAFEIBAnUfB/YO3Kyy3XlT
uR04foqeMA8GA1UdEwEB/wQFMAMBAf8wCgYIKoZIzj0EAwIDSAAwRQIgCQgMsc9G
LDxUu5mKUjSkfMIy36oh4JuFt6ZJIbKdeMUCIQCBcRhKBvIkiWQuW3yjcli32iMR
4cDTGbW2inHMM3yxTg==
-----END CERTIFICATE-----
)";

class Directory {
 public:
  Directory() { EXPECT_NE(mkdtemp(path_.data()), nullptr); }
  ~Directory() { std::filesystem::remove_all(path_); }
  std::string path() const { return path_; }

 private:
  std::string path_ = "/tmp/postern-trust-XXXXXX";
};

TEST(Trust, AJavaStoreHoldsEveryCertificateAndItsOwnDigest) {
  std::string two = std::string(certificate) + std::string(certificate);
  auto store = java_key_store(two);
  ASSERT_TRUE(store);
  EXPECT_EQ(store->substr(0, 12), std::string("\xfe\xed\xfe\xed\0\0\0\2\0\0\0\2", 12));
  EXPECT_THAT(*store, HasSubstr("postern-1"));
  std::string checked(std::string_view("\0c\0h\0a\0n\0g\0e\0i\0t", 16));
  checked += "Mighty Aphrodite" + store->substr(0, store->size() - 20);
  std::array<unsigned char, EVP_MAX_MD_SIZE> digest;
  unsigned size = 0;
  EVP_Digest(checked.data(), checked.size(), digest.data(), &size, EVP_sha1(), nullptr);
  EXPECT_THAT(*store, EndsWith(std::string(reinterpret_cast<char*>(digest.data()), size)));
}

TEST(Trust, PreparingTwiceGivesTheSameFilesWithoutWritingAgain) {
  Directory cache;
  TrustRequest request{std::string(certificate), cache.path()};
  auto first = prepare_trust(request);
  ASSERT_TRUE(first) << first.error().detail;
  auto made = std::filesystem::directory_iterator(cache.path())->path() / "bundle.pem";
  auto written = std::filesystem::last_write_time(made);
  auto second = prepare_trust(request);
  ASSERT_TRUE(second);
  EXPECT_EQ(first->mounts, second->mounts);
  EXPECT_EQ(std::filesystem::last_write_time(made), written);
  EXPECT_THAT(std::vector<std::filesystem::path>(std::filesystem::directory_iterator(cache.path()), {}),
              SizeIs(1));
}

TEST(Trust, ReplacingVariablesNameTheMergedBundleAndAddingOnesOurCa) {
  Directory cache;
  auto trust = prepare_trust({std::string(certificate), cache.path()});
  ASSERT_TRUE(trust);
  EXPECT_THAT(trust->environment, Contains(Variable{"SSL_CERT_FILE", "/run/postern/ca-bundle.pem"}));
  EXPECT_THAT(trust->environment, Contains(Variable{"NODE_EXTRA_CA_CERTS", "/run/postern/ca.pem"}));
}

TEST(Trust, WhatIsNotOneCertificateIsRefused) {
  Directory cache;
  for (const std::string& text :
       {std::string(), std::string("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"),
        std::string(certificate) + std::string(certificate)}) {
    EXPECT_FALSE(prepare_trust({text, cache.path()}));
  }
}

TEST(Trust, ACacheThatCannotBeWrittenIsAnErrorThatNamesIt) {
  auto trust = prepare_trust({std::string(certificate), "/proc/nowhere"});
  ASSERT_FALSE(trust);
  EXPECT_THAT(trust.error().detail, HasSubstr("/proc/nowhere"));
}

}  // namespace
}  // namespace postern::sandbox
