#include "transform/codings.h"

#include <brotli/encode.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <random>
#include <zlib.h>
#include <zstd.h>

namespace postern::transform {
namespace {

using testing::HasSubstr;

constexpr std::array codings = {Coding::gzip, Coding::deflate, Coding::br, Coding::zstd};

/// Cuts a text by seed; 0 leaves it whole.
std::vector<std::string_view> cut(std::string_view text, std::mt19937& random, std::size_t piece_max) {
  std::vector<std::string_view> pieces;
  while (!text.empty()) {
    const std::size_t size = std::min<std::size_t>(text.size(), 1 + random() % piece_max);
    pieces.push_back(text.substr(0, size));
    text.remove_prefix(size);
  }
  return pieces;
}

template <class Coder>
Result<std::string> run(Coder& coder, const std::vector<std::string_view>& pieces) {
  std::string out;
  const auto pull_all = [&]() -> Result<void> {
    while (true) {
      auto step = coder.pull();
      if (!step) return std::unexpected(step.error());
      if (step->empty()) return {};
      EXPECT_LE(step->size(), coding_step_bytes_max);
      out += *step;
    }
  };
  for (std::string_view piece : pieces) {
    coder.feed(piece, false);
    if (auto pulled = pull_all(); !pulled) return std::unexpected(pulled.error());
  }
  coder.feed({}, true);
  if (auto pulled = pull_all(); !pulled) return std::unexpected(pulled.error());
  return out;
}

Result<std::string> decode(Coding coding, std::string_view text, Side side = Side::origin) {
  Decoder decoder(coding, side);
  return run(decoder, {text});
}

std::string encode(Coding coding, std::string_view text) {
  Encoder encoder(coding);
  return run(encoder, {text}).value();
}

std::string random_body(std::mt19937& random, std::size_t size) {
  std::string body;
  const unsigned kind = random() % 3;
  while (body.size() < size) {
    if (kind == 0) body += static_cast<char>(random());
    if (kind == 1) body += "{\"id\":" + std::to_string(random() % 1000) + ",\"name\":\"someone\"},\n";
    if (kind == 2) body.append(1 + random() % 300, static_cast<char>('a' + random() % 3));
  }
  body.resize(size);
  return body;
}

std::string deflated(std::string_view text, int bits) {
  z_stream stream{};
  EXPECT_EQ(Z_OK, ::deflateInit2(&stream, 9, Z_DEFLATED, bits, 9, Z_DEFAULT_STRATEGY));
  std::string out(::deflateBound(&stream, text.size()), '\0');
  stream.next_in = reinterpret_cast<Bytef*>(const_cast<char*>(text.data()));
  stream.avail_in = static_cast<uInt>(text.size());
  stream.next_out = reinterpret_cast<Bytef*>(out.data());
  stream.avail_out = static_cast<uInt>(out.size());
  EXPECT_EQ(Z_STREAM_END, ::deflate(&stream, Z_FINISH));
  out.resize(stream.total_out);
  ::deflateEnd(&stream);
  return out;
}

std::string zstd_frame(std::string_view text, int window_log) {
  ZSTD_CCtx* const context = ::ZSTD_createCCtx();
  ::ZSTD_CCtx_setParameter(context, ZSTD_c_windowLog, window_log);
  std::string out(::ZSTD_compressBound(text.size()) + 64, '\0');
  ZSTD_inBuffer in{text.data(), text.size(), 0};
  ZSTD_outBuffer to{out.data(), out.size(), 0};
  ::ZSTD_compressStream2(context, &to, &in, ZSTD_e_flush);  // a flush first: the size is not known then
  EXPECT_EQ(0U, ::ZSTD_compressStream2(context, &to, &in, ZSTD_e_end));
  out.resize(to.pos);
  ::ZSTD_freeCCtx(context);
  return out;
}

TEST(Codings, AnyBodyInAnyPiecesComesBackByteForByte) {
  std::mt19937 random(20261130);
  for (int round = 0; round < 60; ++round) {
    for (Coding coding : codings) {
      const std::string body = random_body(random, random() % (round % 10 == 0 ? 200'000 : 5'000));
      Encoder encoder(coding);
      const auto coded = run(encoder, cut(body, random, 1 + random() % 20'000));
      ASSERT_TRUE(coded);
      Decoder decoder(coding, Side::origin, {.free_bytes = 64 * MiB});
      const auto back = run(decoder, cut(*coded, random, 1 + random() % (round % 2 ? 7 : 9'000)));
      ASSERT_TRUE(back) << token(coding) << ": " << back.error().detail;
      ASSERT_EQ(body, *back) << token(coding);
    }
  }
}

TEST(Codings, WhatAnEncoderIsFedCanBeReadAtOnce) {
  for (Coding coding : codings) {
    Encoder encoder(coding);
    Decoder decoder(coding, Side::origin);
    for (int event = 0; event < 20; ++event) {
      const std::string text = "data: {\"token\":" + std::to_string(event) + "}\n\n";
      std::string coded, back;
      encoder.feed(text, false);
      while (true) {
        const auto step = encoder.pull();
        ASSERT_TRUE(step);
        if (step->empty()) break;
        coded += *step;
      }
      decoder.feed(coded, false);
      while (true) {
        const auto step = decoder.pull();
        ASSERT_TRUE(step);
        if (step->empty()) break;
        back += *step;
      }
      EXPECT_EQ(text, back) << token(coding);
    }
  }
}

TEST(Codings, AnEmptyPieceWritesNothing) {
  for (Coding coding : codings) {
    Encoder encoder(coding);
    encoder.feed("event", false);
    while (!encoder.pull()->empty()) {
    }
    encoder.feed({}, false);
    EXPECT_TRUE(encoder.pull()->empty()) << token(coding);
  }
}

TEST(Codings, ABodyOfNoBytesIsOneInEveryCoding) {
  for (Coding coding : codings) {
    EXPECT_EQ("", decode(coding, ""));
    EXPECT_EQ("", decode(coding, encode(coding, ""))) << token(coding);
  }
}

TEST(Codings, EveryCutShortBodyIsRefused) {
  std::mt19937 random(7);
  for (Coding coding : codings) {
    const std::string coded = encode(coding, random_body(random, 300));
    for (std::size_t size = 1; size < coded.size(); ++size) {
      const auto back = decode(coding, std::string_view(coded).substr(0, size));
      ASSERT_FALSE(back) << token(coding) << " of " << size << " bytes of " << coded.size();
      EXPECT_EQ(Reason::origin_malformed_response, back.error().reason);
      EXPECT_EQ(Side::origin, back.error().side);
    }
  }
}

TEST(Codings, BytesBehindTheEndAreRefused) {
  for (Coding coding : codings) {
    const std::string coded = encode(coding, "all there is");
    EXPECT_FALSE(decode(coding, coded + "x")) << token(coding);
    EXPECT_FALSE(decode(coding, coded + "something of greater length")) << token(coding);
    Decoder decoder(coding, Side::origin);
    EXPECT_FALSE(run(decoder, {coded, "and more"})) << token(coding);
  }
}

TEST(Codings, BrokenBytesAreRefusedAndBlameTheirSender) {
  for (Coding coding : codings) {
    const auto back = decode(coding, "<html>no coding at all</html>", Side::sandbox);
    ASSERT_FALSE(back) << token(coding);
    EXPECT_EQ(Reason::malformed_request, back.error().reason);
    EXPECT_EQ(Side::sandbox, back.error().side);
  }
}

TEST(Codings, AfterAnErrorThereAreOnlyErrors) {
  Decoder decoder(Coding::gzip, Side::origin);
  decoder.feed("no gzip", false);
  EXPECT_FALSE(decoder.pull());
  decoder.feed(encode(Coding::gzip, "good"), true);
  EXPECT_FALSE(decoder.pull());
}

TEST(Codings, SeveralMembersAndFramesAreOneBody) {
  for (Coding coding : {Coding::gzip, Coding::zstd})
    EXPECT_EQ("onetwo", decode(coding, encode(coding, "one") + encode(coding, "") + encode(coding, "two")));
  const std::string skippable("\x50\x2a\x4d\x18\x03\0\0\0abc", 11);
  EXPECT_EQ("one", decode(Coding::zstd, skippable + encode(Coding::zstd, "one") + skippable));
}

TEST(Codings, DeflateIsReadWithAndWithoutItsWrapper) {
  std::mt19937 random(3);
  for (const std::string& body : {std::string("a"), std::string(), random_body(random, 40'000)})
    for (int bits : {15, -15, 9, -9})
      for (std::size_t piece_max : {1, 2, 3, 50'000}) {
        const std::string coded = deflated(body, bits);
        Decoder decoder(Coding::deflate, Side::origin);
        EXPECT_EQ(body, run(decoder, cut(coded, random, piece_max))) << bits << " " << piece_max;
      }
}

TEST(Codings, ABombIsRefusedAsItGoesOff) {
  const std::string zeros(64 * MiB, '\0');
  for (Coding coding : codings) {
    std::string bomb = encode(coding, zeros);
    if (coding == Coding::gzip) bomb = deflated(zeros, 31);  // ours is fast rather than small
    if (coding == Coding::deflate) bomb = deflated(zeros, 15);
    for (Side side : {Side::origin, Side::sandbox}) {
      Decoder decoder(coding, side);
      decoder.feed(bomb, true);
      std::size_t given = 0;
      Result<std::string_view> step;
      while ((step = decoder.pull()) && !step->empty()) given += step->size();
      ASSERT_FALSE(step) << token(coding);
      EXPECT_THAT(step.error().detail, HasSubstr("beyond all reason"));
      EXPECT_EQ(side == Side::origin ? Reason::origin_malformed_response : Reason::body_too_large,
                step.error().reason);
      EXPECT_LE(given, 4 * MiB + 251 * bomb.size()) << token(coding);
    }
  }
}

TEST(Codings, WhatIsSmallMayExpandAsItLikes) {
  for (Coding coding : codings) EXPECT_TRUE(decode(coding, encode(coding, std::string(3 * MiB, 'x'))));
}

TEST(Codings, AWindowAboveWhatHttpAllowsIsRefused) {
  std::mt19937 random(5);
  const std::string body = random_body(random, 1000);
  EXPECT_EQ(body, decode(Coding::zstd, zstd_frame(body, 23)));
  EXPECT_FALSE(decode(Coding::zstd, zstd_frame(body, 24)));
}

TEST(Codings, FormatsFromBeforeTheRfcAreNotRead) {
  // v0.7 and v0.5 of zstd: the library would know them.
  for (std::string_view magic : {"\x27\xb5\x2f\xfd", "\x25\xb5\x2f\xfd"})
    EXPECT_FALSE(decode(Coding::zstd, std::string(magic) + std::string(40, '\0')));
}

TEST(Codings, TheLargestBrotliWindowFitsIntoTheLimit) {
  std::string body(20 * MiB, '\0');
  std::mt19937 random(11);
  for (std::size_t i = 0; i < body.size(); i += 64) body[i] = static_cast<char>(random());
  std::string coded(::BrotliEncoderMaxCompressedSize(body.size()), '\0');
  std::size_t size = coded.size();
  ASSERT_TRUE(::BrotliEncoderCompress(2, 24, BROTLI_MODE_GENERIC, body.size(),
                                      reinterpret_cast<const std::uint8_t*>(body.data()), &size,
                                      reinterpret_cast<std::uint8_t*>(coded.data())));
  coded.resize(size);
  const auto back = decode(Coding::br, coded);
  ASSERT_TRUE(back) << back.error().detail;
  EXPECT_TRUE(body == *back);
}

TEST(Codings, IdentityPassesPiecesThrough) {
  Decoder decoder(Coding::identity, Side::origin);
  Encoder encoder(Coding::identity);
  EXPECT_EQ("ab", run(decoder, {"a", "b"}));
  EXPECT_EQ("ab", run(encoder, {"a", "b"}));
}

TEST(Codings, AcceptEncodingKeepsWhatWeDecode) {
  const auto filter = filter_accept_encoding;
  EXPECT_EQ("gzip, deflate, br, zstd", filter("gzip, deflate, br, zstd"));
  EXPECT_EQ("gzip", filter("gzip, compress, sdch, dcb, dcz"));
  EXPECT_EQ("br;q=1.0, gzip;q=0.8", filter("br;q=1.0,gzip;q=0.8 , *;q=0.1"));
  EXPECT_EQ("GZIP ; q=0.5, X-Gzip", filter("GZIP ; q=0.5, X-Gzip"));
  EXPECT_EQ("identity;q=0, *;q=0", filter("identity;q=0, *;q=0"));
  for (const char* none : {"", "*", "compress", ",,", "gzip;level=9", "gzip;q=2", "gzip;q=0.5555", "gz ip"})
    EXPECT_EQ("identity", filter(none)) << none;
}

TEST(Codings, ContentEncodingIsOneCodingThatWeKnow) {
  EXPECT_EQ(Coding::identity, read_content_encoding(""));
  EXPECT_EQ(Coding::identity, read_content_encoding("identity"));
  EXPECT_EQ(Coding::gzip, read_content_encoding(" GZip "));
  EXPECT_EQ(Coding::gzip, read_content_encoding("x-gzip, identity"));
  EXPECT_EQ(Coding::br, read_content_encoding("br"));
  EXPECT_EQ(Coding::zstd, read_content_encoding("zstd"));
  EXPECT_EQ(std::nullopt, read_content_encoding("gzip, br"));
  EXPECT_EQ(std::nullopt, read_content_encoding("compress"));
  EXPECT_EQ(std::nullopt, read_content_encoding("gzip;q=1"));
  EXPECT_TRUE(is_supported("X-GZIP"));
  EXPECT_FALSE(is_supported("aes128gcm"));
}

}  // namespace
}  // namespace postern::transform
