#include "api/yamux.h"

#include <gmock/gmock.h>
#include <map>

namespace postern::api {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

enum Type : std::uint8_t { data, window_update, ping, go_away };
enum Flag : std::uint16_t { none = 0, syn = 1, ack = 2, fin = 4, rst = 8 };

std::string frame(unsigned type, unsigned flags, std::uint32_t stream, std::uint32_t length,
                  std::string_view content = {}) {
  std::string out{'\0', static_cast<char>(type), static_cast<char>(flags >> 8), static_cast<char>(flags)};
  for (const std::uint32_t value : {stream, length})
    for (int shift = 24; shift >= 0; shift -= 8) out += static_cast<char>(value >> shift);
  return out.append(content);
}
std::string with_data(std::uint32_t stream, std::string_view content, unsigned flags = none) {
  return frame(data, flags, stream, static_cast<std::uint32_t>(content.size()), content);
}
std::string open_frame(std::uint32_t stream) { return frame(window_update, syn, stream, 0); }

struct Session : testing::Test, Yamux::Events {
  Yamux yamux{*this};
  std::vector<std::string> said;
  std::map<std::uint32_t, std::string> content;
  std::size_t sent_bytes = 0;

  void opened(std::uint32_t id) override { said.push_back("opened " + std::to_string(id)); }
  void received(std::uint32_t id, std::string_view bytes) override { content[id] += bytes; }
  void ended(std::uint32_t id) override { said.push_back("ended " + std::to_string(id)); }
  void gone(std::uint32_t id) override { said.push_back("gone " + std::to_string(id)); }
  void sent(std::uint32_t, std::size_t bytes) override { sent_bytes += bytes; }

