#include "box/layer_maker.h"

#include <algorithm>
#include <array>
#include <cap-ng.h>
#include <cerrno>
#include <cstring>
#include <dirent.h>
#include <fcntl.h>
#include <fmt/format.h>
#include <linux/filter.h>
#include <linux/openat2.h>
#include <linux/seccomp.h>
#include <map>
#include <memory>
#include <openssl/evp.h>
#include <optional>
#include <sched.h>
#include <signal.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "box/agent/protocol.h"
#include "box/box_directory.h"
#include "box/holder.h"
#include "box/image_json.h"
#include "box/inner_process.h"
#include "box/keeper_protocol.h"
#include "box/layer_archive.h"
#include "box/layer_copy.h"
#include "box/layer_tree.h"
#include "sandbox/syscall_filter.h"

namespace postern::box {
namespace {

// xz's largest window takes some 100 MiB, zstd's 128 MiB.
constexpr rlim_t memory_bytes_max = std::uint64_t{1} << 30;
constexpr rlim_t processor_seconds_max = 3600;
constexpr std::size_t blobs_max = 900;  // of a layout that is a directory; all are open at once
constexpr int indexes_max = 2;          // an index of an index is what registries have

std::unexpected<Error> fail_errno(std::string_view doing) {
  return fail(errno == ENOSPC || errno == EDQUOT ? Reason::overloaded : Reason::invalid_configuration,
              fmt::format("cannot {}: {}", doing, std::strerror(errno)));
}

std::unexpected<Error> wrong(std::string detail) {
  return fail(Reason::invalid_configuration, std::move(detail));
}

bool is_directory(const Fd& fd) {
  struct stat status{};
  return ::fstat(fd.get(), &status) == 0 && S_ISDIR(status.st_mode);
}

Result<Fd> make_directory(const Fd& parent, const char* name) {
  if (::mkdirat(parent.get(), name, 0755) != 0 && errno != EEXIST) return fail_errno("make a directory");
  Fd made(::openat(parent.get(), name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC));
  if (!made || ::fchmod(made.get(), 0755) != 0) return fail_errno("make a directory");
  return made;
}

// ---------------------------------------------------------------------------------------------------------------
// Layouts of images

/// The files of an OCI layout or of what `docker save` writes. Those of an operator's directory are opened
/// while this process is still the server's user, for they may be closed to the boxes' owner.
class Layout {
 public:
  explicit Layout(const Fd& directory) : directory_(directory.get()) {}

  Result<void> open_all() {
    for (const char* name : {"index.json", "manifest.json"}) add(name);
    constexpr const char* blobs = "blobs/sha256";
    const Fd listed = open_beneath(blobs, O_RDONLY | O_DIRECTORY);
    const std::unique_ptr<DIR, decltype([](DIR* listing) { ::closedir(listing); })> listing(
        listed ? ::fdopendir(::fcntl(listed.get(), F_DUPFD_CLOEXEC, 3)) : nullptr);
    while (const dirent* entry = listing ? ::readdir(listing.get()) : nullptr) {
      if (entry->d_name[0] == '.') continue;
      if (opened_.size() >= blobs_max)
        return wrong(
            fmt::format("the image's directory has more than {} blobs; make an archive of it", blobs_max));
      add(fmt::format("{}/{}", blobs, entry->d_name));
    }
    return {};
  }

  bool has(const std::string& path) const { return opened_.contains(path) || open_beneath(path, O_PATH); }

  Result<Fd> open(const std::string& path) const {
    Fd file;
    if (const auto found = opened_.find(path); found != opened_.end())
      file = Fd(::fcntl(found->second.get(), F_DUPFD_CLOEXEC, 3));
    else
      file = open_beneath(path, O_RDONLY | O_NONBLOCK);
    struct stat status{};
    if (!file) return wrong(fmt::format("the image has no file '{:.200}' that can be read", path));
    if (::fstat(file.get(), &status) != 0 || !S_ISREG(status.st_mode))
      return wrong(fmt::format("'{:.200}' of the image is no file", path));
    return file;
  }

  /// Opened, and found to be what its digest says.
  Result<Fd> open(const ImageBlob& blob) const {
    auto file = open(blob.path);
    if (!file || blob.digest.empty()) return file;
    if (auto proved = prove(*file, blob); !proved) return std::unexpected(std::move(proved.error()));
    return file;
  }

