#include "box/layer_archive.h"

#include <algorithm>
#include <archive.h>
#include <archive_entry.h>
#include <cerrno>
#include <cstring>
#include <dlfcn.h>
#include <fmt/format.h>
#include <functional>
#include <locale.h>
#include <memory>
#include <string_view>
#include <sys/stat.h>
#include <unistd.h>

namespace postern::box {
namespace {

constexpr std::size_t block_bytes = 128 << 10;
constexpr std::string_view whiteout = ".wh.";
constexpr std::string_view opaque = ".wh..wh..opq";

/// libarchive and the nine libraries behind it are no business of a program that starts a sandbox.
struct Library {
  decltype(&::archive_read_new) create = nullptr;
  decltype(&::archive_read_free) destroy = nullptr;
  decltype(&::archive_read_support_filter_gzip) gzip = nullptr;
  decltype(&::archive_read_support_filter_bzip2) bzip2 = nullptr;
  decltype(&::archive_read_support_filter_xz) xz = nullptr;
  decltype(&::archive_read_support_filter_zstd) zstd = nullptr;
  decltype(&::archive_read_support_format_tar) tar = nullptr;
  decltype(&::archive_read_open_fd) open = nullptr;
  decltype(&::archive_read_next_header) next = nullptr;
  decltype(&::archive_read_data_block) data = nullptr;
  decltype(&::archive_error_string) error = nullptr;
  decltype(&::archive_entry_pathname) path = nullptr;
  decltype(&::archive_entry_hardlink) hard_link = nullptr;
  decltype(&::archive_entry_symlink) link = nullptr;
  decltype(&::archive_entry_filetype) type = nullptr;
  decltype(&::archive_entry_perm) mode = nullptr;
  decltype(&::archive_entry_size) size = nullptr;
  decltype(&::archive_entry_mtime) seconds = nullptr;
  decltype(&::archive_entry_mtime_nsec) nanoseconds = nullptr;

  bool load() {
    void* const library = ::dlopen("libarchive.so.13", RTLD_NOW | RTLD_LOCAL);
    const auto find = [library](auto& function, const char* name) {
      function = reinterpret_cast<std::remove_reference_t<decltype(function)>>(::dlsym(library, name));
      return function != nullptr;
    };
    return library && find(create, "archive_read_new") && find(destroy, "archive_read_free") &&
           find(gzip, "archive_read_support_filter_gzip") &&
           find(bzip2, "archive_read_support_filter_bzip2") && find(xz, "archive_read_support_filter_xz") &&
           find(zstd, "archive_read_support_filter_zstd") && find(tar, "archive_read_support_format_tar") &&
           find(open, "archive_read_open_fd") && find(next, "archive_read_next_header") &&
           find(data, "archive_read_data_block") && find(error, "archive_error_string") &&
           find(path, "archive_entry_pathname") && find(hard_link, "archive_entry_hardlink") &&
           find(link, "archive_entry_symlink") && find(type, "archive_entry_filetype") &&
           find(mode, "archive_entry_perm") && find(size, "archive_entry_size") &&
           find(seconds, "archive_entry_mtime") && find(nanoseconds, "archive_entry_mtime_nsec");
  }
};

Library& library() {
  static Library loaded;
  return loaded;
}

/// Names in pax headers are UTF-8, and libarchive turns them into the locale's characters.
class Utf8 {
 public:
  Utf8() : locale_(::newlocale(LC_CTYPE_MASK, "C.UTF-8", nullptr)) {
    if (locale_) before_ = ::uselocale(locale_);
  }
  ~Utf8() {
    if (!locale_) return;
    ::uselocale(before_);
    ::freelocale(locale_);
  }
  Utf8(const Utf8&) = delete;
  Utf8& operator=(const Utf8&) = delete;

 private:
  locale_t locale_, before_{};
};

class Reader {
 public:
  explicit Reader(const Fd& archive)
      : file_(archive.get()), archive_(library().create(), library().destroy) {}

  Result<void> open() {
    const Library& of = library();
    if (!archive_) return fail(Reason::overloaded, "there is no memory to read an archive");
    // Not all that libarchive knows: some of it runs programs, and some names files of the host.
    for (const auto support : {of.gzip, of.bzip2, of.xz, of.zstd, of.tar}) (void)support(archive_.get());
    if (::lseek(file_, 0, SEEK_SET) != 0)
      return fail(Reason::invalid_configuration, "the archive is no regular file");
    return checked(of.open(archive_.get(), file_, block_bytes));
  }

  /// nullptr: there is no more.
  Result<archive_entry*> next() {
    archive_entry* entry = nullptr;
    const int state = library().next(archive_.get(), &entry);
    if (state == ARCHIVE_EOF) return nullptr;
    if (auto good = checked(state); !good) return std::unexpected(std::move(good.error()));
    return entry;
  }

  /// The content of the entry, piece by piece, with holes between.
  Result<void> content(const std::function<Result<void>(std::string_view, std::int64_t)>& take) {
    for (;;) {
      const void* bytes = nullptr;
      std::size_t size = 0;
      la_int64_t at = 0;
      const int state = library().data(archive_.get(), &bytes, &size, &at);
      if (state == ARCHIVE_EOF) return {};
      if (auto good = checked(state); !good) return good;
      if (auto taken = take({static_cast<const char*>(bytes), size}, at); !taken) return taken;
    }
  }

 private:
  Result<void> checked(int state) {
    if (state == ARCHIVE_OK || state == ARCHIVE_WARN) return {};
    const char* said = library().error(archive_.get());
    return fail(Reason::invalid_configuration,
                fmt::format("the archive cannot be read: {:.200}", said ? said : "it is damaged"));
  }

