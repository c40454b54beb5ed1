#pragma once
// A connection to a port inside a box, made by the box's agent from inside: it cannot lead anywhere that
// processes of the box cannot go. On the box loop; gone before its box is.

#include <cstdint>
#include <string_view>

#include "box/box_loop.h"

namespace postern::api {

class PortConnection final : box::AgentLink::Events {
 public:
  static constexpr std::uint32_t window_bytes = box::window_bytes;  // of each direction

  /// May destroy the connection.
  class User {
   public:
    /// `bytes`: what was received with it, if anything, as by received().
    virtual void connected(std::string_view bytes) = 0;
    /// At most window_bytes until taken() is called for them.
    virtual void received(std::string_view bytes) = 0;
    /// Nothing more comes from the box, which may still take what is sent.
    virtual void ended() = 0;
    /// So many bytes of what was sent have been taken.
    virtual void sent(std::uint32_t bytes) = 0;
    /// Nothing more is said. Without connected() before: there is nobody at that port, or too much is going
    /// on in the box.
    virtual void over() = 0;

   protected:
    ~User() = default;
  };

  /// over() is not called from here: ask alive().
  PortConnection(box::OpenBox& box, std::uint16_t port, User& user);
  /// Cuts what is still there of it.
  ~PortConnection();
  PortConnection(const PortConnection&) = delete;

  bool alive() const { return number_ != 0; }
  /// Also before it is connected. False, and nothing is sent, when more than window_bytes would wait.
  bool send(std::string_view bytes) { return link_.input(number_, bytes); }
  /// Nothing more will be sent.
  void finish();
  void taken(std::uint32_t bytes) { link_.taken(number_, box::StreamId::standard_output, bytes); }

 private:
  void started(std::int32_t) override {}
  void output(box::StreamId stream, std::string_view bytes) override;
  void output_ended(box::StreamId stream) override;
  void exited(int) override { end(); }
  void refused(int) override { end(); }
  void input_taken(std::uint32_t bytes) override { user_.sent(bytes); }
  void lost() override { end(); }
  void end();

  box::AgentLink& link_;
  User& user_;
  std::uint32_t number_;
  bool connected_ = false;
};

}  // namespace postern::api
