#include "cli/run_summary.h"

#include <gtest/gtest.h>
#include <memory>
#include <string>

namespace postern::cli {
namespace {

std::string printed(const audit::Summary& summary, bool every_host = false) {
  char* text = nullptr;
  std::size_t size = 0;
  std::FILE* out = ::open_memstream(&text, &size);
  print_summary(summary, every_host, out);
  std::fclose(out);
  std::string copy(text, size);
  std::free(text);
  return copy;
}

audit::Summary::PerHost calls(std::uint64_t allowed, std::uint64_t denied, std::uint64_t failed) {
  audit::Summary::PerHost host;
  host.allowed = allowed;
  host.denied = denied;
  host.failed = failed;
  return host;
}

TEST(RunSummary, IsSilentWhenNothingHappened) { EXPECT_EQ(printed({}), ""); }

TEST(RunSummary, CountsAndShowsTheBusiestHostFirst) {
  audit::Summary summary;
  summary.records = 6;
  summary.hosts["quiet.example.com:443"] = calls(1, 0, 0);
  summary.hosts["busy.example.com:443"] = calls(3, 1, 1);
  summary.hosts["busy.example.com:443"].with_credentials = 3;
  summary.hosts["busy.example.com:443"].request_bytes = 1500;
  summary.hosts["busy.example.com:443"].response_bytes = 2'000'000;
  const std::string text = printed(summary);
  EXPECT_TRUE(text.starts_with("postern: 4 allowed, 1 denied, 1 failed\n")) << text;
  EXPECT_LT(text.find("busy.example.com:443"), text.find("quiet.example.com:443"));
  for (const char* part :
       {"5 calls", "3 with credentials", "1 denied", "1 failed", "1.5 kB up", "2.0 MB down", "1 call"})
    EXPECT_NE(text.find(part), std::string::npos) << part << "\n" << text;
  EXPECT_EQ(text.find('\033'), std::string::npos) << "colours are for terminals";
}

TEST(RunSummary, ShowsTheFirstDozenUnlessAllAreAskedFor) {
  audit::Summary summary;
  for (int i = 0; i < 20; ++i) summary.hosts["h" + std::to_string(i) + ".example.com:443"] = calls(1, 0, 0);
  summary.records = 20;
  EXPECT_NE(printed(summary).find("8 more hosts"), std::string::npos) << printed(summary);
  EXPECT_EQ(printed(summary, true).find("more hosts"), std::string::npos);
  EXPECT_NE(printed(summary, true).find("h19.example.com"), std::string::npos);
}

TEST(RunSummary, SaysWhatTheLogLost) {
  audit::Summary summary;
  summary.records = 5;
  summary.lost = 5;
  summary.hosts["a:443"] = calls(5, 0, 0);
  EXPECT_NE(printed(summary).find("5 records could not be written"), std::string::npos);
}

}  // namespace
}  // namespace postern::cli
