// What an agent that lies, and a box that ends, do to callers. Real clients are in
// tests/test_api_data_plane.py.

#include "api/data_plane.h"

#include <gmock/gmock.h>
#include <netinet/in.h>

#include "api/data_plane_test_kit.h"
#include "box/agent/protocol.h"

namespace postern::api {
namespace {

using box::FrameHeader;
using box::FrameType;
using box::StreamId;
using ::testing::HasSubstr;
using ::testing::StartsWith;

/// One request, and everything up to the end of the connection.
class Client {
 public:
  Client(const Endpoint& to, std::string_view request) : fd_(::socket(AF_INET, SOCK_STREAM, 0)) {
    const timeval patience{20, 0};
    ::setsockopt(fd_.get(), SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
    sockaddr_storage address{};
    const socklen_t size = to.to_sockaddr(address);
    EXPECT_EQ(::connect(fd_.get(), reinterpret_cast<const sockaddr*>(&address), size), 0);
    EXPECT_EQ(::send(fd_.get(), request.data(), request.size(), MSG_NOSIGNAL),
              static_cast<ssize_t>(request.size()));
  }
  std::string all() {
    std::string out;
    char piece[65536];
    for (ssize_t size = 0; (size = ::recv(fd_.get(), piece, sizeof piece, 0)) > 0;)
      out.append(piece, static_cast<std::size_t>(size));
    return out;
  }

 private:
  Fd fd_;
};

std::string get(std::string_view target) {
  return fmt::format(
      "GET /v2/sandboxes/liar{} HTTP/1.1\r\nHost: a\r\nX-Api-Key: key\r\nConnection: close\r\n\r\n", target);
}
std::string post(std::string_view target, std::string_view body, std::string_view type = "application/json") {
  return fmt::format(
      "POST /v2/sandboxes/liar{} HTTP/1.1\r\nHost: a\r\nX-Api-Key: key\r\nConnection: close\r\nContent-Type: "
      "{}\r\nContent-Length: {}\r\n\r\n{}",
      target, type, body.size(), body);
}

/// The test in an agent's place.
struct Liar : testing::Test {
  test::Plane plane;
  Fd agent;
  std::string received;

