#include "api/pipe.h"

#include <utility>

namespace postern::api {

using control::BodySource;

class Pipe::Source final : public BodySource {
 public:
  Source(std::shared_ptr<Pipe> pipe, std::function<void(std::size_t)> on_taken,
         std::move_only_function<void()> on_gone)
      : pipe_(std::move(pipe)), on_taken_(std::move(on_taken)), on_gone_(std::move(on_gone)) {}
  ~Source() override { on_gone_(); }
  Piece next(std::span<char> into) override {
    const Piece piece = pipe_->next(into);
    if (piece.size > 0) on_taken_(piece.size);
    return piece;
  }

 private:
  const std::shared_ptr<Pipe> pipe_;
  const std::function<void(std::size_t)> on_taken_;
  std::move_only_function<void()> on_gone_;
};

std::unique_ptr<BodySource> Pipe::source(std::function<void(std::size_t)> on_taken,
                                         std::move_only_function<void()> on_gone) {
  return std::make_unique<Source>(shared_from_this(), std::move(on_taken), std::move(on_gone));
}

BodySource::Piece Pipe::next(std::span<char> into) {
  const std::lock_guard lock(mutex_);
  if (after_ == BodySource::Then::broken) return {0, after_};
  const std::size_t size = bytes_.copy(into.data(), into.size(), taken_);
  taken_ += size;
  if (taken_ < bytes_.size()) return {size, BodySource::Then::more};
  bytes_.clear();
  taken_ = 0;
  return {size, after_};
}

void Pipe::put(std::string_view bytes) {
  {
    const std::lock_guard lock(mutex_);
    bytes_.erase(0, std::exchange(taken_, 0));
    bytes_.append(bytes);
  }
  call_->wake();
}

void Pipe::end() {
  {
    const std::lock_guard lock(mutex_);
    if (after_ == BodySource::Then::wait) after_ = BodySource::Then::end;
  }
  call_->wake();
}

void Pipe::cut() {
  {
    const std::lock_guard lock(mutex_);
    if (after_ == BodySource::Then::wait) after_ = BodySource::Then::broken;
  }
  call_->wake();
}

std::size_t Pipe::waiting() const {
  const std::lock_guard lock(mutex_);
  return bytes_.size() - taken_;
}

}  // namespace postern::api
