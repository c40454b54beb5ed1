#pragma once
// HTTP/2 connections to origins: many requests at once on each. Per loop, and never shared between sandboxes:
// what one of them does to its connection (resets, floods, a limit of the origin's) is no other's trouble.
// A connection carries requests for the one host that it was dialled and verified for, however many names its
// certificate has (RFC 9113 §9.1.1 allows more; we do not).

#include <memory>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "http2/connection.h"

namespace postern::origin {

class Http2Links {
 public:
  static constexpr std::size_t links_per_origin_max = 16;  // × 128 streams for one sandbox; refused above
  static constexpr std::chrono::seconds idle_max{20};      // as idle connections of HTTP/1.1

  struct Link : std::enable_shared_from_this<Link> {
    http2::Connection connection;
    std::string address;  ///< "1.2.3.4:443", for the record.
    bool used = false;

    Link(std::unique_ptr<io::Stream> stream, io::BufferPool& buffers);
  };

  Http2Links(io::Loop& loop, io::BufferPool& buffers) : loop_(loop), buffers_(buffers) {}
  Http2Links(const Http2Links&) = delete;

  /// A connection with this key that takes another stream; nullptr when there is none. Valid until the loop's
  /// next turn.
  Link* find(const std::string& key) const;
  /// The same, for RFC 8441.
  Link* find_for_extended_connect(const std::string& key) const;
  /// Connections with this key. Those that end with their last stream do not count.
  std::size_t in_service(const std::string& key) const;
  /// Takes a verified connection into service.
  std::shared_ptr<Link> add(const std::string& key, std::unique_ptr<io::Stream> stream, std::string address);
  /// Idle connections end at once, the others with their last stream.
  void drain() { drain({}); }
  /// Only those whose keys begin with this.
  void drain(std::string_view key_prefix);
  std::size_t size() const { return count_; }

 private:
  static io::Task<void> run(Http2Links& self, std::string key, std::shared_ptr<Link> link);
  void remove(const std::string& key, const Link& link);

  io::Loop& loop_;
  io::BufferPool& buffers_;
  std::unordered_map<std::string, std::vector<std::shared_ptr<Link>>> links_;
  std::size_t count_ = 0;
};

}  // namespace postern::origin
