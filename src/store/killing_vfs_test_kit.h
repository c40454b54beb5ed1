#pragma once
// SQLite's file system, but the process is killed in place of the Nth thing that would be done to a file: so
// a test can stop at every point there is. For a child process, which it ends.

#include <csignal>
#include <cstdio>
#include <sqlite3.h>
#include <stdexcept>
#include <sys/wait.h>
#include <unistd.h>

namespace postern::store {

class KillingVfs {
 public:
  /// From now on, for what SQLite opens in this process.
  static void install(int nth) {
    left_ = nth;
    real_ = sqlite3_vfs_find(nullptr);
    static sqlite3_vfs vfs;
    vfs = *real_;
    vfs.zName = "killing";
    vfs.szOsFile += static_cast<int>(sizeof(File));
    vfs.xOpen = open;
    vfs.xDelete = [](sqlite3_vfs*, const char* name, int sync) {
      step();
      return real_->xDelete(real_, name, sync);
    };
    sqlite3_vfs_register(&vfs, 1);
  }

 private:
  /// The real file lies behind it.
  struct File {
    sqlite3_file base;
    sqlite3_io_methods methods;
  };
  static sqlite3_file* behind(sqlite3_file* file) {
    return reinterpret_cast<sqlite3_file*>(reinterpret_cast<File*>(file) + 1);
  }
  static void step() {
    if (left_-- == 1) ::kill(::getpid(), SIGKILL);
  }
  template <auto Method, bool counts, class... Arguments>
  static int pass(sqlite3_file* file, Arguments... arguments) {
    if constexpr (counts) step();
    sqlite3_file* const real = behind(file);
    return (real->pMethods->*Method)(real, arguments...);
  }

  static int open(sqlite3_vfs*, const char* name, sqlite3_file* file, int flags, int* out_flags) {
    const int code = real_->xOpen(real_, name, behind(file), flags, out_flags);
    file->pMethods = nullptr;
    if (behind(file)->pMethods == nullptr) return code;
    using Io = sqlite3_io_methods;
    auto& methods = reinterpret_cast<File*>(file)->methods;
    methods = *behind(file)->pMethods;
    methods.iVersion = 2;  // without memory mapping of the database
    methods.xClose = pass<&Io::xClose, false>;
    methods.xRead = pass<&Io::xRead, false, void*, int, sqlite3_int64>;
    methods.xWrite = pass<&Io::xWrite, true, const void*, int, sqlite3_int64>;
    methods.xTruncate = pass<&Io::xTruncate, true, sqlite3_int64>;
    methods.xSync = pass<&Io::xSync, true, int>;
    methods.xFileSize = pass<&Io::xFileSize, false, sqlite3_int64*>;
    methods.xLock = pass<&Io::xLock, false, int>;
    methods.xUnlock = pass<&Io::xUnlock, true, int>;
    methods.xCheckReservedLock = pass<&Io::xCheckReservedLock, false, int*>;
    methods.xFileControl = pass<&Io::xFileControl, false, int, void*>;
    methods.xSectorSize = pass<&Io::xSectorSize, false>;
    methods.xDeviceCharacteristics = pass<&Io::xDeviceCharacteristics, false>;
    methods.xShmMap = pass<&Io::xShmMap, false, int, int, int, void volatile**>;
    methods.xShmLock = pass<&Io::xShmLock, true, int, int, int>;
    methods.xShmBarrier = [](sqlite3_file* of) { behind(of)->pMethods->xShmBarrier(behind(of)); };
    methods.xShmUnmap = pass<&Io::xShmUnmap, false, int>;
    file->pMethods = &methods;
    return code;
  }

  static inline sqlite3_vfs* real_ = nullptr;
  static inline int left_ = 0;
};

/// `work` in a child that is killed at its `nth` step. True: it came to its end before. What it throws must
/// not get to the parent's tests, which the child is in the middle of, too.
template <class Work>
bool survives(int nth, Work work) {
  std::fflush(nullptr);  // or the child prints it once more
  const pid_t child = ::fork();
  if (child == 0) {
    KillingVfs::install(nth);
    try {
      work();
    } catch (const std::exception& error) {
      std::fprintf(stderr, "in the child: %s\n", error.what());
      ::_exit(1);
    }
    ::_exit(0);
  }
  int status = 0;
  ::waitpid(child, &status, 0);
  if (WIFEXITED(status) && WEXITSTATUS(status) != 0) throw std::runtime_error("the child failed");
  return WIFEXITED(status);
}

}  // namespace postern::store
