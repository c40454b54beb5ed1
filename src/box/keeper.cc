#include "box/keeper.h"

#include <array>
#include <cerrno>
#include <cstring>
#include <fcntl.h>
#include <fmt/format.h>
#include <poll.h>
#include <signal.h>
#include <span>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/wait.h>

#include "base/environment.h"
#include "box/keeper_process.h"
#include "box/keeper_protocol.h"

namespace postern::box {
namespace {

constexpr int launch_time_max_ms = 10'000;  // Usual: 50 ms. Longer only on a machine that is swapping.
constexpr int layer_time_max_ms = 3'600'000;
constexpr int stop_time_max_ms = 20'000;  // Longer than the keeper's patience with a holder.
constexpr timeval send_time_max{10, 0};

std::unexpected<Error> fail_errno(std::string_view doing) {
  return fail(Reason::internal, fmt::format("cannot {}: {}", doing, std::strerror(errno)));
}

std::unexpected<Error> keeper_is_gone() {
  return fail(Reason::shutting_down, "the process that keeps the boxes is gone");
}

Result<std::pair<Fd, Fd>> make_pair_of_sockets(int type) {
  std::array<int, 2> ends{};
  if (::socketpair(AF_UNIX, type | SOCK_CLOEXEC, 0, ends.data()) != 0)
    return fail_errno("make a pair of sockets");
  return std::pair(Fd(ends[0]), Fd(ends[1]));
}

/// False: nothing came in time.
bool wait_for(const Fd& fd, int timeout_ms) {
  const auto clock = [] {
    timespec now{};
    ::clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec * 1000 + now.tv_nsec / 1'000'000;
  };
  const auto end = clock() + timeout_ms;
  pollfd wait{fd.get(), POLLIN, 0};
  for (;;) {
    const auto left = end - clock();
    const int ready = ::poll(&wait, 1, left > 0 ? static_cast<int>(left) : 0);
    if (ready >= 0 || errno != EINTR) return ready == 1;
  }
}

/// The first byte carries the descriptors.
bool send_with(int socket, std::string_view bytes, std::span<const int> descriptors) {
  alignas(cmsghdr) std::array<char, CMSG_SPACE(2 * sizeof(int))> space{};
  iovec part{const_cast<char*>(bytes.data()), 1};
  msghdr message{};
  message.msg_iov = &part;
  message.msg_iovlen = 1;
  message.msg_control = space.data();
  message.msg_controllen = CMSG_SPACE(descriptors.size_bytes());
  cmsghdr* header = CMSG_FIRSTHDR(&message);
  header->cmsg_level = SOL_SOCKET;
  header->cmsg_type = SCM_RIGHTS;
  header->cmsg_len = CMSG_LEN(descriptors.size_bytes());
  std::memcpy(CMSG_DATA(header), descriptors.data(), descriptors.size_bytes());
  if (::sendmsg(socket, &message, MSG_NOSIGNAL) != 1) return false;
  for (bytes.remove_prefix(1); !bytes.empty();) {
    const ssize_t size = ::send(socket, bytes.data(), bytes.size(), MSG_NOSIGNAL);
    if (size < 0 && errno == EINTR) continue;
    if (size <= 0) return false;
    bytes.remove_prefix(static_cast<std::size_t>(size));
  }
  return true;
}

struct Received {
  std::string bytes;
  std::array<Fd, answer_descriptors_max> descriptors;
};

Received receive(const Fd& socket, std::size_t bytes_max = answer_bytes_max) {
  Received received;
  received.bytes.resize(bytes_max);
  alignas(cmsghdr) std::array<char, CMSG_SPACE(sizeof(int) * answer_descriptors_max)> space{};
  iovec part{received.bytes.data(), received.bytes.size()};
  msghdr message{};
  message.msg_iov = &part;
  message.msg_iovlen = 1;
  message.msg_control = space.data();
  message.msg_controllen = space.size();
  const ssize_t size = ::recvmsg(socket.get(), &message, MSG_CMSG_CLOEXEC);
  received.bytes.resize(size > 0 ? static_cast<std::size_t>(size) : 0);
  const cmsghdr* header = size > 0 ? CMSG_FIRSTHDR(&message) : nullptr;
  if (header == nullptr || header->cmsg_level != SOL_SOCKET || header->cmsg_type != SCM_RIGHTS)
    return received;
  const std::size_t count = (header->cmsg_len - CMSG_LEN(0)) / sizeof(int);
  for (std::size_t i = 0; i < count && i < answer_descriptors_max; ++i) {
    int descriptor = -1;
    std::memcpy(&descriptor, CMSG_DATA(header) + i * sizeof descriptor, sizeof descriptor);
    received.descriptors[i] = Fd(descriptor);
  }
  return received;
}

Result<Keeper::Launched> read_answer(Received received, std::uint64_t number) {
  const std::string_view bytes = received.bytes;
  if (bytes.size() < 2) return fail(Reason::internal, "the box ended while it was made");
  if (static_cast<Answer>(bytes[0]) != Answer::launched)
    return fail(static_cast<Reason>(bytes[1]), std::string(bytes.substr(2)));
  Keeper::Launched launched;
  launched.number = number;
  launched.agent = std::move(received.descriptors[0]);
  launched.exit = std::move(received.descriptors[1]);
  sandbox::CaptureSockets& network = launched.network;
  const std::array sockets{&network.tcp4,     &network.tcp6,     &network.dns_udp4,
                           &network.dns_udp6, &network.dns_tcp4, &network.dns_tcp6};
  std::size_t taken = 2;
  for (std::size_t i = 0; i < sockets.size(); ++i)
    if ((bytes[1] & (1 << i)) != 0 && taken < answer_descriptors_max)
      *sockets[i] = std::move(received.descriptors[taken++]);
  // Descriptors are dropped by the kernel where the limit of open files is reached.
  if (!launched.agent || !launched.exit || !network.tcp4)
    return fail(Reason::overloaded, "the box's descriptors were lost: too many open files");
  return launched;
}

}  // namespace

Result<std::unique_ptr<Keeper>> Keeper::start(const char* secret_variable) {
  auto sockets = make_pair_of_sockets(SOCK_STREAM);
  if (!sockets) return std::unexpected(std::move(sockets.error()));
  const pid_t parent = ::getpid();
  const pid_t child = ::fork();
  if (child < 0) return fail_errno("start the process that keeps the boxes");
  if (child == 0) {
    sockets->first.reset();
    if (secret_variable) wipe_variable(secret_variable);
    run_keeper(std::move(sockets->second), parent);
  }
  ::setsockopt(sockets->first.get(), SOL_SOCKET, SO_SNDTIMEO, &send_time_max, sizeof send_time_max);
  return std::unique_ptr<Keeper>(new Keeper(child, std::move(sockets->first)));
}

Keeper::~Keeper() {
  socket_.reset();
  while (::waitpid(process_, nullptr, 0) < 0 && errno == EINTR) {
  }
}

Result<Fd> Keeper::ask(const std::string& request, int beside) {
  if (request.size() > request_bytes_max)
    return fail(Reason::invalid_configuration, "the box's files and environment are too large");
  auto answer = make_pair_of_sockets(SOCK_SEQPACKET);
  if (!answer) return std::unexpected(std::move(answer.error()));
  std::string bytes;
  wire_detail::put(request, bytes);
  const std::array descriptors{answer->second.get(), beside};
  const std::lock_guard lock(sending_);
  if (!send_with(socket_.get(), bytes, std::span(descriptors).first(beside < 0 ? 1 : 2))) {
    // What follows half a request would be read as the rest of it.
    ::shutdown(socket_.get(), SHUT_RDWR);
    return keeper_is_gone();
  }
  return std::move(answer->first);
}

Result<Keeper::Launched> Keeper::launch(const BoxSpec& spec) {
  Request request{RequestKind::launch, ++last_number_, spec, {}};
  auto answer = ask(encode(request));
  if (!answer) return std::unexpected(std::move(answer.error()));
  if (!wait_for(*answer, launch_time_max_ms)) {
    (void)ask(encode(Request{RequestKind::stop, request.number, {}, {}}));
    return fail(Reason::overloaded, "the box was not ready in time");
  }
  auto launched = read_answer(receive(*answer), request.number);
  if (!launched) stop(request.number);  // The directory is free when an error is returned.
  return launched;
}

Result<MadeLayer> Keeper::make_layer(const LayerJob& job, const Fd& source, const std::stop_token& stop) {
  const Request request{RequestKind::make_layer, ++last_number_, {}, job};
  auto answer = ask(encode(request), source.get());
  if (!answer) return std::unexpected(std::move(answer.error()));
  Received received;
  {
    const std::stop_callback stopping(
        stop, [&] { (void)ask(encode(Request{RequestKind::stop, request.number, {}, {}})); });
    if (wait_for(*answer, layer_time_max_ms)) received = receive(*answer, made_layer_bytes_max);
  }
  this->stop(request.number);  // The directory is free.
  const std::string_view bytes = received.bytes;
  MadeLayer made;
  if (bytes.size() < 2)
    return fail(stop.stop_requested() ? Reason::shutting_down : Reason::overloaded,
                "it was ended before it was done: by the server's end, or by the limits of memory or time");
  if (static_cast<Answer>(bytes[0]) == Answer::failed)
    return fail(static_cast<Reason>(bytes[1]), std::string(bytes.substr(2)));
  if (!decode(bytes.substr(1), made))
    return fail(Reason::internal, "the layer's maker said nothing sensible");
  return made;
}

void Keeper::stop(std::uint64_t number) {
  if (const auto answer = ask(encode(Request{RequestKind::stop, number, {}, {}})))
    (void)wait_for(*answer, stop_time_max_ms);
}

}  // namespace postern::box
