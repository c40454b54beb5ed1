#include "box/file_requests.h"

#include <filesystem>
#include <fmt/format.h>
#include <fstream>
#include <gmock/gmock.h>
#include <sys/stat.h>

#include "box/agent/files.h"
#include "box/test_kit.h"

namespace postern::box {
namespace {

namespace fs = std::filesystem;
using testing::ElementsAre;

class Files : public WithAgent {
 protected:
  Files() {
    std::string pattern = (fs::temp_directory_path() / "postern-box-XXXXXX").string();
    top_ = ::mkdtemp(pattern.data());
  }
  ~Files() override { fs::remove_all(top_); }

  struct Answer {
    int status = -1;
    std::string out, err;
    int trouble() const {
      EXPECT_EQ(status, file_trouble) << out;
      return parse_trouble(err);
    }
  };
  Answer ask(RunRequest request, std::string_view input = {}) {
    CommandOptions options;
    const bool writes = request.has_input;
    options.request = std::move(request);
    Command command(loop_, link_, std::move(options));
    while (writes && !input.empty()) {
      const std::string_view piece = input.substr(0, 100'000);
      EXPECT_TRUE(wait([&] { return command.input(piece); }));
      input.remove_prefix(piece.size());
    }
    if (writes) command.close_input();
    Answer answer;
    answer.out = all(command);
    answer.err = all(command, StreamId::standard_error);
    EXPECT_EQ(command.state(), Command::State::exited) << command.error_number();
    answer.status = command.status();
    return answer;
  }
  std::string path(const std::string& name) const { return top_ + "/" + name; }
  void make(const std::string& name, std::string_view content) {
    fs::create_directories(fs::path(path(name)).parent_path());
    std::ofstream(path(name), std::ios::binary) << content;
  }
  std::string content(const std::string& name) const {
    std::ifstream file(path(name), std::ios::binary);
    return {std::istreambuf_iterator<char>(file), {}};
  }
  std::vector<std::string> glob(const std::string& pattern, std::uint64_t limit = 100) {
    const auto entries = parse_entries(ask(glob_request(pattern, top_, limit)).out);
    EXPECT_TRUE(entries);
    std::vector<std::string> names;
    for (const FileEntry& entry : entries.value_or(std::vector<FileEntry>()))
      names.push_back(entry.path.substr(top_.size() + 1));
    return names;
  }
  std::vector<std::string> grep(const std::string& text, const std::string& pattern = "",
                                std::uint64_t limit = 100) {
    const auto lines = parse_lines(ask(grep_request(text, top_, pattern, limit)).out);
    EXPECT_TRUE(lines);
    std::vector<std::string> out;
    for (const FoundLine& line : lines.value_or(std::vector<FoundLine>()))
      out.push_back(fmt::format("{}:{}:{}", line.path.substr(top_.size() + 1), line.number, line.text));
    return out;
  }
  std::string top_;
};

TEST_F(Files, AreReadWholeAndInParts) {
  std::string large;
  for (int i = 0; large.size() < 3'000'000; ++i) large += std::to_string(i);
  make("a b", large);
  EXPECT_EQ(ask(read_request(path("a b"), 0, std::nullopt)).out, large);
  EXPECT_EQ(ask(read_request(path("a b"), 1'000'000, 70'000)).out, large.substr(1'000'000, 70'000));
  EXPECT_EQ(ask(read_request(path("a b"), large.size(), std::nullopt)).out, "");
  EXPECT_EQ(ask(read_request(path("none"), 0, std::nullopt)).trouble(), ENOENT);
  EXPECT_EQ(ask(read_request(top_, 0, std::nullopt)).trouble(), EISDIR);
  ::mkfifo(path("pipe").c_str(), 0600);
  EXPECT_EQ(ask(read_request(path("pipe"), 0, std::nullopt)).trouble(), EINVAL) << "and does not hang";
  EXPECT_EQ(ask(read_request("/dev/zero", 0, std::nullopt)).trouble(), EINVAL);
}

TEST_F(Files, AnEntryHasATagThatChangesWithTheContent) {
  make("a", "one");
  const auto before = parse_entries(ask(stat_request(path("a"))).out);
  ASSERT_TRUE(before && before->size() == 1);
  EXPECT_EQ(before->front().kind, FileEntry::Kind::file);
  EXPECT_EQ(before->front().bytes, 3u);
  EXPECT_LT(std::chrono::abs(before->front().modified - SystemClock().wall()), std::chrono::minutes(1));
  EXPECT_EQ(parse_entries(ask(stat_request(path("a"))).out)->front().tag, before->front().tag);
  const auto modified = fs::last_write_time(path("a"));
  make("a", "two");
  fs::last_write_time(path("a"), modified);
  EXPECT_NE(parse_entries(ask(stat_request(path("a"))).out)->front().tag, before->front().tag)
      << "of the same length and date";
  EXPECT_EQ(parse_entries(ask(stat_request(top_)).out)->front().kind, FileEntry::Kind::folder);
  EXPECT_EQ(ask(stat_request(path("none"))).trouble(), ENOENT);
}

TEST_F(Files, AreWrittenWholeWithTheirFolders) {
  std::string large(2'500'000, 'x');
  large[1'000'000] = '\0';
  const auto entries = parse_entries(ask(write_request(path("new/deep/file")), large).out);
  ASSERT_TRUE(entries && entries->size() == 1);
  EXPECT_EQ(entries->front().bytes, large.size());
  EXPECT_EQ(content("new/deep/file"), large);
  EXPECT_EQ(ask(write_request(path("empty")), "").status, 0);
  EXPECT_EQ(content("empty"), "");
  EXPECT_EQ(ask(write_request(path("new")), "x").trouble(), EISDIR);
  EXPECT_EQ(ask(write_request(path("empty/x")), "x").trouble(), ENOTDIR);
  EXPECT_EQ(ask(write_request("/proc/version"), "x").status, file_trouble);
}

TEST_F(Files, WhatIsReplacedKeepsItsModeAndItsLink) {
  make("script", "old");
  fs::permissions(path("script"), fs::perms(0750));
  fs::create_symlink("script", path("link"));
  EXPECT_EQ(ask(write_request(path("link")), "new").status, 0);
  EXPECT_EQ(content("script"), "new");
  EXPECT_TRUE(fs::is_symlink(path("link")));
  EXPECT_EQ(fs::status(path("script")).permissions(), fs::perms(0750));
  EXPECT_THAT(glob("*"), ElementsAre("link", "script")) << "nothing is left beside it";
}

TEST_F(Files, HalfAFileIsNone) {
  make("a", "as it was");
  {
    CommandOptions options;
    options.request = write_request(path("a"));
    Command command(loop_, link_, std::move(options));
    EXPECT_TRUE(command.input("half of"));
    EXPECT_TRUE(wait([&] { return command.state() == Command::State::running; }));
  }  // Killed.
  EXPECT_EQ(ask(stat_request(path("a"))).status, 0);
  EXPECT_EQ(content("a"), "as it was");
}

TEST_F(Files, AnUploadThatIsGivenUpLeavesNothingBehind) {
  {
    CommandOptions options;
    options.request = write_request(path("a"));
    Command command(loop_, link_, std::move(options));
    EXPECT_TRUE(command.input("half of"));
    EXPECT_TRUE(wait([&] { return glob("*").size() == 1; })) << "the file beside it";
    command.signal(SIGTERM);
    EXPECT_TRUE(wait([&] { return command.over(); }));
  }
  EXPECT_EQ(glob("*"), std::vector<std::string>());
}

TEST_F(Files, PatternsFindWhatTheySay) {
  for (const char* name :
       {"a.txt", "b.md", "sub/c.txt", "sub/deep/d.txt", "sub/.hidden", "other/e.txt", "new\nline"})
    make(name, "");
  EXPECT_THAT(glob("*"), ElementsAre("a.txt", "b.md", "new\nline", "other", "sub"));
  EXPECT_THAT(glob("*.txt"), ElementsAre("a.txt"));
  EXPECT_THAT(glob("**/*.txt"), ElementsAre("a.txt", "other/e.txt", "sub/c.txt", "sub/deep/d.txt"));
  EXPECT_THAT(glob("sub/*"), ElementsAre("sub/.hidden", "sub/c.txt", "sub/deep"));
  EXPECT_THAT(glob("sub/**/d.txt"), ElementsAre("sub/deep/d.txt"));
  EXPECT_THAT(glob("*/deep/[a-d].txt"), ElementsAre("sub/deep/d.txt"));
  EXPECT_THAT(glob("none*"), ElementsAre());
  EXPECT_EQ(glob("**").size(), 10u);
  EXPECT_EQ(glob("**", 3).size(), 4u) << "one more says that there are more";
  EXPECT_EQ(ask(glob_request("*", path("none"), 1)).trouble(), ENOENT);
  EXPECT_EQ(ask(glob_request("*", path("a.txt"), 1)).trouble(), ENOTDIR);
}

TEST_F(Files, LinksAreToldAndNotFollowed) {
  make("sub/a", "needle\n");
  fs::create_directory_symlink(top_, path("sub/loop"));
  fs::create_symlink("/etc/passwd", path("outside"));
  EXPECT_THAT(glob("**"), ElementsAre("outside", "sub", "sub/a", "sub/loop"));
  EXPECT_THAT(grep("needle"), ElementsAre("sub/a:1:needle"));
  EXPECT_THAT(grep("root"), ElementsAre());
}

TEST_F(Files, ManyStarsTakeNoLongerThanOne) {
  std::string deep;
  for (int i = 0; i < 60; ++i) deep += "a/";
  make(deep + "end", "");
  std::string pattern;
  for (int i = 0; i < 40; ++i) pattern += "**/a/";
  EXPECT_EQ(glob(pattern + "**/end").size(), 1u);
  EXPECT_EQ(glob(pattern + "**/none").size(), 0u);
}

TEST_F(Files, LinesAreFoundWithTheirNumbers) {
  make("a.txt", "one\ntwo needle\nthree\nneedle");
  make("sub/b.md", "a needle in b\n");
  make("sub/c.txt", "needles\r\n");
  make("binary", std::string("\0needle\n", 8));
  make("long", std::string(10'000, 'x') + "needle\n");
  EXPECT_THAT(grep("needle"),
              ElementsAre("a.txt:2:two needle", "a.txt:4:needle", "long:1:" + std::string(4096, 'x'),
                          "sub/b.md:1:a needle in b", "sub/c.txt:1:needles\r"));
  EXPECT_THAT(grep("needle", "*.txt"),
              ElementsAre("a.txt:2:two needle", "a.txt:4:needle", "sub/c.txt:1:needles\r"))
      << "a name at any depth";
  EXPECT_THAT(grep("needle", "sub/*.txt"), ElementsAre("sub/c.txt:1:needles\r"));
  EXPECT_THAT(grep("needle", "*/*.md"), ElementsAre("sub/b.md:1:a needle in b"));
  EXPECT_THAT(grep("n.edle"), ElementsAre()) << "literally";
  EXPECT_EQ(grep("needle", "", 1).size(), 2u);
  const auto one = parse_lines(ask(grep_request("two", path("a.txt"), "", 10)).out);
  ASSERT_TRUE(one && one->size() == 1);
  EXPECT_EQ(one->front().number, 2u);
}

TEST_F(Files, WhatIsNoRequestIsRefused) {
  RunRequest request;
  request.of_agent = true;
  for (const std::vector<std::string>& words : {std::vector<std::string>{"rm", "/"},
                                                {"read", "/etc/passwd"},
                                                {"read", "/etc/passwd", "-1", "end"},
                                                {"read", "/etc/passwd", "0", "x"},
                                                {"glob", "*", "/", ""},
                                                {"grep", "", "/", "", "1"},
                                                {"stat"}}) {
    request.arguments = words;
    const Answer answer = ask(request);
    EXPECT_EQ(answer.status, 2) << words.front();
    EXPECT_EQ(answer.out, "");
  }
}

TEST(FileAnswers, OnlyWhatAnAgentSaysIsRead) {
  const auto entry = [](std::string_view text) { return std::string(text.begin(), text.end()); };
  using namespace std::string_view_literals;
  EXPECT_TRUE(parse_entries(entry("/a\0f\0"sv) + entry("3\0-5\0aa-1\0"sv)));
  EXPECT_TRUE(parse_entries(""));
  for (const std::string_view answer :
       {"x"sv, "/a\0f\0003\0005\0aa"sv, "/a\0x\0003\0005\0aa\0"sv, "\0f\0003\0005\0aa\0"sv,
        "/a\0f\0-3\0005\0aa\0"sv, "/a\0f\0003\0x\0aa\0"sv, "/a\0f\0003\0005\0a\"a\0"sv,
        "/a\0f\0003\0005\0\0"sv, "/a\0f\000399999999999999999999\0005\0aa\0"sv})
    EXPECT_FALSE(parse_entries(answer)) << answer;
  EXPECT_TRUE(parse_lines("/a\0001\0text\0"sv));
  for (const std::string_view answer :
       {"/a\0000\0text\0"sv, "/a\0001\0text"sv, "\0001\0text\0"sv, "/a\0x\0text\0"sv})
    EXPECT_FALSE(parse_lines(answer));
  EXPECT_EQ(parse_trouble("2"), ENOENT);
  for (const char* other : {"", "x", "-1", "0", "99999", "2 "}) EXPECT_EQ(parse_trouble(other), EIO);
}

}  // namespace
}  // namespace postern::box
