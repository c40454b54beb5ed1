// Whatever coding and framing an answer comes in, and however it is cut: what a client gets of it holds no
// secret, and every other byte.

#include "proxy/answer_scrubbing.h"

#include <gmock/gmock.h>
#include <random>

namespace postern::proxy {
namespace {

using testing::HasSubstr;
using testing::Not;
using transform::Coding;

constexpr std::string_view secret = "sk-live-0123456789abcdef";
constexpr std::string_view mark = "[redacted]**************";

const AnswerScrubbing::Scrubbers& scrubbers() {
  static const auto scrubber = [] {
    static const auto header =
        credential::make_header("Authorization", "test", "Bearer " + std::string(secret)).value();
    const credential::InjectedHeader* const all[] = {&header};
    return credential::Scrubber::make(all);
  }();
  static const AnswerScrubbing::Scrubbers all{scrubber};
  return all;
}
std::span<const std::shared_ptr<const credential::Scrubber>> one_scrubber() {
  return std::span(scrubbers()).first(1);
}

std::string replaced(std::string text) {
  for (std::size_t at = text.find(secret); at != std::string::npos; at = text.find(secret))
    text.replace(at, secret.size(), mark);
  return text;
}

template <class Coder>
std::string all_of(Coder& coder, std::string_view piece, bool last) {
  coder.feed(piece, last);
  std::string out;
  while (true) {
    auto more = coder.pull();
    if (!more) ADD_FAILURE() << more.error().detail;
    if (!more || more->empty()) return out;
    out += *more;
  }
}

std::string encoded(Coding coding, std::string_view text) {
  transform::Encoder encoder(coding);
  return all_of(encoder, text, true);
}
std::string decoded(Coding coding, std::string_view text) {
  transform::Decoder decoder(coding, Side::origin);
  return all_of(decoder, text, true);
}

/// An answer with this body, sent in random pieces. What goes on.
std::string passed(std::mt19937& random, std::string_view coding, std::string_view body) {
  std::vector<HeaderField> fields;
  if (!coding.empty()) fields.push_back({"Content-Encoding", coding});
  ResponseHead head;
  head.status = 200;
  head.fields = fields;
  head.framing = BodyFraming::length;
  head.content_length = body.size();
  AnswerScrubbing scrubbing(scrubbers(), 1);
  EXPECT_TRUE(scrubbing.begin_body(head));
  std::string out;
  bool over = false;
  for (std::size_t at = 0; !over;) {
    const std::size_t size = std::min<std::size_t>(body.size() - at, 1 + random() % 3000);
    scrubbing.feed(body.substr(at, size), at + size == body.size());
    at += size;
    while (true) {
      auto piece = scrubbing.pull();
      if (!piece) {
        ADD_FAILURE() << piece.error().detail;
        return out;
      }
      out += piece->data;
      over = piece->last;
      if (piece->data.empty()) break;
      if (over) break;
    }
    EXPECT_EQ(over, at == body.size());
    if (at == body.size()) break;
  }
  return out;
}

class AnyCoding : public testing::TestWithParam<Coding> {};

TEST_P(AnyCoding, NothingComesThroughAndAllElseIsIdentical) {
  std::mt19937 random(11);
  for (int round = 0; round < 40; ++round) {
    std::string text;
    const std::size_t size = round % 4 == 0 ? random() % 200'000 : random() % 2'000;
    while (text.size() < size) {
      for (std::size_t i = random() % 400; i > 0; --i) text += static_cast<char>(' ' + random() % 90);
      text += secret.substr(0, random() % 3 ? secret.size() : random() % secret.size());
    }
    const Coding coding = GetParam();
    const bool coded = coding != Coding::identity;
    const std::string out =
        passed(random, coded ? transform::token(coding) : "", coded ? encoded(coding, text) : text);
    ASSERT_EQ(coded ? decoded(coding, out) : out, replaced(text)) << "round " << round;
  }
}

INSTANTIATE_TEST_SUITE_P(All, AnyCoding,
                         testing::Values(Coding::identity, Coding::gzip, Coding::deflate, Coding::br,
                                         Coding::zstd),
                         [](const auto& one) { return std::string(transform::token(one.param)); });

TEST(AnswerScrubbing, AnEventThatWasCompressedIsNotKeptWaiting) {
  transform::Encoder origin(Coding::gzip);
  HeaderField fields[] = {{"content-encoding", "gzip"}};
  ResponseHead head;
  head.status = 200;
  head.fields = fields;
  head.framing = BodyFraming::chunked;
  AnswerScrubbing scrubbing(scrubbers(), 1);
  ASSERT_TRUE(scrubbing.begin_body(head));
  transform::Decoder client(Coding::gzip, Side::origin);
  for (const std::string_view event : {"data: one\n\n", "data: sk-live-0123456789abcdef\n\n"}) {
    const std::string piece = all_of(origin, event, false);
    scrubbing.feed(piece, false);
    std::string seen;
    while (true) {
      const auto out = scrubbing.pull().value();
      if (out.data.empty()) break;
      seen += all_of(client, out.data, false);
    }
    EXPECT_EQ(seen, replaced(std::string(event)));
  }
}

TEST(AnswerScrubbing, FieldsAndTrailers) {
  AnswerScrubbing scrubbing(scrubbers(), 1);
  const std::string echoed = "a=" + std::string(secret) + "; b";
  const std::string named = "x-" + std::string(secret);
  FieldList fields;
  fields.push_back({"Set-Cookie", echoed});
  fields.push_back({named, "1"});
  fields.push_back({"ETag", "\"1\""});
  scrubbing.scrub_fields(fields);
  ASSERT_EQ(fields.size(), 2);
  EXPECT_EQ(fields[0].value, replaced(echoed));
  EXPECT_EQ(fields[1].value, "\"1\"");
  EXPECT_EQ(scrubbing.scrub_phrase("Fine"), "Fine");
  EXPECT_EQ(scrubbing.scrub_phrase(secret), "");
}

TEST(AnswerScrubbing, WhatCannotBeSeenIsRefused) {
  struct {
    const char *name, *value;
    int status;
  } cases[] = {{"content-encoding", "compress", 200},
               {"content-encoding", "gzip, br", 200},
               {"grpc-encoding", "gzip", 200},
               {"sec-websocket-extensions", "permessage-deflate", 101},
               {"content-range", "bytes 0-1/2", 206}};
  for (const auto& one : cases) {
    HeaderField fields[] = {{one.name, one.value}};
    ResponseHead head;
    head.status = one.status;
    head.fields = fields;
    head.framing = one.status == 101 ? BodyFraming::none : BodyFraming::length;
    AnswerScrubbing scrubbing(scrubbers(), 1);
    const auto begun = scrubbing.begin_body(head);
    ASSERT_FALSE(begun) << one.name;
    EXPECT_EQ(begun.error().reason, Reason::uninspectable_answer);
  }
}

TEST(AnswerScrubbing, OnlyACloudsOwnServiceAnswersInParts) {
  for (const bool accepts : {false, true}) {
    AnswerScrubbing scrubbing(scrubbers(), 1);
    if (accepts) scrubbing.accept_parts();
    FieldList asked;
    for (const std::string_view name : {"Range", "If-Range", "x-ms-range", "A-IM", "Accept"})
      asked.push_back({name, "bytes=0-9"});
    scrubbing.ask_for_inspectable(asked);
    EXPECT_EQ(asked.size(), accepts ? 4u : 1u);
    HeaderField fields[] = {{"content-range", "bytes 0-9/99"}};
    ResponseHead head;
    head.status = 206;
    head.fields = fields;
    head.framing = BodyFraming::length;
    EXPECT_EQ(scrubbing.begin_body(head).has_value(), accepts);
  }
}

std::string frame(unsigned first, std::string_view payload) {
  std::string out(1, static_cast<char>(first));
  if (payload.size() < 126) {
    out += static_cast<char>(payload.size());
  } else {
    out += '\x7e';
    out += static_cast<char>(payload.size() >> 8);
    out += static_cast<char>(payload.size() & 0xff);
  }
  return out + std::string(payload);
}

constexpr unsigned text = 0x81, text_begin = 0x01, more = 0x00, end = 0x80, ping = 0x89;

TEST(WebSocketScrubbing, MessagesAreSearchedAcrossFragmentsAndCuts) {
  const std::string whole(secret);
  const std::string long_message = std::string(300, 'x') + whole + std::string(300, 'y');
  const std::string stream = frame(text, "hello") + frame(text_begin, "key " + whole.substr(0, 9)) +
                             frame(ping, "p " + whole) + frame(more, whole.substr(9, 5)) +
                             frame(end, whole.substr(14) + " end") + frame(text, long_message) +
                             frame(text, whole.substr(0, 9)) + frame(0x88, "\x03\xe8");
  const std::string marked(mark);
  const std::string wanted = frame(text, "hello") + frame(text_begin, "key " + marked.substr(0, 9)) +
                             frame(ping, "p " + marked) + frame(more, marked.substr(9, 5)) +
                             frame(end, marked.substr(14) + " end") + frame(text, replaced(long_message)) +
                             frame(text, whole.substr(0, 9)) + frame(0x88, "\x03\xe8");
  std::mt19937 random(3);
  for (int round = 0; round < 300; ++round) {
    WebSocketScrubbing scrubbing(one_scrubber());
    std::string out;
    for (std::size_t at = 0; at < stream.size();) {
      const std::size_t size = round == 0 ? stream.size() : 1 + random() % 60;
      auto passed = scrubbing.pass(std::string_view(stream).substr(at, size), false);
      ASSERT_TRUE(passed) << passed.error().detail;
      out += *passed;
      at += size;
    }
    // A secret that is cut by time, too, is written over all the same; only its mark may begin later.
    ASSERT_EQ(out.size(), wanted.size());
    ASSERT_THAT(out, Not(HasSubstr(whole.substr(9, 5))));
    if (round == 0) {
      EXPECT_EQ(out, wanted);
    }
  }
}

TEST(WebSocketScrubbing, AMessageGoesOnAtItsEnd) {
  WebSocketScrubbing scrubbing(one_scrubber());
  const std::string one = frame(text, secret.substr(0, 10));
  EXPECT_EQ(scrubbing.pass(one, false).value(), one) << "held back although the message is over";
}

TEST(WebSocketScrubbing, NothingIsLostWhenTheConnectionEndsWithinAMessage) {
  WebSocketScrubbing scrubbing(one_scrubber());
  const std::string one = frame(text_begin, secret.substr(0, 10));
  std::string out(scrubbing.pass(one, false).value());
  EXPECT_EQ(out, one.substr(0, 2));
  out += scrubbing.pass({}, true).value();
  EXPECT_EQ(out, one);
}

TEST(WebSocketScrubbing, FramesThatHideSomethingAreRefused) {
  for (const std::string& bad :
       {frame(0xc1, "deflated"), std::string("\x81\x85mask?????"), std::string("\x89\x7e\x01\x00", 4),
        std::string("\x81\x7f\xff\0\0\0\0\0\0\0", 10)}) {
    WebSocketScrubbing scrubbing(one_scrubber());
    EXPECT_FALSE(scrubbing.pass(bad, false));
  }
  // An origin that keeps a message open for ever cannot fill our memory with pings meanwhile.
  WebSocketScrubbing scrubbing(one_scrubber());
  ASSERT_TRUE(scrubbing.pass(frame(text_begin, secret.substr(0, 10)), false));
  bool refused = false;
  for (int i = 0; i < 10'000 && !refused; ++i) refused = !scrubbing.pass(frame(ping, "x"), false);
  EXPECT_TRUE(refused);
}

}  // namespace
}  // namespace postern::proxy
