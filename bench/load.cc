// The load generator of the benchmark: HTTP/1.1 over TLS, one thread. It also runs inside Postern's sandbox,
// where it dials a name and trusts what SSL_CERT_FILE names, as any program there does.
//
// Modes
//   keepalive  N connections ask again and again
//   newconn    every request has a connection and a TLS handshake of its own (--resume: with a ticket)
//   download   the same as keepalive; meant for large answers
//   upload     POST --body-bytes of JSON-like text each time
//   latency    paced by --rate, one request in flight per connection; a late answer skips ticks, it does not
//              shorten them
//   sse        GET a stream of events that carry the time of their writing; how late each was is its latency
//   idle       opens N connections, one request on each, and holds them
//
// --hosts N: %u in --sni and in the host of --connect is 0, 1, … in turn: a name that was never seen before.
// --through HOST:PORT: CONNECT by way of a proxy. --expect N: the status that an answer must have.
//
// A run: warm up, all connections quiet, START on stderr; the work, all quiet again, END on stderr. With
// --sync it waits for a line on stdin (or its end) after each mark, so that whoever samples the proxy's clock
// does so while nothing moves, and every sampled microsecond belongs to a counted request. The result is one
// JSON object on stdout.

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <ctime>
#include <memory>
#include <netdb.h>
#include <poll.h>
#include <sys/timerfd.h>
#include <vector>

#include "tls_socket.h"

namespace {

using bench::Progress;
using Clock = std::chrono::steady_clock;

enum class Mode : unsigned char { keepalive, newconn, download, upload, latency, sse, idle };

struct Options {
  std::string host, port = "443", name, path = "/small", ca, through, expect = "200";
  unsigned hosts = 1;
  Mode mode = Mode::keepalive;
  unsigned connections = 1;
  double seconds = 0, warmup_seconds = 0, hold_seconds = 0, rate = 0;
  std::uint64_t requests = 0, warmup_requests = 0, body_bytes = 0;
  bool resume = false, sync = false;
  int cpu = -1;
  unsigned limit_seconds = 300;
};

constexpr unsigned errors_max = 20;  // more means that the run is void anyway
constexpr unsigned opening_at_once =
    16;  // idle mode: a burst would measure the peak of handshakes, not of idling
constexpr std::size_t head_bytes_max = 64 * 1024;

/// One step of a run: until so many requests were begun, or until a time, whichever is set.
struct Phase {
  std::uint64_t requests_max = 0;
  double seconds_max = 0;
  std::uint64_t begun = 0, finished = 0, bytes = 0, errors = 0, reconnects = 0, resumed = 0,
                skipped_ticks = 0, events = 0, batched = 0;
  std::vector<std::uint32_t> latencies_ns100;  // in units of 100 ns: 4 bytes hold 7 minutes
  Clock::time_point start = Clock::now();
  std::optional<Clock::time_point> end;
  bool backwards = false;

  bool may_begin() const {
    if (errors > errors_max) return false;
    if (requests_max != 0 && begun >= requests_max) return false;
    return seconds_max == 0 || std::chrono::duration<double>(Clock::now() - start).count() < seconds_max;
  }
};

struct Target {
  sockaddr_storage address{};
  socklen_t address_size = 0;
  std::string name;
  std::string connect_head;  // when a proxy is asked for a tunnel
  std::string request_head;
  std::uint64_t body_bytes = 0;
  SSL_CTX* context = nullptr;
};

/// What a program sends to a model, over and over: text, with nothing in it that a detector looks for.
std::string conversation(std::size_t size) {
  static constexpr std::string_view words[] = {"the",    "request", "of a",   "customer", "was answered",
                                               "before", "another", "system", "could",    "say so"};
  std::string out;
  for (std::size_t turn = 0; out.size() < size; ++turn) {
    out += R"({"role":"user","content":")";
    for (std::size_t i = 0; i < 20 + turn % 50; ++i) (out += words[(turn * 7 + i * i) % 10]) += ' ';
    out += "\"},\n";
  }
  out.resize(size);
  return out;
}

