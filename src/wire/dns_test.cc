#include "wire/dns.h"

#include <gtest/gtest.h>
#include <string>
#include <vector>

#include "wire/byte_reader.h"

namespace postern::wire {
namespace {

std::string u8(std::size_t n) { return std::string(1, static_cast<char>(n)); }
std::string u16(std::size_t n) { return u8(n >> 8 & 0xff) + u8(n & 0xff); }
std::string label(const std::string& text) { return u8(text.size()) + text; }
std::string root() { return u8(0); }
std::string question(const std::string& name, std::size_t type = 1, std::size_t klass = 1) {
  return name + u16(type) + u16(klass);
}
std::string opt(std::size_t payload = 1232, std::size_t version = 0, std::size_t flags = 0,
                const std::string& options = "") {
  return root() + u16(41) + u16(payload) + u8(0) + u8(version) + u16(flags) + u16(options.size()) + options;
}
std::string header(std::size_t additionals = 0, std::size_t flags = 0x0100, std::size_t questions = 1,
                   std::size_t answers = 0, std::size_t authorities = 0) {
  return u16(0x1234) + u16(flags) + u16(questions) + u16(answers) + u16(authorities) + u16(additionals);
}
const std::string example = label("api") + label("example") + label("com") + root();

std::string query_for(const std::string& name, std::size_t type = 1) {
  return header() + question(name, type);
}

DnsQuery parsed(const std::string& message) {
  auto query = parse_dns_query(message);
  if (!query) {
    ADD_FAILURE() << query.error().detail;
    return {};
  }
  return *query;
}

bool refused(const std::string& message) {
  auto query = parse_dns_query(message);
  if (query) return false;
  EXPECT_EQ(query.error().reason, Reason::malformed_dns_query);
  EXPECT_EQ(query.error().side, Side::sandbox);
  return true;
}

/// A response read by a second, independent reader: records whole, names skipped.
struct Record {
  std::uint16_t type = 0;
  std::uint16_t klass = 0;
  std::uint32_t ttl = 0;
  std::string name;
  std::string data;
};
struct Response {
  std::uint16_t id = 0;
  std::uint16_t flags = 0;
  std::string question;
  std::vector<Record> answers, authorities, additionals;

