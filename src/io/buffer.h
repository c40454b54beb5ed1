#pragma once
// Buffers that are held only while bytes are in them: an idle connection owns none. One pool per loop.

#include <array>
#include <cstddef>
#include <cstring>
#include <memory>
#include <span>
#include <string_view>
#include <utility>
#include <vector>

#include "base/units.h"

namespace postern::io {

class BufferPool;

/// A window of unread bytes in a block: filled at the back, consumed at the front. Grows by doubling up to a
/// limit that the caller names.
class Buffer {
 public:
  explicit Buffer(BufferPool& pool) : pool_(&pool) {}
  Buffer(Buffer&& other) noexcept;
  Buffer& operator=(Buffer&&) = delete;
  ~Buffer() { release(); }

  std::string_view bytes() const { return {block_ + begin_, end_ - begin_}; }
  bool empty() const { return begin_ == end_; }
  std::size_t size() const { return end_ - begin_; }

  /// Room to read into, at least one byte unless the buffer holds `limit` bytes already. Takes a block if
  /// there is none; views into the buffer are invalid afterwards.
  std::span<char> room(std::size_t limit);
  void filled(std::size_t count) { end_ += count; }
  /// Forgets bytes at the front. Views stay valid until room() or release().
  void consume(std::size_t count) {
    begin_ += count;
    if (begin_ == end_) begin_ = end_ = 0;
  }
  /// Makes sure that at least `bytes` fit in all.
  void reserve(std::size_t bytes) {
    if (capacity_ < bytes) grow(bytes);
  }
  void append(std::string_view bytes);
  /// Gives the block back; the bytes are gone.
  void release();
  /// Gives the block back if nothing is in it.
  void release_if_empty() {
    if (empty()) release();
  }

 private:
  void grow(std::size_t wanted);

  BufferPool* pool_;
  char* block_ = nullptr;
  std::size_t capacity_ = 0;
  std::size_t begin_ = 0;
  std::size_t end_ = 0;
};

class BufferPool {
 public:
  static constexpr std::size_t block_bytes = 16 * KiB;   // one TLS record
  static constexpr std::size_t large_bytes = 256 * KiB;  // raw relays: fewer, longer system calls
  static constexpr std::size_t kept_blocks_max = 256;    // 4 MiB
  static constexpr std::size_t kept_large_max = 8;       // 2 MiB

  BufferPool() = default;
  BufferPool(const BufferPool&) = delete;
  ~BufferPool();

  char* take(std::size_t bytes);
  void give_back(char* block, std::size_t bytes);

 private:
  std::vector<char*> blocks_;
  std::vector<char*> large_;
};

}  // namespace postern::io
