#include "proxy/refusal.h"

#include <gtest/gtest.h>

namespace postern::proxy {
namespace {

TEST(Refusal, GrpcMessageIsTheSentenceInPrintableAscii) {
  EXPECT_EQ(grpc_message(
                {.reason = Reason::denied_by_rule, .host = "api.example.com", .rule = "kein \xc3\xbc 100%"}),
            "The rule 'kein %C3%BC 100%25' of this sandbox's policy denies this request to api.example.com.");
}

TEST(Refusal, GrpcStatusSaysWhatTheHttpStatusWouldHaveSaid) {
  EXPECT_EQ(grpc_status_of(Reason::not_in_allow_list), 7);
  EXPECT_EQ(grpc_status_of(Reason::ambiguous_path), 3);
  EXPECT_EQ(grpc_status_of(Reason::head_too_large), 3);
  EXPECT_EQ(grpc_status_of(Reason::body_too_large), 8);
  EXPECT_EQ(grpc_status_of(Reason::unsignable_request), 3);
  EXPECT_EQ(grpc_status_of(Reason::sandbox_timeout), 4);
  EXPECT_EQ(grpc_status_of(Reason::origin_timeout), 4);
  EXPECT_EQ(grpc_status_of(Reason::misdirected_request), 14);
  EXPECT_EQ(grpc_status_of(Reason::connect_failed), 14);
  EXPECT_EQ(grpc_status_of(Reason::overloaded), 14);
  EXPECT_EQ(grpc_status_of(Reason::internal), 13);
}

}  // namespace
}  // namespace postern::proxy