  std::string pull() { return yamux.pull(1 << 24); }
};

TEST_F(Session, AStreamIsAcknowledgedAndItsDataComesInPiecesOfAnySize) {
  const std::string all = open_frame(1) + with_data(1, "hello") + with_data(1, " you", fin);
  for (const char byte : all) EXPECT_EQ(yamux.take({&byte, 1}), Yamux::State::open);
  EXPECT_THAT(said, ElementsAre("opened 1", "ended 1"));
  EXPECT_EQ(content[1], "hello you");
  EXPECT_EQ(pull(), frame(window_update, ack, 1, 0));
}

TEST_F(Session, PingsAreAnsweredAndAGoodbyeIsTheEnd) {
  EXPECT_EQ(yamux.take(frame(ping, syn, 0, 77) + frame(ping, ack, 0, 5)), Yamux::State::open);
  EXPECT_EQ(pull(), frame(ping, ack, 0, 77));
  EXPECT_EQ(yamux.take(frame(go_away, none, 0, 0) + "rubbish"), Yamux::State::gone);
}

TEST_F(Session, OnlyAsMuchGoesOutAsThePeersWindowLets) {
  yamux.take(open_frame(1));
  pull();
  yamux.send(1, std::string(Yamux::window_bytes + 10, 'x'));
  yamux.finish(1);
  pull();
  EXPECT_EQ(sent_bytes, Yamux::window_bytes);
  EXPECT_THAT(pull(), IsEmpty());
  yamux.take(frame(window_update, none, 1, 4));
  EXPECT_EQ(pull(), with_data(1, "xxxx"));
  yamux.take(frame(window_update, none, 1, 100));
  EXPECT_EQ(pull(), with_data(1, "xxxxxx") + frame(data, fin, 1, 0));
  EXPECT_EQ(yamux.streams(), 1U);
  yamux.take(frame(data, fin, 1, 0));
  EXPECT_EQ(yamux.streams(), 0U);
  EXPECT_THAT(said, ElementsAre("opened 1", "ended 1", "gone 1"));
}

TEST_F(Session, StreamsTakeTurns) {
  yamux.take(open_frame(1) + open_frame(3));
  pull();
  yamux.send(1, std::string(3 * Yamux::data_bytes_max, 'a'));
  yamux.send(3, "b");
  yamux.pull(1);
  EXPECT_EQ(yamux.pull(1), with_data(3, "b"));
}

TEST_F(Session, TheWindowForThePeerIsGivenBackAsItsBytesAreTaken) {
  const std::string half(Yamux::window_bytes / 2, 'x');
  yamux.take(open_frame(1) + with_data(1, half));
  pull();
  yamux.credit(1, static_cast<std::uint32_t>(half.size()) - 1);
  EXPECT_THAT(pull(), IsEmpty());
  yamux.credit(1, 1);
  EXPECT_EQ(pull(), frame(window_update, none, 1, static_cast<std::uint32_t>(half.size())));
  EXPECT_EQ(yamux.take(with_data(1, half + half)), Yamux::State::open);
  EXPECT_EQ(yamux.take(with_data(1, "y")), Yamux::State::broken);
}

TEST_F(Session, AFrameThatIsNoneBreaksItOff) {
  for (const std::string& bad : {
           "\x01" + open_frame(1).substr(1),               // another version
           frame(4, none, 0, 0),                           // no such type
           frame(window_update, 16, 1, 0),                 // no such flag
           open_frame(2), open_frame(0),                   // not the peer's to open
           open_frame(1) + open_frame(1),                  // open already
           frame(data, none, 9, Yamux::window_bytes + 1),  // in no window
           frame(ping, syn, 1, 0), frame(go_away, none, 1, 0),
           open_frame(1) + frame(window_update, none, 1, 0xffffffff),   // beyond 32 bits
           open_frame(1) + frame(data, fin, 1, 0) + with_data(1, "x"),  // after its end
       }) {
    Yamux session(*this);
    EXPECT_EQ(session.take(bad), Yamux::State::broken);
    const std::string told = session.pull(1 << 20);
    EXPECT_THAT(told, ::testing::EndsWith(frame(go_away, none, 0, 1)));
    session.send(1, "x");
    EXPECT_THAT(session.pull(1 << 20), IsEmpty());
  }
}

TEST_F(Session, MoreStreamsThanThereMayBeAreReset) {
  std::string all;
  for (std::uint32_t i = 0; i < Yamux::streams_max; ++i) all += open_frame(2 * i + 1);
  yamux.take(all);
  pull();
  EXPECT_EQ(yamux.take(open_frame(1001) + with_data(1001, "abc")), Yamux::State::open);
  EXPECT_EQ(pull(), frame(window_update, rst, 1001, 0));
  EXPECT_EQ(yamux.streams(), Yamux::streams_max);
  EXPECT_EQ(content.count(1001), 0U);
}

TEST_F(Session, APeerThatOnlyAsksIsNotReadFrom) {
  std::string all;
  for (std::uint32_t i = 0; i < 2000; ++i) all += frame(ping, syn, 0, i);
  yamux.take(all);
  EXPECT_FALSE(yamux.wants_input());
  EXPECT_EQ(pull().size(), all.size());
  EXPECT_TRUE(yamux.wants_input());
}

TEST_F(Session, AResetOfEitherSideIsTheEndOfAStreamAndWhatStillComesIsDropped) {
  yamux.take(open_frame(1) + open_frame(3));
  pull();
  yamux.send(1, "unsent");
  yamux.take(frame(window_update, rst, 1, 0));
  EXPECT_THAT(said, ElementsAre("opened 1", "opened 3", "gone 1"));
  EXPECT_THAT(pull(), IsEmpty());
  yamux.reset(3);
  EXPECT_EQ(pull(), frame(window_update, rst, 3, 0));
  EXPECT_EQ(yamux.take(with_data(3, "late", fin)), Yamux::State::open);
  EXPECT_EQ(content.count(3), 0U);
  EXPECT_EQ(yamux.streams(), 0U);
}

TEST_F(Session, AStreamWhoseNumberIsUsedAgainStartsAnew) {
  yamux.take(open_frame(1));
  yamux.send(1, "old");
  yamux.take(frame(data, rst, 1, 0) + open_frame(1));
  yamux.send(1, "new");
  const std::string out = pull();
  EXPECT_EQ(out.find("old"), std::string::npos);
  EXPECT_THAT(out, ::testing::EndsWith(with_data(1, "new")));
}

}  // namespace
}  // namespace postern::api