  Liar() {
    int ends[2];
    if (::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) != 0) std::abort();
    agent = Fd(ends[1]);
    const timeval patience{20, 0};
    ::setsockopt(agent.get(), SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
    ::fcntl(ends[0], F_SETFL, O_NONBLOCK);
    box::BoxDefaults defaults;
    defaults.home = "/home";
    plane.boxes().open("liar", Fd(ends[0]), Fd(), std::move(defaults), [] {});
  }
  /// The next command that is run, by its number; its words.
  std::uint32_t next(std::vector<std::string>& words) {
    std::uint32_t number = 0;
    char piece[65536];
    while (number == 0) {
      const ssize_t size = ::recv(agent.get(), piece, sizeof piece, 0);
      if (size <= 0) return 0;
      received.append(piece, static_cast<std::size_t>(size));
      box::take_frames(received, [&](const FrameHeader& header, std::string_view bytes) {
        if (header.type != FrameType::run) return true;
        number = header.command;
        words = box::decode_run(bytes)->arguments;
        return true;
      });
    }
    return number;
  }
  std::uint32_t next() {
    std::vector<std::string> words;
    return next(words);
  }
  void say(FrameType type, std::uint32_t command, std::uint32_t value = 0, StreamId stream = {},
           std::string_view bytes = {}) {
    std::string out;
    box::append_frame(type, command, value, stream, bytes, out);
    EXPECT_EQ(::send(agent.get(), out.data(), out.size(), MSG_NOSIGNAL), static_cast<ssize_t>(out.size()));
  }
  void answer(std::uint32_t command, std::string_view output, std::uint32_t status = 0) {
    say(FrameType::started, command, 5);
    say(FrameType::output, command, 0, StreamId::standard_output, output);
    say(FrameType::exited, command, status);
  }
  static std::string entry(std::uint64_t size, const std::string& tag = "a") {
    using namespace std::string_literals;
    return "/x\0f\0"s + std::to_string(size) + "\0"s + "1000\0"s + tag + "\0"s;
  }
};

TEST_F(Liar, NonsenseForAnEntryIsABadGateway) {
  Client client(plane.at(), get("/download?path=/x"));
  answer(next(), "nonsense");
  EXPECT_THAT(client.all(), StartsWith("HTTP/1.1 502 "));
}

TEST_F(Liar, ATagThatIsNoneGetsIntoNoHeader) {
  Client client(plane.at(), get("/download?path=/x"));
  answer(next(), entry(5, "a\r\nX-Evil: 1"));
  const std::string said = client.all();
  EXPECT_THAT(said, StartsWith("HTTP/1.1 502 "));
  EXPECT_EQ(said.find("X-Evil"), std::string::npos);
}

TEST_F(Liar, AFileThatIsShorterLongerOrAnotherIsNeverComplete) {
  for (const char* const content : {"1234", "123456", "12345"}) {
    Client client(plane.at(), get("/download?path=/x"));
    answer(next(), entry(5));
    std::vector<std::string> words;
    const std::uint32_t reading = next(words);
    EXPECT_THAT(words, testing::ElementsAre("read", "/x", "0", "5"));
    answer(reading, content);
    if (std::string_view(content).size() == 5) answer(next(), entry(5, "b"));
    const std::string said = client.all();
    EXPECT_THAT(said, HasSubstr("Content-Length: 5\r\n"));
    EXPECT_EQ(said.find("12345"), std::string::npos) << content;
  }
}

TEST_F(Liar, AFileThatStayedTheSameIsComplete) {
  Client client(plane.at(), get("/download?path=/x"));
  answer(next(), entry(5));
  answer(next(), "12345");
  answer(next(), entry(5));
  EXPECT_THAT(client.all(), HasSubstr("\r\n\r\n12345"));
}

TEST_F(Liar, AnEndInTheMiddleOfEverythingIsSaidToEverybody) {
  std::vector<std::unique_ptr<Client>> clients;
  for (const std::string& request :
       {get("/download?path=/x"), post("/glob", R"({"pattern": "*"})"),
        post("/execute", R"({"command": "x"})"), post("/execute/stream/start", R"({"command": "x"})"),
        post("/upload?path=/x", "abc", "application/octet-stream")}) {
    clients.push_back(std::make_unique<Client>(plane.at(), request));
    ASSERT_NE(next(), 0U);
  }
  agent.reset();
  EXPECT_THAT(clients[0]->all(), StartsWith("HTTP/1.1 502 "));
  EXPECT_THAT(clients[1]->all(), StartsWith("HTTP/1.1 502 "));
  EXPECT_THAT(clients[2]->all(), HasSubstr("CommandError"));
  EXPECT_THAT(clients[3]->all(), HasSubstr("SessionExpired"));
  EXPECT_THAT(clients[4]->all(), StartsWith("HTTP/1.1 502 "));
  Client late(plane.at(), get("/download?path=/x"));
  EXPECT_THAT(late.all(), StartsWith("HTTP/1.1 404 "));
}

TEST_F(Liar, AnUploadItClaimsToHaveBeforeItsEndIsNone) {
  Client client(plane.at(),
                "POST /v2/sandboxes/liar/upload?path=/x HTTP/1.1\r\nHost: a\r\nX-Api-Key: key\r\n"
                "Content-Type: application/octet-stream\r\nContent-Length: 10\r\n\r\nabc");
  answer(next(), entry(3));
  EXPECT_THAT(client.all(), StartsWith("HTTP/1.1 502 "));
}

TEST_F(Liar, ErrorsThatAreNoErrnoAreErrorsAllTheSame) {
  Client executing(plane.at(), post("/execute", R"({"command": "x"})"));
  say(FrameType::refused, next(), 60'000);
  EXPECT_THAT(executing.all(), HasSubstr("CommandError"));
  Client reading(plane.at(), get("/download?path=/x"));
  say(FrameType::refused, next(), 60'000);
  EXPECT_THAT(reading.all(), HasSubstr("ReadError"));
}

TEST_F(Liar, AnAnswerWithoutEndIsCutShort) {
  Client client(plane.at(), post("/glob", R"({"pattern": "*"})"));
  const std::uint32_t number = next();
  say(FrameType::started, number, 5);
  const std::string piece(box::output_bytes_max, 'x');
  bool killed = false;
  received.clear();
  for (int i = 0; i < 2000 && !killed; ++i) {
    say(FrameType::output, number, 0, StreamId::standard_output, piece);
    char said[4096];
    const ssize_t size = ::recv(agent.get(), said, sizeof said, 0);
    ASSERT_GT(size, 0);
    received.append(said, static_cast<std::size_t>(size));
    box::take_frames(received, [&](const FrameHeader& header, std::string_view) {
      killed = killed || header.type == FrameType::signal;
      return true;
    });
  }
  EXPECT_TRUE(killed);
  EXPECT_THAT(client.all(), HasSubstr("too large"));
}

}  // namespace
}  // namespace postern::api
