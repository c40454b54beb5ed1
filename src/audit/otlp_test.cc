#include "audit/otlp.h"

#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "audit/record.h"

namespace postern::audit {
namespace {

using namespace std::chrono_literals;
using nlohmann::json;

std::string line_of(const Record& record) {
  std::string out;
  append_json(record, out);
  out.pop_back();
  return out;
}

/// By key.
json attribute(const json& record, const std::string& key) {
  for (const json& one : record["attributes"])
    if (one["key"] == key) return one["value"];
  return nullptr;
}

TEST(Otlp, ARecordHasTimeSeverityAndAttributes) {
  Record record;
  record.time = std::chrono::system_clock::time_point(1'700'000'000s + 42us);
  record.reason = Reason::not_in_allow_list;
  record.method = "GET";
  record.host = "evil.example";
  record.port = 443;
  record.path = "/x\"\n";
  record.status = 403;
  record.credentials = {{"Authorization", "plaintext"}};
  record.request_bytes = 18'446'744'073'709'551'615u;
  const std::vector<std::string> lines = {line_of(record), "no json", "{}", line_of(record)};
  const json request = json::parse(otlp_request(lines, {"1.2", "here"}));
  const json& logs = request["resourceLogs"][0];
  EXPECT_EQ(attribute(logs["resource"], "service.name")["stringValue"], "postern");
  EXPECT_EQ(attribute(logs["resource"], "host.name")["stringValue"], "here");
  const json& records = logs["scopeLogs"][0]["logRecords"];
  ASSERT_EQ(records.size(), 2u);
  EXPECT_EQ(records[0]["timeUnixNano"], "1700000000000042000");
  EXPECT_EQ(records[0]["severityNumber"], 13);
  EXPECT_EQ(attribute(records[0], "server.address")["stringValue"], "evil.example");
  EXPECT_EQ(attribute(records[0], "server.port")["intValue"], "443");
  EXPECT_EQ(attribute(records[0], "postern.reason")["stringValue"], "not_in_allow_list");
  EXPECT_EQ(attribute(records[0], "postern.intercepted")["boolValue"], false);
  EXPECT_EQ(attribute(records[0], "postern.duration_ms")["doubleValue"], 0.0);
  EXPECT_EQ(attribute(records[0], "postern.request_bytes")["stringValue"], "18446744073709551615")
      << "no int64 holds it";
  const json credential = attribute(records[0], "postern.credentials")["arrayValue"]["values"][0];
  EXPECT_EQ(credential["kvlistValue"]["values"][1]["value"]["stringValue"], "plaintext");
}

TEST(Otlp, AnAnswerSaysWhatWasNotTaken) {
  EXPECT_EQ(otlp_rejected(R"({"partialSuccess":{"rejectedLogRecords":"7","errorMessage":"full"}})"), 7u);
  EXPECT_EQ(otlp_rejected(R"({"partialSuccess":{"rejectedLogRecords":3}})"), 3u);
  for (const char* none : {"{}", "", "[]", "nothing", R"({"partialSuccess":{}})", R"({"partialSuccess":[]})"})
    EXPECT_EQ(otlp_rejected(none), 0u) << none;
}

}  // namespace
}  // namespace postern::audit
