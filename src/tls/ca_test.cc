#include "tls/ca.h"

#include <cstdlib>
#include <fcntl.h>
#include <filesystem>
#include <fstream>
#include <gtest/gtest.h>
#include <openssl/err.h>
#include <openssl/pem.h>
#include <openssl/x509v3.h>
#include <regex>
#include <set>
#include <sstream>
#include <stdexcept>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>
#include <vector>

namespace postern::tls {
namespace {

namespace fs = std::filesystem;

class WorkspaceCaTest : public testing::Test {
 protected:
  WorkspaceCaTest() {
    std::string pattern = (fs::temp_directory_path() / "postern-ca-XXXXXX").string();
    root_ = mkdtemp(pattern.data());
    directory_ = root_ + "/workspace/ca";
  }
  ~WorkspaceCaTest() override { fs::remove_all(root_); }

  WorkspaceCa load(WallTime now = std::chrono::system_clock::now()) const {
    auto ca = WorkspaceCa::load_or_create(directory_, now);
    if (!ca) throw std::runtime_error(ca.error().detail);
    return std::move(*ca);
  }
  /// The refusal's sentence; empty when the CA was accepted.
  std::string refusal(Reason reason = Reason::invalid_configuration,
                      WallTime now = std::chrono::system_clock::now()) const {
    auto ca = WorkspaceCa::load_or_create(directory_, now);
    if (ca) return {};
    EXPECT_EQ(ca.error().reason, reason) << ca.error().detail;
    return ca.error().detail;
  }
  std::string file() const { return directory_ + "/ca.pem"; }
  static std::string read(const std::string& path) {
    std::ostringstream text;
    text << std::ifstream(path).rdbuf();
    return text.str();
  }
  void replace_file(const std::string& text) const {
    std::ofstream(file(), std::ios::trunc) << text;
    fs::permissions(file(), fs::perms::owner_read | fs::perms::owner_write);
  }
  static mode_t mode(const std::string& path) {
    struct stat status{};
    EXPECT_EQ(lstat(path.c_str(), &status), 0);
    return status.st_mode & 07777;
  }

