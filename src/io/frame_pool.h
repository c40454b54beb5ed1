#pragma once
// Coroutine frames are allocated and freed on every request, and so are strings and vectors beside them; a
// free list per thread makes that a few instructions. Sanitizer builds use the plain heap so that a stale
// frame is still caught.

#include <array>
#include <cstddef>
#include <new>
#include <string>
#include <vector>

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define POSTERN_PLAIN_FRAMES 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer)
#define POSTERN_PLAIN_FRAMES 1
#endif
#endif

namespace postern::io {

class FramePool {
 public:
  static void* allocate(std::size_t bytes) {
#ifndef POSTERN_PLAIN_FRAMES
    const std::size_t index = (bytes + step - 1) / step;
    if (index < classes) {
      Lists& lists = local();
      if (Free* head = lists.heads[index]) {
        lists.heads[index] = head->next;
        return head;
      }
      return ::operator new(index * step);
    }
#endif
    return ::operator new(bytes);
  }

  static void release(void* frame, std::size_t bytes) noexcept {
#ifndef POSTERN_PLAIN_FRAMES
    const std::size_t index = (bytes + step - 1) / step;
    if (index < classes) {
      Lists& lists = local();
      auto* entry = static_cast<Free*>(frame);
      entry->next = lists.heads[index];
      lists.heads[index] = entry;
      return;
    }
#else
    (void)bytes;
#endif
    ::operator delete(frame);
  }

 private:
  static constexpr std::size_t step = 64;
  static constexpr std::size_t classes = 64;  // frames up to 4 KiB
  struct Free {
    Free* next;
  };
  struct Lists {
    std::array<Free*, classes> heads{};
    ~Lists() {
      for (Free* head : heads)
        while (head) {
          Free* next = head->next;
          ::operator delete(head);
          head = next;
        }
    }
  };
  static Lists& local() {
    thread_local Lists lists;
    return lists;
  }
};

/// The same for what the standard library allocates. It may be freed by the thread that allocated it only.
template <class T>
struct FromFramePool {
  using value_type = T;
  FromFramePool() = default;
  template <class U>
  FromFramePool(const FromFramePool<U>&) {}  // NOLINT(google-explicit-constructor): as the library asks.
  T* allocate(std::size_t count) { return static_cast<T*>(FramePool::allocate(count * sizeof(T))); }
  void deallocate(T* memory, std::size_t count) { FramePool::release(memory, count * sizeof(T)); }
  template <class U>
  bool operator==(const FromFramePool<U>&) const {
    return true;
  }
};

using PooledString = std::basic_string<char, std::char_traits<char>, FromFramePool<char>>;
template <class T>
using PooledVector = std::vector<T, FromFramePool<T>>;

}  // namespace postern::io
