#include "box/layer_maker.h"

#include <fcntl.h>
#include <filesystem>
#include <fmt/format.h>
#include <fstream>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <iterator>
#include <openssl/evp.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/xattr.h>
#include <unistd.h>

#include "box/layer_archive.h"
#include "box/tar_test_kit.h"

namespace postern::box {
namespace {

namespace fs = std::filesystem;
using testing::AllOf;
using testing::ElementsAre;
using testing::HasSubstr;

std::string content(const fs::path& file) {
  std::ifstream in(file, std::ios::binary);
  return {std::istreambuf_iterator<char>(in), {}};
}

std::string sha256(const std::string& bytes) {
  unsigned char sum[EVP_MAX_MD_SIZE];
  unsigned length = 0;
  EVP_Digest(bytes.data(), bytes.size(), sum, &length, EVP_sha256(), nullptr);
  std::string out;
  for (unsigned i = 0; i < length; ++i) out += fmt::format("{:02x}", sum[i]);
  return out;
}

class LayerTest : public testing::Test {
 protected:
  LayerTest() {
    std::string pattern = fs::temp_directory_path() / "postern-layer-XXXXXX";
    place_ = ::mkdtemp(pattern.data());
    fs::create_directories(place_ / "made");
    std::ofstream(place_ / "outside") << "outside";
  }
  ~LayerTest() override {
    EXPECT_EQ(content(place_ / "outside"), "outside");  // Whatever was tried.
    fs::remove_all(place_);
  }

