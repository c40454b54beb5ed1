#include "credential/aws_chunks.h"

#include <fmt/format.h>
#include <functional>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <random>
#include <vector>

#include "credential/aws_sigv4.h"

namespace postern::credential {
namespace {

using testing::HasSubstr;

constexpr WallTime example_time = std::chrono::sys_days(std::chrono::year(2013) / 5 / 24);

/// AWS's own example key, so that the chain is the documented one.
std::shared_ptr<HmacSha256> example_key() {
  Digest key = HmacSha256("AWS4wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY").sign("20130524");
  for (const char* part : {"us-east-1", "s3", "aws4_request"})
    key = HmacSha256(std::string_view(reinterpret_cast<const char*>(key.data()), key.size())).sign(part);
  return std::make_shared<HmacSha256>(
      std::string_view(reinterpret_cast<const char*>(key.data()), key.size()));
}

AwsChunkResigner resigner(AwsChunkForm form, std::string seed = std::string(64, '0')) {
  return {form, AwsChunkSeed{example_key(), "20130524T000000Z", "20130524/us-east-1/s3/aws4_request",
                             std::move(seed)}};
}

const std::string placeholder_signature(64, 'f');

std::string signed_chunk(std::string_view data, std::string_view signature = placeholder_signature) {
  return fmt::format("{:x};chunk-signature={}\r\n{}{}", data.size(), signature, data,
                     data.empty() ? "" : "\r\n");
}

struct Outcome {
  std::string output;
  std::string error;
  bool finished = false;
};

Outcome run(BodySigner& chunks, std::string_view body, const std::function<std::size_t()>& piece) {
  Outcome run;
  while (!body.empty()) {
    std::string input(
        body.substr(0, piece()));  // on the heap by itself, so that reading beyond it is noticed
    body.remove_prefix(input.size());
    for (std::string_view rest = input; !rest.empty();) {
      const auto step = chunks.step(rest);
      if (!step) {
        run.error = step.error().detail;
        EXPECT_EQ(step.error().reason, Reason::unsignable_request);
        EXPECT_FALSE(chunks.step("x")) << "an error is the end";
        return run;
      }
      EXPECT_GT(step->consumed, 0u);
      run.output += step->output;
      run.finished = step->finished;
      rest.remove_prefix(step->consumed);
    }
  }
  EXPECT_EQ(chunks.finished(), run.finished);
  return run;
}

Outcome run_whole(AwsChunkForm form, std::string_view body) {
  auto chunks = resigner(form);
  return run(chunks, body, [&] { return body.size(); });
}

std::string refusal(AwsChunkForm form, std::string_view body) {
  const Outcome whole = run_whole(form, body);
  auto chunks = resigner(form);
  const Outcome bytes = run(chunks, body, [] { return 1; });
  EXPECT_EQ(whole.error, bytes.error) << "however the bytes arrive";
  return whole.error.empty() ? whole.finished ? "accepted" : "unfinished" : whole.error;
}

// The figures of "Transferring Payload in Multiple Chunks": 65 KiB of 'a', signed from head to end.
TEST(AwsChunks, TheDocumentedUploadIsReproduced) {
  AwsSigner signer(std::make_shared<const AwsCredentials>(
                       "AKIAIOSFODNN7EXAMPLE", Secret("wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY"), Secret()),
                   "AKIAPOSTERN");
  const std::string authorization = fmt::format(
      "AWS4-HMAC-SHA256 Credential=AKIAPOSTERN/20130524/us-east-1/s3/aws4_request, "
      "SignedHeaders=content-encoding;"
      "content-length;host;x-amz-content-sha256;x-amz-date;x-amz-decoded-content-length;x-amz-storage-class, "
      "Signature={}",
      placeholder_signature);
  std::vector<HeaderField> fields = {{"Content-Encoding", "aws-chunked"},
                                     {"x-amz-content-sha256", "STREAMING-AWS4-HMAC-SHA256-PAYLOAD"},
                                     {"x-amz-decoded-content-length", "66560"},
                                     {"x-amz-storage-class", "REDUCED_REDUNDANCY"},
                                     {"Authorization", authorization}};
  const RequestToSign request{
      "PUT", "/examplebucket/chunkObject.txt", "s3.amazonaws.com", "s3.amazonaws.com", fields, 66824, true};
  const auto intent = signer.read(request, *aws_endpoint(request.host));
  ASSERT_TRUE(intent) << intent.error().detail;
  ASSERT_EQ(intent->payload, AwsPayload::chunks);
  auto made = signer.sign(request, *intent, "", example_time);
  ASSERT_TRUE(made);
  std::string line;
  append_header_line(made->headers[0], line);
  EXPECT_THAT(line, HasSubstr("Signature=4f232c4386841ef735655705268965c44a0e4690baa4adea153f7db9fa80a0a9"));

  const std::string body = signed_chunk(std::string(65536, 'a')) + signed_chunk(std::string(1024, 'a')) +
                           signed_chunk("") + "\r\n";
  ASSERT_EQ(body.size(), 66824u);
  ASSERT_TRUE(made->body);
  const Outcome done = run(*made->body, body, [] { return 16384; });
  EXPECT_TRUE(done.finished);
  EXPECT_EQ(done.output,
            signed_chunk(std::string(65536, 'a'),
                         "ad80c730a21e5b8d04586a2213dd63b9a0e99e0e2307b0ade35a65485a288648") +
                signed_chunk(std::string(1024, 'a'),
                             "0055627c9e194cb4542bae2aa5492e3c1575bbb81b612b7d234b86a503ef5497") +
                signed_chunk("", "b6c6ea8a5354eaf15b3cb7646744f4275b71ea724fed81ceb9323e279d449df9") +
                "\r\n");
}

TEST(AwsChunks, WhatTheChunksCarryIsWhatTheHeadSaid) {
  const std::string body = signed_chunk("hello") + signed_chunk("you") + signed_chunk("") + "\r\n";
  const auto with = [&](AwsChunkForm form, std::uint64_t length, std::string_view text) {
    AwsChunkResigner chunks(
        form, AwsChunkSeed{example_key(), "20130524T000000Z", "20130524/us-east-1/s3/aws4_request",
                           std::string(64, '0'), length});
    return run(chunks, text, [] { return 7; });
  };
  EXPECT_TRUE(with(AwsChunkForm::signed_chunks, 8, body).finished);
  EXPECT_THAT(with(AwsChunkForm::signed_chunks, 7, body).error, HasSubstr("more data than"));
  EXPECT_THAT(with(AwsChunkForm::signed_chunks, 9, body).error, HasSubstr("less data than"));
  constexpr std::string_view bare = "5\r\nhello\r\n3\r\nyou\r\n0\r\n\r\n";
  EXPECT_TRUE(with(AwsChunkForm::unsigned_chunks_with_trailer, 8, bare).finished);
  EXPECT_THAT(with(AwsChunkForm::unsigned_chunks_with_trailer, 0, bare).error, HasSubstr("more data than"));
  EXPECT_THAT(with(AwsChunkForm::unsigned_chunks_with_trailer, 9, bare).error, HasSubstr("less data than"));
}

// The figures of "Including Trailing Headers".
TEST(AwsChunks, TheDocumentedTrailerIsReproduced) {
  auto chunks = resigner(AwsChunkForm::signed_chunks_with_trailer,
                         "106e2a8a18243abcf37539882f36619c00e2dfc72633413f02d3b74544bfeb8e");
  const auto body = [](std::string_view a, std::string_view b, std::string_view c, std::string_view d) {
    return signed_chunk(std::string(65536, 'a'), a) + signed_chunk(std::string(1024, 'a'), b) +
           signed_chunk("", c) +
           fmt::format("x-amz-checksum-crc32c:sOO8/Q==\r\nx-amz-trailer-signature:{}\r\n\r\n", d);
  };
  const std::string& f = placeholder_signature;
  ASSERT_EQ(body(f, f, f, f).size(), 66946u);
  const Outcome done = run(chunks, body(f, f, f, f), [] { return 1000; });
  EXPECT_TRUE(done.finished) << done.error;
  EXPECT_EQ(done.output, body("b474d8862b1487a5145d686f57f013e54db672cee1c953b3010fb58501ef5aa2",
                              "1c1344b170168f8e65b41376b44b20fe354e373826ccbbe2c1d40a8cae51e5c7",
                              "2ca2aba2005185cf7159c6277faf83795951dd77a3a99e6e65d5c9f85863f992",
                              "d81f82fc3505edab99d459891051a732e8730629a2e4a59689829ca17fe2e435"));
}

TEST(AwsChunks, SeveralTrailersAreSignedInTheOrderOfTheirNames) {
  const auto body = [](std::string_view fields) {
    return signed_chunk("") +
           fmt::format("{}x-amz-trailer-signature:{}\r\n\r\n", fields, placeholder_signature);
  };
  const Outcome sorted =
      run_whole(AwsChunkForm::signed_chunks_with_trailer, body("first:1st\r\nsecond:2nd\r\n"));
  const Outcome unsorted =
      run_whole(AwsChunkForm::signed_chunks_with_trailer, body("Second: 2nd\r\nFIRST:1st \r\n"));
  ASSERT_TRUE(sorted.finished) << sorted.error;
  ASSERT_TRUE(unsorted.finished) << unsorted.error;
  EXPECT_EQ(sorted.output.substr(sorted.output.size() - 68),
            unsorted.output.substr(unsorted.output.size() - 68));
  EXPECT_THAT(unsorted.output, HasSubstr("Second: 2nd\r\nFIRST:1st \r\n")) << "as sent";
}

TEST(AwsChunks, WhateverTheSplitTheOutputIsTheSameAndAsLongAsTheInput) {
  std::mt19937 random(20130524);
  const auto below = [&random](std::size_t limit) {
    return std::uniform_int_distribution<std::size_t>(0, limit - 1)(random);
  };
  for (int round = 0; round < 150; ++round) {
    const auto form = static_cast<AwsChunkForm>(round % 3);
    const bool is_signed = form != AwsChunkForm::unsigned_chunks_with_trailer;
    std::string body;
    for (std::size_t count = below(6); count > 0; --count) {
      std::string data(1 + below(below(10) == 0 ? 100000 : 300), '\0');
      for (char& c : data) c = static_cast<char>(below(4) == 0 ? "\r\n0;"[below(4)] : random());
      body += is_signed ? signed_chunk(data) : fmt::format("{:x}\r\n{}\r\n", data.size(), data);
    }
    body += is_signed ? signed_chunk("") : "0\r\n";
    if (form != AwsChunkForm::signed_chunks) body += "x-amz-checksum-crc32:AAAAAA==\r\n";
    if (form == AwsChunkForm::signed_chunks_with_trailer)
      body += "x-amz-trailer-signature:" + placeholder_signature + "\r\n";
    body += "\r\n";

    const Outcome whole = run_whole(form, body);
    ASSERT_TRUE(whole.finished) << whole.error;
    ASSERT_EQ(whole.output.size(), body.size());
    if (!is_signed) {
      ASSERT_EQ(whole.output, body);
    }
    for (int split = 0; split < 4; ++split) {
      auto chunks = resigner(form);
      const std::size_t most = split == 0 ? 2 : 1 + below(split == 1 ? 200 : 70000);
      const Outcome pieces = run(chunks, body, [&] { return 1 + below(most); });
      ASSERT_EQ(pieces.output, whole.output);
      ASSERT_TRUE(pieces.finished);
    }
    // What was signed anew is a fixed point: its framing is the same.
    EXPECT_EQ(run_whole(form, whole.output).output, whole.output);
    // Without its last byte a body is never complete, and behind it nothing may come.
    EXPECT_FALSE(run_whole(form, std::string_view(body).substr(0, body.size() - 1)).finished);
    EXPECT_THAT(run_whole(form, body + "x").error, HasSubstr("behind its end"));
  }
}

TEST(AwsChunks, UnsignedChunksGoOnAtOnce) {
  auto chunks = resigner(AwsChunkForm::unsigned_chunks_with_trailer);
  const std::string begin = "40000000\r\nsome data";
  const auto step = chunks.step(begin);
  ASSERT_TRUE(step);
  EXPECT_EQ(step->output, begin) << "nothing is held, whatever the size";
  EXPECT_EQ(step->output.data(), begin.data()) << "nor copied";
}

TEST(AwsChunks, AChunkThatIsTooLargeToHoldIsRefusedBeforeItsData) {
  EXPECT_EQ(refusal(AwsChunkForm::signed_chunks, "100000;chunk-signature=" + placeholder_signature + "\r\n"),
            "unfinished");
  EXPECT_THAT(
      refusal(AwsChunkForm::signed_chunks, "100001;chunk-signature=" + placeholder_signature + "\r\n"),
      HasSubstr("a signed chunk of 1048577 bytes. At most 1048576 can be signed anew"));
}

TEST(AwsChunks, FramingIsReadStrictly) {
  const std::string& f = placeholder_signature;
  const std::string end = "0;chunk-signature=" + f + "\r\n";
  const auto signed_form = AwsChunkForm::signed_chunks;
  EXPECT_EQ(refusal(signed_form, end + "\r\n"), "accepted");
  EXPECT_EQ(refusal(signed_form, "00001;CHUNK" + f + "\r\n").substr(0, 30), "the body in AWS chunks has a c");
  for (const std::string& body : std::vector<std::string>{"\r\n",
                                                          ";chunk-signature=" + f + "\r\n",
                                                          "1\r\na\r\n",
                                                          "1;chunk-signature=" + f + "0\r\n",
                                                          "1;chunk-signature=" + f.substr(1) + "\r\n",
                                                          "1;chunk-signature=" + f.substr(1) + "g\r\n",
                                                          "1; chunk-signature=" + f + "\r\n",
                                                          "-1;chunk-signature=" + f + "\r\n",
                                                          "+1;chunk-signature=" + f + "\r\n",
                                                          "0x1;chunk-signature=" + f + "\r\n",
                                                          " 1;chunk-signature=" + f + "\r\n",
                                                          "ffffffffffffffff;chunk-signature=" + f + "\r\n",
                                                          "10000000000000000;chunk-signature=" + f + "\r\n",
                                                          "1;chunk-signature=" + f + "\na\r\n",
                                                          "1;chunk-signature=" + f + "\r\nab\r\n",
                                                          "1;chunk-signature=" + f + "\r\na\n\r\n",
                                                          "1;chunk-signature=" + f + "\r\na\r\r\n",
                                                          end + "x:y\r\n\r\n",
                                                          end + "\n",
                                                          std::string(200, '0'),
                                                          end + "\r\n\r\n"}) {
    EXPECT_THAT(refusal(signed_form, body), HasSubstr("the body in AWS chunks")) << body;
  }
  const auto trailer_form = AwsChunkForm::signed_chunks_with_trailer;
  EXPECT_EQ(refusal(trailer_form, end + "x-amz-trailer-signature:" + f + "\r\n\r\n"), "accepted");
  for (const std::string& trailer : std::vector<std::string>{
           "\r\n", "x:y\r\n\r\n", "x-amz-trailer-signature:" + f.substr(1) + "\r\n\r\n",
           "x-amz-trailer-signature:" + f + "\r\nx-amz-trailer-signature:" + f + "\r\n\r\n",
           "no colon\r\n\r\n", "a b:c\r\n\r\n", ":c\r\n\r\n", "a:\x01\r\n\r\n",
           "x:" + std::string(5000, 'y') + "\r\n\r\n"}) {
    EXPECT_THAT(refusal(trailer_form, end + trailer), HasSubstr("the body in AWS chunks")) << trailer;
  }
  const auto unsigned_form = AwsChunkForm::unsigned_chunks_with_trailer;
  EXPECT_EQ(refusal(unsigned_form, "1\r\na\r\n0\r\n\r\n"), "accepted");
  EXPECT_EQ(refusal(unsigned_form, "0\r\nx-amz-checksum-crc32:AAAAAA==\r\n\r\n"), "accepted");
  for (const std::string& body :
       std::vector<std::string>{"1;x=y\r\n", end, "1\r\nab", "8000000000000000\r\n", "0\r\nx\r\n\r\n"}) {
    EXPECT_THAT(refusal(unsigned_form, body), HasSubstr("the body in AWS chunks")) << body;
  }
}

}  // namespace
}  // namespace postern::credential
