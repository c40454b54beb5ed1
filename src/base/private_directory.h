#pragma once
// A directory for keys: ours, and closed to everybody else. Processes that start at once take turns in it.

#include <string>
#include <string_view>

#include "base/fd.h"
#include "base/result.h"

namespace postern {

/// The directory alone: made (mode 0700) when it is absent. For files whose users take turns by themselves.
/// Errors as PrivateDirectory::open().
Result<Fd> open_private_directory(std::string path);

/// Whether `directory` has a file of that name. Errors: invalid_configuration for one of another owner, one
/// open to others, and what is no file or a symbolic link. `path`: how errors call the directory.
Result<bool> has_private_file(const Fd& directory, const std::string& path, const std::string& name);

class PrivateDirectory {
 public:
  static constexpr std::size_t file_bytes_max = 64 * 1024;  // keys are about 1 KiB

  /// Makes it (mode 0700) when it is absent, and waits until no other process holds it; held until this
  /// object goes, by death too. Errors: invalid_configuration, with a sentence, for a directory of another
  /// owner, open to others, or a symbolic link; internal for failing I/O.
  static Result<PrivateDirectory> open(const std::string& path);

  /// Without waiting for others, who may replace files meanwhile: to read only.
  static Result<PrivateDirectory> look_into(const std::string& path);

  std::string path_of(std::string_view name) const;
  /// False: there is no such file. `out` is sized once, so that no growth leaves a copy behind; its owner
  /// wipes it. Errors as open(), for the file.
  Result<bool> read(const std::string& name, std::string& out) const;
  /// The file is there whole and on disk, or as it was.
  Result<void> write(const std::string& name, std::string_view bytes) const;
  /// `from` takes the place of `to`: on disk when it is answered, and before that as it was.
  Result<void> rename(const std::string& from, const std::string& to) const;

 private:
  PrivateDirectory(std::string path, Fd directory, Fd lock)
      : path_(std::move(path)), directory_(std::move(directory)), lock_(std::move(lock)) {}
  std::string path_;
  Fd directory_;
  Fd lock_;
};

}  // namespace postern