  std::string root_;
  std::string directory_;
};

bool is_critical(X509* certificate, int nid) {
  int at = X509_get_ext_by_NID(certificate, nid, -1);
  return at >= 0 && X509_EXTENSION_get_critical(X509_get_ext(certificate, at)) == 1;
}

TEST_F(WorkspaceCaTest, IsMadeOnceAndThenReadAgain) {
  WorkspaceCa first = load();
  WorkspaceCa second = load();
  EXPECT_EQ(first.fingerprint(), second.fingerprint());
  EXPECT_EQ(first.certificate_pem(), second.certificate_pem());
  EXPECT_EQ(EVP_PKEY_eq(first.key(), second.key()), 1);
  EXPECT_EQ(first.fingerprint().size(), 32u * 3 - 1);
}

TEST_F(WorkspaceCaTest, TwoWorkspacesHaveTwoCas) {
  WorkspaceCa first = load();
  directory_ = root_ + "/other";
  EXPECT_NE(first.fingerprint(), load().fingerprint());
}

TEST_F(WorkspaceCaTest, ItsFilesAreClosedToOthersWhateverTheUmask) {
  mode_t before = umask(0);
  load();
  umask(before);
  EXPECT_EQ(mode(directory_), 0700u);
  EXPECT_EQ(mode(file()), 0600u);
  EXPECT_EQ(mode(directory_ + "/lock"), 0600u);
  EXPECT_FALSE(fs::exists(directory_ + "/ca.pem.new"));
}

TEST_F(WorkspaceCaTest, WhatIsToldToSandboxesHoldsNoKey) {
  WorkspaceCa ca = load();
  EXPECT_EQ(ca.certificate_pem().find("PRIVATE"), std::string::npos);
  EXPECT_EQ(ca.certificate_pem().find("-----BEGIN CERTIFICATE-----"), 0u);
  EXPECT_NE(read(file()).find("PRIVATE KEY"), std::string::npos);
}

TEST_F(WorkspaceCaTest, SaysAllThatStrictClientsAskOfACa) {
  const auto now = std::chrono::system_clock::now();
  WorkspaceCa ca = load(now);
  X509* certificate = ca.certificate();
  EXPECT_EQ(X509_get_version(certificate), X509_VERSION_3);
  EXPECT_EQ(X509_check_ca(certificate), 1);
  EXPECT_EQ(X509_get_pathlen(certificate), 0);
  EXPECT_TRUE(is_critical(certificate, NID_basic_constraints));
  EXPECT_TRUE(is_critical(certificate, NID_key_usage));
  EXPECT_EQ(X509_get_key_usage(certificate), static_cast<std::uint32_t>(KU_KEY_CERT_SIGN | KU_CRL_SIGN));
  EXPECT_NE(X509_get0_subject_key_id(certificate), nullptr);
  EXPECT_EQ(X509_verify(certificate, ca.key()), 1);
  char name[64] = "";
  X509_NAME_get_text_by_NID(X509_get_subject_name(certificate), NID_commonName, name, sizeof name);
  EXPECT_TRUE(std::regex_match(name, std::regex("Postern CA [0-9A-F]{8}"))) << name;
  time_t a_day_ago = std::chrono::system_clock::to_time_t(now - std::chrono::hours(24));
  EXPECT_LE(X509_cmp_time(X509_get0_notBefore(certificate), &a_day_ago), 0);
  EXPECT_NEAR(std::chrono::duration<double>(ca.not_after() - now).count(), 3650.0 * 86400, 2);
}

TEST_F(WorkspaceCaTest, AFileOpenToOthersIsRefused) {
  load();
  for (mode_t open : {0640, 0604, 0660, 0610}) {
    ASSERT_EQ(chmod(file().c_str(), open), 0);
    EXPECT_NE(refusal().find("open to other users"), std::string::npos);
  }
  ASSERT_EQ(chmod(file().c_str(), 0400), 0);
  EXPECT_EQ(refusal(), "");
}

TEST_F(WorkspaceCaTest, ADirectoryOpenToOthersIsRefused) {
  load();
  ASSERT_EQ(chmod(directory_.c_str(), 0755), 0);
  EXPECT_NE(refusal().find("open to other users"), std::string::npos);
}

TEST_F(WorkspaceCaTest, SymbolicLinksAreRefused) {
  load();
  fs::rename(file(), root_ + "/elsewhere.pem");
  fs::create_symlink(root_ + "/elsewhere.pem", file());
  EXPECT_NE(refusal().find("symbolic link"), std::string::npos);
  fs::remove(file());
  fs::create_directory_symlink(directory_, root_ + "/link");
  directory_ = root_ + "/link";
  EXPECT_NE(refusal().find("symbolic link"), std::string::npos);
  directory_ += "/";
  EXPECT_NE(refusal().find("symbolic link"), std::string::npos);
}

TEST_F(WorkspaceCaTest, ADanglingLinkIsNotWrittenThrough) {
  load();
  fs::remove(file());
  fs::create_symlink(root_ + "/planted", file());
  EXPECT_NE(refusal(), "");
  EXPECT_FALSE(fs::exists(root_ + "/planted"));
}

TEST_F(WorkspaceCaTest, AFifoInItsPlaceDoesNotHang) {
  load();
  fs::remove(file());
  ASSERT_EQ(mkfifo(file().c_str(), 0600), 0);
  EXPECT_NE(refusal(), "");
}

TEST_F(WorkspaceCaTest, AnotherOwnersFileIsRefused) {
  if (geteuid() != 0) GTEST_SKIP() << "giving a file away needs root";
  load();
  ASSERT_EQ(chown(file().c_str(), 12345, 12345), 0);
  EXPECT_NE(refusal().find("another user"), std::string::npos);
}

TEST_F(WorkspaceCaTest, AKeyThatIsNotTheCertificatesIsRefused) {
  load();
  const std::string first = read(file());
  fs::remove(file());
  load();
  const std::string second = read(file());
  const std::string begin = "-----BEGIN CERTIFICATE-----";
  replace_file(first.substr(0, first.find(begin)) + second.substr(second.find(begin)));
  EXPECT_NE(refusal().find("not the one of its certificate"), std::string::npos);
}

TEST_F(WorkspaceCaTest, ADamagedFileIsRefusedAndLeftAlone) {
  load();
  const std::string whole = read(file());
  const std::string begin = "-----BEGIN CERTIFICATE-----";
  const std::string no_certificate = whole.substr(0, whole.find(begin));
  for (const std::string& text :
       {std::string(), std::string("rubbish"), no_certificate, whole.substr(whole.find(begin)),
        whole.substr(0, whole.size() - 100), std::string(70'000, 'x')}) {
    replace_file(text);
    EXPECT_NE(refusal(), "") << text.size();
    EXPECT_EQ(read(file()), text);
  }
  replace_file(whole);
  EXPECT_EQ(refusal(), "");
}

TEST_F(WorkspaceCaTest, AnEncryptedKeyIsRefusedWithoutAskingForAPassPhrase) {
  WorkspaceCa ca = load();
  std::unique_ptr<BIO, decltype(&BIO_free_all)> pem(BIO_new(BIO_s_mem()), BIO_free_all);
  char phrase[] = "phrase";
  ASSERT_EQ(
      PEM_write_bio_PKCS8PrivateKey(pem.get(), ca.key(), EVP_aes_128_cbc(), phrase, 6, nullptr, nullptr), 1);
  char* text = nullptr;
  long length = BIO_get_mem_data(pem.get(), &text);
  replace_file(std::string(text, static_cast<std::size_t>(length)) + ca.certificate_pem());
  EXPECT_NE(refusal().find("private key"), std::string::npos);
}

TEST_F(WorkspaceCaTest, ACertificateThatIsNoCasIsRefused) {
  WorkspaceCa ca = load();
  CertificatePtr other(X509_dup(ca.certificate()));
  X509_EXTENSION_free(
      X509_delete_ext(other.get(), X509_get_ext_by_NID(other.get(), NID_basic_constraints, -1)));
  ASSERT_GT(X509_sign(other.get(), ca.key(), EVP_sha256()), 0);
  std::unique_ptr<BIO, decltype(&BIO_free_all)> pem(BIO_new(BIO_s_mem()), BIO_free_all);
  ASSERT_EQ(PEM_write_bio_X509(pem.get(), other.get()), 1);
  char* text = nullptr;
  long length = BIO_get_mem_data(pem.get(), &text);
  const std::string whole = read(file());
  replace_file(whole.substr(0, whole.find("-----BEGIN CERTIFICATE-----")) +
               std::string(text, static_cast<std::size_t>(length)));
  EXPECT_NE(refusal().find("not that of a self-signed CA"), std::string::npos);
}

TEST_F(WorkspaceCaTest, IsMadeAnewOnlyWhenExpired) {
  const auto now = std::chrono::system_clock::now();
  const std::string first = load(now).fingerprint();
  EXPECT_EQ(load(now + ca_lifetime - std::chrono::minutes(1)).fingerprint(), first);
  const std::string second = load(now + ca_lifetime + std::chrono::seconds(1)).fingerprint();
  EXPECT_NE(second, first);
  EXPECT_EQ(load(now + ca_lifetime + std::chrono::seconds(1)).fingerprint(), second);
}

TEST_F(WorkspaceCaTest, AClockSetBackDoesNotCostTheWorkspaceItsCa) {
  const auto now = std::chrono::system_clock::now();
  const std::string first = load(now).fingerprint();
  EXPECT_NE(refusal(Reason::invalid_configuration, now - std::chrono::hours(25)).find("clock"),
            std::string::npos);
  EXPECT_EQ(load(now).fingerprint(), first);
}

TEST_F(WorkspaceCaTest, ALeftoverOfACrashIsNoObstacle) {
  load();
  fs::remove(file());
  std::ofstream(directory_ + "/ca.pem.new") << "half a k";
  EXPECT_EQ(refusal(), "");
  EXPECT_FALSE(fs::exists(directory_ + "/ca.pem.new"));
}

TEST_F(WorkspaceCaTest, ProcessesThatStartAtOnceAgree) {
  int ends[2];
  ASSERT_EQ(pipe(ends), 0);
  constexpr int processes = 8;
  std::vector<pid_t> children;
  for (int i = 0; i < processes; ++i) {
    pid_t child = fork();
    ASSERT_GE(child, 0);
    if (child == 0) {
      auto ca = WorkspaceCa::load_or_create(directory_);
      std::string line = (ca ? ca->fingerprint() : "failed: " + ca.error().detail) + "\n";
      _exit(write(ends[1], line.data(), line.size()) == static_cast<ssize_t>(line.size()) ? 0 : 1);
    }
    children.push_back(child);
  }
  close(ends[1]);
  for (pid_t child : children) {
    int status = 0;
    ASSERT_EQ(waitpid(child, &status, 0), child);
    EXPECT_EQ(status, 0);
  }
  std::string text(processes * 256, '\0');
  ssize_t size = ::read(ends[0], text.data(), text.size());
  close(ends[0]);
  ASSERT_GT(size, 0);
  std::istringstream lines(text.substr(0, static_cast<std::size_t>(size)));
  std::multiset<std::string> said;
  for (std::string line; std::getline(lines, line);) said.insert(line);
  EXPECT_EQ(said.size(), static_cast<std::size_t>(processes));
  EXPECT_EQ(said.count(load().fingerprint()), said.size());
}

TEST_F(WorkspaceCaTest, ADirectoryThatCannotBeMadeIsAnErrorAndNotACrash) {
  std::ofstream(root_ + "/workspace") << "a file in the way";
  EXPECT_NE(refusal(Reason::internal), "");
  directory_ = root_ + "/workspace";
  EXPECT_NE(refusal(), "");
}

}  // namespace
}  // namespace postern::tls
