#pragma once
// A Task is a lazy coroutine that is awaited exactly once, by its owner, on one loop.
//
//   Task<Result<int>> twice(Stream& s) {
//     Result<int> n = co_await number(s);   // a Task yields what it returned
//     co_return 2 * co_await std::move(n);  // awaiting a Result: its value, or finish here with its error
//   }
//
// Destroying a Task that has not finished destroys the whole chain below it; awaiters unlink themselves.

#include <coroutine>
#include <cstdlib>
#include <expected>
#include <optional>
#include <utility>

#include "base/result.h"
#include "io/frame_pool.h"

namespace postern::io {

template <class T>
class Task;

namespace detail {

struct PromiseBase {
  std::coroutine_handle<> continuation = std::noop_coroutine();
  bool in_start = false;  ///< The awaiting coroutine's await_suspend() is still on the stack below us.
  bool finished = false;

  /// The task is complete: whom to resume. A task that completes while it is being started hands control back
  /// by returning: otherwise a loop over tasks that never wait would nest one resumption in the other without
  /// end (only optimised code turns symmetric transfer into a jump).
  std::coroutine_handle<> complete() noexcept {
    finished = true;
    return in_start ? std::noop_coroutine() : continuation;
  }

  static void* operator new(std::size_t bytes) { return FramePool::allocate(bytes); }
  static void operator delete(void* frame, std::size_t bytes) noexcept { FramePool::release(frame, bytes); }

  std::suspend_always initial_suspend() noexcept { return {}; }
  struct Final {
    bool await_ready() noexcept { return false; }
    template <class P>
    std::coroutine_handle<> await_suspend(std::coroutine_handle<P> self) noexcept {
      return self.promise().complete();
    }
    void await_resume() noexcept {}
  };
  Final final_suspend() noexcept { return {}; }
  // Expected failures are values; what still throws here (out of memory) ends the process.
  [[noreturn]] void unhandled_exception() noexcept { std::abort(); }
};

/// Runs a task until it completes or waits. True when it waits.
template <class Promise>
bool start(std::coroutine_handle<Promise> task, std::coroutine_handle<> waiting) {
  Promise& promise = task.promise();
  promise.continuation = waiting;
  promise.in_start = true;
  task.resume();
  promise.in_start = false;
  return !promise.finished;
}

}  // namespace detail

template <class T = void>
class [[nodiscard]] Task {
 public:
  struct promise_type : detail::PromiseBase {
    std::optional<T> value;

    Task get_return_object() { return Task(std::coroutine_handle<promise_type>::from_promise(*this)); }
    template <class U>
    void return_value(U&& result) {
      value.emplace(std::forward<U>(result));
    }
  };

  Task(Task&& other) noexcept : handle_(std::exchange(other.handle_, {})) {}
  Task& operator=(Task&& other) noexcept {
    if (this != &other) {
      if (handle_) handle_.destroy();
      handle_ = std::exchange(other.handle_, {});
    }
    return *this;
  }
  ~Task() {
    if (handle_) handle_.destroy();
  }

  auto operator co_await() && {
    struct Awaiter {
      std::coroutine_handle<promise_type> task;
      bool await_ready() const { return false; }
      bool await_suspend(std::coroutine_handle<> waiting) { return detail::start(task, waiting); }
      T await_resume() { return std::move(*task.promise().value); }
    };
    return Awaiter{handle_};
  }

 private:
  explicit Task(std::coroutine_handle<promise_type> handle) : handle_(handle) {}
  std::coroutine_handle<promise_type> handle_;
};

template <>
class [[nodiscard]] Task<void> {
 public:
  struct promise_type : detail::PromiseBase {
    Task get_return_object() { return Task(std::coroutine_handle<promise_type>::from_promise(*this)); }
    void return_void() {}
  };

  Task(Task&& other) noexcept : handle_(std::exchange(other.handle_, {})) {}
  Task& operator=(Task&& other) noexcept {
    if (this != &other) {
      if (handle_) handle_.destroy();
      handle_ = std::exchange(other.handle_, {});
    }
    return *this;
  }
  ~Task() {
    if (handle_) handle_.destroy();
  }

