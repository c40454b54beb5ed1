#include "control/call.h"

#include <utility>

#include "control/connection.h"

namespace postern::control {

Call::Call(std::shared_ptr<Connection> connection, std::uint64_t serial, Request request)
    : connection_(std::move(connection)), serial_(serial), request_(std::move(request)) {}

Call::~Call() {
  connection_->post(serial_, [](Connection& connection) { connection.forget(); });
}

void Call::answer(Response response) {
  connection_->post(serial_, [response = std::move(response)](Connection& connection) mutable {
    connection.answer(std::move(response));
  });
}

void Call::answer_while_receiving(Response response) {
  connection_->post(serial_, [response = std::move(response)](Connection& connection) mutable {
    connection.answer(std::move(response), Connection::Body::goes_on);
  });
}

void Call::read_body(std::size_t max, std::move_only_function<void(std::string)> then) {
  connection_->post(serial_, [max, then = std::move(then)](Connection& connection) mutable {
    connection.receive(max, std::move(then), nullptr);
  });
}

void Call::stream_body(std::uint64_t max, std::shared_ptr<BodySink> sink) {
  connection_->post(serial_, [max, sink = std::move(sink)](Connection& connection) mutable {
    connection.receive(max, nullptr, std::move(sink));
  });
}

void Call::take_more() {
  connection_->post(serial_, [](Connection& connection) { connection.take_more(); });
}

void Call::wake() {
  connection_->post(serial_, [](Connection& connection) { connection.wake(); });
}

void Call::on_gone(Job then, Half half) { connection_->when_gone(serial_, std::move(then), half); }

void Call::upgrade(std::unique_ptr<WebSocketHandler> handler, std::size_t message_bytes_max) {
  connection_->post(serial_, [request = request_, handler = std::move(handler),
                              message_bytes_max](Connection& connection) mutable {
    connection.upgrade(request, std::move(handler), message_bytes_max);
  });
}

void Call::hand_over(Response response, std::shared_ptr<BodySink> sink) {
  connection_->post(serial_,
                    [response = std::move(response), sink = std::move(sink)](Connection& connection) mutable {
                      connection.hand_over(std::move(response), std::move(sink));
                    });
}

void Call::note_route(std::string_view pattern) {
  connection_->post(serial_, [route = std::string(pattern)](Connection& connection) mutable {
    connection.record_in_progress().route = std::move(route);
  });
}

void Call::note_caller(std::string workspace, std::string key_id) {
  connection_->post(serial_, [workspace = std::move(workspace),
                              key_id = std::move(key_id)](Connection& connection) mutable {
    connection.record_in_progress().workspace = std::move(workspace);
    connection.record_in_progress().key_id = std::move(key_id);
  });
}

}  // namespace postern::control
