#include "origin/http2_links.h"

#include <algorithm>

namespace postern::origin {

namespace {

using namespace std::chrono_literals;

constexpr http2::Timing timing{
    .first_bytes = 20s,
    .idle = Http2Links::idle_max,
    .head = 30s,
    .write = 5min,
    .farewell = 2s,
    .ping_after = 15s,  // a connection that died in silence would keep its requests waiting for minutes
    .ping_answer = 15s,
};

}  // namespace

Http2Links::Link::Link(std::unique_ptr<io::Stream> stream, io::BufferPool& buffers)
    : connection(std::move(stream), buffers, timing, nullptr) {}

Http2Links::Link* Http2Links::find(const std::string& key) const {
  const auto at = links_.find(key);
  if (at == links_.end()) return nullptr;
  for (const auto& link : at->second)
    if (link->connection.capacity() > 0) return link.get();
  return nullptr;
}

Http2Links::Link* Http2Links::find_for_extended_connect(const std::string& key) const {
  const auto at = links_.find(key);
  if (at == links_.end()) return nullptr;
  for (const auto& link : at->second)
    if (link->connection.capacity() > 0 && link->connection.takes_extended_connect()) return link.get();
  return nullptr;
}

std::size_t Http2Links::in_service(const std::string& key) const {
  const auto at = links_.find(key);
  if (at == links_.end()) return 0;
  return static_cast<std::size_t>(
      std::ranges::count_if(at->second, [](const auto& link) { return !link->connection.leaving(); }));
}

std::shared_ptr<Http2Links::Link> Http2Links::add(const std::string& key, std::unique_ptr<io::Stream> stream,
                                                  std::string address) {
  auto link = std::make_shared<Link>(std::move(stream), buffers_);
  link->address = std::move(address);
  links_[key].push_back(link);
  ++count_;
  loop_.spawn(run(*this, key, link));
  return link;
}

io::Task<void> Http2Links::run(Http2Links& self, std::string key, std::shared_ptr<Link> link) {
  (void)co_await link->connection.run();
  self.remove(key, *link);
}

void Http2Links::remove(const std::string& key, const Link& link) {
  const auto at = links_.find(key);
  if (at == links_.end()) return;
  count_ -= std::erase_if(at->second, [&](const auto& known) { return known.get() == &link; });
  if (at->second.empty()) links_.erase(at);
}

void Http2Links::drain(std::string_view key_prefix) {
  std::vector<std::shared_ptr<Link>> leaving;  // One that ends at once leaves the table.
  for (const auto& [key, links] : links_)
    if (key.starts_with(key_prefix)) leaving.insert(leaving.end(), links.begin(), links.end());
  for (const auto& link : leaving) link->connection.drain();
}

}  // namespace postern::origin