  void write(const fs::path& path, const std::string& bytes) {
    fs::create_directories((place_ / path).parent_path());
    std::ofstream(place_ / path, std::ios::binary) << bytes;
  }
  Result<MadeLayer> make(LayerSource source, const fs::path& from, const std::string& tag = "",
                         std::uint64_t bytes_max = 64 << 20, std::uint64_t entries_max = 10'000) {
    fs::remove_all(place_ / "made");
    fs::create_directories(place_ / "made");
    const Fd opened(::open((place_ / from).c_str(), O_RDONLY | O_CLOEXEC));
    const Fd into(::open((place_ / "made").c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
    return make_layer({source, place_ / "made", tag, bytes_max, entries_max}, opened, into);
  }
  Result<MadeLayer> unpack(const Tar& tar) {
    write("a.tar", tar.bytes());
    return make(LayerSource::tar, "a.tar");
  }
  std::string refusal(const Tar& tar) {
    const auto made = unpack(tar);
    return made ? "none" : made.error().detail;
  }
  fs::path root() const { return place_ / "made/root"; }

  /// A layout as registries' tools write it. Returns the manifest's digest.
  std::string write_layout(const std::vector<std::string>& layers, const std::string& tag = "latest",
                           const fs::path& to = "layout") {
    const auto blob = [&](const std::string& bytes) {
      write(to / "blobs/sha256" / sha256(bytes), bytes);
      return fmt::format(R"({{"mediaType": "x", "digest": "sha256:{}", "size": {}}})", sha256(bytes),
                         bytes.size());
    };
    std::string list;
    for (const std::string& layer : layers) list += (list.empty() ? "" : ", ") + blob(layer);
    const std::string config = blob(
        R"({"config": {"Env": ["PATH=/image/bin", "COLOUR=blue"], "WorkingDir": "/srv", "User": "app"}})");
    const std::string manifest =
        fmt::format(R"({{"schemaVersion": 2, "config": {}, "layers": [{}]}})", config, list);
    std::string entry = blob(manifest);
    entry.insert(entry.size() - 1,
                 fmt::format(R"(, "annotations": {{"org.opencontainers.image.ref.name": "{}"}})", tag));
    write(to / "index.json", R"({"schemaVersion": 2, "manifests": [)" + entry + "]}");
    write(to / "oci-layout", R"({"imageLayoutVersion": "1.0.0"})");
    return "sha256:" + sha256(manifest);
  }

  fs::path place_;
};

TEST_F(LayerTest, ARootFileSystemIsUnpacked) {
  Tar tar;
  tar.directory("./").directory("./bin").file("./bin/tool", "run me", 04755).link("./sh", "bin/tool");
  tar.hard_link("./same", "bin/tool").file("/absolute/path", "a").file("much/deeper/than/its/folders", "d");
  tar.directory("closed", 0500).file("closed/inside", "i").entry('6', "pipe").file(".wh.kept", "a file");
  const std::string long_name = std::string(120, 'n') + "/" + std::string(120, 'm');
  tar.file(long_name, "long").file("gr\xc3\xbcn", "utf-8").file("r\xfc", "latin-1");
  const auto made = unpack(tar);
  ASSERT_TRUE(made) << made.error().detail;
  struct stat status{};
  ASSERT_EQ(::stat((root() / "bin/tool").c_str(), &status), 0);
  EXPECT_EQ(status.st_mode & 07777, 04755u);
  EXPECT_EQ(status.st_nlink, 2u);
  EXPECT_EQ(status.st_uid, ::geteuid());
  EXPECT_EQ(status.st_mtime, 1'000'000'000);
  EXPECT_EQ(fs::read_symlink(root() / "sh"), "bin/tool");
  EXPECT_EQ(content(root() / "absolute/path"), "a");
  EXPECT_EQ(content(root() / "much/deeper/than/its/folders"), "d");
  EXPECT_EQ(content(root() / "closed/inside"), "i");
  EXPECT_TRUE(fs::is_fifo(root() / "pipe"));
  EXPECT_EQ(content(root() / ".wh.kept"), "a file");
  EXPECT_EQ(content(root() / long_name), "long");
  EXPECT_EQ(content(root() / "gr\xc3\xbcn"), "utf-8");
  EXPECT_EQ(content(root() / "r\xfc"), "latin-1");
  EXPECT_FALSE(fs::exists(place_ / "made/work"));
  EXPECT_GE(made->bytes, 10 * 4096u);
}

TEST_F(LayerTest, NothingLeadsOutOfIt) {
  EXPECT_THAT(refusal(Tar().file("../outside", "x")), HasSubstr("leads out"));
  EXPECT_THAT(refusal(Tar().file("a/../../outside", "x")), HasSubstr("leads out"));
  EXPECT_THAT(refusal(Tar().hard_link("a", "../../outside")), HasSubstr("leads out"));
  std::string up = place_.string();
  for (int i = 0; i < 12; ++i) up.insert(0, i == 0 ? ".." : "../");
  // A link is followed as in the system that this will be.
  ASSERT_TRUE(
      unpack(Tar().link("out", place_.string()).file("b", "b").file("in/" + place_.string() + "/c", "c")));
  EXPECT_NE(refusal(Tar().link("out", place_.string()).file("out/outside", "x")), "none");
  EXPECT_NE(refusal(Tar().link("out", up).file("out/outside", "x")), "none");
  EXPECT_NE(refusal(Tar().link("out", up).hard_link("a", "out/outside")), "none");
  EXPECT_NE(refusal(Tar()
                        .link("out", place_.string() + "/outside")
                        .hard_link("a", "out")
                        .file("a", "x")
                        .file("out/x", "y")),
            "none");
  const auto replaced = unpack(Tar().link("out", place_.string() + "/outside").file("out", "x"));
  ASSERT_TRUE(replaced);
  EXPECT_EQ(content(root() / "out"), "x");
  ASSERT_TRUE(
      unpack(Tar().directory("var").link("var/run", "/run").directory("run").file("var/run/pid", "1")));
  EXPECT_EQ(content(root() / "run/pid"), "1");
  ASSERT_TRUE(unpack(Tar().link("d", "/").directory("d").file("d/e", "e")));
  EXPECT_EQ(content(root() / "d/e"), "e");
}

TEST_F(LayerTest, DevicesAndOtherUsersAreLeftOut) {
  ASSERT_TRUE(unpack(Tar().entry('3', "sda").entry('4', "null").file("a", "a")));
  EXPECT_FALSE(fs::exists(root() / "sda"));
  EXPECT_FALSE(fs::exists(root() / "null"));
  EXPECT_EQ(content(root() / "a"), "a");
}

TEST_F(LayerTest, BombsEndAtTheirLimits) {
  Tar many;
  for (int i = 0; i < 50; ++i) many.file(fmt::format("f{}", i), "");
  write("a.tar", many.bytes());
  EXPECT_THAT(make(LayerSource::tar, "a.tar", "", 64 << 20, 49).error().detail,
              HasSubstr("more than 49 files"));
  EXPECT_THAT(make(LayerSource::tar, "a.tar", "", 40 * 4096).error().detail, HasSubstr("fs_capacity_bytes"));
  write("a.tar", Tar().file("big", std::string(3 << 20, 'x')).bytes());
  EXPECT_THAT(make(LayerSource::tar, "a.tar", "", 1 << 20).error().detail, HasSubstr("fs_capacity_bytes"));
  std::string deep;
  for (int i = 0; i < 3000; ++i) deep += "d/";
  EXPECT_NE(refusal(Tar().file(deep + "f", "x")), "none");
}

TEST_F(LayerTest, WhatIsNoArchiveIsRefused) {
  for (const std::string& bytes : {std::string(), std::string(5000, 'x'), std::string("\x1f\x8b\x08", 3),
                                   Tar().file("a", std::string(5000, 'a')).bytes().substr(0, 3000)}) {
    write("a.tar", bytes);
    EXPECT_FALSE(make(LayerSource::tar, "a.tar")) << bytes.size();
  }
  EXPECT_THAT(make(LayerSource::image, "a.tar").error().detail, HasSubstr("cannot be read"));
  write("a.tar", Tar().file("a", "a").bytes());
  EXPECT_THAT(make(LayerSource::image, "a.tar").error().detail, HasSubstr("tar:PATH"));
}

TEST_F(LayerTest, AnImagesLayersLieOnEachOther) {
  const Tar lower = Tar()
                        .file("kept", "1")
                        .file("gone", "1")
                        .file("changed", "old")
                        .file("hidden/a", "1")
                        .file("tree/b/c", "1");
  const Tar upper = Tar()
                        .file("changed", "new")
                        .file(".wh.gone", "")
                        .file("hidden/new", "2")
                        .file("hidden/.wh..wh..opq", "")
                        .file(".wh.tree", "")
                        .file("tree", "now a file");
  const std::string digest = write_layout({lower.bytes(), upper.bytes()});
  const auto made = make(LayerSource::image, "layout");
  ASSERT_TRUE(made) << made.error().detail;
  EXPECT_EQ(content(root() / "kept"), "1");
  EXPECT_EQ(content(root() / "changed"), "new");
  EXPECT_FALSE(fs::exists(root() / "gone"));
  EXPECT_FALSE(fs::exists(root() / ".wh.gone"));
  EXPECT_FALSE(fs::exists(root() / "hidden/a"));
  EXPECT_EQ(content(root() / "hidden/new"), "2");  // Although the removal comes after it.
  EXPECT_EQ(content(root() / "tree"), "now a file");
  EXPECT_THAT(made->environment, ElementsAre("PATH=/image/bin", "COLOUR=blue"));
  EXPECT_EQ(made->work_directory, "/srv");
  EXPECT_EQ(made->user, "app");
  EXPECT_EQ(made->digest, digest);
  EXPECT_THAT(make(LayerSource::image, "layout", "other").error().detail,
              HasSubstr("no tag 'other', but: latest"));
}

TEST_F(LayerTest, ALayersRemovalsStayInIt) {
  for (const char* name : {".wh...", ".wh..", ".wh."}) {
    write_layout({Tar().file("a", "1").bytes(), Tar().file(name, "").bytes()});
    EXPECT_FALSE(make(LayerSource::image, "layout")) << name;
  }
  write_layout({Tar().link("out", place_.string()).bytes(), Tar().file("out/.wh.outside", "").bytes()});
  EXPECT_FALSE(make(LayerSource::image, "layout"));
  write_layout({Tar().link("out", place_.string()).bytes(), Tar().file("out/.wh..wh..opq", "").bytes()});
  EXPECT_FALSE(make(LayerSource::image, "layout"));
}

TEST_F(LayerTest, ABlobThatIsNotWhatItsDigestSaysIsRefused) {
  const std::string layer = Tar().file("a", "1").bytes(), other = Tar().file("a", "2").bytes();
  write_layout({layer});
  write(fs::path("layout/blobs/sha256") / sha256(layer), other);
  EXPECT_THAT(make(LayerSource::image, "layout").error().detail, HasSubstr("not what its digest says"));
  write(fs::path("layout/blobs/sha256") / sha256(layer), layer + "x");
  EXPECT_THAT(make(LayerSource::image, "layout").error().detail, HasSubstr("not what its digest says"));
  fs::remove(place_ / "layout/blobs/sha256" / sha256(layer));
  fs::create_symlink(place_ / "outside", place_ / "layout/blobs/sha256" / sha256(layer));
  EXPECT_THAT(make(LayerSource::image, "layout").error().detail, HasSubstr("no file"));
}

TEST_F(LayerTest, ArchivesOfImagesAreRead) {
  const std::string layer = Tar().file("a", "1").bytes();
  write_layout({layer});
  Tar whole;
  for (const auto& entry : fs::recursive_directory_iterator(place_ / "layout"))
    if (entry.is_regular_file())
      whole.file(fs::relative(entry.path(), place_ / "layout").string(), content(entry.path()));
  write("image.tar", whole.bytes());
  auto made = make(LayerSource::image, "image.tar");
  ASSERT_TRUE(made) << made.error().detail;
  EXPECT_EQ(content(root() / "a"), "1");
  EXPECT_FALSE(fs::exists(place_ / "made/work"));

  Tar saved;
  saved.file("x/layer.tar", layer)
      .link("y/layer.tar", "../x/layer.tar")
      .file("c.json", R"({"config": {"Env": ["A=b"]}})");
  saved.file("manifest.json",
             R"([{"Config": "c.json", "RepoTags": ["a:1"], "Layers": ["x/layer.tar", "y/layer.tar"]}])");
  write("saved.tar", saved.bytes());
  made = make(LayerSource::image, "saved.tar", "1");
  ASSERT_TRUE(made) << made.error().detail;
  EXPECT_THAT(made->environment, ElementsAre("A=b"));
  EXPECT_EQ(content(root() / "a"), "1");

  Tar evil;
  evil.link("x/layer.tar", (place_ / "outside").string()).file("c.json", "{}");
  evil.file("manifest.json", R"([{"Config": "c.json", "RepoTags": ["a:1"], "Layers": ["x/layer.tar"]}])");
  write("evil.tar", evil.bytes());
  EXPECT_THAT(make(LayerSource::image, "evil.tar").error().detail, HasSubstr("no file 'x/layer.tar'"));
}

TEST_F(LayerTest, ABoxIsCopiedWithWhatItRemoved) {
  const fs::path box = place_ / "box";
  fs::create_directories(box / "root/etc");
  fs::create_directories(box / "usr/share/doc");
  write("box/root/etc/own", "mine");
  fs::create_symlink(place_ / "outside", box / "root/etc/link");
  fs::create_hard_link(box / "root/etc/own", box / "root/etc/same");
  ASSERT_EQ(::mknod((box / "usr/gone").c_str(), S_IFCHR, ::makedev(0, 0)), 0);
  ASSERT_EQ(::setxattr((box / "usr/share").c_str(), "user.overlay.opaque", "y", 1, 0), 0);
  ASSERT_EQ(::setxattr((box / "usr/share").c_str(), "user.overlay.origin", "stale", 5, 0), 0);
  ASSERT_EQ(::setxattr((box / "root/etc/own").c_str(), "user.mine", "v", 1, 0), 0);
  {
    const Fd sparse(::open((box / "root/sparse").c_str(), O_WRONLY | O_CREAT | O_CLOEXEC, 0600));
    ASSERT_EQ(::ftruncate(sparse.get(), 1LL << 30), 0);
    ASSERT_EQ(::pwrite(sparse.get(), "x", 1, 1 << 20), 1);
  }
  fs::permissions(box / "usr/share/doc", fs::perms::none);
  const auto made = make(LayerSource::box, "box");
  ASSERT_TRUE(made) << made.error().detail;
  EXPECT_EQ(content(root() / "etc/own"), "mine");
  EXPECT_EQ(fs::read_symlink(root() / "etc/link"), place_ / "outside");
  EXPECT_TRUE(fs::equivalent(root() / "etc/own", root() / "etc/same"));
  struct stat status{};
  ASSERT_EQ(::lstat((place_ / "made/usr/gone").c_str(), &status), 0);
  EXPECT_TRUE(S_ISCHR(status.st_mode) && status.st_rdev == 0);
  char value[16];
  EXPECT_EQ(::getxattr((place_ / "made/usr/share").c_str(), "user.overlay.opaque", value, sizeof value), 1);
  EXPECT_EQ(::getxattr((place_ / "made/usr/share").c_str(), "user.overlay.origin", value, sizeof value), -1);
  EXPECT_EQ(::getxattr((root() / "etc/own").c_str(), "user.mine", value, sizeof value), 1);
  ASSERT_EQ(::stat((root() / "sparse").c_str(), &status), 0);
  EXPECT_EQ(status.st_size, 1LL << 30);
  EXPECT_LT(status.st_blocks, 4096);
  EXPECT_EQ(fs::status(place_ / "made/usr/share/doc").permissions(), fs::perms::none);
}

TEST_F(LayerTest, TooDeepATreeOfABoxIsRefused) {
  fs::path deep = place_ / "box/root";
  for (int i = 0; i < 250; ++i) deep /= "d";
  fs::create_directories(deep);
  EXPECT_THAT(make(LayerSource::box, "box").error().detail, HasSubstr("directories deep"));
}

TEST_F(LayerTest, ADirectoryIsCopiedWithoutItsDevices) {
  write("tree/bin/tool", "t");
  ASSERT_EQ(::mknod((place_ / "tree/gone").c_str(), S_IFCHR, ::makedev(0, 0)), 0);
  ASSERT_TRUE(make(LayerSource::directory, "tree"));
  EXPECT_EQ(content(root() / "bin/tool"), "t");
  struct stat status{};
  EXPECT_NE(::lstat((root() / "gone").c_str(), &status), 0);
}

}  // namespace
}  // namespace postern::box