/// One slot: a connection that is (re)opened when a request needs it.
class Slot {
 public:
  Slot(const Options& options, const std::vector<Target>& targets, bench::Epoll& epoll)
      : options_(options), targets_(targets), epoll_(epoll) {}
  ~Slot() { SSL_SESSION_free(session_); }
  Slot(const Slot&) = delete;
  Slot& operator=(const Slot&) = delete;

  bool quiet() const { return state_ == State::closed || state_ == State::idle; }

  void begin(Phase& phase) {
    phase_ = &phase;
    // Names that the warm-up had are not new any more: it counts from the other end.
    const std::size_t turn = phase.begun++ % targets_.size();
    target_ = &targets_[phase.backwards ? targets_.size() - 1 - turn : turn];
    begun_at_ = Clock::now();
    // Once closed by the other side while idle is not an error, but it must show.
    if (state_ == State::closed && was_open_ && options_.mode != Mode::newconn) ++phase.reconnects;
    if (state_ == State::closed)
      connect();
    else
      start_request();
    advance();
  }

  /// Goes on until the socket would block or the request is over.
  void advance() {
    while (state_ != State::closed) {
      Progress progress = step();
      if (progress == Progress::would_block || quiet()) return;
      if (progress != Progress::done) return fail();
    }
  }

  void close() {
    if (socket_.open()) socket_.send_close();
    socket_ = {};
    state_ = State::closed;
  }

 private:
  enum class State : unsigned char { closed, connecting, asking, handshaking, sending, head, body, idle };

