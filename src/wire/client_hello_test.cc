#include "wire/client_hello.h"

#include <gtest/gtest.h>
#include <string>
#include <vector>

// Hellos built by hand, so that each can be wrong in one place. Those of a real client:
// tls/client_hello_real_test.cc.
namespace postern::wire {
namespace {

std::string u8(std::size_t n) { return std::string(1, static_cast<char>(n)); }
std::string u16(std::size_t n) { return u8(n >> 8 & 0xff) + u8(n & 0xff); }
std::string u24(std::size_t n) { return u8(n >> 16 & 0xff) + u16(n & 0xffff); }
std::string with_u8_length(const std::string& s) { return u8(s.size()) + s; }
std::string with_u16_length(const std::string& s) { return u16(s.size()) + s; }

std::string extension(std::size_t type, const std::string& body) { return u16(type) + with_u16_length(body); }
std::string name_entry(const std::string& name, std::size_t type = 0) {
  return u8(type) + with_u16_length(name);
}
std::string server_name(const std::string& name) { return extension(0, with_u16_length(name_entry(name))); }
std::string alpn(const std::vector<std::string>& names) {
  std::string list;
  for (const auto& name : names) list += with_u8_length(name);
  return extension(16, with_u16_length(list));
}
std::string supported_versions(const std::string& list) { return extension(43, with_u8_length(list)); }

struct Hello {
  std::string version = u16(0x0303);
  std::string session_id = std::string(32, 's');
  std::string cipher_suites = u16(0x1301) + u16(0xc02b);
  std::string compression = u8(0);
  std::string extensions = server_name("api.example.com");
  std::string extensions_length;  // computed unless set
  bool without_extensions = false;

