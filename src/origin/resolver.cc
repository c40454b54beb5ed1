#include "origin/resolver.h"

#include <algorithm>
#include <ares.h>
#include <netinet/in.h>
#include <sys/epoll.h>
#include <sys/socket.h>

namespace postern::origin {

/// One name being asked; everybody who wants it waits here.
struct Resolver::Question {
  Resolver* resolver = nullptr;
  std::string name;
  bool answered = false;
  Result<std::vector<IpAddress>> answer;
  std::vector<std::coroutine_handle<>> waiting;

  struct Wait {
    Question& question;
    bool await_ready() const { return question.answered; }
    void await_suspend(std::coroutine_handle<> handle) { question.waiting.push_back(handle); }
    void await_resume() {}
  };
};

/// c-ares' sockets on our loop, and its clock on our timer.
struct Resolver::Channel {
  struct Socket final : io::Pollable {
    Channel& channel;
    ares_socket_t fd;
    Socket(Channel& owner, ares_socket_t socket) : channel(owner), fd(socket) {}
    void on_ready(std::uint32_t events) override {
      Channel& owner = channel;
      const ares_socket_t socket = fd;  // `this` may go while c-ares works.
      ares_process_fd(owner.ares, events & (EPOLLIN | EPOLLHUP | EPOLLERR) ? socket : ARES_SOCKET_BAD,
                      events & EPOLLOUT ? socket : ARES_SOCKET_BAD);
      owner.plan();
    }
  };
  struct Alarm final : io::Timer {
    Channel& channel;
    Alarm(io::Loop& loop, Channel& owner) : Timer(loop), channel(owner) {}
    ~Alarm() = default;
    void on_timer() override {
      ares_process_fd(channel.ares, ARES_SOCKET_BAD, ARES_SOCKET_BAD);
      channel.plan();
    }
  };

  io::Loop& loop;
  ares_channel ares = nullptr;
  std::unordered_map<ares_socket_t, std::unique_ptr<Socket>> sockets;
  std::vector<std::unique_ptr<Socket>> gone;  ///< Freed outside of their own callbacks.
  Alarm alarm;

  Channel(io::Loop& l, const std::string& servers, Patience patience) : loop(l), alarm(l, *this) {
    // Once for all loops: c-ares counts its users without a lock.
    [[maybe_unused]] static const int initialised = ares_library_init(ARES_LIB_INIT_ALL);
    ares_options options{};
    options.timeout = static_cast<int>(patience.first.count());
    options.tries = patience.tries;
    options.sock_state_cb = [](void* self, ares_socket_t fd, int readable, int writable) {
      static_cast<Channel*>(self)->watch(fd, readable, writable);
    };
    options.sock_state_cb_data = this;
    if (ares_init_options(&ares, &options, ARES_OPT_SOCK_STATE_CB | ARES_OPT_TIMEOUTMS | ARES_OPT_TRIES) !=
        ARES_SUCCESS)
      ares = nullptr;
    if (ares && !servers.empty()) ares_set_servers_ports_csv(ares, servers.c_str());
  }
  ~Channel() {
    if (ares) ares_destroy(ares);
  }

  void watch(ares_socket_t fd, int readable, int writable) {
    auto& slot = sockets[fd];
    if (!readable && !writable) {
      if (slot) {
        loop.remove(fd, *slot);
        gone.push_back(std::move(slot));
      }
      sockets.erase(fd);
      return;
    }
    const std::uint32_t events = (readable ? EPOLLIN : 0u) | (writable ? EPOLLOUT : 0u);
    if (slot) {
      loop.modify(fd, *slot, events);
    } else {
      slot = std::make_unique<Socket>(*this, fd);
      loop.add(fd, *slot, events);
    }
  }

