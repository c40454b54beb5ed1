#pragma once
// The road where a credential is asked for at an endpoint before a request may go on.

#include <fmt/format.h>
#include <gmock/gmock.h>

#include "proxy/road_harness.h"

namespace postern::proxy::road {

inline std::string json_answer(std::string_view body, std::string_view status = "200 OK") {
  return fmt::format("HTTP/1.1 {}\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{}", status,
                     body.size(), body);
}

class CredentialRoad : public testing::Test {
 protected:
  /// What the endpoint was asked.
  std::string asked() {
    road_->settle();
    return road_->endpoint() ? road_->endpoint()->take() : "";
  }
  std::string origin_received() {
    road_->settle();
    return road_->origin() ? road_->origin()->take() : "";
  }
  /// Nothing was sent, and nobody is told a canary. The record.
  std::string expect_refusal(Peer& sandbox) {
    EXPECT_TRUE(road_->wait_until([&] { return !sandbox.received().empty(); }));
    road_->settle();
    EXPECT_THAT(sandbox.take(), testing::AllOf(testing::HasSubstr("502 Bad Gateway"),
                                               testing::HasSubstr("X-Postern-Reason: credential_unavailable"),
                                               testing::Not(testing::HasSubstr("canary"))));
    EXPECT_EQ(road_->origins(), 0u);
    const auto lines = road_->records();
    EXPECT_EQ(lines.size(), 1u);
    if (lines.size() != 1) return {};
    EXPECT_THAT(lines[0], testing::AllOf(testing::HasSubstr(R"("reason":"credential_unavailable")"),
                                         testing::Not(testing::HasSubstr("canary"))));
    return lines[0];
  }
  std::unique_ptr<Road> road_;
};

}  // namespace postern::proxy::road