  void connect() {
    int fd = socket(target_->address.ss_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (fd < 0) bench::die("cannot make a socket");
    bench::set_no_delay(fd);
    int result = ::connect(fd, reinterpret_cast<const sockaddr*>(&target_->address), target_->address_size);
    int error = errno;
    socket_ = bench::TlsSocket(target_->context, fd);
    SSL_set_connect_state(socket_.ssl());
    SSL_set_tlsext_host_name(socket_.ssl(), target_->name.c_str());
    SSL_set1_host(socket_.ssl(), target_->name.c_str());
    if (session_ != nullptr) SSL_set_session(socket_.ssl(), session_);
    epoll_.add(fd, this, EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET);
    asked_ = 0;
    state_ = result == 0 || error == EINPROGRESS ? State::connecting : State::closed;
    if (state_ == State::closed) fail();
    was_open_ = true;
  }

  Progress step() {
    switch (state_) {
      case State::connecting: return finish_connect();
      case State::asking: return ask_for_tunnel();
      case State::handshaking: return handshake();
      case State::sending: return send();
      case State::head:
      case State::body: return receive();
      case State::idle: return watch();
      case State::closed: break;
    }
    return Progress::closed;
  }

  Progress finish_connect() {
    pollfd ready{socket_.fd(), POLLOUT, 0};
    if (poll(&ready, 1, 0) == 0) return Progress::would_block;
    int error = 0;
    socklen_t size = sizeof error;
    getsockopt(socket_.fd(), SOL_SOCKET, SO_ERROR, &error, &size);
    if (error != 0) return Progress::failed;
    state_ = target_->connect_head.empty() ? State::handshaking : State::asking;
    return Progress::done;
  }

  /// CONNECT, in the clear; short enough for one packet each way.
  Progress ask_for_tunnel() {
    if (asked_ == 0) {
      ssize_t sent =
          ::send(socket_.fd(), target_->connect_head.data(), target_->connect_head.size(), MSG_NOSIGNAL);
      if (sent != static_cast<ssize_t>(target_->connect_head.size())) return Progress::failed;
      asked_ = 1;
    }
    char answer[1024];
    ssize_t got = ::recv(socket_.fd(), answer, sizeof answer, MSG_PEEK);
    if (got < 0 && errno == EAGAIN) return Progress::would_block;
    if (got <= 0) return Progress::failed;
    std::string_view said(answer, static_cast<std::size_t>(got));
    std::size_t end = said.find("\r\n\r\n");
    if (end == std::string_view::npos) return Progress::would_block;
    if (said.substr(8, 4) != " 200") return Progress::failed;
    got = ::recv(socket_.fd(), answer, end + 4, 0);
    state_ = State::handshaking;
    return Progress::done;
  }

  Progress handshake() {
    Progress progress = socket_.handshake();
    if (progress != Progress::done) return progress;
    if (SSL_session_reused(socket_.ssl()) == 1) ++phase_->resumed;
    start_request();
    return Progress::done;
  }

  void start_request() {
    out_ = target_->request_head;
    body_left_to_send_ = target_->body_bytes;
    head_.clear();
    state_ = State::sending;
  }

  Progress send() {
    static const std::string filler = conversation(64 * 1024);
    bool of_body = out_.empty();
    if (of_body)
      out_ = std::string_view(filler).substr(0, std::min<std::uint64_t>(filler.size(), body_left_to_send_));
    if (out_.empty()) {
      state_ = State::head;
      return Progress::done;
    }
    std::size_t count = 0;
    Progress progress = socket_.write(out_, count);
    if (progress != Progress::done) {
      if (of_body) out_ = {};
      return progress;
    }
    if (of_body) {
      body_left_to_send_ -= count;
      phase_->bytes += count;
      out_ = {};
    } else {
      out_.remove_prefix(count);
    }
    return Progress::done;
  }

  Progress receive() {
    static char buffer[256 * 1024];
    std::size_t count = 0;
    Progress progress = socket_.read(buffer, sizeof buffer, count);
    if (progress != Progress::done) return progress;
    std::string_view bytes(buffer, count);
    if (state_ == State::head && !take_head(bytes)) return Progress::failed;
    if (state_ == State::head) return Progress::done;
    if (options_.mode == Mode::sse) return take_events(bytes);
    if (bytes.size() > body_left_) return Progress::failed;
    body_left_ -= bytes.size();
    if (target_->body_bytes == 0) phase_->bytes += bytes.size();
    if (body_left_ == 0) finish();
    return Progress::done;
  }

  /// "data: <20 digits of nanoseconds>" wherever they stand; chunks are not looked at but for the last one.
  Progress take_events(std::string_view bytes) {
    timespec now{};
    clock_gettime(CLOCK_MONOTONIC, &now);
    const long long arrived = static_cast<long long>(now.tv_sec) * 1'000'000'000 + now.tv_nsec;
    head_.append(bytes);
    unsigned found = 0;
    std::size_t at = 0;
    for (std::size_t event;
         (event = head_.find("data: ", at)) != std::string::npos && head_.size() >= event + 26;
         at = event + 26) {
      auto written = bench::parse_number<long long>(std::string_view(head_).substr(event + 6, 20));
      if (!written) return Progress::failed;
      phase_->latencies_ns100.push_back(static_cast<std::uint32_t>((arrived - *written) / 100));
      ++found;
    }
    if (found > 1) phase_->batched += found - 1;
    phase_->events += found;
    const bool over = head_.ends_with("0\r\n\r\n");
    head_.erase(0, at);
    if (over) finish();
    return Progress::done;
  }

  /// Collects the answer's head; afterwards `bytes` is what belongs to the body. False: not an answer we
  /// accept.
  bool take_head(std::string_view& bytes) {
    std::size_t before = head_.size();
    head_.append(bytes);
    std::size_t end = head_.find("\r\n\r\n", before < 3 ? 0 : before - 3);
    if (end == std::string::npos) return head_.size() <= head_bytes_max;
    bytes.remove_prefix(end + 4 - before);
    std::string_view head(head_.data(), end);
    auto length = bench::header_value(head, "content-length");
    const bool framed = length || options_.mode == Mode::sse;
    bool accepted = head.starts_with("HTTP/1.1 ") && head.substr(9, 3) == options_.expect && framed;
    if (!accepted) {
      std::string_view line = head.substr(0, std::min<std::size_t>(head.find("\r\n"), 200));
      std::fprintf(stderr, "bench-load: answer not as expected: %.*s\n", static_cast<int>(line.size()),
                   line.data());
      return false;
    }
    if (length) body_left_ = bench::parse_number<std::uint64_t>(*length).value_or(0);
    if (options_.mode == Mode::sse) head_.clear();
    closes_ = bench::header_value(head, "connection") == "close";
    state_ = State::body;
    return true;
  }

  void finish() {
    auto latency =
        std::chrono::duration_cast<std::chrono::nanoseconds>(Clock::now() - begun_at_).count() / 100;
    if (options_.mode != Mode::sse) phase_->latencies_ns100.push_back(static_cast<std::uint32_t>(latency));
    ++phase_->finished;
    phase_->end = Clock::now();
    state_ = State::idle;
    if (options_.mode != Mode::newconn && !closes_) return;
    if (options_.resume) keep_session();
    close();
  }

  void keep_session() {
    SSL_SESSION* fresh = SSL_get1_session(socket_.ssl());
    if (fresh != nullptr && SSL_SESSION_is_resumable(fresh) == 1) std::swap(session_, fresh);
    SSL_SESSION_free(fresh);
  }

  /// Between two requests only tickets and the end may arrive.
  Progress watch() {
    char byte = 0;
    std::size_t count = 0;
    Progress progress = socket_.read(&byte, 1, count);
    if (progress == Progress::would_block) return progress;
    close();
    return Progress::closed;
  }

  void fail() {
    if (phase_ != nullptr) ++phase_->errors;
    long verified = socket_.open() ? SSL_get_verify_result(socket_.ssl()) : X509_V_OK;
    if (verified != X509_V_OK)
      std::fprintf(stderr, "bench-load: certificate: %s\n", X509_verify_cert_error_string(verified));
    close();
  }

  const Options& options_;
  const std::vector<Target>& targets_;
  const Target* target_ = &targets_.front();
  bench::Epoll& epoll_;
  bench::TlsSocket socket_;
  State state_ = State::closed;
  bool was_open_ = false, closes_ = false;
  SSL_SESSION* session_ = nullptr;
  Phase* phase_ = nullptr;
  Clock::time_point begun_at_{};
  std::string_view out_;
  std::uint64_t body_left_to_send_ = 0, body_left_ = 0;
  std::string head_;
  int asked_ = 0;
};

/// The paced modes' clock: readable once per tick.
class Pace {
 public:
  explicit Pace(double rate) : fd_(timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC)) {
    auto period = static_cast<long>(1e9 / rate);
    itimerspec times{{period / 1'000'000'000, period % 1'000'000'000},
                     {period / 1'000'000'000, period % 1'000'000'000}};
    if (fd_ < 0 || timerfd_settime(fd_, 0, &times, nullptr) != 0) bench::die("cannot make a timer");
  }
  ~Pace() { ::close(fd_); }
  Pace(const Pace&) = delete;
  Pace& operator=(const Pace&) = delete;
  int fd() const { return fd_; }
  std::uint64_t ticks() const {
    std::uint64_t count = 0;
    return ::read(fd_, &count, sizeof count) == sizeof count ? count : 0;
  }

