// What an answer has cost is read from its structure, however it is cut, and never from what a model says.

#include "transform/llm_usage.h"

#include <gmock/gmock.h>
#include <random>
#include <string>
#include <vector>

namespace postern::transform {
namespace {

std::optional<std::uint64_t> tokens(std::string_view answer, std::size_t step = 0) {
  LlmUsage usage;
  if (step == 0) step = answer.size() + 1;
  for (std::size_t at = 0; at < answer.size(); at += step) usage.feed(answer.substr(at, step));
  return usage.tokens();
}

struct Sample {
  const char* name;
  std::string answer;
  std::optional<std::uint64_t> tokens;
};

const std::vector<Sample>& samples() {
  static const std::vector<Sample> all = {
      {"OpenAI chat",
       R"({
  "id": "chatcmpl-1", "object": "chat.completion", "created": 1741570283, "model": "gpt-x",
  "choices": [{"index": 0, "message": {"role": "assistant", "content": "Hello \"usage\": {\"total_tokens\": 1}"},
    "finish_reason": "stop"}],
  "usage": {"prompt_tokens": 19, "completion_tokens": 10, "total_tokens": 29,
    "prompt_tokens_details": {"cached_tokens": 5, "audio_tokens": 0, "total_tokens": 999},
    "completion_tokens_details": {"reasoning_tokens": 7}},
  "service_tier": "default"
})",
       29},
      {"OpenAI chat, stream",
       "data: {\"id\":\"1\",\"choices\":[{\"delta\":{\"content\":\"Hi\"}}],\"usage\":null}\n\n"
       "data: {\"id\":\"1\",\"choices\":[],\"usage\":{\"prompt_tokens\":8,\"completion_tokens\":2,"
       "\"total_tokens\":10}}\n\ndata: [DONE]\n\n",
       10},
      {"OpenAI embeddings",
       R"({"object":"list","data":[{"object":"embedding","index":0,"embedding":[-0.0069,1e-5]}],)"
       R"("usage":{"prompt_tokens":8,"total_tokens":8}})",
       8},
      {"OpenAI responses",
       R"({"id":"resp_1","output":[{"type":"message","content":[{"type":"output_text","text":"x"}]}],)"
       R"("usage":{"input_tokens":36,"input_tokens_details":{"cached_tokens":0},"output_tokens":87,)"
       R"("output_tokens_details":{"reasoning_tokens":0},"total_tokens":123},"user":null})",
       123},
      {"OpenAI responses, stream",
       "event: response.created\r\ndata: "
       "{\"type\":\"response.created\",\"response\":{\"id\":\"1\",\"usage\":null}}"
       "\r\n\r\nevent: response.completed\r\ndata: "
       "{\"type\":\"response.completed\",\"response\":{\"id\":\"1\","
       "\"output\":[],\"usage\":{\"input_tokens\":37,\"output_tokens\":11,\"total_tokens\":48}}}\r\n\r\n",
       48},
      {"Anthropic",
       R"({"id":"msg_1","type":"message","role":"assistant","content":[{"type":"text","text":"Hi"}],)"
       R"("stop_reason":"end_turn","usage":{"input_tokens":12,"cache_creation_input_tokens":100,)"
       R"("cache_read_input_tokens":1000,"output_tokens":6,"service_tier":"standard"}})",
       1118},
      {"Anthropic, stream",
       "event: message_start\ndata: {\"type\":\"message_start\",\"message\":{\"id\":\"msg_1\",\"content\":[],"
       "\"usage\":{\"input_tokens\":25,\"output_tokens\":1}}}\n\n"
       "event: ping\ndata: {\"type\": \"ping\"}\n\n"
       "event: content_block_delta\ndata: {\"type\":\"content_block_delta\",\"index\":0,\"delta\":{\"type\":"
       "\"text_delta\",\"text\":\"\\\"usage\\\":{\\\"output_tokens\\\":777}\"}}\n\n"
       "event: message_delta\ndata: {\"type\":\"message_delta\",\"delta\":{\"stop_reason\":\"end_turn\"},"
       "\"usage\":{\"output_tokens\":15}}\n\nevent: message_stop\ndata: {\"type\":\"message_stop\"}\n\n",
       40},
      {"Groq, stream",
       "data: "
       "{\"choices\":[],\"x_groq\":{\"id\":\"1\",\"usage\":{\"prompt_tokens\":3,\"completion_tokens\":4}}}"
       "\n\n",
       7},
      {"Gemini",
       R"({"candidates":[{"content":{"parts":[{"text":"x"}]}}],"usageMetadata":{"promptTokenCount":4,)"
       R"("candidatesTokenCount":5,"totalTokenCount":20,"promptTokensDetails":[{"tokenCount":4}]}})",
       20},
      {"Gemini, array",
       "[{\"candidates\":[],\"usageMetadata\":{\"totalTokenCount\":7}}\n,\r\n"
       "{\"candidates\":[],\"usageMetadata\":{\"totalTokenCount\":19}}\n]",
       19},
      {"JSON lines", "{\"usage\":{\"prompt_tokens\":3}}\n{\"usage\":{\"completion_tokens\":4}}\n", 7},
      {"several lines of data", "data: {\"usage\":\ndata:{\"total_tokens\":\ndata: 5\ndata: }}\n\n", 5},
      {"events that end with CR", "\xef\xbb\xbf: hello\rdata: {\"usage\":{\"total_tokens\":5}}\r\r", 5},
      {"an event that breaks off, and another",
       "data: {\"choices\":[{\"text\":\"\n\ndata: {\"usage\":{\"total_tokens\":6}}\n\n", 6},
      {"numbers that are no counts",
       R"({"usage":{"total_tokens":-5,"prompt_tokens":1.5,"completion_tokens":1e3,"input_tokens":"7"}})",
       std::nullopt},
      {"the largest number", R"({"usage":{"total_tokens":99999999999999999999999}})", UINT64_MAX},
      {"the largest sum",
       R"({"usage":{"input_tokens":18446744073709551615,"output_tokens":18446744073709551615}})", UINT64_MAX},
      {"nothing reported", R"({"choices":[],"usage":null})", std::nullopt},
      {"no JSON", "usage: {\"total_tokens\": 5}\n<html>{\"usage\":{\"total_tokens\":5}}", std::nullopt},
      {"other fields of events", "event: {\"usage\":{\"total_tokens\":5}}\nid: 1\ndatum: 1\ndat\n\n",
       std::nullopt},
      {"empty", "", std::nullopt},
  };
  return all;
}