  Result<std::string> read(const ImageBlob& blob) const {
    if (blob.size > image_json_bytes_max) return wrong("the image's JSON is too large");
    auto file = open(blob);
    if (!file) return std::unexpected(std::move(file.error()));
    std::string text(image_json_bytes_max + 1, '\0');
    std::size_t have = 0;
    for (ssize_t size = 0;
         have < text.size() &&
         (size = ::pread(file->get(), text.data() + have, text.size() - have, static_cast<off_t>(have))) > 0;)
      have += static_cast<std::size_t>(size);
    if (have > image_json_bytes_max) return wrong("the image's JSON is too large");
    text.resize(have);
    return text;
  }

 private:
  Fd open_beneath(const std::string& path, int flags) const {
    open_how how{};
    how.flags = static_cast<std::uint64_t>(flags | O_CLOEXEC);
    how.resolve = RESOLVE_BENEATH | RESOLVE_NO_MAGICLINKS;
    return Fd(static_cast<int>(::syscall(SYS_openat2, directory_, path.c_str(), &how, sizeof how)));
  }

  void add(const std::string& path) {
    if (Fd file = open_beneath(path, O_RDONLY | O_NONBLOCK)) opened_[path] = std::move(file);
  }

  static Result<void> prove(const Fd& file, const ImageBlob& blob) {
    const std::unique_ptr<EVP_MD_CTX, decltype(&EVP_MD_CTX_free)> digest(EVP_MD_CTX_new(), EVP_MD_CTX_free);
    if (!digest || EVP_DigestInit_ex(digest.get(), EVP_sha256(), nullptr) != 1)
      return fail(Reason::internal, "cannot make a digest");
    std::string piece(256 << 10, '\0');
    std::uint64_t at = 0;
    for (ssize_t size = 0; at <= blob.size && (size = ::pread(file.get(), piece.data(), piece.size(),
                                                              static_cast<off_t>(at))) > 0;
         at += static_cast<std::uint64_t>(size))
      (void)EVP_DigestUpdate(digest.get(), piece.data(), static_cast<std::size_t>(size));
    std::array<unsigned char, EVP_MAX_MD_SIZE> sum{};
    unsigned length = 0;
    (void)EVP_DigestFinal_ex(digest.get(), sum.data(), &length);
    std::string digits;
    for (unsigned i = 0; i < length; ++i) digits += fmt::format("{:02x}", sum[i]);
    if (at == blob.size && digits == blob.digest) return {};
    return wrong(fmt::format("the image's blob sha256:{} is not what its digest says", blob.digest));
  }

  int directory_;
  std::map<std::string, Fd> opened_;
};

// ---------------------------------------------------------------------------------------------------------------
// The work

class Maker {
 public:
  Maker(const LayerJob& job, const Fd& source, const Fd& directory, std::optional<Layout> layout)
      : job_(job),
        source_(source),
        directory_(directory),
        layout_(std::move(layout)),
        budget_(job.bytes_max, job.entries_max) {}

  Result<MadeLayer> make() {
    for (auto [name, into] : {std::pair("work", &work_), {"root", &root_}}) {
      auto made = make_directory(directory_, name);
      if (!made) return std::unexpected(std::move(made.error()));
      *into = std::move(*made);
    }
    auto scratch = make_directory(work_, "replaced");
    if (!scratch) return std::unexpected(std::move(scratch.error()));
    scratch_ = std::move(*scratch);
    auto filled = fill();
    if (!filled) return std::unexpected(std::move(filled.error()));
    made_.bytes = budget_.bytes();
    scratch_.reset();
    if (auto emptied = empty_directory(work_); !emptied) return std::unexpected(std::move(emptied.error()));
    (void)::unlinkat(directory_.get(), "work", AT_REMOVEDIR);
    return std::move(made_);
  }

 private:
  Result<void> fill() {
    LayerTree tree(root_, scratch_, budget_);
    switch (job_.source) {
      case LayerSource::tar: return unpack_archive(source_, tree, Whiteouts::are_files);
      case LayerSource::image:
        return is_directory(source_) ? fill_from_layout() : fill_from_archived_layout();
      case LayerSource::directory: return copy_tree(source_, root_, budget_, Overlay::is_none);
      case LayerSource::box: return copy_box();
    }
    return fail(Reason::internal, "there is no such source of a layer");
  }

  /// Absent where a box has never run.
  Result<void> copy_box() {
    for (const char* name : {"root", "usr"}) {
      auto to = make_directory(directory_, name);
      if (!to) return std::unexpected(std::move(to.error()));
      const Fd from(::openat(source_.get(), name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC));
      if (!from && errno == ENOENT) continue;
      if (!from) return fail_errno("open the sandbox's files");
      if (auto copied = copy_tree(from, *to, budget_, Overlay::is_upper); !copied) return copied;
    }
    return {};
  }

