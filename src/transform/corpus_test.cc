// How good the detectors are, on texts written for it: corpus/KIND.txt has a text in every line, with {{ }}
// around what is to be found, and corpus/none.txt has nothing to find. docs/transformation.md has the
// figures.

#include <fmt/format.h>
#include <fstream>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sstream>

#include "transform/match_stream.h"
#include "transform/redactor.h"

namespace postern::transform {
namespace {

using Span = std::pair<std::size_t, std::size_t>;

std::string read_file(const std::string& name) {
  std::ifstream in(std::string(POSTERN_SOURCE_DIR) + "/" + name);
  EXPECT_TRUE(in.good()) << name;
  std::ostringstream out;
  out << in.rdbuf();
  return out.str();
}

std::vector<std::string> lines_of(std::string_view kind) {
  std::istringstream in(read_file(fmt::format("src/transform/corpus/{}.txt", kind)));
  std::vector<std::string> out;
  for (std::string line; std::getline(in, line);) out.push_back(line);
  return out;
}

/// The text without its marks, and what they mark.
std::pair<std::string, std::vector<Span>> unmarked(std::string_view line) {
  std::pair<std::string, std::vector<Span>> out;
  while (true) {
    const std::size_t begin = line.find("{{"),
                      end = line.find("}}", begin == std::string_view::npos ? 0 : begin);
    if (begin == std::string_view::npos || end == std::string_view::npos) break;
    out.first += line.substr(0, begin);
    const std::string_view value = line.substr(begin + 2, end - begin - 2);
    out.second.emplace_back(out.first.size(), out.first.size() + value.size());
    out.first += value;
    line.remove_prefix(end + 2);
  }
  out.first += line;
  return out;
}

struct Score {
  std::size_t lines = 0, right = 0, missed = 0, wrong = 0;
  std::string first_missed, first_wrong;

  double precision() const {
    return static_cast<double>(right) / static_cast<double>(std::max<std::size_t>(1, right + wrong));
  }
  double recall() const {
    return static_cast<double>(right) / static_cast<double>(std::max<std::size_t>(1, right + missed));
  }
};

/// Found is what was cut out as a whole; anything else that was cut is wrong.
void score_line(const std::shared_ptr<const DetectorSet>& set, std::string_view line, Score& score) {
  const auto [text, spans] = unmarked(line);
  Redactor redactor(set);
  const std::string out(redactor.pass(text, true));
  std::string expected;
  std::size_t at = 0;
  for (const auto& [begin, end] : spans) {
    expected += text.substr(at, begin - at);
    expected += set->replacement(0);
    at = end;
  }
  expected += text.substr(at);
  ++score.lines;
  const std::size_t found = redactor.changed() ? redactor.counts()[0] : 0;
  if (out == expected) {
    score.right += spans.size();
  } else if (spans.empty()) {
    score.wrong += found;
    if (score.first_wrong.empty()) score.first_wrong = text;
  } else {
    score.missed += spans.size();
    score.wrong += found;
    if (score.first_missed.empty()) score.first_missed = text;
  }
}

std::string table() {
  std::string out =
      "| detector | lines | to be found | found | missed | false | precision | recall "
      "|\n|---|---|---|---|---|---|---|---|\n";
  for (std::string_view kind : builtin_detectors()) {
    const auto set = DetectorSet::compile(std::vector<DetectorSpec>{{std::string(kind)}}).value();
    Score score;
    for (const auto& line : lines_of(kind)) score_line(set, line, score);
    for (const auto& line : lines_of("none")) score_line(set, line, score);
    out += fmt::format("| `{}` | {} | {} | {} | {} | {} | {:.3f} | {:.3f} |\n", kind, score.lines,
                       score.right + score.missed, score.right, score.missed, score.wrong, score.precision(),
                       score.recall());
    if (!score.first_missed.empty()) fmt::print("{} misses, for example: {}\n", kind, score.first_missed);
    if (!score.first_wrong.empty())
      fmt::print("{} finds wrongly, for example: {}\n", kind, score.first_wrong);
  }
  return out;
}

TEST(Corpus, TheFiguresInTheDocumentationAreTheseFigures) {
  const std::string figures = table();
  fmt::print("{}", figures);
  EXPECT_THAT(read_file("docs/transformation.md"), testing::HasSubstr(figures));
}

TEST(Corpus, NoDetectorFallsBelowWhatItPromises) {
  for (std::string_view kind : builtin_detectors()) {
    const auto set = DetectorSet::compile(std::vector<DetectorSpec>{{std::string(kind)}}).value();
    Score score;
    for (const auto& line : lines_of(kind)) score_line(set, line, score);
    EXPECT_GE(score.precision(), 0.9) << kind;
    EXPECT_GE(score.recall(), 0.85) << kind;
  }
}

}  // namespace
}  // namespace postern::transform
