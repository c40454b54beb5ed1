#pragma once
// The road of road_harness.h with ends that speak HTTP/2.

#include "proxy/road_harness.h"

namespace postern::proxy::road {

using namespace std::chrono_literals;

/// A road whose ends speak HTTP/2, unless told otherwise.
class Http2Road {
  // The peers have a loop of their own: they may outlive the worker.
  ManualClock clock_;
  io::Loop loop_{clock_};

 public:
  explicit Http2Road(RoadOptions options = {.origin_http2 = true})
      : road(std::make_unique<Road>(options)), origins_speak_it_(options.origin_http2) {}
  ~Http2Road() { loop_.abandon(); }

  Http2Peer& connect(const std::string& host, Offer offer = Offer::both) {
    Peer& peer = road->connect(host, 443, host, offer);
    sandbox = std::make_unique<Http2Peer>(peer, loop_, http2::Role::client);
    return *sandbox;
  }
  void pump() {
    if (sandbox) sandbox->pump();
    if (origins_speak_it_ && road->origins() > origins.size())
      origins.push_back(std::make_unique<Http2Peer>(*road->origin(), loop_, http2::Role::server));
    for (auto& one : origins) one->pump();
  }
  bool until(const std::function<bool()>& done) {
    return road->wait_until([&] { return pump(), done(); }, 10s);
  }
  /// Until nothing moves any more.
  void settle() {
    for (int i = 0; i < 20; ++i) {
      pump();
      road->turn(1ms);
    }
  }
  /// The newest request, once `count` of them have reached origins.
  std::shared_ptr<http2::Stream> request(std::size_t count = 1) {
    std::size_t all = 0;
    const bool there = until([&] {
      all = 0;
      for (const auto& one : origins) all += one->end.requests.size();
      return all >= count;
    });
    return there ? origins.back()->end.requests.back() : nullptr;
  }
  /// Everybody leaves; the journal's lines.
  std::vector<std::string> finish() {
    settle();  // What an end still has to say (resets) arrives first.
    if (sandbox) sandbox->part();
    for (auto& one : origins) one->part();
    left = road->leave();
    return road->records();
  }

  std::unique_ptr<Road> road;
  std::unique_ptr<Http2Peer> sandbox;
  std::vector<std::unique_ptr<Http2Peer>> origins;
  bool left = false;

 private:
  bool origins_speak_it_;
};

}  // namespace postern::proxy::road
