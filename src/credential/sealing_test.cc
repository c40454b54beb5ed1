#include "credential/sealing.h"

#include <gmock/gmock.h>
#include <set>

#include "credential/secret_test_kit.h"

namespace postern::credential {
namespace {

using testing::HasSubstr;
using testing::Not;

const std::string hex_key = "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f";
const std::string base64_key = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";

Result<MasterKey> key_from(std::string text) { return MasterKey::from_text(Secret(std::move(text))); }

constexpr SealedPlace place{.purpose = "workspace secret", .workspace = "w1", .name = "TOKEN", .version = 3};

TEST(Sealing, AValueOpensWhereItWasSealed) {
  const DataKey key = DataKey::generate();
  for (const std::string text : {"", "x", "canary-0123456789"}) {
    const std::string sealed = key.seal(Secret(text), place);
    EXPECT_EQ(sealed.size(), text.size() + DataKey::overhead_bytes);
    const auto opened = key.open(sealed, place);
    ASSERT_TRUE(opened);
    EXPECT_EQ(revealed(*opened), text);
  }
}

TEST(Sealing, ASealedValueHoldsNothingOfItAndIsNeverTheSameTwice) {
  const DataKey key = DataKey::generate();
  const std::string once = key.seal(Secret("canary-0123456789"), place);
  EXPECT_THAT(once, Not(HasSubstr("canary")));
  EXPECT_NE(once, key.seal(Secret("canary-0123456789"), place));
}

TEST(Sealing, AValueThatWasMovedDoesNotOpen) {
  const DataKey key = DataKey::generate();
  const std::string sealed = key.seal(Secret("canary"), place);
  auto elsewhere = [](auto change) {
    SealedPlace other = place;
    change(other);
    return other;
  };
  for (const SealedPlace& other : {
           elsewhere([](SealedPlace& to) { to.purpose = "signing key"; }),
           elsewhere([](SealedPlace& to) { to.workspace = "w2"; }),
           elsewhere([](SealedPlace& to) { to.name = "OTHER"; }),
           elsewhere([](SealedPlace& to) { to.version = 2; }),
           // The same letters, cut elsewhere.
           elsewhere([](SealedPlace& to) { to.workspace = "w1T", to.name = "OKEN"; }),
           elsewhere([](SealedPlace& to) { to.purpose = "workspace secretw", to.workspace = "1"; }),
       }) {
    const auto opened = key.open(sealed, other);
    ASSERT_FALSE(opened);
    EXPECT_EQ(opened.error(), OpenFault::damaged);
  }
  EXPECT_FALSE(DataKey::generate().open(sealed, place));
}

TEST(Sealing, NoBitCanBeChangedAndNothingCutOrAdded) {
  const DataKey key = DataKey::generate();
  const std::string sealed = key.seal(Secret("canary"), place);
  for (std::size_t i = 0; i < sealed.size() * 8; ++i) {
    std::string changed = sealed;
    changed[i / 8] = static_cast<char>(changed[i / 8] ^ (1 << i % 8));
    EXPECT_FALSE(key.open(changed, place)) << "bit " << i;
  }
  for (std::size_t size = 0; size < sealed.size(); ++size)
    EXPECT_FALSE(key.open(sealed.substr(0, size), place)) << size;
  EXPECT_FALSE(key.open(sealed + '\0', place));
}

TEST(MasterKey, IsReadFromWhatOpensslPrints) {
  for (const std::string& text : {hex_key, base64_key, hex_key + "\n", base64_key + "\r\n"}) {
    const auto key = key_from(text);
    ASSERT_TRUE(key) << text;
    EXPECT_EQ(revealed(key->to_text()), base64_key);
    EXPECT_EQ(key->fingerprint(), key_from(hex_key)->fingerprint());
  }
  std::string large = hex_key;
  for (char& c : large) c = static_cast<char>(std::toupper(c));
  EXPECT_TRUE(key_from(large));
}

TEST(MasterKey, IsRefusedInWordsThatHoldNothingOfIt) {
  for (const std::string& text :
       {std::string(), std::string("\n"), std::string("canary"), hex_key.substr(2), hex_key + "00",
        hex_key.substr(1) + "g", base64_key.substr(4), base64_key + "AAAA", " " + base64_key,
        base64_key + "\n\n", std::string(64, ':'), std::string(64, ' ')}) {
    const auto key = key_from(text);
    ASSERT_FALSE(key) << text;
    EXPECT_EQ(key.error().reason, Reason::invalid_configuration);
    EXPECT_EQ(key.error().detail, key_from("other").error().detail);
  }
}

TEST(MasterKey, AFingerprintTellsKeysApartAndIsNoPartOfThem) {
  std::set<std::string> seen;
  for (int i = 0; i < 64; ++i) EXPECT_TRUE(seen.insert(MasterKey::generate().fingerprint()).second);
  EXPECT_EQ(seen.begin()->size(), 32U);
  EXPECT_THAT(hex_key, Not(HasSubstr(key_from(hex_key)->fingerprint().substr(0, 8))));
}

TEST(MasterKey, OpensWhatTheFirstVersionMade) {
  const auto bytes = [](std::string_view digits) {
    std::string out;
    for (std::size_t i = 0; i < digits.size(); i += 2)
      out += static_cast<char>(std::stoi(std::string(digits.substr(i, 2)), nullptr, 16));
    return out;
  };
  const std::string wrapped = bytes(
      "0162e322aeb54e160e8df56e5c2fa1b307e21218dfdd4363b55539b6b140280d119d0a18d20e7708"
      "8244e274cc66daddf1978454995e4b7745994e7818ca5b550e5b606a496b49c3ec0643a0054089d2"
      "11769db7a97fddbb0f");
  const std::string sealed = bytes(
      "017e26574eed7531979bd00eb2112e4a7d1dc8e49249cde18972c65a20bc03b22d96cd702292ce6a"
      "ca73ad5f69c163");
  const auto master = key_from(hex_key);
  EXPECT_EQ(master->fingerprint(), "62e322aeb54e160e8df56e5c2fa1b307");
  const auto key = master->open(wrapped, "w1");
  ASSERT_TRUE(key);
  const auto opened = key->open(sealed, place);
  ASSERT_TRUE(opened);
  EXPECT_EQ(revealed(*opened), "canary");
}

TEST(MasterKey, OpensWhatItWrappedForItsOwnerOnly) {
  const MasterKey master = MasterKey::generate();
  const DataKey key = DataKey::generate();
  const std::string wrapped = master.wrap(key, "w1");
  const std::string sealed = key.seal(Secret("canary"), place);
  const auto opened = master.open(wrapped, "w1");
  ASSERT_TRUE(opened);
  EXPECT_EQ(revealed(*opened->open(sealed, place)), "canary");
  EXPECT_EQ(master.open(wrapped, "w2").error(), OpenFault::damaged);
}

TEST(MasterKey, AnotherKeyIsToldFromDamage) {
  const MasterKey master = MasterKey::generate();
  std::string wrapped = master.wrap(DataKey::generate(), "w1");
  EXPECT_EQ(MasterKey::generate().open(wrapped, "w1").error(), OpenFault::other_key);
  wrapped.back() = static_cast<char>(wrapped.back() ^ 1);
  EXPECT_EQ(master.open(wrapped, "w1").error(), OpenFault::damaged);
  for (std::size_t size = 0; size < wrapped.size(); ++size)
    EXPECT_FALSE(master.open(wrapped.substr(0, size), "w1")) << size;
}

}  // namespace
}  // namespace postern::credential
