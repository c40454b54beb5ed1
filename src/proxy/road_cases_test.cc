// Road cases: one text file each in road_cases/, played on the whole road. A file is a script of sections:
//
//   == policy                         YAML; left out: the harness's policy (one rule that injects for
//   api.example.com)
//   == origin plain|tls [NAME]        what origins speak (tls is assumed), and the name in their certificate
//   == connect HOST:PORT [SNI|plain]  a program connects; TLS with this name, on 443 with the host's unless
//   plain
//   == sandbox sends | origin sends   text; a line is ended by CRLF unless it ends in \; escapes \r \n \t
//   \\ \xNN,
//                                     \{60*x} for many, \| where a segment ends and has arrived, \& where a
//                                     write (a TLS record) ends and the next follows at once
//   == origin receives | sandbox receives    what must have arrived since last time; [connection N] stands
//   for a new
//                                     connection to an origin, [end], [cut] (no close_notify) and [reset] for
//                                     ends
//   == sandbox|origin closes|half-closes|cuts|resets
//   == clock SECONDS                  time passes
//   == loop drains | loop ends        Worker::drain(), Worker::cut_off()
//   == pool N                         connections that must rest in the pool
//   == record                         the journal's lines, last of all
//
// POSTERN_UPDATE_CASES=1 writes what was received in place of what was expected: read the diff before you
// commit.

#include <charconv>
#include <fstream>
#include <gtest/gtest.h>
#include <regex>
#include <sstream>

#include "proxy/road_harness.h"

