#include "api/multipart.h"

#include <fmt/format.h>
#include <gtest/gtest.h>

namespace postern::api {
namespace {

constexpr std::string_view type = "multipart/form-data; boundary=b";
constexpr std::string_view head =
    "--b\r\nContent-Disposition: form-data; name=\"file\"; filename=\"x\"\r\n\r\n";

struct Read {
  bool good = true;
  bool complete = false;
  std::string file;
};

Read read(std::string_view body, std::size_t piece = 1 << 20) {
  auto parser = MultipartFile::for_type(type);
  Read out;
  for (std::size_t at = 0; at < body.size() && out.good; at += piece)
    out.good = parser->take(body.substr(at, piece), out.file).has_value();
  out.complete = out.good && parser->complete();
  return out;
}

std::string with(std::string_view content, std::string_view end = "\r\n--b--\r\n") {
  return fmt::format("{}{}{}", head, content, end);
}

TEST(MultipartFile, TheFileIsWhatTheClientSentHoweverItWasCut) {
  for (const std::string_view content :
       {"", "hello", "\r\n", "\r\n--", "\r\n--a\r\n--", "--b", "\r\r\n--\r\n-b--", "\n--b--\r\n"})
    for (const std::size_t piece : {1UL, 2UL, 3UL, 5UL, 1000UL}) {
      const Read got = read(with(content), piece);
      EXPECT_TRUE(got.good) << content;
      EXPECT_TRUE(got.complete) << content;
      EXPECT_EQ(got.file, content);
    }
  EXPECT_TRUE(read(with("x", "\r\n--b--")).complete) << "the last line break is often left out";
}

TEST(MultipartFile, WhatIsNotAllThereIsNotComplete) {
  const std::string body = with("hello");
  for (std::size_t size = 0; size + 2 < body.size(); ++size)
    EXPECT_FALSE(read(std::string_view(body).substr(0, size)).complete) << size;
  EXPECT_FALSE(read(std::string_view(body).substr(0, body.size() - 1)).complete);
}

TEST(MultipartFile, WhatCouldBeReadDifferentlyIsRefused) {
  const auto refused = [](const std::string& body) { return !read(body).good && !read(body, 1).good; };
  EXPECT_TRUE(refused("preamble\r\n" + with("x")));
  EXPECT_TRUE(refused("--c\r\n"));
  EXPECT_TRUE(
      refused(with("x", "\r\n--b\r\nContent-Disposition: form-data; name=\"file\"\r\n\r\ny\r\n--b--\r\n")));
  EXPECT_TRUE(refused(with("x", "\r\n--bb--")));
  EXPECT_TRUE(refused(with("x", "\r\n--b--\r\nepilogue")));
  const auto part = [](std::string_view fields) {
    return fmt::format("--b\r\n{}\r\n\r\nx\r\n--b--", fields);
  };
  EXPECT_FALSE(refused(part("content-disposition: Form-Data; NAME=file")));
  EXPECT_TRUE(refused(part("Content-Disposition: form-data; name=other")));
  EXPECT_TRUE(refused(part("Content-Disposition: attachment; name=file")));
  EXPECT_TRUE(refused(part("Content-Disposition: form-data; name=file; name=file")));
  EXPECT_TRUE(refused(part("Content-Disposition: form-data; name=\"file")));
  EXPECT_TRUE(refused(
      part("Content-Disposition: form-data; name=file\r\nContent-Disposition: form-data; name=file")));
  EXPECT_TRUE(
      refused(part("Content-Disposition: form-data; name=file\r\nContent-Transfer-Encoding: base64")));
  EXPECT_TRUE(refused(part("Content-Disposition: form-data; name=file\r\n folded: x")));
  EXPECT_TRUE(refused(part("Content-Disposition: form-data; name=file\nX: y")));
  EXPECT_TRUE(refused(part("Content-Type: text/plain")));
  EXPECT_TRUE(refused("--b\r\nX: " + std::string(10'000, 'x')));
}

TEST(MultipartFile, ABoundaryIsOne) {
  for (const char* good : {"multipart/form-data; boundary=b", "Multipart/Form-Data;boundary=\"a b\"",
                           "multipart/form-data; charset=utf-8; boundary=----WebKit0"})
    EXPECT_TRUE(MultipartFile::for_type(good)) << good;
  for (const char* bad :
       {"", "multipart/form-data", "multipart/form-data; boundary=", "multipart/mixed; boundary=b",
        "multipart/form-data; boundary=\"b", "multipart/form-data; boundary=\"b \"",
        "multipart/form-data; boundary=a; boundary=b", "multipart/form-data, boundary=b",
        "multipart/form-data; boundary=a\r\nb", "text/plain; boundary=b"})
    EXPECT_FALSE(MultipartFile::for_type(bad)) << bad;
  EXPECT_FALSE(MultipartFile::for_type("multipart/form-data; boundary=" + std::string(71, 'b')));
}

}  // namespace
}  // namespace postern::api
