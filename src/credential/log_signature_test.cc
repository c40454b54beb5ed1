#include "credential/log_signature.h"

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <gtest/gtest.h>
#include <iterator>
#include <sys/stat.h>

namespace postern::credential {
namespace {

const std::string payload = R"({"log":"00","seq":7,"chain":"ff"})";

TEST(LogSignature, IsReadWithThePublicHalf) {
  const JwtKey key = JwtKey::generate(JwtAlgorithm::eddsa), other = JwtKey::generate(JwtAlgorithm::eddsa);
  const std::string token = sign_log(key, payload);
  const auto verifier = LogVerifier::read(key.public_jwk());
  ASSERT_TRUE(verifier);
  EXPECT_EQ(verifier->check(token).value_or(""), payload);
  const JwtKey* const both[] = {&other, &key};
  EXPECT_EQ(LogVerifier::read(jwk_set(both))->check(token).value_or(""), payload);
  EXPECT_FALSE(LogVerifier::read(other.public_jwk())->check(token));
}

TEST(LogSignature, NothingOfItCanBeChanged) {
  const JwtKey key = JwtKey::generate(JwtAlgorithm::eddsa);
  const auto verifier = LogVerifier::read(key.public_jwk());
  const std::string token = sign_log(key, payload);
  for (std::size_t at = 0; at < token.size(); ++at) {
    std::string changed = token;
    changed[at] = changed[at] == 'A' ? 'B' : 'A';
    EXPECT_FALSE(verifier->check(changed)) << at;
    EXPECT_FALSE(verifier->check(token.substr(0, at))) << at;
  }
  EXPECT_FALSE(verifier->check(token + "="));
}

TEST(LogSignature, ATokenForAnotherPurposeIsNone) {
  const JwtKey key = JwtKey::generate(JwtAlgorithm::eddsa);
  const auto verifier = LogVerifier::read(key.public_jwk());
  const Secret token = key.mint(payload);
  EXPECT_FALSE(verifier->check(token.unwrap()));
}

TEST(LogSignature, WhatIsNoKeyIsRefused) {
  for (const char* text :
       {"", "{}", "[]", "{\"keys\":[]}", "{\"keys\":[1,{\"kty\":\"OKP\"}]}",
        R"({"kty":"OKP","crv":"Ed25519","x":"AAAA"})", R"({"kty":"RSA","n":"AQAB","e":"AQAB"})"})
    EXPECT_FALSE(LogVerifier::read(text)) << text;
}

TEST(LogSignature, TheKeyStaysAndItsPublicHalfLiesBesideIt) {
  char name[] = "/tmp/postern-log-key-XXXXXX";
  const std::filesystem::path place = ::mkdtemp(name);
  const auto key = load_or_create_log_key(place / "chain");
  ASSERT_TRUE(key) << key.error().detail;
  EXPECT_EQ(load_or_create_log_key(place / "chain")->key_id(), key->key_id());
  std::ifstream in(place / "chain" / "log.jwk");
  const std::string jwk{std::istreambuf_iterator<char>(in), {}};
  const auto verifier = LogVerifier::read(jwk);
  ASSERT_TRUE(verifier);
  EXPECT_TRUE(verifier->check(sign_log(*key, payload)));
  struct stat info{};
  ASSERT_EQ(::stat((place / "chain" / "log.pem").c_str(), &info), 0);
  EXPECT_EQ(info.st_mode & 0777, 0600u);
  std::filesystem::remove_all(place);
}

}  // namespace
}  // namespace postern::credential
