#pragma once
// The server's side of one yamux session, version 0 (https://github.com/hashicorp/yamux/blob/master/spec.md):
// many streams on one, each with its own windows. Bytes in, bytes out, and no I/O of its own.
//
// The peer is not trusted: a frame that is none, bytes beyond a window, a window beyond 32 bits or a stream
// that is not its to open ends the session. What the peer makes us owe it is bounded: whoever feeds us does
// not go on while wants_input() is false.

#include <cstdint>
#include <deque>
#include <map>
#include <string>
#include <string_view>

namespace postern::api {

class Yamux {
 public:
  using StreamId = std::uint32_t;
  static constexpr std::uint32_t window_bytes = 256 * 1024;  // of each direction of a stream, at first
  static constexpr std::size_t streams_max = 128;            // open at once; more are reset
  static constexpr std::size_t data_bytes_max = 32 * 1024;   // of one frame, so that streams take turns
  static constexpr std::size_t owed_bytes_max = 16 * 1024;   // of answers; beyond, nothing more is taken

  /// What the peer does. May call anything but take() and pull().
  class Events {
   public:
    virtual void opened(StreamId stream) = 0;
    /// At most window_bytes until credit() is called for them.
    virtual void received(StreamId stream, std::string_view bytes) = 0;
    /// Nothing more comes from the peer, who may still take what is sent.
    virtual void ended(StreamId stream) = 0;
    /// Both sides have ended it, or the peer has reset it.
    virtual void gone(StreamId stream) = 0;
    /// So many bytes of send() went out.
    virtual void sent(StreamId stream, std::size_t bytes) = 0;

   protected:
    ~Events() = default;
  };
  enum class State : std::uint8_t {
    open,
    gone,   ///< The peer said that it goes.
    broken  ///< It broke the protocol, and is told so by what pull() has yet.
  };

  explicit Yamux(Events& events) : events_(events) {}

  /// In pieces of any size. Nothing is read any more once the state is another than open.
  State take(std::string_view bytes);
  State state() const { return state_; }
  bool wants_input() const { return owed_.size() <= owed_bytes_max; }

  /// Whole frames, some `max` bytes of them: what is owed first, then data of the streams by turns. Empty:
  /// there is nothing that may go out.
  std::string pull(std::size_t max);

  // For streams that are there; nothing happens to others.

  /// Kept until the peer's window lets it go: whoever sends is to wait for sent().
  void send(StreamId stream, std::string_view bytes);
  /// After what was sent already. The stream is gone once the peer has ended it as well.
  void finish(StreamId stream);
  /// The stream is gone, with what was not sent yet. Nothing is said of it any more.
  void reset(StreamId stream);
  /// So many bytes that were received have been taken.
  void credit(StreamId stream, std::uint32_t bytes);
  std::size_t streams() const { return streams_.size(); }

 private:
  struct Stream {
    std::uint32_t may_receive = window_bytes;
    std::uint32_t to_credit = 0;
    std::uint64_t may_send = window_bytes;
    std::string unsent;
    std::size_t sent = 0;  ///< Of `unsent`.
    bool peer_ended = false;
    bool finishing = false;  ///< No more comes into `unsent`.
    bool finished = false;   ///< And the peer was told so.
    bool in_turn = false;
  };
  struct Header {
    std::uint8_t type;
    std::uint16_t flags;
    StreamId stream;
    std::uint32_t length;
  };
  static Header parse(std::string_view bytes);

  bool begin_frame(const Header& header);
  bool open_stream(StreamId stream);
  bool begin_data(const Header& header);
  bool update_window(const Header& header);
  void take_data(std::string_view bytes);
  void end_frame();
  void owe(std::uint8_t type, std::uint16_t flags, StreamId stream, std::uint32_t length);
  void take_turn(StreamId id, Stream& stream);
  void send_some(StreamId id, Stream& stream, std::string& out);
  State break_off();
  Stream* find(StreamId stream);

  Events& events_;
  State state_ = State::open;
  std::map<StreamId, Stream> streams_;
  std::deque<StreamId> turns_;  ///< Streams that have something to send, and may.
  std::string header_;          ///< The part of one that has come.
  Header frame_{};              ///< Whose data is coming.
  std::uint32_t data_left_ = 0;
  std::string owed_;
};

}  // namespace postern::api