  auto operator co_await() && {
    struct Awaiter {
      std::coroutine_handle<promise_type> task;
      bool await_ready() const { return false; }
      bool await_suspend(std::coroutine_handle<> waiting) { return detail::start(task, waiting); }
      void await_resume() {}
    };
    return Awaiter{handle_};
  }

 private:
  explicit Task(std::coroutine_handle<promise_type> handle) : handle_(handle) {}
  std::coroutine_handle<promise_type> handle_;
};

}  // namespace postern::io

namespace postern {

namespace io::detail {

template <class U>
struct UnwrapResult {
  Result<U> result;
  bool await_ready() const { return result.has_value(); }
  template <class Promise>
  std::coroutine_handle<> await_suspend(std::coroutine_handle<Promise> self) {
    self.promise().value.emplace(std::unexpected(std::move(result.error())));
    return self.promise().complete();
  }
  U await_resume() {
    if constexpr (!std::is_void_v<U>) return std::move(*result);
  }
};

}  // namespace io::detail

/// `co_await result` inside a coroutine that returns a Result: the value, or finish here with the error.
/// (A free operator and not a promise's await_transform, which g++ 12 makes copy every other awaiter.)
template <class U>
auto operator co_await(Result<U>&& result) {
  return io::detail::UnwrapResult<U>{std::move(result)};
}

}  // namespace postern

namespace postern::io {

/// One coroutine waits until another says so. Single loop; set() before wait() is remembered.
class Event {
 public:
  void set() {
    set_ = true;
    if (auto waiting = std::exchange(waiting_, {})) waiting.resume();
  }
  /// As set(), but hands the waiter to the caller to resume.
  std::coroutine_handle<> mark() {
    set_ = true;
    auto waiting = std::exchange(waiting_, {});
    return waiting ? waiting : std::noop_coroutine();
  }
  bool is_set() const { return set_; }
  void reset() { set_ = false; }

  auto wait() {
    struct Awaiter {
      Event& event;
      bool await_ready() const { return event.set_; }
      void await_suspend(std::coroutine_handle<> handle) { event.waiting_ = handle; }
      void await_resume() {}
    };
    return Awaiter{*this};
  }

 private:
  bool set_ = false;
  std::coroutine_handle<> waiting_;
};

/// Runs a task beside its owner: starts at once, and is joined before its owner finishes.
///
///   Child upload(pump(...));
///   ... co_await answer ...
///   upload_stream.cancel(); co_await upload.join();
class Child {
 public:
  explicit Child(Task<void> task) : driver_(run(std::move(task), *this)) {}
  Child(const Child&) = delete;
  Child& operator=(const Child&) = delete;
  /// Only when a whole loop is torn down is a child still running here.
  ~Child() {
    if (driver_.handle) driver_.handle.destroy();
  }
  bool finished() const { return done_.is_set(); }
  auto join() { return done_.wait(); }

 private:
  struct Driver {
    struct promise_type {
      static void* operator new(std::size_t bytes) { return FramePool::allocate(bytes); }
      static void operator delete(void* frame, std::size_t bytes) noexcept {
        FramePool::release(frame, bytes);
      }
      Driver get_return_object() { return {std::coroutine_handle<promise_type>::from_promise(*this)}; }
      std::suspend_never initial_suspend() noexcept { return {}; }
      // Suspended at its end: the frame belongs to the Child.
      std::suspend_always final_suspend() noexcept { return {}; }
      void return_void() {}
      [[noreturn]] void unhandled_exception() noexcept { std::abort(); }
    };
    std::coroutine_handle<promise_type> handle;
  };
  // Its last act may resume the owner, who may destroy this very frame: nothing follows.
  struct Finish {
    Event& done;
    bool await_ready() const { return false; }
    std::coroutine_handle<> await_suspend(std::coroutine_handle<>) { return done.mark(); }
    void await_resume() {}
  };
  static Driver run(Task<void> task, Child& self) {
    co_await std::move(task);
    co_await Finish{self.done_};
  }
  Event done_;
  Driver driver_;
};

}  // namespace postern::io
