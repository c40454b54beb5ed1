#include "credential/link_key.h"

#include <gtest/gtest.h>

namespace postern::credential {
namespace {

TEST(LinkKey, OpensWhatItSignedForTheSamePurpose) {
  const JwtKey key = JwtKey::generate(JwtAlgorithm::eddsa);
  const std::string payload("a\0b\xff", 4);
  const std::string token = LinkKey(key).sign("download", payload);
  EXPECT_EQ(token.find_first_not_of("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_."),
            std::string::npos);
  EXPECT_EQ(LinkKey(key).open("download", token), payload);
  EXPECT_EQ(LinkKey(key).open("service", token), std::nullopt);
  EXPECT_EQ(LinkKey(JwtKey::generate(JwtAlgorithm::eddsa)).open("download", token), std::nullopt);
}

TEST(LinkKey, OpensNothingElse) {
  const LinkKey key(JwtKey::generate(JwtAlgorithm::eddsa));
  const std::string token = key.sign("download", "payload");
  for (std::size_t i = 0; i < token.size(); ++i) {
    std::string other = token;
    other[i] = other[i] == 'A' ? 'B' : 'A';
    EXPECT_EQ(key.open("download", other), std::nullopt) << i;
    EXPECT_EQ(key.open("download", token.substr(0, i)), std::nullopt) << i;
  }
  for (const std::string& other :
       {token + "=", token + "A", token + ".A", "." + token, std::string(1 << 20, 'A')})
    EXPECT_EQ(key.open("download", other), std::nullopt);
}

TEST(LinkKey, OpensWhatAnyOfItsKeysSignedAndSignsWithTheFirst) {
  const JwtKey old_key = JwtKey::generate(JwtAlgorithm::eddsa),
               new_key = JwtKey::generate(JwtAlgorithm::eddsa);
  LinkKey links(old_key);
  const std::string before = links.sign("download", "payload");
  links.set(std::vector{&new_key, &old_key});
  const std::string after = links.sign("download", "payload");
  EXPECT_EQ(after, LinkKey(new_key).sign("download", "payload"));
  EXPECT_EQ(links.open("download", before), "payload");
  EXPECT_EQ(links.open("download", after), "payload");
  links.set(std::vector{&new_key});
  EXPECT_EQ(links.open("download", before), std::nullopt);
  EXPECT_EQ(links.open("download", after), "payload");
}

}  // namespace
}  // namespace postern::credential
