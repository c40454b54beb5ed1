// llhttp's public test vectors, held against our parser. Where llhttp's strict mode refuses we must refuse;
// where it accepts we must read the same bytes, or be stricter for a reason that is written down here.
//
// Run: every case of type "request" or "response". Left out by rule, because they are about llhttp's flags
// and callbacks and not about what is read: types with a suffix (-lenient-*, -finish), "pause", and
// "skipBody" on a request. A response with "skipBody" is read as one to HEAD.
//
// llhttp does not require Host. HTTP/1.1 requests without one are given one (the authority of an
// absolute-form target, if there is one), so that what is tested is not always the same refusal.

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <gtest/gtest.h>
#include <map>
#include <set>
#include <sstream>

#include "wire/http1_test_kit.h"

namespace postern::wire {
namespace {

using kit::Kind;
using kit::Message;
using kit::Reading;

constexpr std::string_view added_host = "added-by-the-test.example";

struct Case {
  std::string name;  // "request/uri.md: Quotes in URI", with " #2" if there are several
  std::string meta;
  std::string input;
  std::string log;
};

// Cases that llhttp accepts and we refuse, and why. A case that is no longer refused fails the test.
const std::map<std::string, std::string> stricter = {
    {"request/connection.md: CRLF between requests, implicit `keep-alive`",
     "one empty line before a request line is skipped (RFC 9112 §2.2), here there are two"},
    {"request/method.md: CONNECT request", "CONNECT: method_not_allowed"},
    {"request/method.md: CONNECT request with CAPS", "CONNECT: method_not_allowed"},
    {"request/method.md: CONNECT with body", "CONNECT: method_not_allowed"},
    {"request/uri.md: Underscore in hostname", "CONNECT: method_not_allowed"},
    {"request/method.md: M-SEARCH request", "the target * is for OPTIONS only (RFC 9112 §3.2.4)"},
    {"request/method.md: PRI request HTTP2", "PRI is reserved (RFC 9113 §11.6)"},
    {"request/method.md: SOURCE request with ICE", "not HTTP"},
    {"request/method.md: OPTIONS request with RTSP", "not HTTP"},
    {"request/method.md: ANNOUNCE request with RTSP", "not HTTP"},
    {"request/sample.md: No HTTP version", "HTTP/0.9"},
    {"request/transfer-encoding.md: POST with `chunked` as last transfer-encoding",
     "in requests chunked is the only transfer coding"},
    {"request/transfer-encoding.md: POST with `chunked` as last transfer-encoding (multiple headers)",
     "several Transfer-Encoding fields"},
    {"request/uri.md: Fragment in URI", "a fragment never belongs on the wire (RFC 9112 §3.2)"},
    {"request/uri.md: Host terminated by a query string", "absolute-form with a query but no path"},
    {"request/uri.md: `host:port` terminated by a query string", "absolute-form with a query but no path"},
    {"request/uri.md: `host:port` and basic auth", "userinfo in the authority (RFC 9110 §4.2.4)"},
    {"response/connection.md: HTTP 100 first, then 400", "empty line before a response: unsolicited bytes"},
    {"response/connection.md: HTTP 304 with Content-Length", "empty line before a response"},
    {"response/pipelining.md: Should parse multiple events", "empty line before a response"},
    {"response/sample.md: Response starting with CRLF", "empty line before a response"},
    {"response/sample.md: RTSP response", "not HTTP"},
    {"response/sample.md: ICE response", "not HTTP"},
    {"response/sample.md: HTTP version 0.9", "HTTP/0.9"},
    {"response/transfer-encoding.md: `chunked` before other transfer-encoding",
     "a transfer coding other than chunked"},
    {"response/transfer-encoding.md: `chunkedchunked` transfer-encoding does not enable chunked enconding",
     "a transfer coding other than chunked"},
    {"response/transfer-encoding.md: multiple transfer-encoding where chunked is not the last one",
     "several Transfer-Encoding fields"},
};

// Cases that llhttp refuses only because its list of methods is closed. Methods are an open set of tokens
// (RFC 9110 §16.1), matched byte for byte by policy; no framing depends on them.
const std::set<std::string> unknown_methods = {
    "request/invalid.md: HTTP protocol and ANNOUNCE method",
    "request/invalid.md: Invalid method",
};

std::string replaced(std::string text, std::string_view from, std::string_view to) {
  for (std::size_t at = 0; (at = text.find(from, at)) != std::string::npos; at += to.size()) {
    text.replace(at, from.size(), to);
  }
  return text;
}

std::string utf8(unsigned code) {
  if (code < 0x80) return {static_cast<char>(code)};
  return {static_cast<char>(0xc0 | code >> 6), static_cast<char>(0x80 | (code & 0x3f))};
}

/// "\x7f" and the like. The vectors' harness writes such code points as UTF-8.
std::string unescape_hexadecimal(std::string text) {
  for (std::size_t at = 0; (at = text.find("\\x", at)) != std::string::npos; ++at) {
    std::size_t end = at + 2;
    while (end < text.size() && std::isxdigit(static_cast<unsigned char>(text[end]))) ++end;
    if (end == at + 2) continue;
    const auto code = static_cast<unsigned>(std::stoul(text.substr(at + 2, end - at - 2), nullptr, 16));
    text.replace(at, end - at, utf8(code));
  }
  return text;
}

std::string unescape_controls(std::string text) {
  text = replaced(std::move(text), "\\r", "\r");
  text = replaced(std::move(text), "\\n", "\n");
  text = replaced(std::move(text), "\\t", "\t");
  return replaced(std::move(text), "\\f", "\f");
}

/// The bytes that a ```http block stands for: line ends are CRLF, a backslash at a line's end joins lines.
std::string bytes_of_block(std::string block) {
  if (block.ends_with('\n')) block.pop_back();
  block = replaced(std::move(block), "\\\n", "");
  block = replaced(std::move(block), "\n", "\r\n");
  return unescape_hexadecimal(unescape_controls(std::move(block)));
}

std::vector<Case> read_cases(const std::filesystem::path& file, const std::string& label) {
  std::ifstream stream(file);
  std::vector<Case> cases;
  std::map<std::string, int> seen;
  std::string line, heading, block;
  std::string* open = nullptr;
  Case current;
  while (std::getline(stream, line)) {
    if (open != nullptr) {
      if (!line.starts_with("```")) {
        *open += line + "\n";
        continue;
      }
      if (open == &current.log) {
        current.input = bytes_of_block(current.input);
        const int number = ++seen[heading];
        current.name = label + ": " + heading + (number > 1 ? " #" + std::to_string(number) : "");
        cases.push_back(current);
        current = {};
      }
      open = nullptr;
    } else if (line.starts_with("#")) {
      heading = line.substr(line.find_first_not_of("# "));
    } else if (line.starts_with("<!-- meta=")) {
      current.meta = replaced(line, " ", "");
    } else if (line.starts_with("```http")) {
      open = &current.input;
    } else if (line.starts_with("```log")) {
      open = &current.log;
    }
  }
  return cases;
}

/// Cases in which llhttp behaves as it does by default.
bool is_about_reading(const Case& one) {
  const bool plain = one.meta.find("\"type\":\"request\"") != std::string::npos ||
                     one.meta.find("\"type\":\"response\"") != std::string::npos;
  const bool request = one.meta.find("\"type\":\"request\"") != std::string::npos;
  if (!plain || one.meta.find("\"pause\"") != std::string::npos) return false;
  return !(request && one.meta.find("\"skipBody\"") != std::string::npos);
}

/// What llhttp said, in our words.
struct Verdict {
  std::vector<Message> messages;
  std::vector<bool> heads_complete;
  bool refused = false;
};

/// The text after `span[...]=`. Quotes inside are not escaped; a tab may be.
std::string span_text(const std::string& line) {
  const std::size_t length = std::stoul(line.substr(line.find("len=") + 4));
  std::string text = line.substr(line.find("]=") + 2);
  if (text == "cr") return "\r";
  if (text == "lf") return "\n";
  text = text.substr(1, text.size() - 2);
  if (text.size() != length) text = unescape_controls(text);
  EXPECT_EQ(text.size(), length) << line;
  return text;
}

void read_span(const std::string& line, bool& value_open, Message& message) {
  const std::size_t from = line.find("span[") + 5;
  const std::string what = line.substr(from, line.find(']', from) - from);
  const std::string text = span_text(line);
  if (what == "method") message.method += text;
  if (what == "url") message.target += text;
  if (what == "status") message.reason_phrase += text;
  if (what == "body") message.body += text;
  if (what == "header_value") message.fields.back().second += text;
  if (what != "header_field") return;
  if (value_open) message.fields.back().first += text;
  if (!value_open) message.fields.emplace_back(text, "");
  value_open = true;
}

void read_headers_complete(const std::string& line, Message& message) {
  const auto number = [&](const char* key, int base) {
    return std::stoull(line.substr(line.find(key) + std::string_view(key).size()), nullptr, base);
  };
  if (line.find("status=") != std::string::npos) message.status = static_cast<int>(number("status=", 10));
  message.minor_version = static_cast<int>(number(" v=1/", 10));
  const auto flags = number("flags=", 16);
  if (flags & 0x20) message.framing = BodyFraming::length;
  if (flags & 0x08) message.framing = BodyFraming::chunked;
  message.content_length = number("content_length=", 10);
}

Verdict read_log(const std::string& log) {
  Verdict verdict;
  bool name_open = false;
  bool in_trailers = false;
  std::istringstream lines(log);
  for (std::string line; std::getline(lines, line);) {
    const auto has = [&](const char* text) { return line.find(text) != std::string::npos; };
    if (has("span[")) {
      if (in_trailers && has("span[header_field]")) {
        verdict.messages.back().trailers.emplace_back();  // counted only
        continue;
      }
      if (in_trailers && has("span[header_value]")) continue;
      read_span(line, name_open, verdict.messages.back());
    } else if (has("header_field complete")) {
      name_open = false;
    } else if (has("message begin")) {
      verdict.messages.emplace_back();
      verdict.heads_complete.push_back(false);
      in_trailers = false;
    } else if (has("headers complete")) {
      read_headers_complete(line, verdict.messages.back());
      verdict.heads_complete.back() = true;
      in_trailers = verdict.messages.back().framing == BodyFraming::chunked;
    } else if (has("message complete")) {
      verdict.messages.back().complete = true;
    } else if (has(" error code=")) {
      // 22 and 23 are pauses: from here on the bytes are another protocol's.
      verdict.refused = !has("code=22 ") && !has("code=23 ");
    }
  }
  return verdict;
}

std::string lower(std::string text) {
  for (char& c : text) c = static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
  return text;
}

/// Gives every HTTP/1.1 request in `input` that lacks it a Host field.
std::string with_host(std::string input) {
  constexpr std::string_view version = " HTTP/1.1\r\n";
  for (std::size_t at = 0; (at = input.find(version, at)) != std::string::npos;) {
    const std::size_t fields = at + version.size();
    const std::string head = lower(input.substr(at, input.find("\r\n\r\n", at) - at));
    const std::size_t target = input.rfind(' ', at - 1) + 1;
    const std::string text = input.substr(target, at - target);
    std::string host(added_host);
    if (const std::size_t scheme = text.find("://"); scheme != std::string::npos) {
      host = text.substr(scheme + 3, text.find_first_of("/?", scheme + 3) - scheme - 3);
    }
    at = fields;
    if (head.find("\nhost:") == std::string::npos) input.insert(fields, "Host: " + host + "\r\n");
  }
  return input;
}

std::string right_trimmed(const std::string& text) {
  return text.substr(0, text.find_last_not_of(" \t") + 1);
}

/// Our target as llhttp tells it: absolute-form is put together again.
bool same_target(const Message& theirs, const Message& ours) {
  if (theirs.target == ours.target) return true;
  const std::string bare = ours.target == "/" ? "" : ours.target;
  for (const char* scheme : {"http://", "https://"}) {
    if (theirs.target == scheme + ours.authority + ours.target) return true;
    if (theirs.target == scheme + ours.authority + bare) return true;
  }
  return false;
}

void expect_same_fields(const Message& theirs, Message ours, bool host_was_added) {
  if (host_was_added && !ours.fields.empty() && lower(ours.fields.front().first) == "host") {
    ours.fields.erase(ours.fields.begin());
  }
  ASSERT_EQ(theirs.fields.size(), ours.fields.size());
  for (std::size_t i = 0; i < ours.fields.size(); ++i) {
    EXPECT_EQ(theirs.fields[i].first, ours.fields[i].first);
    EXPECT_EQ(right_trimmed(theirs.fields[i].second), ours.fields[i].second);
  }
}

void expect_same_message(const Message& theirs, const Message& ours, bool host_was_added) {
  EXPECT_EQ(theirs.method, ours.method);
  if (!ours.method.empty()) {
    EXPECT_TRUE(same_target(theirs, ours)) << theirs.target << " or " << ours.target;
  }
  EXPECT_EQ(theirs.status, ours.status);
  EXPECT_EQ(theirs.reason_phrase, ours.reason_phrase);
  EXPECT_EQ(theirs.minor_version, ours.minor_version);
  EXPECT_EQ(theirs.body, ours.body);
  EXPECT_EQ(theirs.complete, ours.complete);
  if (ours.framing == BodyFraming::length || ours.framing == BodyFraming::chunked) {
    EXPECT_EQ(theirs.framing, ours.framing);
    EXPECT_EQ(theirs.content_length, ours.content_length);
  }
  EXPECT_LE(ours.trailers.size(), theirs.trailers.size());
  expect_same_fields(theirs, ours, host_was_added);
}

std::string request_method_of(const Case& one) {
  return one.meta.find("\"skipBody\"") != std::string::npos ? "HEAD" : "GET";
}

/// A head that llhttp refuses before its end is given one: the deadline would do the same.
bool is_refused(Kind kind, const std::string& input, const std::string& method) {
  Reading ours = kit::read(kind, input, method);
  if (ours.head_pending && !ours.refused) ours = kit::read(kind, input + "\r\n\r\n", method);
  return ours.refused.has_value();
}

struct Tally {
  std::size_t run = 0;
  std::size_t refused_by_both = 0;
  std::size_t left_out = 0;
  std::size_t unknown_methods = 0;
  std::vector<std::string> stricter_than_llhttp;
};

void run(Kind kind, const Case& one, Tally& tally) {
  SCOPED_TRACE(one.name);
  if (!is_about_reading(one)) {
    ++tally.left_out;
    return;
  }
  ++tally.run;
  const Verdict theirs = read_log(one.log);
  const std::string method = request_method_of(one);
  const std::string input = kind == Kind::requests ? with_host(one.input) : one.input;
  EXPECT_EQ(kit::find_split_that_differs(kind, input, method), "");
  if (theirs.refused && unknown_methods.contains(one.name)) {
    ++tally.unknown_methods;
    EXPECT_FALSE(is_refused(kind, input, method)) << "no longer a difference: strike it from the list";
    return;
  }
  if (theirs.refused) {
    ++tally.refused_by_both;
    EXPECT_TRUE(is_refused(kind, one.input, method)) << "llhttp refuses this";
    EXPECT_TRUE(is_refused(kind, input, method)) << "llhttp refuses this";
    return;
  }
  const Reading ours = kit::read(kind, input, method);
  if (ours.refused) {
    tally.stricter_than_llhttp.push_back(one.name);
    return;
  }
  for (std::size_t i = 0; i < theirs.messages.size(); ++i) {
    if (!theirs.heads_complete[i]) continue;
    ASSERT_LT(i, ours.messages.size());
    expect_same_message(theirs.messages[i], ours.messages[i], input != one.input);
  }
  EXPECT_LE(ours.messages.size(), theirs.messages.size());
}

Tally run_folder(const std::filesystem::path& vectors, const char* folder, Kind kind) {
  Tally tally;
  for (const auto& file : std::filesystem::directory_iterator(vectors / "llhttp" / folder)) {
    const std::string label = std::string(folder) + "/" + file.path().filename().string();
    for (const Case& one : read_cases(file.path(), label)) run(kind, one, tally);
  }
  return tally;
}

TEST(Http1Vectors, WhatLlhttpRefusesIsRefusedAndWhatItAcceptsIsReadTheSame) {
  const char* vectors = std::getenv("POSTERN_VECTORS");
  if (vectors == nullptr) {
    GTEST_SKIP() << "POSTERN_VECTORS is not set: the public vectors were not run";
  }
  const Tally requests = run_folder(vectors, "request", Kind::requests);
  const Tally responses = run_folder(vectors, "response", Kind::responses);

  std::map<std::string, std::string> unused = stricter;
  for (const auto* tally : {&requests, &responses}) {
    for (const std::string& name : tally->stricter_than_llhttp) {
      EXPECT_TRUE(stricter.contains(name)) << name << ": llhttp accepts this, we do not, and nobody said why";
      unused.erase(name);
    }
  }
  for (const auto& [name, why] : unused) ADD_FAILURE() << name << ": not refused any more, or gone";

  EXPECT_EQ(requests.unknown_methods, unknown_methods.size());

  // What there was when this was written; fewer means that the vectors are no longer found or understood.
  EXPECT_GE(requests.run, 120u);
  EXPECT_GE(requests.refused_by_both, 53u);
  EXPECT_GE(responses.run, 65u);
  EXPECT_GE(responses.refused_by_both, 24u);
  EXPECT_LE(requests.left_out, 46u);
  EXPECT_LE(responses.left_out, 20u);
}

}  // namespace
}  // namespace postern::wire
