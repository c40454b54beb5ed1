#include "audit/chain.h"

#include <fmt/format.h>
#include <gtest/gtest.h>
#include <vector>

#include "audit/record.h"

namespace postern::audit {
namespace {

/// A signature that whoever knows the word can make.
SignPayload signer(const std::string& word) {
  return [word](std::string_view payload) {
    std::string token = word + ".";
    for (const char c : payload) fmt::format_to(std::back_inserter(token), "{:02x}", c);
    return token;
  };
}

int digit(char c) { return c <= '9' ? c - '0' : c - 'a' + 10; }

CheckSignature checker(const std::string& word) {
  return [word](std::string_view token) -> Result<std::string> {
    if (!token.starts_with(word + ".")) return fail(Reason::internal, "another word");
    std::string payload;
    for (std::size_t i = word.size() + 1; i + 1 < token.size(); i += 2)
      payload += static_cast<char>(digit(token[i]) * 16 + digit(token[i + 1]));
    if (signer(word)(payload) != token) return fail(Reason::internal, "another token");
    return payload;
  };
}

std::string record_line(const std::string& host) {
  Record record;
  record.host = host;
  record.reason = Reason::allowed;
  std::string out;
  append_json(record, out);
  return out;
}

std::vector<std::string> lines_of(std::string_view text) {
  std::vector<std::string> out;
  while (!text.empty()) {
    out.emplace_back(text.substr(0, text.find('\n')));
    text.remove_prefix(text.find('\n') + 1);
  }
  return out;
}

/// begin, a, b, checkpoint, c, d, end: what there is to change.
std::vector<std::string> written() {
  Chain chain(signer("word"));
  std::string text;
  chain.open({}, 0, text);
  chain.append(record_line("a") + record_line("b"), {}, text);
  chain.sign({}, false, text);
  chain.append(record_line("c") + record_line("d"), {}, text);
  chain.sign({}, true, text);
  return lines_of(text);
}

/// 0: nothing is wrong; else the number of the first line that is, and why.
std::pair<std::size_t, std::string> check(const std::vector<std::string>& lines,
                                          const std::string& word = "word") {
  ChainCheck check(word.empty() ? CheckSignature() : checker(word));
  for (std::size_t i = 0; i < lines.size(); ++i)
    if (const auto read = check.line(lines[i]); !read) return {i + 1, read.error().detail};
  return {0, check.at_rest() ? "at rest" : "goes on"};
}

TEST(Chain, WhatWasWrittenIsGood) {
  const auto lines = written();
  ASSERT_EQ(lines.size(), 7u);
  EXPECT_EQ(check(lines).first, 0u) << check(lines).second;
  EXPECT_EQ(check(lines).second, "at rest");
  EXPECT_TRUE(lines[1].ends_with("\"}")) << lines[1];
  EXPECT_NE(lines[1].find(R"(,"seq":2,"chain":")"), std::string::npos) << lines[1];
}

TEST(Chain, EveryBitOfEveryLineCounts) {
  const auto lines = written();
  for (std::size_t line = 0; line < lines.size(); ++line)
    for (std::size_t at = 0; at < lines[line].size(); ++at)
      for (int bit = 0; bit < 8; ++bit) {
        auto changed = lines;
        changed[line][at] = static_cast<char>(changed[line][at] ^ (1 << bit));
        ASSERT_EQ(check(changed).first, line + 1) << changed[line];
      }
}

TEST(Chain, ALineThatIsMissingIsNamedByTheOneBehindIt) {
  for (std::size_t line = 0; line + 1 < written().size(); ++line) {
    auto lines = written();
    lines.erase(lines.begin() + static_cast<std::ptrdiff_t>(line));
    const auto [at, why] = check(lines);
    EXPECT_EQ(at, line + 1) << why;
    EXPECT_NE(why.find("missing"), std::string::npos) << why;
  }
}

TEST(Chain, LinesThatChangedPlacesOrWerePutInAreFound) {
  for (std::size_t line = 0; line + 1 < written().size(); ++line) {
    auto lines = written();
    std::swap(lines[line], lines[line + 1]);
    EXPECT_EQ(check(lines).first, line + 1);
    lines = written();
    lines.insert(lines.begin() + static_cast<std::ptrdiff_t>(line + 1), lines[line]);
    const auto [at, why] = check(lines);
    EXPECT_EQ(at, line + 2) << why;
    EXPECT_NE(why.find(line == 0 ? "another chain" : "put in"), std::string::npos) << why;
  }
  auto lines = written();
  lines.insert(lines.begin() + 2, record_line("evil").substr(0, record_line("evil").size() - 1));
  EXPECT_EQ(check(lines).first, 3u);
}

TEST(Chain, WhoCannotSignCannotRewriteIt) {
  // All of it anew, with hashes that fit, signed with another word.
  Chain forged(signer("guess"));
  std::string text;
  forged.open({}, 0, text);
  forged.append(record_line("harmless"), {}, text);
  forged.sign({}, true, text);
  EXPECT_EQ(check(lines_of(text), "").first, 0u) << "hashes alone say nothing";
  EXPECT_EQ(check(lines_of(text)).first, 3u);
  // A signature of another line of the same log.
  auto lines = written();
  const auto signature = [](const std::string& line) { return line.substr(line.find(R"(,"signature")")); };
  lines[6] = lines[6].substr(0, lines[6].find(R"(,"signature")")) + signature(lines[3]);
  EXPECT_EQ(check(lines).first, 7u);
}

TEST(Chain, LeavingSignaturesOutIsFound) {
  Chain chain(signer("word"));
  std::string text;
  chain.open({}, 0, text);
  for (int i = 0; i < 600; ++i) chain.append(record_line("a"), {}, text);
  EXPECT_EQ(check(lines_of(text)).first, 0u);
  // Hashes that fit again, as somebody makes them who has no key.
  std::string forged;
  Chain without(signer("guess"));
  without.open({}, 0, forged);
  for (const auto& line : lines_of(text)) {
    if (line.find(R"("kind":"chain")") == std::string::npos)
      without.append(line.substr(0, line.find(R"(,"seq":)")) + "}\n", {}, forged);
  }
  std::vector<std::string> kept;
  for (const auto& line : lines_of(forged))
    if (line.find("checkpoint") == std::string::npos) kept.push_back(line);
  EXPECT_NE(check(kept).first, 0u);
}

TEST(Chain, GoesOnInTheNextFileAndTheNextProcess) {
  Chain first(signer("word"));
  std::string text;
  first.open({}, 0, text);
  first.append(record_line("a"), {}, text);
  const auto end = chain_end_of(lines_of(text).back());
  ASSERT_TRUE(end);
  EXPECT_EQ(end->seq, 2u);
  EXPECT_EQ(end->hash, first.end().hash);
  Chain second({first.end().log, end->seq, end->hash}, signer("word"));
  std::string more;
  second.open({}, 0, more);
  second.append(record_line("b"), {}, more);
  second.sign({}, true, more);

  EXPECT_EQ(check(lines_of(text + more)).first, 0u) << check(lines_of(text + more)).second;
  ChainCheck files(checker("word"));
  for (const auto& line : lines_of(text)) ASSERT_TRUE(files.line(line));
  files.next_file();
  for (const auto& line : lines_of(more)) ASSERT_TRUE(files.line(line));
  EXPECT_EQ(files.lines(), 5u);
  // The second alone says where it begins.
  ChainCheck alone(checker("word"));
  for (const auto& line : lines_of(more)) ASSERT_TRUE(alone.line(line));
  EXPECT_EQ(alone.first(), 3u);
  // A file without its first line is not one.
  ChainCheck cut(checker("word"));
  EXPECT_FALSE(cut.line(lines_of(more)[1]));
}

TEST(Chain, WhatWasKnownToBeMissingIsSaid) {
  Chain chain(signer("word"));
  std::string text;
  chain.open({}, 0, text);
  Chain later({chain.end().log, chain.end().seq, chain.end().hash}, signer("word"));
  later.open({}, 7, text);
  const auto [at, why] = check(lines_of(text));
  EXPECT_EQ(at, 2u);
  EXPECT_NE(why.find("7 signed lines"), std::string::npos) << why;
}

TEST(Chain, NoTextOfARecordIsTakenForItsOwn) {
  Chain chain(signer("word"));
  std::string text;
  chain.open({}, 0, text);
  Record record;
  record.reason = Reason::allowed;
  record.path = R"(/","seq":9,"chain":"00"}{"kind":"chain","event":"end")";
  std::string line;
  append_json(record, line);
  chain.append(line, {}, text);
  EXPECT_EQ(check(lines_of(text)).first, 0u) << check(lines_of(text)).second;
}

}  // namespace
}  // namespace postern::audit
