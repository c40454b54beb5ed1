#pragma once
// What boxes leave behind, until it is deleted. A hostile tree has millions of files and takes minutes, for
// which neither a caller nor a thread of the API waits: the directory is moved away at once, and one thread
// deletes what was moved.

#include <condition_variable>
#include <memory>
#include <mutex>
#include <string>
#include <thread>

#include "base/result.h"

namespace postern::box {

class Trash {
 public:
  /// `directory`, beside the boxes' on the same file system, is made (mode 0700). What an earlier process
  /// left in it is deleted too. Errors: I/O.
  static Result<std::unique_ptr<Trash>> open(std::string directory);
  /// Stops in the middle: whoever opens it next goes on.
  ~Trash();
  Trash(const Trash&) = delete;

  /// Takes the directory of a box (box_directory.h), of which nothing is left at its place when this returns;
  /// no error when it is absent. Thread-safe. Errors: the box runs; I/O.
  Result<void> take(const std::string& box_directory);

 private:
  explicit Trash(std::string directory);
  void run(const std::stop_token& stop);
  /// Whether nothing is left.
  bool empty(const std::stop_token& stop);

  const std::string directory_;
  std::mutex mutex_;
  std::condition_variable_any changed_;
  bool more_ = true;
  unsigned taken_ = 0;
  std::jthread thread_;
};

}  // namespace postern::box