  /// An archive has to be unpacked before its files can be found by name.
  Result<void> fill_from_archived_layout() {
    auto place = make_directory(work_, "layout");
    if (!place) return std::unexpected(std::move(place.error()));
    LayerBudget budget(job_.bytes_max, job_.entries_max);
    LayerTree tree(*place, scratch_, budget);
    if (auto unpacked = unpack_archive(source_, tree, Whiteouts::are_files); !unpacked) return unpacked;
    layout_.emplace(*place);
    return fill_from_layout();
  }

  Result<void> fill_from_layout() {
    auto manifest = layout_->has("index.json") ? read_oci() : read_saved();
    if (!manifest) return std::unexpected(std::move(manifest.error()));
    auto json = layout_->read(manifest->config);
    if (!json) return std::unexpected(std::move(json.error()));
    auto config = read_image_config(*json);
    if (!config) return std::unexpected(std::move(config.error()));
    made_.environment = std::move(config->environment);
    made_.work_directory = std::move(config->work_directory);
    made_.user = std::move(config->user);
    LayerTree tree(root_, scratch_, budget_);
    for (const ImageBlob& layer : manifest->layers) {
      auto blob = layout_->open(layer);
      if (!blob) return std::unexpected(std::move(blob.error()));
      if (auto unpacked = unpack_archive(*blob, tree, Whiteouts::are_removals); !unpacked) return unpacked;
    }
    return {};
  }

  Result<ImageManifest> read_oci() {
    auto json = layout_->read({"index.json", {}, 0});
    std::string_view tag = job_.tag;
    for (int i = 0; json && i <= indexes_max; ++i, tag = {}) {
      auto reference = read_image_index(*json, tag);
      if (!reference) return std::unexpected(std::move(reference.error()));
      json = layout_->read(reference->blob);
      if (!json || reference->is_index) continue;
      made_.digest = "sha256:" + reference->blob.digest;
      return read_image_manifest(*json);
    }
    if (!json) return std::unexpected(std::move(json.error()));
    return wrong("the image's indexes lead nowhere");
  }

  Result<ImageManifest> read_saved() {
    if (!layout_->has("manifest.json"))
      return wrong(
          "it has neither index.json nor manifest.json: it is no image. A root file system in an "
          "archive is tar:PATH, one in a directory dir:PATH");
    auto json = layout_->read({"manifest.json", {}, 0});
    if (!json) return std::unexpected(std::move(json.error()));
    return read_docker_manifest(*json, job_.tag);
  }