  std::string message() const {
    std::string body = version + std::string(32, 'r') + with_u8_length(session_id) +
                       with_u16_length(cipher_suites) + with_u8_length(compression);
    if (!without_extensions) {
      body += (extensions_length.empty() ? u16(extensions.size()) : extensions_length) + extensions;
    }
    return u8(1) + u24(body.size()) + body;
  }
};

std::string record(const std::string& fragment, std::size_t version = 0x0301, std::size_t type = 22) {
  return u8(type) + u16(version) + with_u16_length(fragment);
}
std::string wire(const Hello& hello) { return record(hello.message()); }
std::string wire_with(const std::string& extensions) {
  Hello hello;
  hello.extensions = extensions;
  return wire(hello);
}

ClientHello parsed(const std::string& bytes) {
  auto result = parse_client_hello(bytes);
  if (!result) {
    ADD_FAILURE() << result.error().detail;
    return {};
  }
  if (!*result) {
    ADD_FAILURE() << "more bytes are asked for";
    return {};
  }
  return std::move(**result);
}

/// "more", "hello", or the reason's token.
std::string outcome(std::string_view bytes) {
  auto result = parse_client_hello(bytes);
  if (!result) {
    EXPECT_EQ(result.error().side, Side::sandbox);
    EXPECT_FALSE(result.error().detail.empty());
    return std::string(token(result.error().reason));
  }
  return *result ? "hello" : "more";
}

constexpr const char* malformed = "malformed_client_hello";
constexpr const char* not_allowed = "protocol_not_allowed";

TEST(ClientHello, SaysTheNameTheProtocolsAndTheVersions) {
  ClientHello hello = parsed(wire_with(server_name("api.example.com") + alpn({"h2", "http/1.1"}) +
                                       supported_versions(u16(0x0a0a) + u16(0x0304) + u16(0x0303))));
  EXPECT_EQ(hello.server_name, "api.example.com");
  EXPECT_EQ(hello.alpn, (std::vector<std::string>{"h2", "http/1.1"}));
  EXPECT_TRUE(hello.tls13);
  EXPECT_FALSE(hello.encrypted_client_hello);
}

TEST(ClientHello, WithoutExtensionsHasNoName) {
  Hello hello;
  hello.without_extensions = true;
  ClientHello read = parsed(wire(hello));
  EXPECT_EQ(read.server_name, "");
  EXPECT_TRUE(read.alpn.empty());
  EXPECT_FALSE(read.tls13);
  EXPECT_EQ(parsed(wire_with("")).server_name, "");
}

TEST(ClientHello, SupportedVersionsWithout13IsNotTls13) {
  EXPECT_FALSE(parsed(wire_with(supported_versions(u16(0x0303)))).tls13);
  EXPECT_EQ(outcome(wire_with(supported_versions(""))), malformed);
  EXPECT_EQ(outcome(wire_with(supported_versions("\x03\x04\x03"))), malformed);
  EXPECT_EQ(outcome(wire_with(extension(43, u8(2) + u16(0x0304) + "x"))), malformed);
}

TEST(ClientHello, EncryptedClientHelloIsReportedWithTheOuterName) {
  ClientHello hello = parsed(wire_with(server_name("outer.example") + extension(0xfe0d, "anything")));
  EXPECT_TRUE(hello.encrypted_client_hello);
  EXPECT_EQ(hello.server_name, "outer.example");
}

TEST(ClientHello, UnknownExtensionsAreSteppedOver) {
  EXPECT_EQ(parsed(wire_with(extension(0x0a0a, "") + server_name("a.example") + extension(0xdada, "x")))
                .server_name,
            "a.example");
}

TEST(ClientHello, CutAnywhereAsksForMoreAndThenSaysTheSame) {
  std::string bytes = wire_with(server_name("api.example.com") + alpn({"h2"}));
  for (std::size_t size = 0; size < bytes.size(); ++size) {
    ASSERT_EQ(outcome(std::string_view(bytes).substr(0, size)), "more") << "after " << size << " bytes";
  }
  EXPECT_EQ(parsed(bytes).server_name, "api.example.com");
}

TEST(ClientHello, SpreadOverRecordsOfAnySizeIsReassembled) {
  const std::string message = Hello{}.message();
  for (std::size_t piece = 1; piece <= message.size(); ++piece) {
    std::string bytes;
    for (std::size_t at = 0; at < message.size(); at += piece)
      bytes += record(message.substr(at, piece), 0x0303);
    ASSERT_EQ(outcome(std::string_view(bytes).substr(0, bytes.size() - 1)), "more") << "records of " << piece;
    ASSERT_EQ(parsed(bytes).server_name, "api.example.com") << "records of " << piece;
  }
}

TEST(ClientHello, OneByteRecordsCutAnywhereAskForMore) {
  std::string bytes;
  for (char byte : Hello{}.message()) bytes += record(std::string(1, byte));
  for (std::size_t size = 0; size < bytes.size(); ++size) {
    ASSERT_EQ(outcome(std::string_view(bytes).substr(0, size)), "more") << "after " << size << " bytes";
  }
  EXPECT_EQ(outcome(bytes), "hello");
}

TEST(ClientHello, RecordsBehindItAreNotLookedAt) {
  EXPECT_EQ(parsed(wire(Hello{}) + record("early data", 0x0303, 23)).server_name, "api.example.com");
}

TEST(ClientHello, BytesBehindItInItsRecordAreRefused) {
  const std::string message = Hello{}.message();
  EXPECT_EQ(outcome(record(message + "x")), malformed);
  EXPECT_EQ(outcome(record(message.substr(0, 50)) + record(message.substr(50) + "x")), malformed);
  // The record's length gives it away before the extra byte arrives.
  EXPECT_EQ(outcome(record(message + "x").substr(0, 20)), malformed);
}

TEST(ClientHello, WhatIsNotTlsIsToldFromTheFirstByte) {
  EXPECT_EQ(outcome(""), "more");
  for (int byte = 0; byte < 256; ++byte) {
    EXPECT_EQ(outcome(u8(static_cast<std::size_t>(byte))), byte == 22 ? "more" : not_allowed) << byte;
  }
  EXPECT_EQ(outcome("GET / HTTP/1.1\r\n"), not_allowed);
  EXPECT_EQ(outcome("SSH-2.0-OpenSSH_9.2"), not_allowed);
  EXPECT_EQ(outcome("\x16\x02"), not_allowed);
}

TEST(ClientHello, OldSslIsNotAllowed) {
  EXPECT_EQ(outcome(std::string("\x80\x2e\x01\x00\x02", 5)), not_allowed);
  EXPECT_EQ(outcome(record(Hello{}.message(), 0x0300)), not_allowed);
}

TEST(ClientHello, RecordVersionsAreThoseOfTls10To12) {
  for (std::size_t version : {0x0301, 0x0302, 0x0303}) {
    EXPECT_EQ(outcome(record(Hello{}.message(), version)), "hello") << version;
  }
  EXPECT_EQ(outcome(record(Hello{}.message(), 0x0304)), malformed);
}

TEST(ClientHello, ARecordOfAnotherKindInTheMiddleIsRefused) {
  const std::string message = Hello{}.message();
  const std::string start = record(message.substr(0, 10));
  EXPECT_EQ(outcome(start + record("x", 0x0301, 21)), malformed);
  EXPECT_EQ(outcome(start + "\x15"), malformed);
  EXPECT_EQ(outcome(start + record(message.substr(10), 0x0204)), malformed);
}

TEST(ClientHello, EmptyAndOverlongRecordsAreRefused) {
  EXPECT_EQ(outcome(record("")), malformed);
  EXPECT_EQ(outcome(record(Hello{}.message().substr(0, 10)) + record("")), malformed);
  EXPECT_EQ(outcome("\x16\x03\x01\x40\x01"), malformed);
}

TEST(ClientHello, AnotherHandshakeMessageIsRefused) {
  EXPECT_EQ(outcome(record(u8(2))), malformed);
  EXPECT_EQ(outcome("\x16\x03\x01\x01\x01\x02"), malformed);
}

TEST(ClientHello, ItsLengthIsBounded) {
  auto padded_to = [](std::size_t size) {
    Hello hello;
    std::size_t without = hello.message().size();
    hello.extensions += extension(21, std::string(size - without - 4, '\0'));
    return hello.message();
  };
  const std::size_t max = client_hello_bytes_max - 5;
  EXPECT_EQ(outcome(record(padded_to(max))), "hello");
  EXPECT_EQ(outcome(record(padded_to(max + 1))), malformed);
  // A promise that cannot be kept is refused at once.
  EXPECT_EQ(outcome(record(padded_to(max + 1)).substr(0, 9)), malformed);
  EXPECT_EQ(outcome("\x16\x03\x01\x01\x01\x01\xff\xff\xff"), malformed);
}

TEST(ClientHello, RecordHeadersCountTowardsTheBound) {
  Hello hello;
  hello.extensions += extension(21, std::string(4000, '\0'));
  std::string bytes;
  for (char byte : hello.message()) bytes += record(std::string(1, byte));
  EXPECT_EQ(outcome(bytes), malformed);
  EXPECT_EQ(outcome(std::string_view(bytes).substr(0, client_hello_bytes_max - 1)), "more");
  EXPECT_EQ(outcome(std::string_view(bytes).substr(0, client_hello_bytes_max)), malformed);
}

TEST(ClientHello, TheServerNameIsExactlyOneVisibleAsciiHostName) {
  EXPECT_EQ(parsed(wire_with(server_name("192.0.2.1"))).server_name, "192.0.2.1");  // judged elsewhere
  EXPECT_EQ(parsed(wire_with(server_name("MiXed.example."))).server_name, "MiXed.example.");
  EXPECT_EQ(parsed(wire_with(server_name(std::string(255, 'a')))).server_name, std::string(255, 'a'));
  for (const std::string& name :
       {std::string(256, 'a'), std::string(), std::string("a\0b", 3), std::string("a\0", 2),
        std::string("a b"), std::string("b\xc3\xbc.example"), std::string("a\x7f"), std::string("a\r\nb")}) {
    EXPECT_EQ(outcome(wire_with(server_name(name))), malformed) << testing::PrintToString(name);
  }
  const std::string one = name_entry("a.example");
  EXPECT_EQ(outcome(wire_with(extension(0, with_u16_length(one + name_entry("b.example"))))), malformed);
  EXPECT_EQ(outcome(wire_with(extension(0, with_u16_length(one + name_entry("b.example", 1))))), malformed);
  EXPECT_EQ(outcome(wire_with(extension(0, with_u16_length(name_entry("a.example", 1))))), malformed);
  EXPECT_EQ(outcome(wire_with(extension(0, with_u16_length(one) + "x"))), malformed);
  EXPECT_EQ(outcome(wire_with(extension(0, u16(one.size() + 1) + one))), malformed);
  EXPECT_EQ(outcome(wire_with(extension(0, u16(one.size() - 1) + one))), malformed);
  EXPECT_EQ(outcome(wire_with(extension(0, u16(0)))), malformed);
  EXPECT_EQ(outcome(wire_with(extension(0, ""))), malformed);
}

TEST(ClientHello, AlpnListsAreStrict) {
  EXPECT_EQ(outcome(wire_with(alpn({}))), malformed);
  EXPECT_EQ(outcome(wire_with(alpn({"h2", ""}))), malformed);
  EXPECT_EQ(outcome(wire_with(extension(16, with_u16_length(std::string("\x03h2", 3))))), malformed);
  EXPECT_EQ(outcome(wire_with(extension(16, with_u16_length(with_u8_length("h2")) + "x"))), malformed);
  EXPECT_EQ(outcome(wire_with(extension(16, ""))), malformed);
  EXPECT_EQ(parsed(wire_with(alpn(std::vector<std::string>(client_hello_alpn_max, "x")))).alpn.size(),
            client_hello_alpn_max);
  EXPECT_EQ(outcome(wire_with(alpn(std::vector<std::string>(client_hello_alpn_max + 1, "x")))), malformed);
}

TEST(ClientHello, AnExtensionSentTwiceIsRefused) {
  EXPECT_EQ(outcome(wire_with(server_name("a.example") + server_name("b.example"))), malformed);
  EXPECT_EQ(outcome(wire_with(server_name("a.example") + extension(99, "") + extension(99, ""))), malformed);
}

TEST(ClientHello, TheNumberOfExtensionsIsBounded) {
  std::string extensions;
  for (std::size_t type = 0; type < client_hello_extensions_max; ++type)
    extensions += extension(1000 + type, "");
  EXPECT_EQ(outcome(wire_with(extensions)), "hello");
  EXPECT_EQ(outcome(wire_with(extensions + extension(999, ""))), malformed);
}

TEST(ClientHello, ThePreSharedKeyIsTheLastExtension) {
  EXPECT_EQ(outcome(wire_with(server_name("a.example") + extension(41, "x"))), "hello");
  EXPECT_EQ(outcome(wire_with(extension(41, "x") + server_name("a.example"))), malformed);
}

TEST(ClientHello, LengthsThatDoNotAddUpAreRefused) {
  auto broken = [](auto change) {
    Hello hello;
    change(hello);
    return outcome(wire(hello));
  };
  EXPECT_EQ(broken([](Hello&) {}), "hello");
  EXPECT_EQ(broken([](Hello& h) { h.extensions_length = u16(h.extensions.size() - 1); }), malformed);
  EXPECT_EQ(broken([](Hello& h) { h.extensions_length = u16(h.extensions.size() + 1); }), malformed);
  EXPECT_EQ(broken([](Hello& h) { h.extensions += "x"; }), malformed);
  EXPECT_EQ(broken([](Hello& h) { h.session_id = std::string(33, 's'); }), malformed);
  EXPECT_EQ(broken([](Hello& h) { h.session_id = ""; }), "hello");
  EXPECT_EQ(broken([](Hello& h) { h.cipher_suites = ""; }), malformed);
  EXPECT_EQ(broken([](Hello& h) { h.cipher_suites = "abc"; }), malformed);
  EXPECT_EQ(broken([](Hello& h) { h.compression = ""; }), malformed);
  EXPECT_EQ(broken([](Hello& h) { h.compression = u8(1); }), malformed);
  EXPECT_EQ(broken([](Hello& h) { h.version = u16(0x0300); }), malformed);
  EXPECT_EQ(broken([](Hello& h) { h.version = u16(0x0304); }), malformed);
  EXPECT_EQ(outcome(record(u8(1) + u24(0))), malformed);
  EXPECT_EQ(outcome(record(u8(1) + u24(3) + "abc")), malformed);
}

TEST(ClientHello, EveryFlippedByteIsAnsweredWithoutReadingTooFar) {
  const std::string bytes =
      wire_with(server_name("api.example.com") + alpn({"h2"}) + supported_versions(u16(0x0304)));
  for (std::size_t at = 0; at < bytes.size(); ++at) {
    for (int bit = 0; bit < 8; ++bit) {
      std::string flipped = bytes;
      flipped[at] = static_cast<char>(flipped[at] ^ 1 << bit);
      outcome(flipped);
    }
  }
}

}  // namespace
}  // namespace postern::wire
