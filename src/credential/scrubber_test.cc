// Whatever comes back: no form of a secret goes on, and every other byte is what it was.

#include "credential/scrubber.h"

#include <gmock/gmock.h>
#include <random>

#include "credential/base64.h"

namespace postern::credential {
namespace {

using testing::HasSubstr;
using testing::Not;

std::shared_ptr<const Scrubber> scrubber_of(std::vector<std::pair<std::string, std::string>> headers) {
  std::vector<InjectedHeader> made;
  for (const auto& [name, value] : headers) made.push_back(make_header(name, "test", value).value());
  std::vector<const InjectedHeader*> all;
  for (const InjectedHeader& header : made) all.push_back(&header);
  return Scrubber::make(all);
}

std::shared_ptr<const Scrubber> bearer(const std::string& secret) {
  return scrubber_of({{"Authorization", "Bearer " + secret}});
}

std::string scrubbed(const std::shared_ptr<const Scrubber>& scrubber, std::string_view text,
                     std::uint64_t* found = nullptr) {
  ScrubbedStream stream(std::span(&scrubber, 1));
  std::string out(stream.pass(text, true));
  if (found) *found = stream.found();
  return out;
}

constexpr std::string_view key = "sk-proj/4+bQ\"x<y&z'~Z9";

TEST(Scrubber, WritesOverToTheSameLength) {
  const auto scrubber = bearer("sk-0123456789abcdef");
  EXPECT_EQ(scrubbed(scrubber, "key=sk-0123456789abcdef;"), "key=[redacted]*********;");
  EXPECT_EQ(scrubbed(scrubber, "sk-0123456789abcde sk-0123456789ABCDEF"),
            "sk-0123456789abcde sk-0123456789ABCDEF");
  EXPECT_EQ(scrubbed(bearer("12345678"), "<12345678>"), "<********>");
}

TEST(Scrubber, FindsEveryFormThatWasPromised) {
  const auto scrubber = bearer(std::string(key));
  // Written by Python's json, urllib and base64, and by JavaScript's encodeURIComponent and encodeURI.
  for (const char* form : {R"(sk-proj/4+bQ"x<y&z'~Z9)", R"(sk-proj/4+bQ\"x<y&z'~Z9)",
                           R"(sk-proj\/4+bQ\"x<y&z'~Z9)", R"(sk-proj/4+bQ\"x\u003cy\u0026z\u0027~Z9)",
                           R"(sk-proj%2F4%2BbQ%22x%3Cy%26z%27~Z9)", R"(sk-proj/4%2BbQ%22x%3Cy%26z%27~Z9)",
                           R"(sk-proj%2F4%2BbQ%22x%3Cy%26z'~Z9)", R"(sk-proj/4+bQ%22x%3Cy&z'~Z9)",
                           R"(sk-proj%2f4%2bbQ%22x%3cy%26z%27~Z9)", "c2stcHJvai80K2JRIng8eSZ6J35aO"}) {
    std::uint64_t found = 0;
    const std::string text = std::string("before ") + form + " after";
    EXPECT_THAT(scrubbed(scrubber, text, &found), Not(HasSubstr(std::string_view(form).substr(4, 12))))
        << form;
    EXPECT_EQ(found, 1) << form;
  }
}

TEST(Scrubber, FindsBase64WithinLongerTextAtEveryAlignment) {
  const std::string secret = "\xfb\xef\xbe?>secret-of-many?>\xff";
  const auto scrubber = bearer(secret);
  for (const auto append : {append_base64, append_base64url}) {
    for (std::size_t before = 0; before < 6; ++before) {
      std::string encoded;
      append(std::string(before, 'x') + secret + "and what follows", encoded);
      std::uint64_t found = 0;
      const std::string out = scrubbed(scrubber, encoded, &found);
      EXPECT_EQ(found, 1) << before;
      std::string alone;
      append(std::string(before % 3, 'x') + secret.substr(0, 12), alone);
      EXPECT_THAT(out, Not(HasSubstr(alone.substr(4, 8)))) << before;
    }
  }
}

TEST(Scrubber, KnowsWhatIsSecretInAValue) {
  // The scheme alone is nothing to hide; a login is, decoded too.
  const auto login = scrubber_of({{"Authorization", "Basic dXNlcjpjb3JyZWN0LWhvcnNl"}});
  EXPECT_EQ(scrubbed(login, "Basic dXNlcjpjb3JyZWN0LWhvcnNl"), "Basic [redacted]**************");
  EXPECT_EQ(scrubbed(login, "user:correct-horse"), "[redacted]********");
  EXPECT_EQ(scrubbed(login, "pw=correct-horse"), "pw=[redacted]***");
  const auto cookies = scrubber_of({{"Cookie", "theme=dark; session=0123456789abcdef"}});
  EXPECT_EQ(scrubbed(cookies, "theme=dark&0123456789abcdef"), "theme=dark&[redacted]******");
  EXPECT_EQ(scrubber_of({{"X-Short", "1234567"}}), nullptr);
  const auto plain = make_header("X-Team", "plaintext", "research-team", SecretSpans{});
  const InjectedHeader* const only[] = {&*plain};
  EXPECT_EQ(Scrubber::make(only), nullptr);
}

TEST(Scrubber, HoldsBackOnlyWhatMayBeginASecret) {
  const auto scrubber = bearer("sk-0123456789abcdef");
  ScrubbedStream stream(std::span(&scrubber, 1));
  const std::string_view harmless = "data: hello\n\n";
  EXPECT_EQ(stream.pass(harmless, false).data(), harmless.data()) << "copied without need";
  EXPECT_EQ(stream.pass("data: sk-01", false), "data: ");
  EXPECT_EQ(stream.pass("234", false), "");
  EXPECT_EQ(stream.pass("x\n\n", false), "sk-01234x\n\n");
  EXPECT_EQ(stream.pass("sk-0123456789", false), "");
  EXPECT_EQ(stream.pass("abcdef", false), "[redacted]*********");
  EXPECT_EQ(stream.pass("sk-0", true), "sk-0");
  EXPECT_EQ(stream.pass("123456789abcdef", true), "123456789abcdef") << "a new stream";
  EXPECT_EQ(stream.found(), 1);
}

TEST(Scrubber, SecretsWithinSecretsLeaveNothing) {
  const auto scrubber = scrubber_of({{"A", "abcabcabcabc"}, {"B", "abcabcab"}, {"C", "cabcabcabcabcabx"}});
  for (std::size_t cut = 1; cut < 30; ++cut) {
    const std::string text = "abcabcabcabcabcabcabxabcabcabcab";
    ScrubbedStream stream(std::span(&scrubber, 1));
    std::string out(stream.pass(std::string_view(text).substr(0, cut), false));
    out += stream.pass(std::string_view(text).substr(cut), true);
    EXPECT_EQ(out.size(), text.size()) << cut;
    EXPECT_THAT(out, Not(HasSubstr("abc"))) << cut << " " << out;
  }
}

/// What a reader sees who knows nothing but the forms: every byte that some occurrence covers.
std::vector<bool> covered(std::string_view text, const std::vector<std::string>& forms) {
  std::vector<bool> out(text.size());
  for (const std::string& form : forms)
    for (std::size_t at = text.find(form); at != std::string_view::npos; at = text.find(form, at + 1))
      std::fill_n(out.begin() + static_cast<std::ptrdiff_t>(at), form.size(), true);
  return out;
}

std::string any_bytes(std::mt19937& random, std::size_t size, std::string_view alphabet) {
  std::string out;
  while (out.size() < size) out += alphabet[random() % alphabet.size()];
  return out;
}

class AnyChunking : public testing::TestWithParam<unsigned> {};

TEST_P(AnyChunking, NothingComesThroughAndAllElseIsIdentical) {
  std::mt19937 random(GetParam());
  for (int round = 0; round < 60; ++round) {
    // A small alphabet makes beginnings, overlaps and near misses common.
    const std::string_view alphabet = round % 2 ? "ab" : "abcdefghijklmnopqrstuvwxyz0123456789-_";
    std::vector<std::pair<std::string, std::string>> headers;
    std::vector<std::string> forms;
    for (std::size_t i = 0; i < 1 + random() % 6; ++i) {
      const std::string secret = any_bytes(random, 8 + random() % 40, alphabet);
      headers.emplace_back("X-" + std::to_string(i), secret);
      forms.push_back(secret);
      for (std::size_t alignment = 0; alignment < 3; ++alignment) {
        std::string encoded;
        append_base64(std::string(alignment, '\0') + secret, encoded);
        forms.push_back(encoded.substr((8 * alignment + 5) / 6,
                                       (8 * (alignment + secret.size())) / 6 - (8 * alignment + 5) / 6));
      }
    }
    std::string text;
    while (text.size() < 600) {
      text += any_bytes(random, random() % 50, alphabet);
      const std::string& form = forms[random() % forms.size()];
      text += form.substr(0, random() % 3 ? form.size() : random() % form.size());
    }
    const std::vector<bool> secret = covered(text, forms);
    const auto scrubber = scrubber_of(headers);
    ScrubbedStream stream(std::span(&scrubber, 1));
    std::string out;
    for (std::size_t at = 0; at < text.size();) {
      const std::size_t size = std::min<std::size_t>(text.size() - at, 1 + random() % 40);
      out += stream.pass(std::string_view(text).substr(at, size), at + size == text.size());
      at += size;
    }
    ASSERT_EQ(out.size(), text.size());
    for (std::size_t i = 0; i < text.size(); ++i) {
      ASSERT_TRUE(secret[i] || out[i] == text[i]) << "at " << i << " of\n" << text << "\n" << out;
    }
    const std::vector<bool> left = covered(out, forms);
    ASSERT_EQ(std::ranges::count(left, true), 0) << text << "\n" << out;
  }
}

INSTANTIATE_TEST_SUITE_P(Seeds, AnyChunking, testing::Range(0U, 20U));

TEST(Scrubber, ManySecretsAreFoundAmongThousandsOfForms) {
  std::mt19937 random(7);
  std::vector<std::pair<std::string, std::string>> headers;
  for (int i = 0; i < 300; ++i)
    headers.emplace_back("X",
                         any_bytes(random, 20 + random() % 60, "abcdefghijklmnopqrstuvwxyz0123456789/+"));
  const auto scrubber = scrubber_of(headers);
  for (const auto& [name, secret] : headers) {
    std::string text = any_bytes(random, 100, "abcdefghij ") + secret + " rest";
    EXPECT_THAT(scrubbed(scrubber, text), Not(HasSubstr(secret)));
  }
}

}  // namespace
}  // namespace postern::credential