  const LayerJob& job_;
  const Fd& source_;
  const Fd& directory_;
  std::optional<Layout> layout_;
  LayerBudget budget_;
  Fd work_, root_, scratch_;
  MadeLayer made_;
};

/// While the server's files can still be opened.
Result<std::optional<Layout>> open_layout(const LayerJob& job, const Fd& source) {
  if (job.source != LayerSource::image || !is_directory(source)) return std::nullopt;
  Layout layout(source);
  if (auto opened = layout.open_all(); !opened) return std::unexpected(std::move(opened.error()));
  return layout;
}

// ---------------------------------------------------------------------------------------------------------------
// The process

/// Nothing of the host has a name here any more: what is open is all that there is.
Result<void> leave_files() {
  if (::mount("tmpfs", "/tmp", "tmpfs", MS_NOSUID | MS_NODEV | MS_NOEXEC, "mode=0700,size=64k") != 0 ||
      ::chdir("/tmp") != 0 || ::syscall(SYS_pivot_root, ".", ".") != 0 || ::umount2(".", MNT_DETACH) != 0 ||
      ::mount(nullptr, "/", nullptr, MS_REMOUNT | MS_BIND | MS_RDONLY | MS_NOSUID | MS_NODEV | MS_NOEXEC,
              nullptr) != 0 ||
      ::chdir("/") != 0)
    return fail_errno("leave the host's files");
  return {};
}

/// Those over files of its own: an archive may close a directory before it is filled.
Result<void> drop_capabilities() {
  capng_clear(CAPNG_SELECT_BOTH);
  for (const unsigned kept : {CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH, CAP_FOWNER, CAP_FSETID})
    capng_update(CAPNG_ADD, static_cast<capng_type_t>(CAPNG_EFFECTIVE | CAPNG_PERMITTED), kept);
  if (capng_apply(CAPNG_SELECT_BOTH) != 0) return fail(Reason::internal, "cannot drop capabilities");
  return {};
}

Result<void> filter_syscalls(const Fd& program) {
  std::array<sock_filter, BPF_MAXINSNS> steps{};
  const ssize_t size = ::pread(program.get(), steps.data(), sizeof steps, 0);
  if (size <= 0) return fail(Reason::internal, "cannot read the seccomp filter");
  const sock_fprog loaded{static_cast<unsigned short>(static_cast<std::size_t>(size) / sizeof(sock_filter)),
                          steps.data()};
  if (::prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0 ||
      ::syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0, &loaded) != 0)
    return fail_errno("load the seccomp filter");
  return {};
}

void limit_resources() {
  const rlimit memory{memory_bytes_max, memory_bytes_max};
  const rlimit time{processor_seconds_max, processor_seconds_max};
  ::setrlimit(RLIMIT_CPU, &time);
#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
  ::setrlimit(RLIMIT_AS, &memory);
#else
  (void)memory;
#endif
  rlimit files{};
  if (::getrlimit(RLIMIT_NOFILE, &files) == 0) {
    files.rlim_cur = std::min<rlim_t>(files.rlim_max, 4096);
    ::setrlimit(RLIMIT_NOFILE, &files);
  }
}

Result<MadeLayer> make_confined(const LayerJob& job, const Fd& source, const Fd& directory, InnerEnds ends) {
  limit_resources();
  auto filter = sandbox::syscall_filter();
  if (!filter) return std::unexpected(std::move(filter.error()));
  auto layout = open_layout(job, source);
  if (!layout) return std::unexpected(std::move(layout.error()));
  for (const auto step : {&part_from_mounts, &become_owner, &leave_files, &drop_capabilities})
    if (auto done = step(); !done) return std::unexpected(std::move(done.error()));
  die_with_outer(ends.outer);  // Once more: becoming another user cleared it.
  if (auto filtered = filter_syscalls(*filter); !filtered)
    return std::unexpected(std::move(filtered.error()));
  ::umask(022);
  return Maker(job, source, directory, std::move(*layout)).make();
}

void answer_with(int answer, const Result<MadeLayer>& made) {
  if (!made) return send_failure(answer, made.error());
  std::string bytes(1, static_cast<char>(Answer::made));
  bytes += encode(*made);
  (void)::send(answer, bytes.data(), bytes.size(), MSG_NOSIGNAL);
}

Result<pid_t> start(int answer, const Fd& source, const LayerJob& job, Fd& keeps_alive) {
  if (auto loaded = load_archive_library(); !loaded) return std::unexpected(std::move(loaded.error()));
  (void)EVP_sha256();
  auto directory = take_box_directory(job.directory);
  if (!directory) return std::unexpected(std::move(directory.error()));
  auto inner = start_inner(CLONE_NEWNET | CLONE_NEWIPC | CLONE_NEWUTS, keeps_alive, [&](InnerEnds ends) {
    answer_with(answer, make_confined(job, source, *directory, ends));
    ::_exit(0);
  });
  (void)directory->release();  // It stays taken for as long as this process lives.
  return inner;
}

}  // namespace

std::string encode(const MadeLayer& made) {
  std::string out;
  wire_detail::put_number(made.bytes, out);
  for (const std::string* text : {&made.digest, &made.work_directory, &made.user})
    wire_detail::put(*text, out);
  wire_detail::put(static_cast<std::uint32_t>(made.environment.size()), out);
  for (const std::string& variable : made.environment) wire_detail::put(variable, out);
  return out;
}

bool decode(std::string_view bytes, MadeLayer& made) {
  if (!wire_detail::take_number(bytes, made.bytes)) return false;
  for (std::string* text : {&made.digest, &made.work_directory, &made.user})
    if (!wire_detail::take(bytes, *text)) return false;
  return wire_detail::take(bytes, made.environment) && bytes.empty();
}

Result<MadeLayer> make_layer(const LayerJob& job, const Fd& source, const Fd& directory) {
  auto layout = open_layout(job, source);
  if (!layout) return std::unexpected(std::move(layout.error()));
  return Maker(job, source, directory, std::move(*layout)).make();
}

void run_layer_maker(int answer, Fd source, const LayerJob& job, pid_t keeper) {
  die_with(keeper);
  ::prctl(PR_SET_DUMPABLE, 0);
  ::prctl(PR_SET_NAME, "postern-layer");
  keep_only({answer, source.release()});
  const Fd taken_source(4);
  let_signals_end();
  Fd keeps_alive;
  const auto inner = start(3, taken_source, job, keeps_alive);
  if (!inner) {
    send_failure(3, inner.error());
    ::_exit(1);
  }
  ::close(3);
  stay_with(*inner);
}

}  // namespace postern::box
