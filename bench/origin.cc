// The origin of the benchmark: HTTP/1.1 over TLS, one thread, keep-alive.
//
//   GET  /small      512 bytes
//   GET  /bytes/N    N bytes, streamed
//   GET  /sse/N      N server-sent events, one every 10 ms, each with the time at which it was written
//   POST /sink       reads the body away and answers its size in decimal
//
// Below /close/ (/close/small, …) the answer is the connection's last: the next request needs another one.
// --no-resume: each handshake is a full one.
// Every request must carry the injected credential, and those that do not are counted: a proxy that is fast
// because it forgot its work gives a void run. Paths below /open/ (/open/small, …) are for connections on
// which nothing is injected; there the credential must be absent.
//
// It talks to run.py on stdin and stdout: first it prints its port, then each line on stdin is answered with
// one line of JSON (the counts since the last one). At the end of stdin it ends.

#include <cstdint>
#include <ctime>
#include <memory>
#include <sys/stat.h>
#include <sys/timerfd.h>
#include <unordered_map>
#include <vector>

#include "tls_socket.h"

namespace {

using bench::Progress;

constexpr std::size_t head_bytes_max = 64 * 1024;
constexpr std::size_t chunk_bytes = 64 * 1024;

struct Options {
  std::string certificate, key, secret = "bench-secret";
  bool resume = true;
  int cpu = -1;
  unsigned limit_seconds = 3600;
};

struct Counts {
  std::uint64_t requests = 0, connections = 0, missing = 0, unexpected = 0, errors = 0, received = 0,
                resumed = 0;
};

struct Shared {
  std::string credential;    // the value that Authorization must have
  std::string small_answer;  // head and 512 bytes
  std::string last_small_answer;
  std::string chunk;
  Counts counts;
};

class Connection {
 public:
  Connection(SSL_CTX* context, int fd, Shared& shared) : socket_(context, fd), shared_(shared) {
    SSL_set_accept_state(socket_.ssl());
  }

  int fd() const { return socket_.fd(); }

