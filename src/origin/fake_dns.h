#pragma once
// A DNS server on loopback for tests, on the loop of whoever asks: answers from a table and counts.

#include <arpa/inet.h>
#include <cstdlib>
#include <map>
#include <netinet/in.h>
#include <string>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <vector>

#include "base/fd.h"
#include "io/loop.h"
#include "model/address.h"

namespace postern::origin {

class FakeDns final : io::Pollable {
 public:
  struct Entry {
    int code = 0;  ///< 3 is NXDOMAIN, 2 SERVFAIL.
    std::vector<std::string> addresses;
    std::uint32_t ttl = 60;
    bool silent = false;
    int lost = 0;  ///< So many questions of each kind get no answer before the first that does.
  };

  explicit FakeDns(io::Loop& loop)
      : loop_(loop), socket_(::socket(AF_INET, SOCK_DGRAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0)) {
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    socklen_t size = sizeof address;
    if (::bind(socket_.get(), reinterpret_cast<sockaddr*>(&address), size) != 0) std::abort();
    ::getsockname(socket_.get(), reinterpret_cast<sockaddr*>(&address), &size);
    server = "127.0.0.1:" + std::to_string(ntohs(address.sin_port));
    loop_.add(socket_.get(), *this, EPOLLIN);
  }
  ~FakeDns() { loop_.remove(socket_.get(), *this); }

  std::string server;                  ///< For the resolver.
  std::map<std::string, Entry> names;  ///< What is not here does not exist.
  std::map<std::string, int> asked;    ///< Questions for A records, by name.

 private:
  void on_ready(std::uint32_t) override {
    char query[2048];
    sockaddr_storage from{};
    while (true) {
      socklen_t size = sizeof from;
      const ssize_t got =
          ::recvfrom(socket_.get(), query, sizeof query, 0, reinterpret_cast<sockaddr*>(&from), &size);
      if (got < 12) return;
      const std::string answer = answer_to({query, static_cast<std::size_t>(got)});
      if (!answer.empty())
        ::sendto(socket_.get(), answer.data(), answer.size(), 0, reinterpret_cast<sockaddr*>(&from), size);
    }
  }
  static std::string number(std::size_t value) {
    return {static_cast<char>(value >> 8 & 0xff), static_cast<char>(value & 0xff)};
  }
  std::string answer_to(const std::string& query) {
    std::string name;
    std::size_t at = 12;
    while (at < query.size() && query[at] != 0) {
      const auto length = static_cast<std::size_t>(query[at]);
      name += (name.empty() ? "" : ".") + query.substr(at + 1, length);
      at += length + 1;
    }
    const std::string question = query.substr(12, at + 5 - 12);
    const bool six = query.at(at + 2) == 28;
    const int count_so_far = six ? asked_six_[name]++ : asked[name]++;
    const auto found = names.find(name);
    const Entry entry = found == names.end() ? Entry{.code = 3} : found->second;
    if (entry.silent || count_so_far < entry.lost) return {};
    std::string records;
    std::size_t count = 0;
    for (const std::string& text : entry.addresses) {
      const IpAddress address = *IpAddress::parse(text);
      if (address.is_v4() == six) continue;
      const std::size_t size = six ? 16 : 4;
      records += number(0xc00c) + number(six ? 28 : 1) + number(1) + number(entry.ttl >> 16) +
                 number(entry.ttl & 0xffff) + number(size);
      records.append(reinterpret_cast<const char*>(address.bytes().data()), size);
      ++count;
    }
    return query.substr(0, 2) + number(0x8180u | static_cast<unsigned>(entry.code)) + number(1) +
           number(count) + number(0) + number(0) + question + records;
  }

  io::Loop& loop_;
  Fd socket_;
  std::map<std::string, int> asked_six_;
};

}  // namespace postern::origin
