#include "cli/doctor.h"

#include <filesystem>
#include <gmock/gmock.h>
#include <stdlib.h>

namespace postern::cli {
namespace {

using ::testing::Contains;
using ::testing::Field;
using ::testing::HasSubstr;

class Doctor : public ::testing::Test {
 protected:
  Doctor() { EXPECT_NE(mkdtemp(state_.data()), nullptr); }
  ~Doctor() override { std::filesystem::remove_all(state_); }

  static std::string read_back(std::FILE* file) {
    std::string text(4096, '\0');
    std::rewind(file);
    text.resize(std::fread(text.data(), 1, text.size(), file));
    return text;
  }

  std::string state_ = "/tmp/postern-doctor-XXXXXX";
};

TEST_F(Doctor, OnAMachineThatCanRunSandboxesTheCaptureIsReallyTried) {
  auto findings = examine(state_);
  EXPECT_THAT(findings,
              Contains(testing::AllOf(Field(&Finding::subject, "capture"), Field(&Finding::ok, true))));
  EXPECT_THAT(findings,
              Contains(testing::AllOf(Field(&Finding::subject, "sandbox"), Field(&Finding::ok, true))));
  EXPECT_TRUE(preflight());
}

TEST_F(Doctor, AProblemIsPrintedWithItsCommandAndSetsTheExitStatus) {
  std::FILE* out = std::tmpfile();
  EXPECT_EQ(doctor(out, "/proc/not-a-place"), 1);
  std::string text = read_back(out);
  EXPECT_THAT(text, HasSubstr("problem  state directory"));
  EXPECT_THAT(text, HasSubstr("mend it: sudo install -d -m 700"));
  std::fclose(out);
}

TEST_F(Doctor, EveryProblemHasACommandAndNoHealthyLineHasOne) {
  for (const std::string& state : {state_, std::string("/proc/not-a-place")}) {
    for (const Finding& finding : examine(state))
      EXPECT_EQ(finding.ok, finding.mend.empty()) << finding.subject;
  }
}

}  // namespace
}  // namespace postern::cli