  bool wants_tick() const { return events_left_ != 0 && pending_.empty(); }
  /// The next event of /sse/N is due.
  void tick() {
    timespec now{};
    clock_gettime(CLOCK_MONOTONIC, &now);
    char event[96];
    int size = std::snprintf(event, sizeof event, "data: %020lld\n\n",
                             static_cast<long long>(now.tv_sec) * 1'000'000'000 + now.tv_nsec);
    char chunk[128];
    size = std::snprintf(chunk, sizeof chunk, "%x\r\n%s\r\n", static_cast<unsigned>(size), event);
    own_.assign(chunk, static_cast<std::size_t>(size));
    if (--events_left_ == 0) own_ += "0\r\n\r\n";
    pending_ = own_;
  }

  /// Goes on until the socket would block. False: the connection has ended.
  bool advance() {
    for (;;) {
      Progress progress = step();
      if (progress == Progress::would_block) return true;
      if (progress == Progress::failed) ++shared_.counts.errors;
      if (progress != Progress::done) return false;
    }
  }

 private:
  Progress step() {
    if (!established_) return establish();
    if (!pending_.empty() || stream_left_ != 0) return send();
    if (events_left_ != 0) return Progress::would_block;
    if (closing_) {
      socket_.send_close();
      return Progress::closed;
    }
    if (sink_left_ == 0 && take_request()) return Progress::done;
    return receive();
  }

  Progress establish() {
    Progress progress = socket_.handshake();
    if (progress == Progress::done) {
      established_ = true;
      ++shared_.counts.connections;
      if (SSL_session_reused(socket_.ssl()) == 1) ++shared_.counts.resumed;
    }
    return progress;
  }

  Progress receive() {
    static char buffer[256 * 1024];
    std::size_t count = 0;
    Progress progress = socket_.read(buffer, sizeof buffer, count);
    if (progress != Progress::done) return progress;
    std::string_view bytes(buffer, count);
    if (sink_left_ != 0) bytes.remove_prefix(swallow(bytes.size()));
    in_.append(bytes);
    return in_.size() > head_bytes_max ? Progress::failed : Progress::done;
  }

  std::size_t swallow(std::size_t size) {
    std::size_t taken = std::min<std::uint64_t>(size, sink_left_);
    sink_left_ -= taken;
    shared_.counts.received += taken;
    if (sink_left_ == 0) answer_count();
    return taken;
  }

  void answer_count() {
    std::string text = std::to_string(sink_size_);
    own_ = "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: " + std::to_string(text.size()) +
           "\r\n\r\n" + text;
    pending_ = own_;
  }

  Progress send() {
    if (pending_.empty())
      pending_ =
          std::string_view(shared_.chunk).substr(0, std::min<std::uint64_t>(stream_left_, chunk_bytes));
    std::size_t count = 0;
    bool of_stream = pending_.data() >= shared_.chunk.data() &&
                     pending_.data() < shared_.chunk.data() + shared_.chunk.size();
    Progress progress = socket_.write(pending_, count);
    if (progress != Progress::done) return progress;
    pending_.remove_prefix(count);
    if (of_stream) stream_left_ -= count;
    return Progress::done;
  }

  /// Takes one complete head out of what was read and prepares its answer.
  bool take_request() {
    std::size_t end = in_.find("\r\n\r\n");
    if (end == std::string::npos) return false;
    std::string_view head(in_.data(), end);
    ++shared_.counts.requests;
    answer(head);
    in_.erase(0, end + 4);
    if (sink_left_ != 0 && !in_.empty()) in_.erase(0, swallow(in_.size()));
    return true;
  }

  void answer(std::string_view head) {
    std::size_t from = head.find(' ') + 1;
    std::string_view path = head.substr(from, head.find(' ', from) - from);
    check_credential(head, path);
    if (path.starts_with("/close/")) {
      path.remove_prefix(6);
      closing_ = true;
    }
    if (path == "/small" && closing_) {
      pending_ = shared_.last_small_answer;
    } else if (path.starts_with("/sse/")) {
      events_left_ = bench::parse_number<std::uint64_t>(path.substr(5)).value_or(1);
      pending_ = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n";
    } else if (path == "/small") {
      pending_ = shared_.small_answer;
    } else if (path.starts_with("/bytes/")) {
      stream_left_ = bench::parse_number<std::uint64_t>(path.substr(7)).value_or(0);
      own_ = "HTTP/1.1 200 OK\r\nContent-Type: application/octet-stream\r\nContent-Length: " +
             std::to_string(stream_left_) + "\r\n\r\n";
      pending_ = own_;
    } else if (path == "/sink" && bench::header_value(head, "content-length")) {
      sink_left_ =
          bench::parse_number<std::uint64_t>(*bench::header_value(head, "content-length")).value_or(0);
      sink_size_ = sink_left_;
      if (sink_left_ == 0) answer_count();
    } else {
      ++shared_.counts.errors;
      pending_ = "HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n";
    }
  }

  void check_credential(std::string_view head, std::string_view& path) {
    bool open = path.starts_with("/open/");
    if (open) path.remove_prefix(5);
    bool present = bench::header_value(head, "authorization") == shared_.credential;
    if (!open && !present) ++shared_.counts.missing;
    if (open && present) ++shared_.counts.unexpected;
  }

  bench::TlsSocket socket_;
  Shared& shared_;
  bool established_ = false;
  std::string in_;
  std::string own_;                // an answer that is not one of the shared ones
  std::string_view pending_;       // what is to be sent, into own_ or something shared
  std::uint64_t stream_left_ = 0;  // bytes of /bytes/N still to send
  std::uint64_t sink_left_ = 0, sink_size_ = 0;
  std::uint64_t events_left_ = 0;
  bool closing_ = false;
};

Options parse_options(int argc, char** argv) {
  Options options;
  for (int i = 1; i < argc; ++i) {
    if (auto certificate = bench::option_value(i, argc, argv, "--cert"))
      options.certificate = *certificate;
    else if (auto key = bench::option_value(i, argc, argv, "--key"))
      options.key = *key;
    else if (auto secret = bench::option_value(i, argc, argv, "--secret"))
      options.secret = *secret;
    else if (std::string_view(argv[i]) == "--no-resume")
      options.resume = false;
    else if (auto cpu = bench::option_value(i, argc, argv, "--cpu"))
      options.cpu = bench::parse_number<int>(*cpu).value();
    else if (auto limit = bench::option_value(i, argc, argv, "--limit"))
      options.limit_seconds = bench::parse_number<unsigned>(*limit).value();
    else
      bench::die(std::string("unknown option ") + argv[i]);
  }
  return options;
}

int choose_protocol(SSL*, const unsigned char** out, unsigned char* size, const unsigned char* in,
                    unsigned in_size, void*) {
  static const unsigned char http1[] = "\x08http/1.1";
  unsigned char* chosen = nullptr;
  if (SSL_select_next_proto(&chosen, size, http1, sizeof http1 - 1, in, in_size) != OPENSSL_NPN_NEGOTIATED)
    return SSL_TLSEXT_ERR_NOACK;
  *out = chosen;
  return SSL_TLSEXT_ERR_OK;
}

SSL_CTX* make_context(const Options& options) {
  SSL_CTX* context = SSL_CTX_new(TLS_server_method());
  bench::tune(context);
  if (!options.resume) {
    SSL_CTX_set_session_cache_mode(context, SSL_SESS_CACHE_OFF);
    SSL_CTX_set_num_tickets(context, 0);
    SSL_CTX_set_options(context, SSL_OP_NO_TICKET);
  }
  SSL_CTX_set_alpn_select_cb(context, choose_protocol, nullptr);
  static const unsigned char name[] = "bench";
  SSL_CTX_set_session_id_context(context, name, sizeof name - 1);
  if (SSL_CTX_use_certificate_chain_file(context, options.certificate.c_str()) != 1 ||
      SSL_CTX_use_PrivateKey_file(context, options.key.c_str(), SSL_FILETYPE_PEM) != 1)
    bench::die("cannot use the certificate");
  return context;
}

int listen_on_loopback() {
  int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  if (bind(fd, reinterpret_cast<sockaddr*>(&address), sizeof address) != 0 || listen(fd, 4096) != 0)
    bench::die("cannot listen");
  socklen_t size = sizeof address;
  getsockname(fd, reinterpret_cast<sockaddr*>(&address), &size);
  std::printf("%d\n", ntohs(address.sin_port));
  std::fflush(stdout);
  return fd;
}

class Origin {
 public:
  explicit Origin(const Options& options) : context_(make_context(options)), listener_(listen_on_loopback()) {
    shared_.credential = "Bearer " + options.secret;
    shared_.small_answer =
        "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 512\r\n\r\n" +
        std::string(512, 'a');
    shared_.last_small_answer = shared_.small_answer;
    shared_.last_small_answer.insert(17, "Connection: close\r\n");
    shared_.chunk.resize(chunk_bytes);
    for (std::size_t i = 0; i < chunk_bytes; ++i) shared_.chunk[i] = static_cast<char>('A' + i * 7 % 53);
    epoll_.add(listener_, &listener_, EPOLLIN);
    epoll_.add(STDIN_FILENO, &ended_, EPOLLIN);
    itimerspec every{{0, 10'000'000}, {0, 10'000'000}};
    if (ticker_ < 0) bench::die("cannot make a timer");
    timerfd_settime(ticker_, 0, &every, nullptr);
  }

