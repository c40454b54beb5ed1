#include "transform/bounded_pattern.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <re2/re2.h>

namespace postern::transform {
namespace {

using testing::HasSubstr;

bool matches(const std::string& expression, std::string_view text) {
  const re2::RE2 compiled(expression, re2::RE2::Latin1);
  EXPECT_TRUE(compiled.ok()) << expression;
  return re2::RE2::FullMatch({text.data(), text.size()}, compiled);
}

TEST(BoundedPattern, SaysWhatItsPatternSays) {
  struct Case {
    const char* pattern;
    std::vector<std::string> yes, no;
    std::size_t longest;
  };
  const std::vector<Case> cases = {
      {"ACME-[0-9]{6}", {"ACME-123456"}, {"ACME-12345", "ACME-1234567", "acme-123456"}, 11},
      {"(?i)acme-\\d{2,3}", {"ACME-12", "acMe-123"}, {"ACME-1"}, 8},
      {"a|bc|d?e", {"a", "bc", "de", "e"}, {"d", "b", ""}, 2},
      {"(?:ab){1,3}c", {"abc", "abababc"}, {"c", "ababababc"}, 7},
      {"[^a-c]x", {"dx", "\nx", "\xffx"}, {"ax"}, 2},
      {"[]a-]{2}", {"]a", "--"}, {"b]"}, 2},
      {"\\.\\*\\{\\\\", {".*{\\"}, {"a"}, 4},
      {"\\x41\\t.", {"A\tz"}, {"A\t\n"}, 3},
      {"[[:alpha:]_]\\w\\s", {"a_ ", "_9\t"}, {"1_ "}, 3},
      {"caf\xc3\xa9?s", {"caf\xc3\xa9s", "cafs"}, {"caf\xc3s"}, 6},
      {"a(b(c|d){2}|e)f", {"abcdf", "aef"}, {"abf"}, 5},
      {"[\\d-]{3}", {"1-2"}, {"a-2"}, 3},
      {"x{3}", {"xxx"}, {"xx"}, 3},
  };
  for (const Case& one : cases) {
    const auto read = read_pattern(one.pattern);
    ASSERT_TRUE(read) << one.pattern << ": " << read.error();
    EXPECT_EQ(one.longest, read->length_max) << one.pattern;
    for (const auto& text : one.yes) {
      EXPECT_TRUE(matches(read->exact, text)) << one.pattern << " " << text;
      for (std::size_t size = 1; size <= text.size(); ++size)
        EXPECT_TRUE(matches(read->beginning, text.substr(0, size)))
            << one.pattern << " " << text.substr(0, size);
      EXPECT_FALSE(matches(read->beginning, text + std::string(one.longest, '\x01'))) << one.pattern;
    }
    for (const auto& text : one.no) EXPECT_FALSE(matches(read->exact, text)) << one.pattern << " " << text;
  }
}

TEST(BoundedPattern, ComplaintsSayWhatToDo) {
  const std::vector<std::pair<std::string, const char*>> cases = {
      {"", "is empty"},
      {"a*", "write {0,64}"},
      {"a+", "write {1,64}"},
      {"a{2,}", "without an upper bound"},
      {"a?", "matches the empty text"},
      {"a|", "matches the empty text"},
      {"\\b", "matches the empty text"},
      {"^a", "anchor"},
      {"a$", "anchor"},
      {"(a", "does not close a group"},
      {"a)", "closes a group"},
      {"[a", "does not close a class"},
      {"[^\\x00-\\x7f]", ""},
      {"[b-a]", "backwards"},
      {"[\xc3\xa9]", "beyond ASCII"},
      {"(?i)\xc3\xa9", "beyond ASCII"},
      {"a{257}", "cannot be"},
      {"(?:a{200}){2}", "more than 256 bytes"},
      {"(?P<x>a)", "flags or a name"},
      {"(?=a)", "flags or a name"},
      {"a{2}{3}", "repeats a repeat"},
      {"a??b*", "write {0,64}"},
      {"*a", "repeats nothing"},
      {"\\1", "not known"},
      {"\\pL", "not known"},
      {"a\\", "ends with a backslash"},
      {"\\x4", "two hex digits"},
      {"\\xff", "beyond ASCII"},
      {"a{x}", "write \\{"},
      {"[[:nope:]]", "not known"},
      {std::string(600, 'a'), "longer than 512"},
      {std::string(30, '(') + "a" + std::string(30, ')'), "too deeply"},
  };
  for (const auto& [pattern, sentence] : cases) {
    const auto read = read_pattern(pattern);
    if (!*sentence) {
      EXPECT_TRUE(read) << pattern;
      continue;
    }
    ASSERT_FALSE(read) << pattern;
    EXPECT_THAT(read.error(), HasSubstr(sentence)) << pattern;
  }
}

}  // namespace
}  // namespace postern::transform
