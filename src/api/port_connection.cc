#include "api/port_connection.h"

#include <csignal>

#include "box/file_requests.h"

namespace postern::api {

using box::StreamId;

PortConnection::PortConnection(box::OpenBox& box, std::uint16_t port, User& user)
    : link_(box.link), user_(user), number_(box.link.run(box::connect_request(port), *this)) {}

PortConnection::~PortConnection() {
  if (number_ == 0) return;
  link_.signal(number_, SIGKILL);
  link_.forget(number_);
}

void PortConnection::finish() {
  if (number_ != 0) link_.close_input(number_);
}

void PortConnection::output(StreamId stream, std::string_view bytes) {
  if (stream == StreamId::standard_error)
    return link_.taken(number_, stream, static_cast<std::uint32_t>(bytes.size()));
  if (bytes.empty()) return;
  if (connected_) return user_.received(bytes);
  connected_ = true;
  taken(1);  // What the agent says first.
  user_.connected(bytes.substr(1));
}

void PortConnection::output_ended(StreamId stream) {
  if (stream == StreamId::standard_output && connected_) user_.ended();
}

void PortConnection::end() {
  number_ = 0;
  user_.over();
}

}  // namespace postern::api
