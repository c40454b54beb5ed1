#include "sandbox/hidden.h"

#include <cstring>
#include <filesystem>
#include <fstream>
#include <gmock/gmock.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/un.h>

#include "base/fd.h"

namespace postern::sandbox {
namespace {

using ::testing::Contains;
using ::testing::ElementsAre;
using ::testing::IsEmpty;
using ::testing::Not;
using Kind = HiddenPlace::Kind;

class HiddenPlaces : public ::testing::Test {
 protected:
  HiddenPlaces() {
    std::string name = "/tmp/postern-hidden-XXXXXX";
    EXPECT_NE(mkdtemp(name.data()), nullptr);
    home_ = std::filesystem::canonical(name).string();
  }
  ~HiddenPlaces() override { std::filesystem::remove_all(home_); }

  std::string file(const std::string& name) {
    std::filesystem::path path = home_ + "/" + name;
    std::filesystem::create_directories(path.parent_path());
    std::ofstream(path) << "x";
    return path.string();
  }

  std::vector<HiddenPlace> places(std::vector<const char*> caller = {}) {
    std::vector<std::string> homes{home_};
    auto all = credential_places(homes, caller);
    std::erase_if(all, [&](const HiddenPlace& place) {
      return !is_within(place.path, home_);
    });  // Not this machine's own.
    return all;
  }

  std::string home_;
};

TEST_F(HiddenPlaces, OnlyWhatExistsIsListed) { EXPECT_THAT(places(), IsEmpty()); }

TEST_F(HiddenPlaces, ADirectoryAndAFileAreToldApart) {
  file(".ssh/id");
  std::string netrc = file(".netrc");
  EXPECT_THAT(places(), ::testing::UnorderedElementsAre(HiddenPlace{home_ + "/.ssh", Kind::directory},
                                                        HiddenPlace{netrc, Kind::file}));
}

TEST_F(HiddenPlaces, ALinkIsFollowedToWhatItHides) {
  std::string target = file("dotfiles/aws/credentials");
  std::filesystem::create_directory_symlink("dotfiles/aws", home_ + "/.aws");
  EXPECT_THAT(places(), ElementsAre(HiddenPlace{home_ + "/dotfiles/aws", Kind::directory}));
}

TEST_F(HiddenPlaces, AVariableNamesMoreOfThem) {
  std::string one = file("a.yaml"), two = file("b.yaml");
  std::string variable = "KUBECONFIG=" + one + ":" + two + ":/no/such/file";
  EXPECT_THAT(places({variable.c_str()}),
              ElementsAre(HiddenPlace{one, Kind::file}, HiddenPlace{two, Kind::file}));
}

TEST_F(HiddenPlaces, AVariableCannotHideTheHomeOrWhatIsAboveIt) {
  file("visible");
  std::string home_itself = "DOCKER_CONFIG=" + home_, above = "GNUPGHOME=/tmp", root = "NETRC=/";
  std::vector<std::string> homes{home_};
  std::vector<const char*> caller{home_itself.c_str(), above.c_str(), root.c_str()};
  for (const HiddenPlace& place : credential_places(homes, caller))
    EXPECT_FALSE(is_within(home_, place.path)) << place.path;
}

TEST_F(HiddenPlaces, ALinkFromACredentialToTheHomeDoesNotHideTheHome) {
  std::filesystem::create_directory_symlink(home_, home_ + "/.docker");
  EXPECT_THAT(places(), Not(Contains(HiddenPlace{home_, Kind::directory})));
}

TEST_F(HiddenPlaces, ASocketIsFoundInTheKernelsListAndAnythingElseIsNot) {
  sockaddr_un address{.sun_family = AF_UNIX};
  std::string path = home_ + "/agent.sock";
  std::strncpy(address.sun_path, path.c_str(), sizeof address.sun_path - 1);
  Fd socket_fd(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  ASSERT_EQ(bind(socket_fd.get(), reinterpret_cast<sockaddr*>(&address), sizeof address), 0);
  std::string ordinary = file("ordinary");
  std::string list =
      "Num       RefCount Protocol Flags    Type St Inode Path\n"
      "0000000000000000: 00000002 00000000 00010000 0001 01 20000 " +
      path +
      "\n"
      "0000000000000000: 00000002 00000000 00010000 0001 01 20001 @/tmp/abstract\n"
      "0000000000000000: 00000003 00000000 00000000 0001 03 20002\n"
      "0000000000000000: 00000002 00000000 00010000 0001 01 20003 " +
      ordinary +
      "\n"
      "0000000000000000: 00000002 00000000 00010000 0001 01 20004 " +
      path +
      "\n"
      "0000000000000000: 00000002 00000000 00010000 0001 01 20005 /gone/away.sock";
  EXPECT_THAT(socket_places(list), ElementsAre(HiddenPlace{path, Kind::file}));
}

}  // namespace
}  // namespace postern::sandbox
