#include "audit/record.h"

#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

namespace postern::audit {
namespace {

using namespace std::chrono_literals;

std::string line(const Record& record) {
  std::string out;
  append_json(record, out);
  return out;
}

Record full() {
  Record record;
  record.time = std::chrono::system_clock::time_point(1'700'000'000s + 42us);
  record.sandbox = std::make_shared<const std::string>("box");
  record.workspace = std::make_shared<const std::string>("home");
  record.kind = Kind::http;
  record.reason = Reason::origin_closed;
  record.rule = "api";
  record.method = "POST";
  record.scheme = "https";
  record.host = "api.example.com";
  record.port = 443;
  record.path = "/v1/models";
  record.status = 502;
  record.protocol = "HTTP/1.1";
  record.intercepted = true;
  record.origin_address = "1.2.3.4:443";
  record.credentials = {{"Authorization", "workspace_secret:API_KEY", 18'446'744'073'709'551'615u},
                        {"X-Team", "plaintext"},
                        {"X-Token", "callback:creds.example", 0, true}};
  record.request_bytes = 18'446'744'073'709'551'615u;
  record.response_bytes = 7;
  record.duration = 1'234'567us;
  record.timings = {1us, 20us, 300us, 4000us};
  record.policy_version = 3;
  record.redactions = {{"email", 2}, {"aws_key", 18'446'744'073'709'551'615u}};
  record.scrubbed = 3;
  record.limit = "burst";
  record.rewritten_to = "mirror.example:8443";
  record.operation = "mutation deleteRepo";
  record.detail = "it went";
  return record;
}

TEST(RecordLine, HasEveryFieldInItsPlace) {
  EXPECT_EQ(
      line(full()),
      R"({"time":"2023-11-14T22:13:20.000042Z","sandbox":"box","workspace":"home","kind":"http","decision":"failed",)"
      R"("reason":"origin_closed","rule":"api","method":"POST","scheme":"https","host":"api.example.com","port":443,)"
      R"("path":"/v1/models","status":502,"protocol":"HTTP/1.1","intercepted":true,"origin_address":"1.2.3.4:443",)"
      R"("credentials":[{"header":"Authorization","source":"workspace_secret:API_KEY","version":18446744073709551615},)"
      R"({"header":"X-Team","source":"plaintext"},{"header":"X-Token","source":"callback:creds.example","cached":true}],)"
      R"("request_bytes":18446744073709551615,"response_bytes":7,"duration_ms":1234.567,)"
      R"("timings":{"dns":0.001,"connect":0.020,"tls":0.300,"first_byte":4.000},"policy_version":3,)"
      R"("redactions":[{"detector":"email","count":2},{"detector":"aws_key","count":18446744073709551615}],)"
      R"("scrubbed":3,"limit":"burst","rewritten_to":"mirror.example:8443","operation":"mutation deleteRepo","detail":"it went"})"
      "\n");
}

TEST(RecordLine, SaysWhichOfTwoItIs) {
  Record record = full();
  record.exchange = "00ff-7";
  record.begins = true;
  EXPECT_NE(line(record).find(R"("kind":"http","exchange":"00ff-7","phase":"begin","decision":)"),
            std::string::npos);
  record.begins = false;
  EXPECT_NE(line(record).find(R"("exchange":"00ff-7","phase":"end",)"), std::string::npos);
}

TEST(RecordLine, LeavesOutWhatThereWasNot) {
  Record record;
  record.kind = Kind::dns;
  record.reason = Reason::not_in_allow_list;
  record.host = "evil.example";
  record.port = 53;
  EXPECT_EQ(
      line(record),
      R"({"time":"1970-01-01T00:00:00.000000Z","sandbox":"","workspace":"","kind":"dns","decision":"denied",)"
      R"("reason":"not_in_allow_list","host":"evil.example","port":53,"intercepted":false,"credentials":[],)"
      R"("request_bytes":0,"response_bytes":0,"duration_ms":0.000,)"
      R"("timings":{"dns":0.000,"connect":0.000,"tls":0.000,"first_byte":0.000},"policy_version":0})"
      "\n");
}

TEST(RecordLine, IsOneLineOfJsonWhateverTheTextHolds) {
  for (int byte = 0; byte < 256; ++byte) {
    Record record = full();
    record.method = std::string("A") + static_cast<char>(byte) + "B";
    record.path = std::string("\"},{\n") + static_cast<char>(byte);
    record.host = std::string(1, static_cast<char>(byte));
    record.detail = std::string("\\") + static_cast<char>(byte);
    record.operation = std::string("\"}\\") + static_cast<char>(byte);
    const std::string text = line(record);
    ASSERT_EQ(std::count(text.begin(), text.end(), '\n'), 1) << byte;
    ASSERT_TRUE(std::all_of(text.begin(), text.end() - 1, [](char c) { return c >= 0x20 && c < 0x7f; }))
        << byte;
    const auto json = nlohmann::json::parse(text, nullptr, false);
    ASSERT_FALSE(json.is_discarded()) << text;
    ASSERT_EQ(json.size(), nlohmann::json::parse(line(full())).size()) << "no field can be smuggled in";
    if (byte < 0x80) {
      EXPECT_EQ(json["method"].get<std::string>(), record.method);
      EXPECT_EQ(json["path"].get<std::string>(), record.path);
    }
  }
}

TEST(RecordLine, TextIsTheSameWhereverAByteStands) {
  for (std::size_t size = 1; size <= 25; ++size)
    for (std::size_t at = 0; at < size; ++at)
      for (int byte = 0; byte < 128; ++byte) {
        Record record = full();
        record.path.assign(size, 'a');
        record.path[at] = static_cast<char>(byte);
        const auto json = nlohmann::json::parse(line(record), nullptr, false);
        ASSERT_FALSE(json.is_discarded()) << line(record);
        ASSERT_EQ(json["path"].get<std::string>(), record.path) << size << " " << at << " " << byte;
      }
}

TEST(RecordLine, HasRoomForTheLongestTextOfBytesThatAreAllEscaped) {
  for (const std::size_t size : {1u, 1000u, 100'000u}) {
    Record record = full();
    record.path.assign(size, '\x01');
    record.detail.assign(size, '\x80');
    record.host.assign(size, '\n');
    record.operation.assign(size, '\x7f');
    record.rewritten_to.assign(size, '\r');
    const std::string text = line(record);
    EXPECT_EQ(text.size(), line(full()).size() - full().path.size() - full().detail.size() -
                               full().host.size() - full().operation.size() - full().rewritten_to.size() +
                               5 * 6 * size);
  }
}

TEST(RecordLine, TimesBeforeTheEpochAreNotNegativeMicroseconds) {
  Record record;
  record.time = std::chrono::system_clock::time_point(-1us);
  EXPECT_NE(line(record).find("1969-12-31T23:59:59.999999Z"), std::string::npos) << line(record);
}

TEST(Record, ClearedIsAsNew) {
  Record record = full();
  record.exchange = "00ff-7";
  record.begins = true;
  record.policy = std::make_shared<int>(1);
  const std::weak_ptr<const void> policy = record.policy;
  record.clear();
  record.time = {};
  EXPECT_EQ(line(record), line(Record{}));
  EXPECT_TRUE(policy.expired()) << "a recycled record must not keep an old policy alive";
}

}  // namespace
}  // namespace postern::audit