namespace postern::proxy::road {
namespace {

namespace fs = std::filesystem;

struct Section {
  std::string title;
  std::vector<std::string> lines;
};

struct Case {
  std::vector<std::string> preamble;  ///< Comments.
  std::vector<Section> sections;
};

Case read_case(const fs::path& file) {
  Case out;
  std::ifstream in(file);
  for (std::string line; std::getline(in, line);) {
    if (line.starts_with("== "))
      out.sections.push_back({line.substr(3), {}});
    else if (out.sections.empty())
      out.preamble.push_back(line);
    else
      out.sections.back().lines.push_back(line);
  }
  return out;
}

void write_case(const fs::path& file, const Case& from) {
  std::ofstream out(file, std::ios::trunc);
  for (const auto& line : from.preamble) out << line << '\n';
  for (const auto& section : from.sections) {
    out << "== " << section.title << '\n';
    for (const auto& line : section.lines) out << line << '\n';
  }
}

int hex(char c) { return c <= '9' ? c - '0' : (c | 0x20) - 'a' + 10; }

constexpr char at_once = '\x1e';  ///< Not in any payload of a case.

/// The segments that a text section stands for.
std::vector<std::string> decode(const std::vector<std::string>& lines) {
  std::vector<std::string> segments(1);
  for (const std::string& line : lines) {
    bool ended = true;
    for (std::size_t i = 0; i < line.size(); ++i) {
      if (line[i] != '\\') {
        segments.back() += line[i];
        continue;
      }
      if (++i == line.size()) {
        ended = false;
        break;
      }
      switch (line[i]) {
        case 'r': segments.back() += '\r'; break;
        case 'n': segments.back() += '\n'; break;
        case 't': segments.back() += '\t'; break;
        case '|': segments.emplace_back(); break;
        case '&': segments.back() += at_once; break;
        case 'x':
          segments.back() += static_cast<char>(hex(line.at(i + 1)) * 16 + hex(line.at(i + 2)));
          i += 2;
          break;
        case '{': {
          const std::size_t close = line.find('}', i);
          segments.back().append(std::stoul(line.substr(i + 1)), line.at(close - 1));
          i = close;
          break;
        }
        default: segments.back() += line[i];
      }
    }
    if (ended) segments.back() += "\r\n";
  }
  return segments;
}

/// The inverse, as lines for a file. Markers such as [end] stand on lines of their own and end in a bare LF.
std::vector<std::string> encode(std::string_view bytes) {
  std::vector<std::string> lines;
  std::string line;
  const auto finish = [&](const char* tail) {
    lines.push_back(line + tail);
    line.clear();
  };
  for (std::size_t i = 0; i < bytes.size();) {
    if (line.empty() && bytes[i] == '[') {  // A marker; payloads in cases do not begin a line with it.
      const std::size_t end = bytes.find("]\n", i);
      if (end != std::string_view::npos) {
        lines.emplace_back(bytes.substr(i, end + 1 - i));
        i = end + 2;
        continue;
      }
    }
    const char c = bytes[i];
    std::size_t run = 1;
    while (i + run < bytes.size() && bytes[i + run] == c) ++run;
    if (bytes.substr(i).starts_with("\r\n")) {
      finish("");
      i += 2;
    } else if (run >= 40 && c > ' ' && c < 0x7f) {
      line += "\\{" + std::to_string(run) + "*" + c + "}";
      i += run;
    } else {
      if (c == '\\')
        line += "\\\\";
      else if (c == '\n')
        line += "\\n";
      else if (c == '\r')
        line += "\\r";
      else if (static_cast<unsigned char>(c) < 0x20 || static_cast<unsigned char>(c) >= 0x7f) {
        char escaped[8];
        std::snprintf(escaped, sizeof escaped, "\\x%02x", static_cast<unsigned char>(c));
        line += escaped;
      } else
        line += c;
      ++i;
      if (bytes.substr(i).starts_with("[end]\n") || bytes.substr(i).starts_with("[cut]\n") ||
          bytes.substr(i).starts_with("[reset]\n"))
        finish("\\");
    }
  }
  if (!line.empty()) finish("\\");
  return lines;
}

std::string shown(const std::vector<std::string>& lines) {
  std::string text;
  for (const auto& line : lines) text += "  " + line + "\n";
  return text;
}

/// What differs from run to run is taken out of a record.
std::string normalised(std::string record, std::uint16_t origin_port) {
  static const std::regex time(R"("time":"[^"]*",)");
  static const std::regex nothing_took_time(
      R"(,"timings":\{"dns":0.000,"connect":0.000,"tls":0.000,"first_byte":0.000\})");
  record = std::regex_replace(record, time, "");
  record = std::regex_replace(record, nothing_took_time, "");
  // A signature's length varies, so that of a handshake does.
  static const std::regex handshake_bytes(
      R"x(("kind":"tls".*"request_bytes":)[1-9]\d*(,"response_bytes":)\d+)x");
  record = std::regex_replace(record, handshake_bytes, "$1N$2N");
  return std::regex_replace(record, std::regex("127.0.0.1:" + std::to_string(origin_port)), "127.0.0.1:PORT");
}

class Player {
 public:
  explicit Player(Case& script) : script_(script), update_(std::getenv("POSTERN_UPDATE_CASES") != nullptr) {
    RoadOptions options;
    for (const Section& section : script_.sections) {
      if (section.title == "policy") {
        options.policy.clear();
        for (const auto& line : section.lines) options.policy += line + "\n";
      }
      if (section.title.starts_with("origin plain")) options.origin_tls = false;
      if (section.title.starts_with("origin tls ")) options.origin_name = section.title.substr(11);
    }
    // Without an expectation to wait for, patience has to do: a loaded machine delivers even loopback
    // segments late.
    options.patience = std::chrono::milliseconds(update_ ? 10 : 1);
    road_ = std::make_unique<Road>(std::move(options));
  }

  void play() {
    for (Section& section : script_.sections) {
      SCOPED_TRACE("== " + section.title);
      step(section);
      if (testing::Test::HasFatalFailure()) return;
    }
    ASSERT_TRUE(finished_) << "a case ends with its records";
  }
  bool updated() const { return update_; }

 private:
  void step(Section& section) {
    std::istringstream words(section.title);
    std::string who, what, more;
    words >> who >> what >> more;
    if (who == "policy" || (who == "origin" && (what == "plain" || what == "tls"))) return;
    if (who == "connect") return connect(what, more);
    if (who == "clock")
      return road_->clock().advance(std::chrono::milliseconds(std::stol(what) * 1000)), road_->settle();
    if (who == "pool") {
      const std::size_t wanted = std::stoul(what);
      road_->wait_until([&] { return road_->worker().pool.idle() == wanted; }, std::chrono::seconds(5));
      EXPECT_EQ(road_->worker().pool.idle(), wanted);
      return;
    }
    if (who == "loop") {
      what == "drains" ? road_->worker().drain() : road_->worker().cut_off();
      return road_->settle();
    }
    if (who == "record") return check_records(section);
    if (what == "receives") return check_received(section, who == "origin");
    Peer* const peer = who == "origin" ? road_->origin() : &road_->sandbox();
    ASSERT_NE(peer, nullptr) << "there is no connection to an origin yet";
    if (what == "sends") return send(*peer, section.lines);
    if (what == "closes")
      peer->close();
    else if (what == "half-closes")
      peer->half_close();
    else if (what == "cuts")
      peer->cut();
    else if (what == "resets")
      peer->reset();
    else
      FAIL() << "no such step: " << section.title;
    road_->settle();
  }

  void connect(const std::string& where, const std::string& server_name) {
    const std::size_t colon = where.rfind(':');
    const std::string host = where.substr(0, colon);
    const auto port = static_cast<std::uint16_t>(std::stoi(where.substr(colon + 1)));
    std::string name = server_name == "plain" ? "" : server_name;
    if (port == 443 && server_name.empty()) name = host;
    road_->connect(host, port, name);
    road_->settle();
  }

  void send(Peer& peer, const std::vector<std::string>& lines) {
    for (const std::string& segment : decode(lines)) {
      for (std::size_t at = 0, end = 0; end != std::string::npos; at = end + 1) {
        end = segment.find(at_once, at);
        peer.send(segment.substr(at, end - at));
      }
      road_->settle();
    }
  }

  /// What arrived since last time, with what happened to connections.
  std::string collect(bool origin) {
    if (!origin) return sandbox_seen_ += road_->sandbox().take();
    if (road_->origins() != known_origins_) {
      known_origins_ = road_->origins();
      origin_seen_ += "[connection " + std::to_string(known_origins_) + "]\n";
    }
    if (Peer* peer = road_->origin()) origin_seen_ += peer->take();
    return origin_seen_;
  }

  void check_received(Section& section, bool origin) {
    const auto arrived = [&] { return encode(collect(origin)) == section.lines; };
    road_->settle();
    if (!update_) road_->wait_until(arrived, std::chrono::seconds(5));
    road_->settle();
    const auto lines = encode(collect(origin));
    if (!origin) {
      EXPECT_EQ(sandbox_seen_.find(canary), std::string::npos) << "a secret reached the sandbox";
    }
    (origin ? origin_seen_ : sandbox_seen_).clear();
    if (update_)
      section.lines = lines;
    else
      EXPECT_EQ(shown(lines), shown(section.lines));
  }

  void check_records(Section& section) {
    finished_ = true;
    EXPECT_TRUE(road_->leave()) << "something of the road still runs after everybody has left";
    if (road_->has_sandbox()) {
      EXPECT_EQ(collect(false).find(canary), std::string::npos);
    }
    const std::uint16_t port = road_->origin_port();
    std::vector<std::string> lines;
    for (const std::string& record : road_->records()) {
      EXPECT_EQ(record.find(canary), std::string::npos) << "a secret is in the log";
      lines.push_back(normalised(record, port));
    }
    if (update_)
      section.lines = lines;
    else
      EXPECT_EQ(shown(lines), shown(section.lines));
  }

  Case& script_;
  bool update_;
  bool finished_ = false;
  std::unique_ptr<Road> road_;
  std::size_t known_origins_ = 0;
  std::string sandbox_seen_, origin_seen_;
};

fs::path folder() { return fs::path(POSTERN_SOURCE_DIR) / "src/proxy/road_cases"; }

std::vector<std::string> all_cases() {
  std::vector<std::string> names;
  for (const auto& entry : fs::directory_iterator(folder()))
    if (entry.path().extension() == ".txt") names.push_back(entry.path().stem().string());
  std::ranges::sort(names);
  return names;
}

class RoadCase : public testing::TestWithParam<std::string> {};

TEST_P(RoadCase, Plays) {
  const fs::path file = folder() / (GetParam() + ".txt");
  Case script = read_case(file);
  Player player(script);
  player.play();
  if (player.updated()) write_case(file, script);
}

INSTANTIATE_TEST_SUITE_P(All, RoadCase, testing::ValuesIn(all_cases()),
                         [](const auto& one) { return one.param; });

TEST(RoadCases, WhatIsWrittenIsReadBackTheSame) {
  const std::string bytes = "a\r\nb\\\x01\r\r\n" + std::string(50, 'x') + "\n\r\n\r\ntail";
  const auto segments = decode(encode(bytes));
  ASSERT_EQ(segments.size(), 1u);
  EXPECT_EQ(segments[0], bytes);
}

}  // namespace
}  // namespace postern::proxy::road