 private:
  int fd_;
};

class Load {
 public:
  Load(const Options& options, const std::vector<Target>& targets) : options_(options), targets_(targets) {
    for (unsigned i = 0; i < options.connections; ++i)
      slots_.push_back(std::make_unique<Slot>(options_, targets_, epoll_));
    if (options.rate > 0) {
      pace_.emplace(options.rate);
      epoll_.add(pace_->fd(), &*pace_, EPOLLIN);
    }
  }

  /// Works until the phase may begin nothing more and everything that was begun is over.
  void run(Phase& phase) {
    phase.start = Clock::now();
    if (!pace_) kick(phase);
    while (phase.may_begin() || !all_quiet()) {
      epoll_.wait([&](void* owner, unsigned) {
        if (pace_ && owner == &*pace_)
          tick(phase);
        else
          on_ready(*static_cast<Slot*>(owner), phase);
      });
    }
  }

  /// One request on each of slots [from, to), a few at a time; the connections stay open.
  void open(std::size_t from, std::size_t to, Phase& phase) {
    phase.requests_max = to - from;
    std::size_t next = from;
    auto fill = [&] {
      while (next < to && phase.begun - phase.finished - phase.errors < opening_at_once)
        slots_[next++]->begin(phase);
    };
    for (fill(); phase.finished + phase.errors < to - from; fill())
      epoll_.wait([](void* owner, unsigned) { static_cast<Slot*>(owner)->advance(); });
  }