  void serve() {
    while (!ended_) {
      epoll_.wait([&](void* owner, unsigned) {
        if (owner == &listener_)
          accept_all();
        else if (owner == &ticker_)
          tick_all();
        else if (owner == &ended_)
          answer_orchestrator();
        else
          advance(static_cast<Connection*>(owner));
      });
      finished_.clear();
    }
  }

 private:
  void accept_all() {
    for (int fd; (fd = accept4(listener_, nullptr, nullptr, SOCK_NONBLOCK | SOCK_CLOEXEC)) >= 0;) {
      bench::set_no_delay(fd);
      auto connection = std::make_unique<Connection>(context_, fd, shared_);
      epoll_.add(fd, connection.get(), EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET);
      connections_.emplace(connection.get(), std::move(connection));
    }
  }

  /// The clock only runs while somebody listens: it would be work that belongs to no request.
  void watch_clock(bool on) {
    if (on == ticking_) return;
    ticking_ = on;
    if (on)
      epoll_.add(ticker_, &ticker_, EPOLLIN);
    else
      epoll_.remove(ticker_);
  }

  void tick_all() {
    std::uint64_t ticks = 0;
    if (::read(ticker_, &ticks, sizeof ticks) != sizeof ticks) return;
    std::vector<Connection*> due;
    for (auto& [connection, owned] : connections_)
      if (connection->wants_tick()) due.push_back(connection);
    for (Connection* connection : due) {
      connection->tick();
      advance(connection);
    }
    watch_clock(!due.empty());
  }

  void advance(Connection* connection) {
    auto found = connections_.find(connection);
    if (found == connections_.end()) return;
    if (connection->advance()) {
      if (connection->wants_tick()) watch_clock(true);
      return;
    }
    // Kept until the batch of events is over: a later event may still name it, and its address must not be
    // reused.
    finished_.push_back(std::move(found->second));
    connections_.erase(found);
  }

  void answer_orchestrator() {
    char line[256];
    if (::read(STDIN_FILENO, line, sizeof line) <= 0) {
      ended_ = true;
      return;
    }
    const Counts& c = shared_.counts;
    std::printf(
        "{\"requests\": %lu, \"connections\": %lu, \"resumed\": %lu, \"missing\": %lu, \"unexpected\": %lu, "
        "\"errors\": %lu, \"received\": %lu}\n",
        c.requests, c.connections, c.resumed, c.missing, c.unexpected, c.errors, c.received);
    std::fflush(stdout);
    shared_.counts = {};
  }

  Shared shared_;
  SSL_CTX* context_;
  int listener_;
  int ticker_ = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC);
  bool ticking_ = false;
  bool ended_ = false;
  bench::Epoll epoll_;
  std::unordered_map<Connection*, std::unique_ptr<Connection>> connections_;
  std::vector<std::unique_ptr<Connection>> finished_;
};

}  // namespace

int main(int argc, char** argv) {
  Options options = parse_options(argc, argv);
  bench::prepare_process(options.cpu, options.limit_seconds);
  Origin(options).serve();
}
