#pragma once
// A non-blocking TLS socket for the bench programs, and the little that both of them need around it.
//
// Every descriptor is registered once, edge-triggered, for both directions; whoever is woken goes on until
// the socket would block. Errors end a connection, and mistakes of the caller end the program: this is a
// ruler, not a product.

#include <arpa/inet.h>
#include <cerrno>
#include <charconv>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <openssl/err.h>
#include <openssl/ssl.h>
#include <optional>
#include <sched.h>
#include <string>
#include <string_view>
#include <strings.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

namespace bench {

[[noreturn]] inline void die(const std::string& what) {
  std::fprintf(stderr, "bench: %s%s%s\n", what.c_str(), errno != 0 ? ": " : "",
               errno != 0 ? std::strerror(errno) : "");
  ERR_print_errors_fp(stderr);
  std::exit(2);
}

inline void pin_to_cpu(int cpu) {
  cpu_set_t set;
  CPU_ZERO(&set);
  CPU_SET(cpu, &set);
  if (sched_setaffinity(0, sizeof set, &set) != 0) die("cannot pin to cpu " + std::to_string(cpu));
}

/// As many descriptors as we may have, no SIGPIPE, and an end that comes even when everything else hangs.
inline void prepare_process(int cpu, unsigned limit_seconds) {
  rlimit files{};
  getrlimit(RLIMIT_NOFILE, &files);
  files.rlim_cur = files.rlim_max;
  setrlimit(RLIMIT_NOFILE, &files);
  std::signal(SIGPIPE, SIG_IGN);
  if (cpu >= 0) pin_to_cpu(cpu);
  alarm(limit_seconds);
}

template <typename Number>
std::optional<Number> parse_number(std::string_view text) {
  Number value{};
  auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size()) return std::nullopt;
  return value;
}

/// The value of one field in a head ("\r\n" line ends, without the final empty line's end), or nothing.
inline std::optional<std::string_view> header_value(std::string_view head, std::string_view name) {
  for (std::size_t at = head.find("\r\n"); at != std::string_view::npos; at = head.find("\r\n", at + 2)) {
    std::string_view line = head.substr(at + 2);
    line = line.substr(0, line.find("\r\n"));
    if (line.size() <= name.size() || line[name.size()] != ':') continue;
    if (strncasecmp(line.data(), name.data(), name.size()) != 0) continue;
    line.remove_prefix(name.size() + 1);
    while (line.starts_with(' ')) line.remove_prefix(1);
    return line;
  }
  return std::nullopt;
}

enum class Progress : unsigned char { done, would_block, closed, failed };

/// Owns a descriptor and the SSL on it.
class TlsSocket {
 public:
  TlsSocket() = default;
  TlsSocket(SSL_CTX* context, int fd) : ssl_(SSL_new(context)), fd_(fd) {
    if (ssl_ == nullptr || SSL_set_fd(ssl_, fd) != 1) die("cannot make a TLS connection");
  }
  TlsSocket(TlsSocket&& other) noexcept { swap(other); }
  TlsSocket& operator=(TlsSocket&& other) noexcept {
    TlsSocket moved(std::move(other));
    swap(moved);
    return *this;
  }
  ~TlsSocket() {
    if (ssl_ != nullptr) SSL_free(ssl_);
    if (fd_ >= 0) ::close(fd_);
  }

  SSL* ssl() const { return ssl_; }
  int fd() const { return fd_; }
  bool open() const { return fd_ >= 0; }

  Progress handshake() { return progress(SSL_do_handshake(ssl_)); }
  Progress read(char* data, std::size_t size, std::size_t& count) {
    return progress(SSL_read_ex(ssl_, data, size, &count));
  }
  Progress write(std::string_view data, std::size_t& count) {
    return progress(SSL_write_ex(ssl_, data.data(), data.size(), &count));
  }
  void send_close() {
    if (SSL_is_init_finished(ssl_)) SSL_shutdown(ssl_);
    ERR_clear_error();
  }

 private:
  void swap(TlsSocket& other) noexcept {
    std::swap(ssl_, other.ssl_);
    std::swap(fd_, other.fd_);
  }

  Progress progress(int result) {
    if (result == 1) return Progress::done;
    int error = SSL_get_error(ssl_, result);
    if (error == SSL_ERROR_WANT_READ || error == SSL_ERROR_WANT_WRITE) return Progress::would_block;
    // OpenSSL 3 reports a peer that leaves without close_notify as an error; here it is just the end.
    bool ended = error == SSL_ERROR_ZERO_RETURN || (error == SSL_ERROR_SYSCALL && ERR_peek_error() == 0) ||
                 ERR_GET_REASON(ERR_peek_error()) == SSL_R_UNEXPECTED_EOF_WHILE_READING;
    if (!ended && std::getenv("BENCH_VERBOSE") != nullptr) ERR_print_errors_fp(stderr);
    ERR_clear_error();
    return ended ? Progress::closed : Progress::failed;
  }

  SSL* ssl_ = nullptr;
  int fd_ = -1;
};

inline void tune(SSL_CTX* context) {
  SSL_CTX_set_min_proto_version(context, TLS1_2_VERSION);
  SSL_CTX_set_mode(context, SSL_MODE_ENABLE_PARTIAL_WRITE | SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER |
                                SSL_MODE_RELEASE_BUFFERS);
  // One read for several records: the load generator and the origin share a core and must not be the narrow
  // place.
  SSL_CTX_set_read_ahead(context, 1);
  SSL_CTX_set_default_read_buffer_len(context, 128 * 1024);
}

inline void set_no_delay(int fd) {
  int one = 1;
  setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
}

class Epoll {
 public:
  Epoll() : fd_(epoll_create1(EPOLL_CLOEXEC)) {
    if (fd_ < 0) die("cannot make an epoll");
  }
  ~Epoll() { ::close(fd_); }
  Epoll(const Epoll&) = delete;
  Epoll& operator=(const Epoll&) = delete;

  void add(int fd, void* owner, unsigned events) {
    epoll_event event{};
    event.events = events;
    event.data.ptr = owner;
    if (epoll_ctl(fd_, EPOLL_CTL_ADD, fd, &event) != 0) die("cannot watch a descriptor");
  }

  void remove(int fd) { epoll_ctl(fd_, EPOLL_CTL_DEL, fd, nullptr); }

  template <typename Handler>
  void wait(Handler&& handle) {
    epoll_event events[256];
    int count = epoll_wait(fd_, events, 256, -1);
    if (count < 0 && errno != EINTR) die("cannot wait");
    for (int i = 0; i < count; ++i) handle(events[i].data.ptr, events[i].events);
  }

 private:
  int fd_;
};

/// `--name value` pairs; a name without a value reads as "yes". Unknown names are the caller's to refuse.
inline std::optional<std::string_view> option_value(int& index, int argc, char** argv,
                                                    std::string_view name) {
  if (argv[index] != name) return std::nullopt;
  if (index + 1 >= argc) {
    errno = 0;
    die(std::string(name) + " needs a value");
  }
  return argv[++index];
}

}  // namespace bench