  void close() {
    for (auto& slot : slots_) slot->close();
  }

 private:
  void kick(Phase& phase) {
    for (auto& slot : slots_) continue_with(*slot, phase);
  }
  void on_ready(Slot& slot, Phase& phase) {
    slot.advance();
    if (!pace_) continue_with(slot, phase);
  }
  void continue_with(Slot& slot, Phase& phase) {
    while (slot.quiet() && phase.may_begin()) slot.begin(phase);
  }
  void tick(Phase& phase) {
    if (pace_->ticks() == 0 || !phase.may_begin()) return;
    for (auto& slot : slots_) {
      if (slot->quiet())
        slot->begin(phase);
      else
        ++phase.skipped_ticks;
    }
  }
  bool all_quiet() const {
    return std::ranges::all_of(slots_, [](const auto& slot) { return slot->quiet(); });
  }

  const Options& options_;
  const std::vector<Target>& targets_;
  bench::Epoll epoll_;
  std::optional<Pace> pace_;
  std::vector<std::unique_ptr<Slot>> slots_;
};

void mark(const Options& options, const char* word) {
  std::fprintf(stderr, "%s\n", word);
  if (!options.sync) return;
  char byte = 0;
  while (::read(STDIN_FILENO, &byte, 1) == 1 && byte != '\n') {
  }
}

Mode parse_mode(std::string_view text) {
  constexpr std::pair<std::string_view, Mode> modes[] = {{"keepalive", Mode::keepalive},
                                                         {"newconn", Mode::newconn},
                                                         {"download", Mode::download},
                                                         {"upload", Mode::upload},
                                                         {"latency", Mode::latency},
                                                         {"sse", Mode::sse},
                                                         {"idle", Mode::idle}};
  for (auto [word, mode] : modes)
    if (word == text) return mode;
  bench::die("unknown mode " + std::string(text));
}

template <typename Number>
void read_number(Number& into, std::string_view text) {
  auto number = bench::parse_number<Number>(text);
  if (!number) bench::die("not a number: " + std::string(text));
  into = *number;
}

/// HOST:PORT, or a name alone.
void read_address(Options& options, std::string_view text) {
  std::size_t colon = text.rfind(':');
  options.host = text.substr(0, colon);
  if (colon != std::string_view::npos) options.port = text.substr(colon + 1);
}

