#include "cli/key_server.h"

#include <cerrno>
#include <cstring>
#include <fmt/format.h>
#include <netinet/in.h>
#include <sys/socket.h>

#include "cli/run_options.h"
#include "io/listener.h"
#include "io/stream.h"
#include "model/address.h"
#include "wire/http1.h"
#include "wire/target.h"

namespace postern::cli {

namespace {

std::unexpected<Error> unusable(std::string detail) {
  return fail(Reason::invalid_configuration, std::move(detail));
}

std::string answer(std::string_view status, std::string_view type, std::string_view body, bool to_head,
                   int max_age_seconds = 300) {
  return fmt::format(
      "HTTP/1.1 {}\r\nContent-Type: {}\r\nContent-Length: {}\r\nCache-Control: max-age={}\r\n"
      "Connection: close\r\n\r\n{}",
      status, type, body.size(), max_age_seconds, to_head ? std::string_view() : body);
}

Result<Fd> listen_on(const Endpoint& endpoint, const std::string& option) {
  sockaddr_storage address{};
  const socklen_t size = endpoint.to_sockaddr(address);
  Fd socket(::socket(address.ss_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0));
  const int on = 1;
  if (!socket || ::setsockopt(socket.get(), SOL_SOCKET, SO_REUSEADDR, &on, sizeof on) != 0 ||
      ::bind(socket.get(), reinterpret_cast<const sockaddr*>(&address), size) != 0 ||
      ::listen(socket.get(), 64) != 0)
    return unusable(fmt::format("{} {}: {}", option, endpoint.to_string(), std::strerror(errno)));
  return socket;
}

}  // namespace

Result<std::unique_ptr<KeyServer>> KeyServer::listen(const std::string& address, const std::string& option) {
  const auto endpoint = parse_listen(address);
  if (!endpoint)
    return unusable(fmt::format("{} '{}' is not ADDRESS:PORT (for example 127.0.0.1:8090 or [::1]:8090)",
                                option, address));
  auto listening = listen_on(*endpoint, option);
  if (!listening) return std::unexpected(std::move(listening.error()));
  sockaddr_storage name{};
  socklen_t size = sizeof name;
  ::getsockname(listening->get(), reinterpret_cast<sockaddr*>(&name), &size);
  const auto bound = Endpoint::from_sockaddr(reinterpret_cast<const sockaddr&>(name));
  if (!bound) return unusable(option + ": the socket has no address");
  return std::unique_ptr<KeyServer>(new KeyServer(std::move(*listening), "http://" + bound->to_string()));
}

KeyServer::KeyServer(Fd listening, std::string origin)
    : listening_(std::move(listening)), origin_(std::move(origin)), loop_(clock_) {}

const KeyServer::Document* KeyServer::document_at(std::string_view path) const {
  for (const Document& document : documents_)
    if (path == document.path) return &document;
  return nullptr;
}

void KeyServer::start() {
  thread_ = std::thread([this] { run(); });
}

KeyServer::~KeyServer() {
  if (!thread_.joinable()) return;
  loop_.stop();
  thread_.join();
}

void KeyServer::run() {
  ::pthread_setname_np(::pthread_self(), "key server");
  {
    io::Listener listener(loop_, listening_.get(), [this](Fd accepted) {
      if (open_ < connections_max) loop_.spawn(serve(std::move(accepted)));
    });
    loop_.run();
  }
  loop_.abandon();
}

io::Task<void> KeyServer::serve(Fd accepted) {
  struct Open {
    std::size_t& count;
    explicit Open(std::size_t& of) : count(of) { ++count; }
    ~Open() { --count; }
  };
  const Open open(open_);
  io::TcpStream stream(loop_, std::move(accepted), Side::sandbox);
  const TimePoint deadline = loop_.now() + request_time;
  std::string head;
  wire::HeadScanner scanner;
  std::size_t size = 0;
  while (size == 0) {
    char piece[2048];
    auto count = co_await stream.read(piece, deadline);
    if (!count || *count == 0) co_return;
    head.append(piece, *count);
    auto scanned = scanner.scan(head);
    if (!scanned) break;
    size = *scanned;
  }
  std::vector<HeaderField> fields;
  RequestHead request;
  const Document* document = nullptr;
  std::string said;
  if (size == 0 || !wire::parse_request_head(std::string_view(head).substr(0, size), fields, request)) {
    said = answer("400 Bad Request", "text/plain", "not acceptable HTTP\n", false);
  } else if (document = document_at(wire::path_of(request.target)); !document) {
    said = answer("404 Not Found", "text/plain", "there is nothing here\n", false);
  } else if (request.method != "GET" && request.method != "HEAD") {
    said = answer("405 Method Not Allowed", "text/plain", "only GET and HEAD\n", false);
  } else {
    said = answer("200 OK", document->type, document->make(), request.method == "HEAD",
                  document->max_age_seconds);
  }
  auto sent = co_await stream.write_all(said, deadline);
  if (sent) stream.shutdown_write();
}

}  // namespace postern::cli
