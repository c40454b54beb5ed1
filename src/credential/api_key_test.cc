#include "credential/api_key.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <regex>
#include <set>

#include "base/fd.h"
#include "credential/random.h"
#include "credential/secret_test_kit.h"

namespace postern::credential {
namespace {

TEST(ApiKey, IsKnownByItsLookAndByItsProof) {
  const NewApiKey key = make_api_key();
  const std::string text = revealed(key.text);
  EXPECT_EQ(text.substr(0, 25), "postern_" + key.proof.id + "_");
  const auto read = read_api_key(text);
  ASSERT_TRUE(read);
  EXPECT_EQ(read->id, key.proof.id);
  EXPECT_TRUE(same_digest(read->digest, key.proof.digest));
}

TEST(ApiKey, IsNeverTheSameTwice) {
  std::set<std::string> ids, texts;
  for (int i = 0; i < 100; ++i) {
    const NewApiKey key = make_api_key();
    EXPECT_TRUE(ids.insert(key.proof.id).second);
    EXPECT_TRUE(texts.insert(revealed(key.text).substr(25)).second);
  }
}

TEST(ApiKey, EveryLetterOfItCounts) {
  const NewApiKey key = make_api_key();
  const std::string text = revealed(key.text);
  for (std::size_t i = 0; i < text.size(); ++i) {
    std::string other = text;
    other[i] = other[i] == 'a' ? 'b' : 'a';
    const auto read = read_api_key(other);
    EXPECT_FALSE(read && read->id == key.proof.id && same_digest(read->digest, key.proof.digest)) << i;
  }
}

TEST(ApiKey, WhatHasAnotherFormIsNone) {
  const std::string text = revealed(make_api_key().text);
  for (const std::string& other : {std::string(), text.substr(1), text + "A", text.substr(0, 25), " " + text,
                                   "postern_" + std::string(16, 'G') + text.substr(24)})
    EXPECT_FALSE(read_api_key(other)) << other;
}

TEST(ApiKey, IsHandedOverAsOneLine) {
  const NewApiKey key = make_api_key();
  int ends[2];
  ASSERT_EQ(::pipe2(ends, O_CLOEXEC), 0);
  const Fd out(ends[0]);
  Fd in(ends[1]);
  ASSERT_TRUE(hand_over(key, in.get()));
  in.reset();
  char line[200];
  const ssize_t size = ::read(out.get(), line, sizeof line);
  EXPECT_EQ(std::string(line, static_cast<std::size_t>(size)), revealed(key.text) + "\n");
  EXPECT_FALSE(hand_over(key, out.get())) << "nobody can write there";
}

TEST(RandomUuid, IsOfVersionFour) {
  const std::regex form("[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}");
  EXPECT_TRUE(std::regex_match(random_uuid(), form)) << random_uuid();
  EXPECT_NE(random_uuid(), random_uuid());
}

}  // namespace
}  // namespace postern::credential
