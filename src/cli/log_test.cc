#include "cli/log.h"

#include <gtest/gtest.h>

namespace postern::cli {
namespace {

TEST(LogNotes, ASimpleCallHasNone) {
  EXPECT_EQ(notes_of(R"({"decision":"allowed","credentials":[{"header":"A","source":"plaintext"}]})"), "");
  EXPECT_EQ(notes_of("no record"), "");
  EXPECT_EQ(notes_of(R"({"redactions":1,"credentials":[1,{"cached":1,"version":"x"}],"scrubbed":-1})"), "");
}

TEST(LogNotes, WhatWasDoneIsSaidInOneOrder) {
  EXPECT_EQ(
      notes_of(R"({"decision":"allowed","credentials":[
    {"header":"Authorization","source":"workspace_secret:TOKEN","version":3},
    {"header":"X-T","source":"callback:creds.example","cached":true}],
    "redactions":[{"detector":"email","count":2},{"detector":"iban","count":1}],"scrubbed":4})"),
      "[redacted email x2, iban x1; scrubbed x4; workspace_secret:TOKEN v3; callback:creds.example cached]");
  EXPECT_EQ(
      notes_of(
          R"({"decision":"denied","limit":"requests_per_day","redactions":[{"detector":"jwt","count":1}]})"),
      "[limit requests_per_day; found jwt x1]");
}

TEST(LogNotes, NothingInThemSpeaksToATerminal) {
  EXPECT_EQ(notes_of(R"({"limit":"\u001b[31m","redactions":[{"detector":"\u0007","count":1}]})")
                .find_first_of("\x1b\x07"),
            std::string::npos);
}

}  // namespace
}  // namespace postern::cli
