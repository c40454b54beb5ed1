#pragma once
// The body of an answer on its way from the box loop to a connection: bytes are put on the loop and taken by
// workers. Bounded by whoever puts, who hears what was taken.

#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <string_view>

#include "control/call.h"

namespace postern::api {

class Pipe : public std::enable_shared_from_this<Pipe> {
 public:
  explicit Pipe(std::shared_ptr<control::Call> call) : call_(std::move(call)) {}

  /// Thread-safe.
  void put(std::string_view bytes);
  void end();
  /// There is no more although there should be.
  void cut();
  std::size_t waiting() const;

  /// The other end, once. `on_taken`: so many bytes, on a worker. `on_gone`: nothing else is taken, once.
  std::unique_ptr<control::BodySource> source(std::function<void(std::size_t)> on_taken,
                                              std::move_only_function<void()> on_gone);

 private:
  class Source;
  control::BodySource::Piece next(std::span<char> into);

  const std::shared_ptr<control::Call> call_;
  mutable std::mutex mutex_;
  std::string bytes_;
  std::size_t taken_ = 0;  ///< Of these.
  control::BodySource::Then after_ = control::BodySource::Then::wait;
};

}  // namespace postern::api