  int file_;
  std::unique_ptr<archive, decltype(&::archive_read_free)> archive_;
};

std::string text(const char* said) { return said ? said : ""; }

std::string_view base_name(std::string_view path) {
  while (path.ends_with('/')) path.remove_suffix(1);
  return path.substr(path.rfind('/') + 1);
}

/// An entry's path, which is there, and is not beyond measure.
Result<std::string> path_of(archive_entry* entry) {
  std::string path = text(library().path(entry));
  if (path.empty() || path.size() >= 4096)
    return fail(Reason::invalid_configuration,
                "the archive has an entry without a name, or with too long a one");
  return path;
}

class Unpacker {
 public:
  Unpacker(const Fd& archive, LayerTree& tree) : archive_(archive), tree_(tree) {}

  /// Before anything of the layer itself is there: it removes what is below it, and nothing of its own.
  Result<void> remove_what_is_whited_out() {
    return each([&](archive_entry*, const std::string& path) -> Result<void> {
      const std::string_view name = base_name(path);
      if (!name.starts_with(whiteout)) return {};
      const std::string parent = path.substr(0, path.rfind(name));
      std::string removed;
      if (name != opaque) {
        if (name.starts_with(".wh..wh.")) return {};  // Of an older union file system, for itself.
        removed = name.substr(whiteout.size());
        if (removed.empty() || removed == "." || removed == "..")
          return fail(Reason::invalid_configuration, "a layer removes what has no name");
      }
      auto place = tree_.place(parent + removed, LayerTree::Missing::is_an_error);
      if (!place) return {};  // There is nothing to be removed. A path that leads out is refused later.
      return name == opaque ? tree_.remove_content(*place) : tree_.remove(*place);
    });
  }

  Result<void> unpack(Whiteouts whiteouts) {
    return each([&](archive_entry* entry, const std::string& path) -> Result<void> {
      auto place = tree_.place(path, LayerTree::Missing::make);
      if (!place) return std::unexpected(std::move(place.error()));
      if (whiteouts == Whiteouts::are_removals && place->name.starts_with(whiteout)) return {};
      return make(entry, *place);
    });
  }

 private:
  Result<void> each(const std::function<Result<void>(archive_entry*, const std::string&)>& visit) {
    reader_ = std::make_unique<Reader>(archive_);
    if (auto opened = reader_->open(); !opened) return opened;
    for (std::uint64_t count = 0;; ++count) {
      auto entry = reader_->next();
      if (!entry) return std::unexpected(std::move(entry.error()));
      if (!*entry) return {};
      auto path = path_of(*entry);
      if (!path) return std::unexpected(std::move(path.error()));
      if (auto visited = visit(*entry, *path); !visited) {
        if (visited.error().detail.find('\'') == std::string::npos)
          visited.error().detail += fmt::format(" (at '{:.200}')", *path);
        return visited;
      }
    }
  }

  Result<void> make(archive_entry* entry, const LayerTree::Place& place) {
    const Library& of = library();
    const auto mode = static_cast<mode_t>(of.mode(entry));
    const timespec modified{of.seconds(entry), std::clamp(of.nanoseconds(entry), 0L, 999'999'999L)};
    const mode_t type = of.type(entry);
    if (type == S_IFDIR) return tree_.make_directory(place, mode);
    if (place.name.empty())
      return fail(Reason::invalid_configuration, "the root of the archive is no directory");
    if (const char* target = of.hard_link(entry)) return tree_.make_hard_link(place, target);
    switch (type) {
      case S_IFREG: return make_file(entry, place, mode, modified);
      case S_IFLNK: return tree_.make_link(place, text(of.link(entry)), modified);
      case S_IFIFO: return tree_.make_pipe(place, mode);
      default: return tree_.budget().take_entry();  // Devices and sockets: a box has its own /dev.
    }
  }

  Result<void> make_file(archive_entry* entry, const LayerTree::Place& place, mode_t mode,
                         const timespec& modified) {
    auto file = tree_.make_file(place);
    if (!file) return std::unexpected(std::move(file.error()));
    auto written = reader_->content([&](std::string_view bytes, std::int64_t at) -> Result<void> {
      if (auto taken = tree_.budget().take_bytes(bytes.size()); !taken) return taken;
      while (!bytes.empty()) {
        const ssize_t size = ::pwrite(file->get(), bytes.data(), bytes.size(), at);
        if (size <= 0) return fail(Reason::overloaded, fmt::format("cannot write: {}", std::strerror(errno)));
        bytes.remove_prefix(static_cast<std::size_t>(size));
        at += size;
      }
      return {};
    });
    if (!written) return written;
    // A hole at the end.
    struct stat status{};
    if (::fstat(file->get(), &status) == 0 && status.st_size < library().size(entry) &&
        ::ftruncate(file->get(), library().size(entry)) != 0)
      return fail(Reason::invalid_configuration, fmt::format("cannot write: {}", std::strerror(errno)));
    return tree_.finish_file(*file, mode, modified);
  }

  const Fd& archive_;
  LayerTree& tree_;
  std::unique_ptr<Reader> reader_;
};

}  // namespace

Result<void> load_archive_library() {
  static const bool loaded = library().load();
  if (loaded) return {};
  return fail(Reason::invalid_configuration,
              "libarchive.so.13 is not installed on the server (Debian: apt-get install libarchive13)");
}

Result<void> unpack_archive(const Fd& archive, LayerTree& tree, Whiteouts whiteouts) {
  if (auto loaded = load_archive_library(); !loaded) return loaded;
  const Utf8 names;
  Unpacker unpacker(archive, tree);
  if (whiteouts == Whiteouts::are_removals)
    if (auto removed = unpacker.remove_what_is_whited_out(); !removed) return removed;
  return unpacker.unpack(whiteouts);
}

}  // namespace postern::box
