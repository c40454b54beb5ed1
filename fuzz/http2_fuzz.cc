// HTTP/2 sessions: whatever a peer sends and whoever waits or goes meanwhile, nothing crashes, a stream ends
// once, what is held stays within its limits, and a flood ends. The first byte chooses the role and how the
// rest is read: as bytes, or as a script of frames (so that HPACK and stream numbers are right often enough
// to get deep).

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "http2/test_kit.h"
#include "wire/http1.h"

namespace {

using namespace postern;
using namespace postern::http2;

void require(bool condition) {
  if (!condition) std::abort();
}

class Input {
 public:
  Input(const std::uint8_t* data, std::size_t size) : rest_(reinterpret_cast<const char*>(data), size) {}
  bool empty() const { return rest_.empty(); }
  std::uint8_t byte() {
    if (rest_.empty()) return 0;
    const auto value = static_cast<std::uint8_t>(rest_.front());
    rest_.remove_prefix(1);
    return value;
  }
  std::string_view bytes(std::size_t most) {
    const std::string_view taken = rest_.substr(0, most);
    rest_.remove_prefix(taken.size());
    return taken;
  }

 private:
  std::string_view rest_;
};

/// Somebody who carries a stream.
struct Carrier final : Stream::GoneWatcher {
  std::shared_ptr<Stream> stream;
  int gone = 0;
  int running = 0;
  bool ended = false;

  void on_gone() override { ++gone; }
  ~Carrier() {
    if (stream) stream->watch_gone(nullptr);
  }
};

io::Task<void> read_heads(std::shared_ptr<Carrier> carrier, TimePoint deadline) {
  ++carrier->running;
  for (int i = 0; i < 4; ++i) {
    auto head = co_await carrier->stream->next_head(deadline);
    if (!head) break;
    require((*head)->status >= 100 && (*head)->status <= 999);
    if ((*head)->status >= 200) break;
  }
  --carrier->running;
}

io::Task<void> read_all(std::shared_ptr<Carrier> carrier, TimePoint deadline) {
  ++carrier->running;
  require(!carrier->ended);
  while (true) {
    auto piece = co_await carrier->stream->read_body(deadline);
    if (!piece) break;
    require(piece->data.size() <= static_cast<std::size_t>(limits::window_bytes_max));
    if (!piece->last) continue;
    for (const HeaderField& field : carrier->stream->trailers()) {
      require(wire::is_field_name(field.name) && wire::is_field_value(field.value));
      require(!wire::is_forbidden_trailer(field.name));
    }
    break;
  }
  carrier->ended = true;
  --carrier->running;
}

io::Task<void> send_piece(std::shared_ptr<Carrier> carrier, std::string piece, bool last,
                          TimePoint deadline) {
  ++carrier->running;
  const HeaderField trailer[] = {{"x-sum", "1"}};
  const bool with_trailer = piece.size() % 2 == 1;
  const BodyPiece body{piece, last, false};
  const std::span<const HeaderField> trailers(trailer, with_trailer ? 1 : 0);
  (void)co_await carrier->stream->send_body(body, trailers, deadline);
  --carrier->running;
}

class World {
 public:
  World(Role role, Input& input) : input_(input), role_(role), end_(std::make_unique<kit::End>(loop_, role)) {
    if (role == Role::server) feed(kit::preface);
    (void)end_->take();
  }
  ~World() {
    end_.reset();
    loop_.abandon();
  }

  void run(bool raw) {
    for (int steps = 0; !input_.empty() && steps < 4000; ++steps) {
      if (raw)
        feed(input_.bytes(input_.byte() % 64 + 1));
      else
        step();
      adopt();
      check();
    }
    // The connection breaks: everybody is told, and nobody waits any more.
    end_->session.fail({Reason::origin_closed, Side::origin, Retry::never, "the end"});
    end_->session.wake();
    adopt();
    end_->session.wake();
    for (const auto& carrier : carriers_) {
      require(carrier->stream->closed() && carrier->running == 0 && carrier->gone <= 1);
    }
    require(end_->session.open_streams() == 0);
  }

 private:
  void feed(std::string_view bytes) {
    if (broken_) return;
    if (!end_->feed(bytes)) broken_ = true;
  }
  void adopt() {
    for (auto& stream : std::exchange(end_->requests, {})) {
      const Head& head = stream->request();
      require(!head.method.empty() || head.too_large);
      require(head.fields.size() <= limits::header_fields_max);
      carry(std::move(stream));
    }
    end_->refused.clear();
  }
  std::shared_ptr<Carrier> carry(std::shared_ptr<Stream> stream) {
    auto carrier = std::make_shared<Carrier>();
    carrier->stream = std::move(stream);
    carrier->stream->watch_gone(carrier.get());
    carriers_.push_back(carrier);
    return carrier;
  }
  void check() {
    require(end_->session.open_streams() <= limits::streams_max + 1);
    for (const auto& carrier : carriers_) require(carrier->gone <= 1);
  }
  TimePoint soon() const { return loop_.now() + std::chrono::seconds(5); }

