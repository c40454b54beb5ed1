#include "io/buffer.h"

#include <algorithm>
#include <cstring>

namespace postern::io {

Buffer::Buffer(Buffer&& other) noexcept
    : pool_(other.pool_),
      block_(std::exchange(other.block_, nullptr)),
      capacity_(std::exchange(other.capacity_, 0)),
      begin_(std::exchange(other.begin_, 0)),
      end_(std::exchange(other.end_, 0)) {}

void Buffer::grow(std::size_t wanted) {
  std::size_t capacity = capacity_ ? capacity_ : BufferPool::block_bytes;
  while (capacity < wanted) capacity *= 2;
  char* block = pool_->take(capacity);
  if (!empty()) std::memcpy(block, block_ + begin_, size());
  const std::size_t kept = size();
  // What goes toward an origin may be a credential: its owner wipes the buffer that it knows, not this one.
  if (kept > 0) explicit_bzero(block_ + begin_, kept);
  if (block_) pool_->give_back(block_, capacity_);
  block_ = block;
  capacity_ = capacity;
  begin_ = 0;
  end_ = kept;
}

std::span<char> Buffer::room(std::size_t limit) {
  if (!block_) grow(std::min(limit, BufferPool::block_bytes));
  if (end_ == capacity_ || capacity_ - end_ < capacity_ / 4) {
    if (begin_ > 0) {
      std::memmove(block_, block_ + begin_, size());
      end_ = size();
      begin_ = 0;
    }
    if (end_ == capacity_ && capacity_ < limit) grow(capacity_ * 2);
  }
  const std::size_t allowed = limit > size() ? limit - size() : 0;
  return {block_ + end_, std::min(capacity_ - end_, allowed)};
}

void Buffer::append(std::string_view bytes) {
  if (bytes.empty()) return;  // There may be no block yet.
  if (capacity_ - end_ < bytes.size()) grow(size() + bytes.size());
  std::memcpy(block_ + end_, bytes.data(), bytes.size());
  end_ += bytes.size();
}

void Buffer::release() {
  if (!block_) return;
  pool_->give_back(block_, capacity_);
  block_ = nullptr;
  capacity_ = begin_ = end_ = 0;
}

BufferPool::~BufferPool() {
  for (char* block : blocks_) delete[] block;
  for (char* block : large_) delete[] block;
}

char* BufferPool::take(std::size_t bytes) {
  auto& kept = bytes == block_bytes ? blocks_ : large_;
  if ((bytes == block_bytes || bytes == large_bytes) && !kept.empty()) {
    char* block = kept.back();
    kept.pop_back();
    return block;
  }
  return new char[bytes];
}

void BufferPool::give_back(char* block, std::size_t bytes) {
  if (bytes == block_bytes && blocks_.size() < kept_blocks_max) {
    blocks_.push_back(block);
  } else if (bytes == large_bytes && large_.size() < kept_large_max) {
    large_.push_back(block);
  } else {
    delete[] block;
  }
}

}  // namespace postern::io