Options parse_options(int argc, char** argv) {
  Options o;
  errno = 0;
  for (int i = 1; i < argc; ++i) {
    auto value = [&](std::string_view name) { return bench::option_value(i, argc, argv, name); };
    std::optional<std::string_view> v;
    if ((v = value("--connect")))
      read_address(o, *v);
    else if ((v = value("--sni")))
      o.name = *v;
    else if ((v = value("--path")))
      o.path = *v;
    else if ((v = value("--through")))
      o.through = *v;
    else if ((v = value("--expect")))
      o.expect = *v;
    else if ((v = value("--hosts")))
      read_number(o.hosts, *v);
    else if ((v = value("--ca")))
      o.ca = *v;
    else if ((v = value("--mode")))
      o.mode = parse_mode(*v);
    else if ((v = value("--connections")))
      read_number(o.connections, *v);
    else if ((v = value("--seconds")))
      read_number(o.seconds, *v);
    else if ((v = value("--requests")))
      read_number(o.requests, *v);
    else if ((v = value("--warmup-seconds")))
      read_number(o.warmup_seconds, *v);
    else if ((v = value("--warmup-requests")))
      read_number(o.warmup_requests, *v);
    else if ((v = value("--hold")))
      read_number(o.hold_seconds, *v);
    else if ((v = value("--rate")))
      read_number(o.rate, *v);
    else if ((v = value("--body-bytes")))
      read_number(o.body_bytes, *v);
    else if ((v = value("--cpu")))
      read_number(o.cpu, *v);
    else if ((v = value("--limit")))
      read_number(o.limit_seconds, *v);
    else if (std::string_view(argv[i]) == "--resume")
      o.resume = true;
    else if (std::string_view(argv[i]) == "--no-resume")
      o.resume = false;
    else if (std::string_view(argv[i]) == "--sync")
      o.sync = true;
    else
      bench::die(std::string("unknown option ") + argv[i]);
  }
  if (o.host.empty()) bench::die("--connect HOST:PORT is needed");
  if (o.name.empty()) o.name = o.host;
  if (o.mode == Mode::latency && o.rate <= 0) bench::die("--mode latency needs --rate");
  if (o.mode != Mode::idle && o.seconds <= 0 && o.requests == 0)
    bench::die("--seconds or --requests is needed");
  return o;
}

std::string with_number(std::string text, unsigned number) {
  std::size_t place = text.find("%u");
  return place == std::string::npos ? text : text.replace(place, 2, std::to_string(number));
}

Target make_target(const Options& options, unsigned number, SSL_CTX* context) {
  Target target;
  target.context = context;
  target.name = with_number(options.name, number);
  std::string host = with_number(options.host, number), port = options.port;
  if (!options.through.empty()) {
    target.connect_head =
        "CONNECT " + host + ":" + port + " HTTP/1.1\r\nHost: " + host + ":" + port + "\r\n\r\n";
    std::size_t colon = options.through.rfind(':');
    host = options.through.substr(0, colon);
    port = options.through.substr(colon + 1);
  }
  addrinfo hints{};
  hints.ai_family = AF_INET;
  hints.ai_socktype = SOCK_STREAM;
  addrinfo* found = nullptr;
  if (int error = getaddrinfo(host.c_str(), port.c_str(), &hints, &found); error != 0)
    bench::die("cannot resolve " + host + ": " + gai_strerror(error));
  std::memcpy(&target.address, found->ai_addr, found->ai_addrlen);
  target.address_size = found->ai_addrlen;
  freeaddrinfo(found);

  target.body_bytes = options.mode == Mode::upload ? options.body_bytes : 0;
  std::string method = options.mode == Mode::upload ? "POST" : "GET";
  target.request_head = method + " " + options.path + " HTTP/1.1\r\nHost: " + target.name +
                        (options.through.empty() ? "" : ":" + options.port) +
                        "\r\nUser-Agent: bench-load\r\nAccept: */*\r\nX-Client: postern bench\r\n";
  if (options.mode == Mode::upload)
    target.request_head +=
        "Content-Type: application/json\r\nContent-Length: " + std::to_string(options.body_bytes) + "\r\n";
  target.request_head += "\r\n";
  return target;
}