  std::string head_block() {
    std::string block;
    const std::uint8_t kind = input_.byte();
    if (kind & 1) {
      if (role_ == Role::server)
        block = kit::block(kit::post_request);
      else
        block = kit::literal(":status", kind & 2 ? "200" : "103");
    }
    if (kind & 4)
      block += kit::literal("x-a", std::string(input_.byte() * 16, 'b'), kit::Indexing::incremental);
    if (kind & 8) block += std::string(input_.byte(), static_cast<char>(0x80 | 62));
    if (kind & 16) block += kit::literal("cookie", input_.bytes(input_.byte() % 8));
    if (kind & 32) block += input_.bytes(input_.byte() % 32);
    if (kind & 64) block += kit::literal("content-length", std::to_string(input_.byte()));
    return block;
  }

  void step() {
    const std::uint8_t what = input_.byte();
    const std::uint32_t id = input_.byte() % 16;
    const auto pick = [&]() -> std::shared_ptr<Carrier> {
      return carriers_.empty() ? nullptr : carriers_[id % carriers_.size()];
    };
    switch (what % 24) {
      case 0:
      case 1:
      case 2: {
        const std::uint8_t flags = input_.byte() & (kit::end_stream | kit::end_headers);
        const std::uint32_t number = role_ == Role::server && id == 0 ? next_ : id;
        if (number == next_) next_ += 2;
        return feed(kit::frame(kit::headers, flags, number, head_block()));
      }
      case 3: return feed(kit::frame(kit::continuation, input_.byte() & kit::end_headers, id, head_block()));
      case 4:
        return feed(kit::frame(kit::data, input_.byte() & (kit::end_stream | kit::padded), id,
                               std::string(input_.byte() * 64, 'd')));
      case 5: return feed(kit::frame(kit::rst_stream, 0, id, kit::number32(input_.byte())));
      case 6: return feed(kit::frame(kit::window_update, 0, id, kit::number32(input_.byte() << 8 | 1)));
      case 7:
        return feed(
            kit::frame(kit::settings, input_.byte() & kit::ack, 0, input_.bytes(input_.byte() % 4 * 6)));
      case 8: return feed(kit::frame(kit::ping, input_.byte() & kit::ack, 0, "12345678"));
      case 9: return feed(kit::frame(kit::goaway, 0, 0, kit::number32(id) + kit::number32(input_.byte())));
      case 10: return feed(kit::frame(input_.byte(), input_.byte(), id, input_.bytes(input_.byte())));
      case 11: {
        // A part of what there is to be sent, so that frames are held back.
        io::Buffer out(buffers_);
        end_->session.produce(out);
        return void(end_->session.wake());
      }
      case 12: return void(end_->take());
      case 13: {
        if (role_ == Role::server) return;
        auto stream = end_->session.open();
        if (stream && carriers_.size() < 64) {
          if (id != 0) (void)kit::send_head(*stream, kit::post_request, input_.byte() & 1);
          carry(std::move(stream));
        }
        return;
      }
      case 14:
        if (auto carrier = pick(); carrier && !carrier->ended && carrier->running == 0)
          loop_.spawn(read_all(carrier, soon()));
        return;
      case 15:
        if (auto carrier = pick(); carrier && carrier->running == 0 && role_ == Role::client)
          loop_.spawn(read_heads(carrier, soon()));
        return;
      case 16:
        if (auto carrier = pick(); carrier && carrier->running == 0 && headed(*carrier))
          loop_.spawn(send_piece(carrier, std::string(input_.byte() * 256u, 's'), input_.byte() & 1, soon()));
        return;
      case 17:
        if (auto carrier = pick(); carrier && role_ == Role::server)
          if (kit::send_head(*carrier->stream, {{":status", "200"}}, input_.byte() & 1))
            answered_.push_back(carrier.get());
        return;
      case 18:
        if (auto carrier = pick()) carrier->stream->reset(static_cast<std::uint32_t>(input_.byte()));
        return;
      case 19:
        if (auto carrier = pick()) {
          carrier->stream->cancel_read();
          carrier->stream->cancel_send();
        }
        return;
      case 20:
        if (auto carrier = pick(); carrier && carrier->running == 0) {
          carrier->stream->reset(ErrorCode::cancel);
          std::erase(answered_, carrier.get());
          std::erase(carriers_, carrier);
        }
        return;
      case 21: return id & 1 ? end_->session.drain() : end_->session.announce_drain();
      case 22: return end_->session.ping();
      default:
        clock_.advance(std::chrono::seconds(input_.byte() % 8));
        loop_.run_once(Duration::zero());
        return;
    }
  }
  /// A body belongs behind a head.
  bool headed(const Carrier& carrier) const {
    if (role_ == Role::client) return carrier.stream->bytes_sent() > 0;
    return std::ranges::find(answered_, &carrier) != answered_.end();
  }

  Input& input_;
  const Role role_;
  ManualClock clock_;
  io::Loop loop_{clock_};
  io::BufferPool buffers_;
  std::vector<std::shared_ptr<Carrier>> carriers_;
  std::vector<const Carrier*> answered_;
  std::unique_ptr<kit::End> end_;
  std::uint32_t next_ = 1;
  bool broken_ = false;
};

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  if (size < 2) return 0;
  Input input(data, size);
  const std::uint8_t how = input.byte();
  World world(how & 1 ? Role::client : Role::server, input);
  world.run(how & 2);
  return 0;
}