  int code() const { return flags & 0xf; }
  bool has(std::uint16_t flag) const { return (flags & flag) != 0; }
};

std::string read_name(ByteReader& reader) {
  std::string name;
  for (;;) {
    std::size_t length = reader.u8();
    name += u8(length);
    if (length == 0 || !reader.ok()) return name;
    if (length >= 0xc0) return name + u8(reader.u8());
    name += reader.take(length);
  }
}

std::vector<Record> read_records(ByteReader& reader, std::size_t count) {
  std::vector<Record> records(count);
  for (Record& record : records) {
    record.name = read_name(reader);
    record.type = reader.u16();
    record.klass = reader.u16();
    record.ttl = reader.u32();
    record.data = reader.take_with_u16_length();
  }
  return records;
}

Response read_response(const std::string& bytes) {
  ByteReader reader(bytes);
  Response response;
  response.id = reader.u16();
  response.flags = reader.u16();
  std::size_t questions = reader.u16();
  std::size_t answers = reader.u16();
  std::size_t authorities = reader.u16();
  std::size_t additionals = reader.u16();
  EXPECT_LE(questions, 1u);
  if (questions == 1) {
    response.question = read_name(reader);
    response.question += reader.take(4);
  }
  response.answers = read_records(reader, answers);
  response.authorities = read_records(reader, authorities);
  response.additionals = read_records(reader, additionals);
  EXPECT_TRUE(reader.finished()) << "counts and bytes disagree";
  EXPECT_LE(bytes.size(), dns_response_bytes_max);
  EXPECT_TRUE(response.has(0x8000)) << "not a response";
  EXPECT_FALSE(response.has(0x0200)) << "truncated";
  return response;
}

Response answer_to(const std::string& message, const DnsAnswer& answer) {
  return read_response(build_dns_response(parsed(message), answer));
}

IpAddress address(const char* text) { return *IpAddress::parse(text); }

TEST(Dns, AQuestionIsReadAsAsked) {
  DnsQuery query = parsed(query_for(label("aPi") + label("eXample") + label("com") + root()));
  EXPECT_EQ(query.id, 0x1234);
  EXPECT_EQ(query.name, "aPi.eXample.com");
  EXPECT_TRUE(query.name_is_host);
  EXPECT_EQ(query.type, 1);
  EXPECT_TRUE(query.recursion_desired);
  EXPECT_FALSE(query.edns);
  EXPECT_EQ(query.edns_payload, 512);
}

TEST(Dns, ServiceNamesAreHosts) {
  EXPECT_TRUE(parsed(query_for(label("_https") + label("a-1") + root())).name_is_host);
}

TEST(Dns, NamesThatAreNoHostsAreEscaped) {
  auto name_of = [](const std::string& first_label) {
    DnsQuery query = parsed(query_for(label(first_label) + label("com") + root()));
    EXPECT_FALSE(query.name_is_host);
    return query.name;
  };
  EXPECT_EQ(name_of("a.b"), "a\\.b.com");
  EXPECT_EQ(name_of("a\\b"), "a\\\\b.com");
  EXPECT_EQ(name_of(std::string("\0\n \x7f\xff", 5)), "\\000\\010\\032\\127\\255.com");
  EXPECT_EQ(name_of("*"), "*.com");
}

TEST(Dns, TheRootIsNoHost) {
  DnsQuery query = parsed(query_for(root(), 2));
  EXPECT_EQ(query.name, "");
  EXPECT_FALSE(query.name_is_host);
}

TEST(Dns, NamesAreBounded) {
  std::string longest =
      label(std::string(63, 'a')) + label(std::string(63, 'b')) + label(std::string(63, 'c'));
  EXPECT_TRUE(parsed(query_for(longest + label(std::string(61, 'd')) + root())).name_is_host);
  EXPECT_TRUE(refused(query_for(longest + label(std::string(62, 'd')) + root())));
  EXPECT_TRUE(refused(query_for(u8(64) + std::string(64, 'a') + root())));
}

TEST(Dns, ACompressedQuestionIsRefused) {
  EXPECT_TRUE(refused(query_for(u16(0xc00c))));
  EXPECT_TRUE(refused(query_for(label("a") + u16(0xc00c))));
  EXPECT_TRUE(refused(query_for(u8(0x41) + "a" + root())));
  EXPECT_TRUE(refused(query_for(u8(0x81) + "a" + root())));
}

TEST(Dns, CutAnywhereOrWithAByteTooManyIsRefused) {
  const std::string message = header(1) + question(example) + opt(1232, 0, 0, u16(10) + u16(8) + "12345678");
  EXPECT_FALSE(refused(message));
  for (std::size_t size = 0; size < message.size(); ++size) {
    EXPECT_TRUE(refused(message.substr(0, size))) << "cut to " << size;
  }
  EXPECT_TRUE(refused(message + "x"));
  EXPECT_TRUE(refused(query_for(example) + root()));
}

TEST(Dns, ExactlyOneQuestionAndNoAnswers) {
  EXPECT_TRUE(refused(header(0, 0x0100, 0)));
  EXPECT_TRUE(refused(header(0, 0x0100, 0) + question(example)));
  EXPECT_TRUE(refused(header(0, 0x0100, 2) + question(example)));
  EXPECT_TRUE(refused(header(2) + question(example) + opt()));
  EXPECT_TRUE(refused(header(0, 0x0100, 2) + question(example) + question(example)));
  EXPECT_TRUE(refused(header(0, 0x0100, 1, 1) + question(example)));
  EXPECT_TRUE(refused(header(0, 0x0100, 1, 0, 1) + question(example)));
  EXPECT_TRUE(refused(header(2) + question(example) + opt() + opt()));
}

TEST(Dns, ALongMessageIsRefused) {
  auto padded = [](std::size_t size) {
    const std::size_t without = (header(1) + question(example) + opt()).size() + 4;
    std::string padding = std::string(size - without, '\0');
    return header(1) + question(example) + opt(1232, 0, 0, u16(12) + u16(padding.size()) + padding);
  };
  EXPECT_FALSE(refused(padded(dns_query_bytes_max)));
  EXPECT_TRUE(refused(padded(dns_query_bytes_max + 1)));
}

TEST(Dns, EdnsIsReadAndItsPayloadIsAtLeast512) {
  DnsQuery query = parsed(header(1) + question(example) + opt(4096, 0, 0x8000));
  EXPECT_TRUE(query.edns);
  EXPECT_TRUE(query.dnssec_ok);
  EXPECT_EQ(query.edns_payload, 4096);
  EXPECT_EQ(parsed(header(1) + question(example) + opt(100)).edns_payload, 512);
}

TEST(Dns, AdditionalRecordsOtherThanOptAreRefused) {
  EXPECT_TRUE(refused(header(1) + question(example) + label("a") + opt()));
  EXPECT_TRUE(
      refused(header(1) + question(example) + root() + u16(1) + u16(1) + std::string(4, '\0') + u16(0)));
  EXPECT_TRUE(refused(header(1) + question(example) + opt(1232, 0, 0, u16(10) + u16(9) + "12345678")));
  EXPECT_TRUE(refused(header(1) + question(example) + opt(1232, 0, 0, "abc")));
}

TEST(Dns, TheAnswerEchoesTheQuestionWithItsCase) {
  const std::string asked = question(label("ApI") + label("eXaMpLe") + label("cOm") + root());
  Response response = answer_to(header() + asked, {.addresses = {address("100.64.1.2")}, .ttl_seconds = 60});
  EXPECT_EQ(response.id, 0x1234);
  EXPECT_EQ(response.question, asked);
  EXPECT_EQ(response.code(), 0);
  EXPECT_TRUE(response.has(0x0400)) << "AA";
  EXPECT_TRUE(response.has(0x0100)) << "RD";
  EXPECT_TRUE(response.has(0x0080)) << "RA";
  ASSERT_EQ(response.answers.size(), 1u);
  EXPECT_EQ(response.answers[0].name, u16(0xc00c));
  EXPECT_EQ(response.answers[0].type, 1);
  EXPECT_EQ(response.answers[0].klass, 1);
  EXPECT_EQ(response.answers[0].ttl, 60u);
  EXPECT_EQ(response.answers[0].data, std::string("\x64\x40\x01\x02", 4));
  EXPECT_TRUE(response.authorities.empty());
  EXPECT_TRUE(response.additionals.empty());
}

TEST(Dns, RecursionAndCheckingFlagsAreCopied) {
  EXPECT_FALSE(answer_to(header(0, 0) + question(example), {}).has(0x0100));
  EXPECT_FALSE(answer_to(header(0, 0) + question(example), {}).has(0x0010));
  EXPECT_TRUE(answer_to(header(0, 0x0010) + question(example), {}).has(0x0010));
}

TEST(Dns, AaaaForANameWithIpv4OnlyIsNoErrorAndEmpty) {
  Response response = answer_to(query_for(example, 28), {.addresses = {address("100.64.1.2")}});
  EXPECT_EQ(response.code(), 0);
  EXPECT_TRUE(response.answers.empty());
  ASSERT_EQ(response.authorities.size(), 1u);
  EXPECT_EQ(response.authorities[0].type, 6);
}

TEST(Dns, EachFamilyIsGivenToItsOwnQuestion) {
  DnsAnswer both{.addresses = {address("100.64.1.2"), address("2001:db8::1")}};
  Response response = answer_to(query_for(example, 28), both);
  ASSERT_EQ(response.answers.size(), 1u);
  EXPECT_EQ(response.answers[0].type, 28);
  EXPECT_EQ(response.answers[0].data, std::string("\x20\x01\x0d\xb8\0\0\0\0\0\0\0\0\0\0\0\1", 16));
  EXPECT_EQ(answer_to(query_for(example, 1), both).answers.size(), 1u);
}

TEST(Dns, OtherTypesAreNoErrorAndEmpty) {
  for (std::size_t type : {2, 5, 12, 15, 16, 33, 64, 65, 255}) {
    Response response = answer_to(query_for(example, type), {.addresses = {address("100.64.1.2")}});
    EXPECT_EQ(response.code(), 0) << type;
    EXPECT_TRUE(response.answers.empty()) << type;
    EXPECT_EQ(response.authorities.size(), 1u) << type;
  }
}

TEST(Dns, NoSuchNameCanBeRememberedForTheGivenTime) {
  Response response = answer_to(query_for(example), {.code = DnsCode::no_such_name, .ttl_seconds = 30});
  EXPECT_EQ(response.code(), 3);
  ASSERT_EQ(response.authorities.size(), 1u);
  const Record& soa = response.authorities[0];
  EXPECT_EQ(soa.type, 6);
  EXPECT_EQ(soa.name, root());
  EXPECT_EQ(soa.ttl, 30u);
  ByteReader data(soa.data);
  EXPECT_EQ(read_name(data), label("postern") + label("invalid") + root());
  EXPECT_EQ(read_name(data), root());
  data.take(16);
  EXPECT_EQ(data.u32(), 30u);
  EXPECT_TRUE(data.finished());
}

TEST(Dns, AFailureIsNotAuthoritativeAndHoldsNoRecord) {
  Response response =
      answer_to(query_for(example), {.code = DnsCode::server_failure, .addresses = {address("100.64.1.2")}});
  EXPECT_EQ(response.code(), 2);
  EXPECT_FALSE(response.has(0x0400));
  EXPECT_TRUE(response.answers.empty());
  EXPECT_TRUE(response.authorities.empty());
}

TEST(Dns, EdnsIsAnsweredWithEdns) {
  Response response =
      answer_to(header(1) + question(example) + opt(4096, 0, 0x8000, u16(10) + u16(8) + "12345678"),
                {.addresses = {address("100.64.1.2")}});
  ASSERT_EQ(response.additionals.size(), 1u);
  const Record& record = response.additionals[0];
  EXPECT_EQ(record.type, 41);
  EXPECT_EQ(record.klass, dns_query_bytes_max);
  EXPECT_EQ(record.ttl, 0x8000u) << "extended code 0, version 0, DO";
  EXPECT_EQ(record.data, "") << "no cookie is promised";
}

TEST(Dns, TheLongestNameWithManyAddressesStaysWithin512Bytes) {
  std::string longest = label(std::string(63, 'a')) + label(std::string(63, 'b')) +
                        label(std::string(63, 'c')) + label(std::string(61, 'd')) + root();
  DnsAnswer answer;
  for (std::uint32_t i = 0; i < 100; ++i) {
    answer.addresses.push_back(IpAddress::v4(0x64400000 + i));
    answer.addresses.push_back(IpAddress::v6({0x20, 0x01, 0x0d, 0xb8, static_cast<std::uint8_t>(i)}));
  }
  EXPECT_EQ(answer_to(header(1) + question(longest) + opt(), answer).answers.size(), (512u - 271 - 11) / 16);
  EXPECT_EQ(answer_to(header(1) + question(longest, 28) + opt(), answer).answers.size(),
            (512u - 271 - 11) / 28);
  EXPECT_EQ(answer_to(header(1) + question(longest, 16) + opt(), answer).authorities.size(), 1u);
}

TEST(Dns, ATtlNeverHasItsTopBitSet) {
  Response response =
      answer_to(query_for(example), {.addresses = {address("100.64.1.2")}, .ttl_seconds = 0xffffffff});
  EXPECT_EQ(response.answers.at(0).ttl, 0x7fffffffu);
}

TEST(Dns, WhatIsNoQueryIsNotAnswered) {
  EXPECT_EQ(build_dns_error(""), "");
  EXPECT_EQ(build_dns_error(query_for(example).substr(0, 11)), "");
  EXPECT_EQ(build_dns_error(header(0, 0x8100) + question(example)), "");
  EXPECT_TRUE(refused(header(0, 0x8100) + question(example)));
}

TEST(Dns, AMalformedQueryIsAnsweredWithItsIdAndACode) {
  auto error_for = [](const std::string& message) {
    EXPECT_TRUE(refused(message));
    Response response = read_response(build_dns_error(message));
    EXPECT_EQ(response.id, 0x1234);
    EXPECT_EQ(response.question, "");
    return response;
  };
  EXPECT_EQ(error_for(query_for(u16(0xc00c))).code(), 1);
  EXPECT_TRUE(error_for(header()).has(0x0100));
  Response update = error_for(header(0, 0x2800) + question(example));
  EXPECT_EQ(update.code(), 4);
  EXPECT_EQ(update.flags & 0x7800, 0x2800) << "the opcode is copied";
  EXPECT_EQ(error_for(header() + question(example, 16, 3)).code(), 5) << "class CHAOS";
  Response version = error_for(header(1) + question(example) + opt(1232, 1));
  EXPECT_EQ(version.code(), 0) << "the lower bits of BADVERS";
  ASSERT_EQ(version.additionals.size(), 1u);
  EXPECT_EQ(version.additionals[0].ttl, 0x01000000u) << "its upper bits, and version 0";
}

}  // namespace
}  // namespace postern::wire
