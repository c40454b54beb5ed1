#include "credential/jwt.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <nlohmann/json.hpp>
#include <openssl/evp.h>
#include <vector>

#include "credential/base64.h"
#include "credential/digest.h"
#include "credential/google_service_account.h"
#include "credential/jwt_test_kit.h"

namespace postern::credential {
namespace {

using testing::HasSubstr;
using testing::Not;

static_assert(!std::is_copy_constructible_v<JwtKey>);

// RFC 7515 Appendix A.2: the published example's key, as PKCS#8 and as PKCS#1.
constexpr const char* rfc7515_key =
    "-----BEGIN PRIVATE KEY-----\n"
    "MIIEvQIBADANBgkqhkiG9w0BAQEFAASCBKcwggSjAgEAAoIBAQCh+BYK4uPJtGXO\n"
    "jS1lYmM2K5J9vinh8CR3/BYlzJChNuOL2TSXxbbqY913EeZ8dCn5VrD7io8ImtxL\n"
    "aYk8wTM/U+3QGbh3hCUv7JFP5IV3aVlL6kKA0ywPVb9ilE8TA5a8bpvfbr3SvaNn\n"
    "juygxmj3AbONv/s4yDQs4v5tJ/reSlpIdJed1LnPmt7Ex1sFhSwsD174pcF1A5L5\n"
    "ROjtZMEQxrZHYJqkeDrrnGya11UxMFBji4NmXG9veoKjlnAqH2QbgtPr8jkiGUkf\n"
    "toaHLFcW9Qr4NY2ai50Xw0Byj3+H2JoY2PyrZ62EWQwuz3WTOTY8BwNNb2BvniHg\n"
    "VFbK5emhAgMBAAECggEAEq5xpGnNCivDflJsRQBXHx1hdR1k6Ulwe2JZD50LpXyW\n"
    "PEAeP88vLNO97IjlA7/GQ5sLKMgvfTeXZx9SE+7YwVol2NXOoAJe46sui395IW/G\n"
    "O+pWJ1O0BkTGoVEn2bKVRUCgu+GjBVaYLU6f3l9kJfFNS3E0QbVdxzubSu3Mkqzj\n"
    "kn439X0M/V51gfpRLI9JYanrC4D4qAdGcopV/0ZHHzQlBjudU2QvXt4ehNYTCBr6\n"
    "XCLQUShb1juUO1ZdiYoFaFQT5Tw8bGUl/x/jTj3ccPDVZFD9pIuhLhBOneufuBiB\n"
    "4cS98l2SR/RQyGWSeWjnczT0QU91p1DhOVRuOopznQKBgQDgHMQQ60imZV1URk0K\n"
    "pLttoLhyt3SmqdEf/kgHePDdtzEafpAu+cS191R2JiuoF2yzWXnwFDcqGigp5BNr\n"
    "0AHQfD8/Lk8l1Mk09jxxCfui5nYooNyac8YFjm3vItzVCVDnEd3BbVWG8qf6deqE\n"
    "lMGAg+C2V0L4oNXnP7LZcPAZRwKBgQC5A8R+CZW2MvRTLLHzwZkUXV866cff7tx6\n"
    "kqa0finGG0KgeqlaZPxgCZnFp7AeAcCMtiynVlJ7vMVgePsLq6XtON4tB5kP9jAP\n"
    "rq3rbAOal78eUH5OcED6eNuCV8ixEu1eWcPNCS/l1OW1EnXUEoEHKl54Xrrz2uNw\n"
    "kgMTP1FZ1wKBgAcCn1dwJKufzBWQxWQp1vsM5fggqPN1qGb5y0MAk3g7/Ls5bkUp\n"
    "5u9SN0Ai3Ya6hNnvWJMb7sXQX6U/zyO2M/hTip7tUeh7CXgwo59dkpN75gJLVds2\n"
    "9+DAncu3KXU4f2Fa+7bLNrur53k8KwPOq2bbuTG69QtV7Jr5MR0AHWKNAoGBAIf/\n"
    "evpitUf+4JYbLpvNXWcY052Mpz22aR84mY3nh3F2LF2mjMJDpTg7FmuyPcVw6EcG\n"
    "yoAe9fa65iNqCq+jdw6PVNGo2hxfjSiZ8IIzHdsPXI89//pMjZcQK9r+CCoRjaZj\n"
    "OYiIDktVWZzmevJuv6WywUqd57LE3Zar3dLSIkx1AoGAIYd7DHOhrWvxkwPQsRM2\n"
    "tOgrjbcrfvtQJipd+DlcxyVuuM9sQLdgjVk2oy26F0EmpScGLq2MowX7fhd/QJQ3\n"
    "ydy5cY7YIBi87w93IKLEdfnbJtoOPLUW0ITrJReOgo1cq9SbsxYawBgfp/gh6A56\n"
    "03k2+ZQwVK0JKSHuLFkuQ3U=\n"
    "-----END PRIVATE KEY-----\n";
constexpr const char* rfc7515_key_pkcs1 =
    "-----BEGIN RSA PRIVATE KEY-----\n"
    "MIIEowIBAAKCAQEAofgWCuLjybRlzo0tZWJjNiuSfb4p4fAkd/wWJcyQoTbji9k0\n"
    "l8W26mPddxHmfHQp+Vaw+4qPCJrcS2mJPMEzP1Pt0Bm4d4QlL+yRT+SFd2lZS+pC\n"
    "gNMsD1W/YpRPEwOWvG6b32690r2jZ47soMZo9wGzjb/7OMg0LOL+bSf63kpaSHSX\n"
    "ndS5z5rexMdbBYUsLA9e+KXBdQOS+UTo7WTBEMa2R2CapHg665xsmtdVMTBQY4uD\n"
    "Zlxvb3qCo5ZwKh9kG4LT6/I5IhlJH7aGhyxXFvUK+DWNmoudF8NAco9/h9iaGNj8\n"
    "q2ethFkMLs91kzk2PAcDTW9gb54h4FRWyuXpoQIDAQABAoIBABKucaRpzQorw35S\n"
    "bEUAVx8dYXUdZOlJcHtiWQ+dC6V8ljxAHj/PLyzTveyI5QO/xkObCyjIL303l2cf\n"
    "UhPu2MFaJdjVzqACXuOrLot/eSFvxjvqVidTtAZExqFRJ9mylUVAoLvhowVWmC1O\n"
    "n95fZCXxTUtxNEG1Xcc7m0rtzJKs45J+N/V9DP1edYH6USyPSWGp6wuA+KgHRnKK\n"
    "Vf9GRx80JQY7nVNkL17eHoTWEwga+lwi0FEoW9Y7lDtWXYmKBWhUE+U8PGxlJf8f\n"
    "40493HDw1WRQ/aSLoS4QTp3rn7gYgeHEvfJdkkf0UMhlknlo53M09EFPdadQ4TlU\n"
    "bjqKc50CgYEA4BzEEOtIpmVdVEZNCqS7baC4crd0pqnRH/5IB3jw3bcxGn6QLvnE\n"
    "tfdUdiYrqBdss1l58BQ3KhooKeQTa9AB0Hw/Py5PJdTJNPY8cQn7ouZ2KKDcmnPG\n"
    "BY5t7yLc1QlQ5xHdwW1VhvKn+nXqhJTBgIPgtldC+KDV5z+y2XDwGUcCgYEAuQPE\n"
    "fgmVtjL0Uyyx88GZFF1fOunH3+7cepKmtH4pxhtCoHqpWmT8YAmZxaewHgHAjLYs\n"
    "p1ZSe7zFYHj7C6ul7TjeLQeZD/YwD66t62wDmpe/HlB+TnBA+njbglfIsRLtXlnD\n"
    "zQkv5dTltRJ11BKBBypeeF6689rjcJIDEz9RWdcCgYAHAp9XcCSrn8wVkMVkKdb7\n"
    "DOX4IKjzdahm+ctDAJN4O/y7OW5FKebvUjdAIt2GuoTZ71iTG+7F0F+lP88jtjP4\n"
    "U4qe7VHoewl4MKOfXZKTe+YCS1XbNvfgwJ3Ltyl1OH9hWvu2yza7q+d5PCsDzqtm\n"
    "27kxuvULVeya+TEdAB1ijQKBgQCH/3r6YrVH/uCWGy6bzV1nGNOdjKc9tmkfOJmN\n"
    "54dxdixdpozCQ6U4OxZrsj3FcOhHBsqAHvX2uuYjagqvo3cOj1TRqNocX40omfCC\n"
    "Mx3bD1yPPf/6TI2XECva/ggqEY2mYzmIiA5LVVmc5nrybr+lssFKneeyxN2Wq93S\n"
    "0iJMdQKBgCGHewxzoa1r8ZMD0LETNrToK423K377UCYqXfg5XMclbrjPbEC3YI1Z\n"
    "NqMtuhdBJqUnBi6tjKMF+34Xf0CUN8ncuXGO2CAYvO8PdyCixHX52ybaDjy1FtCE\n"
    "6yUXjoKNXKvUm7MWGsAYH6f4IegOetN5NvmUMFStCSkh7ixZLkN1\n"
    "-----END RSA PRIVATE KEY-----\n";
constexpr const char* small_rsa_key =
    "-----BEGIN RSA PRIVATE KEY-----\n"
    "MIICXQIBAAKBgQDXYITvDQcoHmcvv+09GntK0Po7gDs2U6IO4ZkAd7gqLMyul5sL\n"
    "uFX0kk9q+FlgGUR0+vmYoSdTcsBORzJ51uNT+dUIjfgmUlaUIIYOXbV79D/EPKZR\n"
    "Qy0ziN86+NJJqE2XN2fSLLTJW83zs3Bv28hT0i6YRYoxDejE5Rua2S88EwIDAQAB\n"
    "AoGAT4k7TjRXcj9YB9AuwiPnaAeogRSnyTY1YJ17LSsI/boxlEA0Z62ZQIpPfcdc\n"
    "6hoqp7CPQAgzR6PW1JGCWHA83na0ZhIhkfm2rxubf0Cnl4eL5wvDPzkgdoSfGoeq\n"
    "rDEglCoNJWChAW42qh5tl7B2FntGysUSqLyje4+Ox8yS7iECQQDrp/nwD8nwwwOi\n"
    "BW6vmUH9N/uRU1L826DdOc1cgMUvjZNse3iTNvwFHTp3bcfYrJjBd01dSJCTlAnt\n"
    "QxfqvCkJAkEA6fhfTCV0x+BZce4HnUhq+D4FDMiQWRDHMATOHOMxtt/86RkUCxzD\n"
    "IP9KbsPS6hrqtrU9dDRdUTlVB/D5R+hPOwJAGJSo6XV8JvTwiBHw/bgKvhL81qfO\n"
    "XDm8idbhqOh1qQQngIVQimqN1yq5UoPM+LjoJiX/l99d1Ub30hvRftapoQJBAKmu\n"
    "SCaoL3ZZnWTD1N/bSkC4cd8ggZcmVN7dTUGj/0T6UqgWWPPqKxV+L9P+zrKbTMeu\n"
    "z1+8LkUeyC0XNSJSN0sCQQDlEwmyC5O6hiGSahPbbiCWnkyFmnMLz5DT9XZGyeUe\n"
    "aYG6OPUuWcju/+jChILtFF1DCutg7L0W1IwM286ZHH5t\n"
    "-----END RSA PRIVATE KEY-----\n";
constexpr const char* elliptic_key =
    "-----BEGIN EC PRIVATE KEY-----\n"
    "MHcCAQEEIMEWrt+JMU1vpGtVPtd2xN2ewyK0xVP64sOO86LOv5nMoAoGCCqGSM49\n"
    "AwEHoUQDQgAEYkLdVPpRHkcd4TRQrNJBuNOBFigUj7Gwo7K+geuuV5NRCtiCzN0I\n"
    "MXWJEdclUJllQCyRwrwcDNmUbjK/iihxyQ==\n"
    "-----END EC PRIVATE KEY-----\n";
constexpr const char* encrypted_key =
    "-----BEGIN ENCRYPTED PRIVATE KEY-----\n"
    "MIHsMFcGCSqGSIb3DQEFDTBKMCkGCSqGSIb3DQEFDDAcBAiv45dDNDw+EwICCAAw\n"
    "DAYIKoZIhvcNAgkFADAdBglghkgBZQMEAQIEEICEAmWAn/KBVBDFAiGtMAUEgZAw\n"
    "DRZY/AX/JSy9StvPxdvG2QRRrvegL5A6+tQiubOWQAHFmm9tp4A+VNEiTOL2SKnD\n"
    "gguRRAoBrO78ZzpcbGJtdlhxohEsTS56dHEBNnZoJJzQrGew7ud513JR1oAR9xCw\n"
    "tK0kAHljdYy2rs6chnbnWQ9FzaLFGzRVUilzl2yxp/bHNlrgmTDqrZr/cisKjxs=\n"
    "-----END ENCRYPTED PRIVATE KEY-----\n";

JwtKey must_load(std::string_view pem) {
  auto key = JwtKey::from_pem(Secret(std::string(pem)));
  EXPECT_TRUE(key) << key.error().detail;
  return key ? std::move(*key) : JwtKey::generate(JwtAlgorithm::eddsa);
}

JwtKey rfc8037_key() {  // Appendix A.1
  auto key = JwtKey::from_ed25519_seed(Secret(from_base64url("nWGxne_9WmC6hEr0kuwsxERJxWl7MmkZcDusAxyuf2A")));
  EXPECT_TRUE(key);
  return std::move(*key);
}

/// Header, payload and whether the signature is the public key's (of the JWK set, read as a stranger would).
struct Opened {
  nlohmann::json header;
  nlohmann::json payload;
  bool verified = false;
};

Opened open_token(std::string_view token, const nlohmann::json& jwk) {
  Opened opened;
  const auto first = token.find('.');
  const auto second = token.find('.', first + 1);
  if (first == token.npos || second == token.npos) return opened;
  opened.header = nlohmann::json::parse(from_base64url(token.substr(0, first)));
  opened.payload = claims_of(token);
  const std::string signature = from_base64url(token.substr(second + 1));
  const std::string x = from_base64url(jwk.at("x").get<std::string>());
  const auto bytes = [](const std::string& text) {
    return reinterpret_cast<const unsigned char*>(text.data());
  };
  EVP_PKEY* key = EVP_PKEY_new_raw_public_key_ex(nullptr, "ED25519", nullptr, bytes(x), x.size());
  EVP_MD_CTX* context = EVP_MD_CTX_new();
  const std::string_view input = token.substr(0, second);
  opened.verified = EVP_DigestVerifyInit_ex(context, nullptr, nullptr, nullptr, nullptr, key, nullptr) == 1 &&
                    EVP_DigestVerify(context, bytes(signature), signature.size(),
                                     reinterpret_cast<const unsigned char*>(input.data()), input.size()) == 1;
  EVP_MD_CTX_free(context);
  EVP_PKEY_free(key);
  return opened;
}

TEST(Digest, IsThatOfFips180AndRfc4231) {
  EXPECT_EQ(hex(sha256("abc")), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
  EXPECT_EQ(hex(sha256("")), sha256_of_nothing);
  HmacSha256 key("Jefe");
  for (int i = 0; i < 3; ++i) {
    EXPECT_EQ(hex(key.sign("what do ya want for nothing?")),
              "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843");
    EXPECT_EQ(hex(key.sign("")), "923598ca6d64af2a5dba79dcd021a8a0fe5c5f557519adaaf0ad532d4506dd30")
        << "another message in between changes nothing";
  }
  EXPECT_EQ(hex(HmacSha256("").sign("")), "b613679a0814d9ec772f95d778c35fc5ff1697c493715653c6c712144292c5ad");
}

TEST(Digest, DoesNotDependOnHowTheBytesArrive) {
  Sha256 hash;
  hash.update("ab").update("").update("c");
  EXPECT_EQ(hash.finish(), sha256("abc"));
  EXPECT_EQ(hash.finish(), sha256("")) << "as new after finish()";
  hash.update("abc");
  Sha256 moved = std::move(hash);
  EXPECT_EQ(moved.finish(), sha256("abc"));
}

TEST(Base64, IsThatOfRfc4648) {
  const std::vector<std::pair<const char*, const char*>> cases = {{"", ""},
                                                                  {"f", "Zg=="},
                                                                  {"fo", "Zm8="},
                                                                  {"foo", "Zm9v"},
                                                                  {"foob", "Zm9vYg=="},
                                                                  {"fooba", "Zm9vYmE="},
                                                                  {"foobar", "Zm9vYmFy"}};
  for (const auto& [bytes, text] : cases) {
    std::string encoded;
    append_base64(bytes, encoded);
    EXPECT_EQ(encoded, text);
    EXPECT_EQ(encoded.size(), base64_size(std::string_view(bytes).size()));
    EXPECT_EQ(base64url(bytes).size(), base64url_size(std::string_view(bytes).size()));
    const auto decoded = decode_base64(text);
    ASSERT_TRUE(decoded) << text;
    EXPECT_EQ(decoded->unwrap(), bytes);
  }
  EXPECT_EQ(base64url("\xfb\xff\xfe"), "-__-");
  EXPECT_EQ(base64url("f"), "Zg");
}

TEST(Base64, WhatIsNotExactlyBase64IsRefused) {
  for (const char* text : {"Z", "Zg", "Zg=", "Zg===", "Zh==", "Zm9=", "Zm 8", "Zm8=\n",
                           "====", "Z===", "Zg==Zg==", "-__-", "Zm8\xc3"})
    EXPECT_FALSE(decode_base64(text)) << text;
}

TEST(Jwt, Rfc8037AppendixAIsReproduced) {
  const JwtKey key = rfc8037_key();
  EXPECT_EQ(key.key_id(), "kPrK_qmxVWaYVA9wwBF6Iuo3vVzz7TxHCTwXBygrS4k") << "A.3";
  EXPECT_THAT(key.public_jwk(), HasSubstr(R"("x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo")")) << "A.2";
  EXPECT_EQ(key.sign_compact(R"({"alg":"EdDSA"})", "Example of Ed25519 signing").unwrap(),
            "eyJhbGciOiJFZERTQSJ9.RXhhbXBsZSBvZiBFZDI1NTE5IHNpZ25pbmc."
            "hgyY0il_MGCjP0JzlnLWG1PPOt7-09PGcvMg3AIbQR6dWbhijcNR4ki4iylGjg5BhVsPt9g7sVvpAr_MuM0KAg")
      << "A.4";
}

TEST(Jwt, Rfc7515AppendixA2IsReproduced) {
  for (const char* pem : {rfc7515_key, rfc7515_key_pkcs1}) {
    const JwtKey key = must_load(pem);
    EXPECT_EQ(key.algorithm(), JwtAlgorithm::rs256);
    EXPECT_EQ(
        key.sign_compact(R"({"alg":"RS256"})",
                         "{\"iss\":\"joe\",\r\n \"exp\":1300819380,\r\n \"http://example.com/is_root\":true}")
            .unwrap(),
        "eyJhbGciOiJSUzI1NiJ9."
        "eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFtcGxlLmNvbS9pc19yb290Ijp0cnVlfQ."
        "cC4hiUPoj9Eetdgtv3hF80EGrhuB__dzERat0XF9g2VtQgr9PJbu3XOiZj5RZmh7AAuHIm4Bh-0Qc_lF5YKt_O8W2Fp5jujGbds9"
        "uJdbF9CUAr7t1dnZcAcQjbKBYNX4BAynRFdiuB--f_nZLgrnbyTyWzO75vRK5h6xBArLIARNPvkSjtQBMHlb1L07Qe7K0GarZRmB"
        "_eSN9383LcOLn6_dO--xi12jzDwusC-eOkHWEsqtFZESc6BfI7noOPqvhJ1phCnvWh6IeYI2w9QOYEUipUTI8np6LbgGY9Fs98rq"
        "Vt5AXLIhWkWywlVmtVrBp0igcN_IoypGlUPQGe77Rw");
    const auto jwk = nlohmann::json::parse(key.public_jwk());
    EXPECT_EQ(jwk.at("kty"), "RSA");
    EXPECT_EQ(jwk.at("e"), "AQAB");
    EXPECT_THAT(jwk.at("n").get<std::string>(),
                testing::StartsWith("ofgWCuLjybRlzo0tZWJjNiuSfb4p4fAkd_wWJcyQ"));
    EXPECT_EQ(jwk.size(), 6u) << "nothing of the private key";
  }
}

TEST(Jwt, AMintedTokenIsVerifiedWithThePublishedKey) {
  JwtKey key = JwtKey::generate(JwtAlgorithm::eddsa);
  JwtKey other = JwtKey::generate(JwtAlgorithm::eddsa);
  EXPECT_NE(key.key_id(), other.key_id());
  const JwtKey* const both[] = {&other, &key};
  const auto set = nlohmann::json::parse(jwk_set(both));
  ASSERT_EQ(set.at("keys").size(), 2u);
  const auto& jwk = set.at("keys")[1];
  EXPECT_EQ(jwk.at("kid"), key.key_id());
  EXPECT_EQ(jwk.at("alg"), "EdDSA");
  EXPECT_EQ(jwk.at("use"), "sig");
  EXPECT_FALSE(jwk.contains("d"));

  JwtClaims claims;
  claims.text("iss", "https://a.example")
      .text("odd", "quote\" slash\\ line\n \xff")
      .time("iat", std::chrono::sys_seconds(std::chrono::seconds(1700000000)));
  const Secret token = key.mint(std::move(claims).json());
  const Opened opened = open_token(token.unwrap(), jwk);
  EXPECT_TRUE(opened.verified);
  EXPECT_EQ(opened.header, nlohmann::json({{"alg", "EdDSA"}, {"kid", key.key_id()}, {"typ", "JWT"}}));
  EXPECT_EQ(opened.payload, nlohmann::json({{"iss", "https://a.example"},
                                            {"odd", "quote\" slash\\ line\n \xEF\xBF\xBD"},
                                            {"iat", 1700000000}}));
  EXPECT_FALSE(open_token(token.unwrap(), set.at("keys")[0]).verified) << "not with another key";
  std::string forged(token.unwrap());
  forged[forged.size() - 10] = forged[forged.size() - 10] == 'A' ? 'B' : 'A';
  EXPECT_FALSE(open_token(forged, jwk).verified);
  EXPECT_EQ(jwk_set({}), R"({"keys":[]})");
}

TEST(Jwt, AKeyIsKeptAsPemAndStaysTheSame) {
  const JwtKey key = rfc8037_key();
  const JwtKey again = must_load(key.to_pem().unwrap());
  EXPECT_EQ(again.algorithm(), JwtAlgorithm::eddsa);
  EXPECT_EQ(again.key_id(), key.key_id());
  EXPECT_EQ(again.mint("{}").unwrap(), key.mint("{}").unwrap()) << "Ed25519 has no randomness";
  JwtKey named = rfc8037_key();
  named.set_key_id("a \"name\"");
  EXPECT_EQ(nlohmann::json::parse(named.public_jwk()).at("kid"), "a \"name\"");
  EXPECT_EQ(open_token(named.mint("{}").unwrap(), nlohmann::json::parse(named.public_jwk())).header.at("kid"),
            "a \"name\"");
}

TEST(Jwt, AKeyThatCannotBeUsedIsRefusedWithoutShowingIt) {
  const auto refusal = [](std::string pem) {
    const auto key = JwtKey::from_pem(Secret(std::move(pem)));
    return key ? "loaded" : key.error().detail;
  };
  EXPECT_EQ(refusal(small_rsa_key), "is an RSA key of less than 2048 bits (RFC 7518 §3.3)");
  EXPECT_EQ(refusal(elliptic_key), "is neither an RSA key nor an Ed25519 key");
  const std::string unreadable = "is not a private key in PEM (PKCS#8 or PKCS#1) without a passphrase";
  EXPECT_EQ(refusal(encrypted_key), unreadable) << "and asks nobody for a passphrase";
  EXPECT_EQ(refusal(""), unreadable);
  EXPECT_EQ(refusal("canary31337"), unreadable);
  EXPECT_EQ(refusal(std::string(rfc7515_key).substr(0, 900)), unreadable);
  EXPECT_FALSE(JwtKey::from_ed25519_seed(Secret(std::string(31, 'x'))));
  EXPECT_FALSE(JwtKey::from_ed25519_seed(Secret("")));
}

TEST(Jwt, TokenIdsDiffer) {
  EXPECT_NE(random_token_id(), random_token_id());
  EXPECT_EQ(random_token_id().size(), 22u);
}

nlohmann::json service_account() {
  return {{"type", "service_account"},
          {"project_id", "a-project"},
          {"private_key_id", "0123abcd"},
          {"private_key", rfc7515_key},
          {"client_email", "robot@a-project.iam.gserviceaccount.com"},
          {"client_id", "1"},
          {"token_uri", "https://oauth2.googleapis.com/token"}};
}

TEST(GoogleServiceAccount, ItsAssertionSaysWhoAsksForWhatAndHowLong) {
  const auto account = parse_google_service_account(Secret(service_account().dump()));
  ASSERT_TRUE(account) << account.error().detail;
  EXPECT_EQ(account->client_email, "robot@a-project.iam.gserviceaccount.com");
  EXPECT_EQ(account->project_id, "a-project");
  EXPECT_EQ(account->token_uri, "https://oauth2.googleapis.com/token");
  const std::vector<std::string> scopes = {"https://www.googleapis.com/auth/a",
                                           "https://www.googleapis.com/auth/b"};
  const Secret token =
      google_assertion(*account, scopes, std::chrono::sys_seconds(std::chrono::seconds(1328550785)));
  const std::string_view text = token.unwrap();
  EXPECT_EQ(nlohmann::json::parse(from_base64url(text.substr(0, text.find('.')))),
            nlohmann::json({{"alg", "RS256"}, {"kid", "0123abcd"}, {"typ", "JWT"}}));
  const auto payload = text.substr(text.find('.') + 1, text.rfind('.') - text.find('.') - 1);
  EXPECT_EQ(nlohmann::json::parse(from_base64url(payload)),
            nlohmann::json({{"iss", "robot@a-project.iam.gserviceaccount.com"},
                            {"scope", "https://www.googleapis.com/auth/a https://www.googleapis.com/auth/b"},
                            {"aud", "https://oauth2.googleapis.com/token"},
                            {"iat", 1328550785},
                            {"exp", 1328554385}}));
  EXPECT_EQ(
      google_token_request(token).unwrap(),
      "grant_type=urn%3Aietf%3Aparams%3Aoauth%3Agrant-type%3Ajwt-bearer&assertion=" + std::string(text));
}

TEST(GoogleServiceAccount, WhatIsMissingIsNamedAndNothingShown) {
  const auto refusal = [](const nlohmann::json& json) {
    const auto account = parse_google_service_account(Secret(json.dump()));
    EXPECT_FALSE(account);
    if (account) return std::string();
    EXPECT_EQ(account.error().reason, Reason::invalid_configuration);
    EXPECT_THAT(account.error().detail, Not(HasSubstr("MII")));
    return account.error().detail;
  };
  for (const char* field : {"type", "private_key_id", "private_key", "client_email", "token_uri"}) {
    auto json = service_account();
    json.erase(field);
    EXPECT_THAT(refusal(json), HasSubstr(field));
    json[field] = "";
    EXPECT_THAT(refusal(json), HasSubstr(field));
    json[field] = 17;
    EXPECT_THAT(refusal(json), HasSubstr(field));
  }
  auto json = service_account();
  json["type"] = "authorized_user";
  EXPECT_THAT(refusal(json), HasSubstr("service_account"));
  json = service_account();
  json["token_uri"] = "http://oauth2.googleapis.com/token";
  EXPECT_THAT(refusal(json), HasSubstr("not https"));
  json = service_account();
  json["private_key"] = elliptic_key;
  EXPECT_THAT(refusal(json), HasSubstr("private_key"));
  EXPECT_THAT(refusal(nlohmann::json::array()), HasSubstr("not a JSON object"));
  EXPECT_FALSE(parse_google_service_account(Secret("{")));
  EXPECT_FALSE(parse_google_service_account(Secret("\xff{}")));
}

}  // namespace
}  // namespace postern::credential
