// A yamux session with a hostile peer: the same whatever the pieces that its bytes come in, nothing beyond
// the windows, and no more owed than was asked.

#include <cstdint>
#include <cstdlib>
#include <map>
#include <string>
#include <string_view>

#include "api/yamux.h"

using postern::api::Yamux;

namespace {

struct Run final : Yamux::Events {
  Yamux yamux{*this};
  std::map<std::uint32_t, std::size_t> untaken;
  std::string said;

  explicit Run(std::string_view bytes, std::size_t piece) {
    for (std::size_t at = 0; at < bytes.size(); at += piece)
      if (yamux.take(bytes.substr(at, piece)) != Yamux::State::open) break;
    if (yamux.streams() > Yamux::streams_max) std::abort();
    const std::string out = yamux.pull(1 << 20);
    if (out.size() > 12 * (bytes.size() / 12 + 2) + said.size() + 64 * yamux.streams() + 64) std::abort();
  }
  void opened(std::uint32_t id) override {
    said += "o";
    untaken[id] = 0;
    yamux.send(id, "hello");
  }
  void received(std::uint32_t id, std::string_view bytes) override {
    said += bytes;
    untaken[id] += bytes.size();
    if (untaken[id] > Yamux::window_bytes) std::abort();
  }
  void ended(std::uint32_t id) override {
    said += "e";
    yamux.finish(id);
  }
  void gone(std::uint32_t) override { said += "r"; }
  void sent(std::uint32_t, std::size_t) override {}
};

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const std::string_view all(reinterpret_cast<const char*>(data), size);
  const Run whole(all, size + 1);
  for (const std::size_t piece : {1, 5, 13}) {
    const Run cut(all, piece);
    if (cut.said != whole.said || cut.yamux.state() != whole.yamux.state()) std::abort();
  }
  return 0;
}