std::vector<Target> make_targets(const Options& options) {
  SSL_CTX* context = SSL_CTX_new(TLS_client_method());
  bench::tune(context);
  SSL_CTX_set_verify(context, SSL_VERIFY_PEER, nullptr);
  static const unsigned char http1[] = "\x08http/1.1";
  SSL_CTX_set_alpn_protos(context, http1, sizeof http1 - 1);
  int trusted = options.ca.empty() ? SSL_CTX_set_default_verify_paths(context)
                                   : SSL_CTX_load_verify_locations(context, options.ca.c_str(), nullptr);
  if (trusted != 1) bench::die("cannot load the trusted certificates");
  std::vector<Target> targets;
  for (unsigned i = 0; i < options.hosts; ++i) targets.push_back(make_target(options, i, context));
  return targets;
}

double percentile_us(std::vector<std::uint32_t>& sorted, double part) {
  if (sorted.empty()) return 0;
  auto index = static_cast<std::size_t>(part * static_cast<double>(sorted.size() - 1));
  return sorted[index] / 10.0;
}

void print_result(Phase& phase) {
  std::ranges::sort(phase.latencies_ns100);
  double seconds = std::chrono::duration<double>(phase.end.value_or(phase.start) - phase.start).count();
  std::printf(
      "{\"requests\": %lu, \"seconds\": %.6f, \"rps\": %.1f, \"p50_us\": %.1f, \"p90_us\": %.1f, \"p99_us\": "
      "%.1f, \"max_us\": %.1f, "
      "\"bytes\": %lu, \"errors\": %lu, \"reconnects\": %lu, \"resumed\": %lu, \"skipped_ticks\": %lu, "
      "\"events\": %lu, \"batched\": %lu}\n",
      phase.finished, seconds, seconds > 0 ? static_cast<double>(phase.finished) / seconds : 0,
      percentile_us(phase.latencies_ns100, 0.5), percentile_us(phase.latencies_ns100, 0.9),
      percentile_us(phase.latencies_ns100, 0.99), percentile_us(phase.latencies_ns100, 1), phase.bytes,
      phase.errors, phase.reconnects, phase.resumed, phase.skipped_ticks, phase.events, phase.batched);
  std::fflush(stdout);
}

void pause_for(double seconds) {
  if (seconds > 0) poll(nullptr, 0, static_cast<int>(seconds * 1000));
}

/// The first connections only fill the proxy's pools and caches: what the next N add is what N cost.
void run_idle(const Options& options, const std::vector<Target>& targets) {
  Options with_warmup = options;
  auto warm = static_cast<unsigned>(options.warmup_requests);
  with_warmup.connections += warm;
  Load load(with_warmup, targets);
  Phase warmup, phase;
  load.open(0, warm, warmup);
  pause_for(options.hold_seconds);
  mark(options, "START");
  load.open(warm, with_warmup.connections, phase);
  std::fprintf(stderr, "READY\n");
  pause_for(options.hold_seconds);
  mark(options, "END");
  phase.errors += warmup.errors;
  load.close();
  print_result(phase);
}

void run_requests(const Options& options, const std::vector<Target>& targets) {
  Load load(options, targets);
  Phase warmup, phase;
  warmup.backwards = true;
  warmup.requests_max = options.warmup_requests;
  warmup.seconds_max = options.warmup_seconds;
  if (warmup.requests_max != 0 || warmup.seconds_max > 0) load.run(warmup);
  phase.requests_max = options.requests;
  phase.seconds_max = options.seconds;
  phase.latencies_ns100.reserve(1 << 20);
  mark(options, "START");
  load.run(phase);
  // The last sockets' ends and the records of the last requests belong to the requests too.
  pause_for(0.02);
  mark(options, "END");
  phase.errors += warmup.errors;
  load.close();
  print_result(phase);
}

}  // namespace

int main(int argc, char** argv) {
  Options options = parse_options(argc, argv);
  bench::prepare_process(options.cpu, options.limit_seconds);
  const std::vector<Target> targets = make_targets(options);
  if (options.mode == Mode::idle)
    run_idle(options, targets);
  else
    run_requests(options, targets);
}