TEST(LlmUsage, ReadsWhatTheApisReport) {
  for (const Sample& sample : samples()) EXPECT_EQ(tokens(sample.answer), sample.tokens) << sample.name;
}

TEST(LlmUsage, HoweverItIsCut) {
  std::mt19937 random(1);
  for (const Sample& sample : samples()) {
    for (std::size_t step = 1; step < 8; ++step)
      EXPECT_EQ(tokens(sample.answer, step), sample.tokens) << sample.name << ", " << step;
    for (std::size_t cut = 0; cut <= sample.answer.size(); ++cut) {
      LlmUsage usage;
      usage.feed(std::string_view(sample.answer).substr(0, cut));
      (void)usage.tokens();
      usage.feed(std::string_view(sample.answer).substr(cut));
      EXPECT_EQ(usage.tokens(), sample.tokens) << sample.name << " at " << cut;
    }
  }
}

TEST(LlmUsage, AModelReportsNothing) {
  const std::optional<std::uint64_t> real = 3;
  for (const char* made : {
           R"("content":[{"type":"tool_use","input":{"usage":{"total_tokens":900}}}])",
           R"("choices":[{"usage":{"total_tokens":900}}])",
           R"("choices":[{"message":{"usage":{"total_tokens":900}}}])",
           R"("text":"}],\"usage\":{\"total_tokens\":900}")",
           R"("text":"\\\\\"},\"usage\":{\"total_tokens\":900}")",
           R"("text":"\\","x":"usage","y":{"total_tokens":900})",
           R"("metadata":{"usage":{"total_tokens":900}})",
           R"("a":{"response":{"usage":{"total_tokens":900}}})",
           R"("response":{"message":{"usage":{"total_tokens":900}}})",
           R"("usage_":{"total_tokens":900})",
           R"("usage":[{"total_tokens":900}])",
           R"("usage":"{\"total_tokens\":900}")",
           R"("usage","x":{"total_tokens":900})",
           R"("[":"{","]":[{},{"a":[[[[[[[[{"usage":{"total_tokens":900}}]]]]]]]]}])",
           R"("us\u0061ge":{"total_tokens":900})",
       }) {
    const std::string answer = "{" + std::string(made) + R"(,"usage":{"input_tokens":1,"output_tokens":2}})";
    EXPECT_EQ(tokens(answer), real) << answer;
    EXPECT_EQ(tokens("data: " + answer + "\n\n", 1), real) << answer;
  }
}

TEST(LlmUsage, CountsAsTheyCome) {
  LlmUsage usage;
  usage.feed("data: {\"message\":{\"usage\":{\"input_tokens\":25,\"output_tokens\":1");
  EXPECT_EQ(usage.tokens(), 25);
  usage.feed("0}}}\n\n");
  EXPECT_EQ(usage.tokens(), 35);
  usage.feed("data: {\"usage\":{\"output_tokens\":4}}\n\n");
  EXPECT_EQ(usage.tokens(), 35) << "never less";
  LlmUsage moved = std::move(usage);
  moved.feed("data: {\"usage\":{\"output_tokens\":40}}\n\n");
  EXPECT_EQ(moved.tokens(), 65);
}

TEST(LlmUsage, DepthAndLengthCostNothing) {
  LlmUsage usage;
  for (int i = 0; i < 1'000; ++i) usage.feed(std::string(1'000, i % 2 ? '[' : '{'));
  for (int i = 0; i < 1'000; ++i) usage.feed("\"" + std::string(1'000, 'a') + "\":");
  EXPECT_EQ(usage.tokens(), std::nullopt);
}

}  // namespace
}  // namespace postern::transform