  void plan() {
    timeval soonest{};
    if (ares && ares_timeout(ares, nullptr, &soonest))
      alarm.set(loop.now() + std::chrono::seconds(soonest.tv_sec) +
                std::chrono::microseconds(soonest.tv_usec));
    if (gone.size() > 16) loop.post([this] { gone.clear(); });
  }
};

Resolver::Resolver(io::Loop& loop, std::shared_ptr<const Overrides> overrides, const std::string& servers,
                   Patience patience)
    : loop_(loop),
      overrides_(std::move(overrides)),
      channel_(std::make_unique<Channel>(loop, servers, patience)) {}

Resolver::~Resolver() {
  for (auto& [name, question] : asking_) question->resolver = nullptr;
}

const std::vector<Override>* Resolver::override_of(const std::string& name) const {
  if (!overrides_) return nullptr;
  const auto at = overrides_->find(name);
  return at == overrides_->end() ? nullptr : &at->second;
}

io::Task<Result<std::vector<IpAddress>>> Resolver::addresses_of(std::string name) {
  if (const auto* fixed = override_of(name)) {
    std::vector<IpAddress> addresses;
    for (const Override& entry : *fixed) addresses.push_back(entry.address);
    co_return addresses;
  }
  if (const auto at = cache_.find(name); at != cache_.end()) {
    if (at->second.expires > loop_.now()) co_return at->second.addresses;
    cache_.erase(at);
  }
  if (!channel_->ares) co_return fail(Reason::resolve_failed, "the resolver could not start");

  std::shared_ptr<Question>& slot = asking_[name];
  const bool first = !slot;
  if (first) slot = std::make_shared<Question>();
  const std::shared_ptr<Question> question = slot;
  if (first) {
    question->resolver = this;
    question->name = name;
    ares_addrinfo_hints hints{};
    hints.ai_family = AF_UNSPEC;
    hints.ai_socktype = SOCK_STREAM;
    hints.ai_flags = ARES_AI_NOSORT;
    // c-ares calls back exactly once, also when the channel is destroyed; the extra reference is for that
    // call.
    auto* reference = new std::shared_ptr<Question>(question);
    // A trailing dot: the name is complete, the host's search list is not for sandboxes.
    ares_getaddrinfo(
        channel_->ares, (name + ".").c_str(), nullptr, &hints,
        [](void* argument, int status, int, ares_addrinfo* result) {
          const std::unique_ptr<std::shared_ptr<Question>> held(
              static_cast<std::shared_ptr<Question>*>(argument));
          if ((*held)->resolver) (*held)->resolver->answered(**held, status, result);
          if (result) ares_freeaddrinfo(result);
        },
        reference);
    channel_->plan();
  }
  co_await Question::Wait{*question};
  co_return question->answer;
}

void Resolver::answered(Question& question, int status, void* addrinfo) {
  std::vector<IpAddress> addresses;
  int ttl = static_cast<int>(ttl_max.count());
  if (status == ARES_SUCCESS) {
    const auto* result = static_cast<const ares_addrinfo*>(addrinfo);
    for (const ares_addrinfo_node* node = result->nodes; node; node = node->ai_next) {
      ttl = std::min(ttl, node->ai_ttl);
      if (const auto address = IpAddress::from_sockaddr(*node->ai_addr))
        if (std::ranges::find(addresses, *address) == addresses.end()) addresses.push_back(*address);
    }
  }
  if (!addresses.empty()) {
    if (cache_.size() >= cached_names_max) cache_.clear();
    const auto lifetime = std::clamp<std::chrono::seconds>(std::chrono::seconds(ttl), ttl_min, ttl_max);
    cache_[question.name] = {addresses, loop_.now() + lifetime};
    question.answer = std::move(addresses);
  } else if (status == ARES_SUCCESS || status == ARES_ENOTFOUND || status == ARES_ENODATA) {
    question.answer = fail(Reason::name_not_found, "the name does not exist", Side::origin);
  } else {
    question.answer =
        fail(Reason::resolve_failed, std::string("the name could not be resolved: ") + ares_strerror(status),
             Side::origin);
  }
  question.answered = true;
  const auto keep = asking_.extract(question.name);
  // Resumed in the next turn: c-ares is in the middle of its own work now.
  loop_.post([waiting = std::move(question.waiting), held = keep ? keep.mapped() : nullptr] {
    for (const auto handle : waiting) handle.resume();
  });
}

}  // namespace postern::origin
