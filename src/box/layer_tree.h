#pragma once
// A tree of files that is made from what hostile archives and hostile boxes say: every name stays in it,
// whatever links there are, and what may be written has a limit. Used by one process that is the only one to
// write there (layer_maker.h).

#include <cstdint>
#include <string>
#include <string_view>
#include <sys/types.h>
#include <time.h>

#include "base/fd.h"
#include "base/result.h"

namespace postern::box {

/// What may still be written. Each entry costs its content and 4 KiB, about what a file system needs.
class LayerBudget {
 public:
  LayerBudget(std::uint64_t bytes_max, std::uint64_t entries_max)
      : bytes_max_(bytes_max), entries_max_(entries_max) {}
  Result<void> take_entry();
  Result<void> take_bytes(std::uint64_t bytes);
  std::uint64_t bytes() const { return bytes_; }
  std::uint64_t entries() const { return entries_; }

 private:
  std::uint64_t bytes_max_, entries_max_;
  std::uint64_t bytes_ = 0, entries_ = 0;
};

class LayerTree {
 public:
  /// Both outlive it. `scratch`: a directory of the same file system, where what is replaced goes.
  LayerTree(const Fd& root, const Fd& scratch, LayerBudget& budget)
      : root_(root.get()), scratch_(scratch.get()), budget_(budget) {}

  /// Where an entry belongs: an open directory of the tree and a name in it.
  struct Place {
    Fd parent;
    std::string name;  ///< Empty: the root itself.
  };
  enum class Missing : std::uint8_t { make, is_an_error };

  /// "./a//b" and "/a/b" are "a/b"; with ".." a path is refused. Links on the way lead to where they do for a
  /// process whose root this tree is.
  Result<Place> place(std::string_view path, Missing missing);

  // Whatever is there is replaced, but a directory by a directory. `mode` is what chmod(2) takes.
  Result<void> make_directory(const Place& place, mode_t mode);
  /// Open for writing; mode and time by finish_file().
  Result<Fd> make_file(const Place& place);
  Result<void> finish_file(const Fd& file, mode_t mode, const timespec& modified);
  Result<void> make_link(const Place& place, const std::string& target, const timespec& modified);
  Result<void> make_pipe(const Place& place, mode_t mode);
  /// Another name of what is at `target` in the tree.
  Result<void> make_hard_link(const Place& place, std::string_view target);

  /// Moves it to the scratch directory, whatever it is. No error when it is absent.
  Result<void> remove(const Place& place);
  /// All that is in a directory. No error when it is none.
  Result<void> remove_content(const Place& place);

  LayerBudget& budget() { return budget_; }

 private:
  Result<Fd> make_directories(std::string_view path);
  Result<void> remove_at(int parent, const std::string& name);

  int root_, scratch_;
  LayerBudget& budget_;
  std::uint64_t removed_ = 0;
};

}  // namespace postern::box
