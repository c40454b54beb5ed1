#include "api/execute_request.h"

#include <fmt/format.h>
#include <gmock/gmock.h>

#include "api/execute.h"

namespace postern::api {
namespace {

using std::chrono::seconds;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

TEST(ExecuteRequest, AScriptIsTheShellsAndAListIsRunAsItIs) {
  EXPECT_THAT(parse_execute(R"({"command": "echo hi"})", Form::once)->options.request.arguments,
              ElementsAre("/bin/bash", "-c", "echo hi"));
  EXPECT_THAT(parse_execute(R"({"command": "x", "shell": "/bin/sh"})", Form::once)->options.request.arguments,
              ElementsAre("/bin/sh", "-c", "x"));
  EXPECT_THAT(
      parse_execute(R"({"command": ["ls", "-l"], "new": [1]})", Form::once)->options.request.arguments,
      ElementsAre("ls", "-l"));
}

TEST(ExecuteRequest, BothNamesOfTheTimeLimitAreKnown) {
  EXPECT_EQ(parse_execute(R"({"command": "x", "timeout": 5})", Form::once)->options.timeout, seconds(5));
  EXPECT_EQ(parse_execute(R"({"command": "x", "timeout_seconds": 6.0})", Form::once)->options.timeout,
            seconds(6));
  EXPECT_EQ(parse_execute(R"({"command": "x", "timeout": null})", Form::once)->options.timeout, seconds(60));
  EXPECT_EQ(parse_execute(R"({"command": "x", "timeout_seconds": 0})", Form::socket)->options.timeout,
            seconds(0));
}

TEST(ExecuteRequest, WhatASocketSaysBesides) {
  const auto opening = parse_opening(R"({"type": "execute", "command": "x", "timeout_seconds": 0,
      "shell": "/bin/bash", "idle_timeout_seconds": -1, "kill_on_disconnect": true, "ttl_seconds": 30, "pty": true,
      "command_id": "a", "env": {"A": "b"}, "cwd": "c"})");
  const auto& request = std::get<ExecuteRequest>(*opening);
  EXPECT_EQ(request.options.idle_timeout, seconds(-1));
  EXPECT_EQ(request.options.keep, seconds(30));
  EXPECT_TRUE(request.options.kill_without_viewer);
  EXPECT_TRUE(request.options.request.terminal);
  EXPECT_TRUE(request.options.request.has_input);
  EXPECT_EQ(request.command_id, "a");
  EXPECT_EQ(request.options.request.directory, "c");
  EXPECT_THAT(request.environment, ElementsAre(std::pair<std::string, std::string>("A", "b")));
  const auto again =
      parse_opening(R"({"type": "reconnect", "command_id": "a", "stdout_offset": 5, "stderr_offset": 0})");
  EXPECT_EQ(std::get<ReconnectRequest>(*again).output_offset, 5U);
}

TEST(ExecuteRequest, BytesAreForSocketsThatAskForThem) {
  const char* document = R"({"type": "execute", "command": "x", "binary": true})";
  EXPECT_TRUE(std::get<ExecuteRequest>(*parse_opening(document)).binary);
  EXPECT_FALSE(std::get<ExecuteRequest>(*parse_opening(R"({"type": "execute", "command": "x"})")).binary);
  EXPECT_FALSE(parse_execute(document, Form::events)->binary);
}

TEST(ExecuteRequest, WhatIsWrongIsNamed) {
  const auto field_of = [](const char* document, Form form = Form::socket) {
    const auto parsed = parse_execute(document, form);
    return parsed ? std::string("nothing") : parsed.error().field;
  };
  EXPECT_EQ(field_of(R"({})"), "command");
  EXPECT_EQ(field_of(R"({"command": ""})"), "command");
  EXPECT_EQ(field_of(R"({"command": 5})"), "command");
  EXPECT_EQ(field_of(R"({"command": []})"), "command");
  EXPECT_EQ(field_of(R"({"command": ["a", 1]})"), "command");
  EXPECT_EQ(field_of(R"({"command": "a\u0000b"})"), "command");
  EXPECT_EQ(field_of(R"({"command": "a", "cwd": "a\u0000b"})"), "cwd");
  EXPECT_EQ(field_of(R"({"command": "a", "shell": 1})"), "shell");
  EXPECT_EQ(field_of(R"({"command": "a", "env": ["A=b"]})"), "env");
  EXPECT_EQ(field_of(R"({"command": "a", "env": {"A=B": "b"}})"), "env");
  EXPECT_EQ(field_of(R"({"command": "a", "env": {"A": 1}})"), "env");
  EXPECT_EQ(field_of(R"({"command": "a", "timeout_seconds": -1})"), "timeout_seconds");
  EXPECT_EQ(field_of(R"({"command": "a", "timeout_seconds": 1e300})"), "timeout_seconds");
  EXPECT_EQ(field_of(R"({"command": "a", "timeout_seconds": 18446744073709551615})"), "timeout_seconds");
  EXPECT_EQ(field_of(R"({"command": "a", "timeout_seconds": 1.5})"), "timeout_seconds");
  EXPECT_EQ(field_of(R"({"command": "a", "timeout_seconds": "5"})"), "timeout_seconds");
  EXPECT_EQ(field_of(R"({"command": "a", "idle_timeout_seconds": -2})"), "idle_timeout_seconds");
  EXPECT_EQ(field_of(R"({"command": "a", "pty": "yes"})"), "pty");
  EXPECT_EQ(field_of(R"({"command": "a", "run_config": {"env_vars": {"": "x"}}})"), "run_config.env_vars");
  EXPECT_EQ(field_of(R"({"command": "a", "run_config": {"user": "root"}})"), "run_config.user");
  EXPECT_EQ(field_of((R"({"command": ")" + std::string(300'000, 'x') + R"("})").c_str()), "command");
  EXPECT_EQ(field_of((R"({"command": "a", "command_id": ")" + std::string(129, 'x') + R"("})").c_str()),
            "command_id");
  EXPECT_FALSE(parse_reconnect(R"({"command_id": "a", "stdout_offset": -1})"));
  EXPECT_FALSE(parse_reconnect(R"({"command_id": "a", "stderr_offset": 1e19})"));
  EXPECT_FALSE(parse_reconnect(R"({"stdout_offset": 1})"));
  EXPECT_FALSE(parse_opening(R"({"type": "input", "data": ""})"));
  EXPECT_FALSE(parse_opening(std::string(200'000, '[')));
}

TEST(ExecuteRequest, ARunConfigGoesWithoutTheOthers) {
  const auto both = parse_execute(R"({"command": "a", "cwd": "/", "run_config": {}})", Form::once);
  ASSERT_FALSE(both);
  EXPECT_EQ(to_response(both.error()).status, 400);
  const auto invalid = parse_execute(R"({"command": 1})", Form::once);
  EXPECT_EQ(to_response(invalid.error()).status, 422);
  EXPECT_THAT(to_response(invalid.error()).body, HasSubstr(R"("loc":["body","command"])"));
  EXPECT_EQ(to_response(parse_execute("{", Form::once).error()).status, 400);
  const auto good = parse_execute(
      R"({"command": "a", "run_config": {"work_dir": "/x", "env_vars": {"A": "b"}}})", Form::once);
  ASSERT_TRUE(good);
  EXPECT_EQ(good->options.request.directory, "/x");
  EXPECT_EQ(good->environment.size(), 1U);
}

TEST(ExecuteRequest, LaterFramesAreOrders) {
  EXPECT_EQ(parse_order(R"({"type": "kill"})")->kind, Order::Kind::kill);
  EXPECT_EQ(parse_order(R"({"type": "input", "data": "a\u0000"})")->data, std::string("a\0", 2));
  EXPECT_EQ(parse_order(R"({"type": "close_stdin"})")->kind, Order::Kind::close_input);
  EXPECT_EQ(parse_order(R"({"type": "later"})")->kind, Order::Kind::unknown);
  const auto resize = parse_order(R"({"type": "resize", "rows": 33, "columns": 77})");
  EXPECT_EQ(resize->kind, Order::Kind::resize);
  EXPECT_EQ(resize->rows, 33);
  EXPECT_EQ(resize->columns, 77);
  EXPECT_FALSE(parse_order(R"({"type": "resize", "rows": 0, "columns": 77})"));
  EXPECT_FALSE(parse_order(R"({"type": "resize", "rows": 33})"));
  EXPECT_FALSE(parse_order(R"({"type": "input"})"));
  EXPECT_FALSE(parse_order("kill"));
}

TEST(Collected, TheBeginningAndTheEndAreKept) {
  Collected small;
  small.append("a");
  small.append("b");
  EXPECT_EQ(small.text(), "ab");
  Collected exact;
  exact.append(std::string(collected_bytes_max, 'x'));
  EXPECT_EQ(exact.text(), std::string(collected_bytes_max, 'x'));
  for (const std::size_t piece : {100'000UL, 3'000'000UL}) {
    Collected large;
    large.append("first");
    for (std::size_t sent = 0; sent < 12'000'000; sent += piece) large.append(std::string(piece, 'x'));
    large.append("last");
    EXPECT_TRUE(large.text().starts_with("firstx")) << piece;
    EXPECT_TRUE(large.text().ends_with("xlast"));
    EXPECT_LT(large.text().size(), collected_bytes_max + 100);
    EXPECT_THAT(large.text(),
                HasSubstr(fmt::format("{} bytes were left out", 12000009 - collected_bytes_max)));
  }
}

}  // namespace
}  // namespace postern::api
