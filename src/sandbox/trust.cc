#include "sandbox/trust.h"

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <fcntl.h>
#include <filesystem>
#include <fmt/format.h>
#include <fstream>
#include <glob.h>
#include <memory>
#include <openssl/evp.h>
#include <openssl/pem.h>
#include <openssl/x509.h>
#include <pwd.h>
#include <spawn.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/fd.h"
#include "sandbox/hidden.h"

namespace postern::sandbox {
namespace {

namespace fs = std::filesystem;

// Part of the cache's key: a change of what is written below must not meet an older version's files.
constexpr std::string_view cache_version = "1";
constexpr std::string_view inside_bundle = "/run/postern/ca-bundle.pem";
constexpr std::string_view inside_ca = "/run/postern/ca.pem";
constexpr std::uintmax_t copied_file_bytes_max = 1 << 20;    // A certificate is 2 kB; a bundle 200 kB.
constexpr auto cache_age_max = std::chrono::hours(24 * 30);  // A host's certificates change every few weeks.

// Debian, Alpine, Arch, Gentoo · SUSE · Fedora, RHEL · NixOS · older layouts. The first that exists is
// merged.
constexpr std::array<const char*, 9> bundle_paths{"/etc/ssl/certs/ca-certificates.crt",
                                                  "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",
                                                  "/etc/pki/tls/certs/ca-bundle.crt",
                                                  "/var/lib/ca-certificates/ca-bundle.pem",
                                                  "/etc/ca-certificates/extracted/tls-ca-bundle.pem",
                                                  "/etc/ssl/certs/ca-bundle.crt",
                                                  "/etc/ssl/ca-bundle.pem",
                                                  "/etc/ssl/cert.pem",
                                                  "/etc/pki/tls/cert.pem"};
constexpr const char* certificate_directory = "/etc/ssl/certs";

constexpr std::array<const char*, 8> java_patterns{"/etc/ssl/certs/java/cacerts",
                                                   "/etc/pki/java/cacerts",
                                                   "/etc/pki/ca-trust/extracted/java/cacerts",
                                                   "/var/lib/ca-certificates/java-cacerts",
                                                   "/usr/lib/jvm/*/lib/security/cacerts",
                                                   "/usr/lib/jvm/*/jre/lib/security/cacerts",
                                                   "/opt/*/lib/security/cacerts",
                                                   "/usr/java/*/lib/security/cacerts"};
constexpr std::array<const char*, 3> java_patterns_at_home{
    "/.sdkman/candidates/java/*/lib/security/cacerts", "/.jdks/*/lib/security/cacerts",
    "/.local/share/mise/installs/java/*/lib/security/cacerts"};

std::unexpected<Error> fail_errno(std::string_view doing) {
  return fail(Reason::internal, fmt::format("cannot {}: {}", doing, std::strerror(errno)));
}

std::string real_path(const std::string& path) { return resolve_place(path).path; }

std::string read_file(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

Result<void> write_file(const fs::path& path, std::string_view content) {
  Fd file(open(path.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0644));
  while (file && !content.empty()) {
    ssize_t size = write(file.get(), content.data(), content.size());
    if (size <= 0) break;
    content.remove_prefix(static_cast<std::size_t>(size));
  }
  if (!file || !content.empty()) return fail_errno(fmt::format("write {}", path.string()));
  return {};
}

std::string home_directory() {
  if (const char* home = getenv("HOME"); home != nullptr && home[0] == '/') return real_path(home);
  const passwd* account = getpwuid(getuid());
  return account != nullptr ? real_path(account->pw_dir) : std::string();
}

// ---------------------------------------------------------------------------------------------------------------
// Certificates

using Certificate = std::unique_ptr<X509, decltype([](X509* certificate) { X509_free(certificate); })>;
using Memory = std::unique_ptr<BIO, decltype([](BIO* memory) { BIO_free(memory); })>;

/// Every certificate of the text; what cannot be read ends it.
std::vector<Certificate> certificates(std::string_view pem) {
  std::vector<Certificate> all;
  Memory memory(BIO_new_mem_buf(pem.data(), static_cast<int>(pem.size())));
  while (X509* one = PEM_read_bio_X509(memory.get(), nullptr, nullptr, nullptr)) all.emplace_back(one);
  return all;
}

std::string digest(const EVP_MD* algorithm, std::string_view data) {
  std::array<unsigned char, EVP_MAX_MD_SIZE> bytes;
  unsigned size = 0;
  EVP_Digest(data.data(), data.size(), bytes.data(), &size, algorithm, nullptr);
  return {reinterpret_cast<char*>(bytes.data()), size};
}

std::string hex(std::string_view bytes) {
  std::string text;
  for (unsigned char byte : bytes) fmt::format_to(std::back_inserter(text), "{:02x}", byte);
  return text;
}

void put_number(std::string& out, std::uint64_t value, int bytes) {
  for (int shift = (bytes - 1) * 8; shift >= 0; shift -= 8) out += static_cast<char>(value >> shift);
}

void put_text(std::string& out, std::string_view text) {
  put_number(out, text.size(), 2);
  out += text;
}

}  // namespace

Result<std::string> java_key_store(std::string_view pem) {
  auto all = certificates(pem);
  std::string store;
  put_number(store, 0xfeedfeed, 4);
  put_number(store, 2, 4);  // version
  put_number(store, all.size(), 4);
  for (std::size_t i = 0; i < all.size(); ++i) {
    unsigned char* der = nullptr;
    int size = i2d_X509(all[i].get(), &der);
    if (size <= 0) return fail(Reason::internal, "cannot encode a certificate of the bundle");
    put_number(store, 2, 4);  // a trusted certificate
    put_text(store, fmt::format("postern-{}", i));
    put_number(store, 0, 8);  // creation date: none, so that equal inputs give equal files
    put_text(store, "X.509");
    put_number(store, static_cast<std::uint64_t>(size), 4);
    store.append(reinterpret_cast<char*>(der), static_cast<std::size_t>(size));
    OPENSSL_free(der);
  }
  // The format's own integrity check: SHA-1 over the password in UTF-16, a fixed phrase, and the store.
  std::string checked;
  for (char c : std::string_view("changeit")) {
    checked += '\0';
    checked += c;
  }
  checked += "Mighty Aphrodite";
  checked += store;
  return store + digest(EVP_sha1(), checked);
}

std::string host_bundle() {
  for (const char* path : bundle_paths) {
    struct stat status{};
    if (stat(path, &status) == 0 && S_ISREG(status.st_mode) && status.st_size > 0) return path;
  }
  return {};
}

namespace {

// ---------------------------------------------------------------------------------------------------------------
// What this host has

struct Host {
  std::string bundle;                    // Empty: none.
  std::vector<std::string> bundles;      // Every place of it, links followed.
  std::string directory;                 // The <hash>.0 directory, links followed. Empty: none.
  std::vector<std::string> java_stores;  // Links followed.
  std::string nss_database;              // The user's, where there is one.
  std::string callers_bundle;            // SSL_CERT_FILE of the caller: a company's own roots.
  std::string callers_node_extra;        // NODE_EXTRA_CA_CERTS of the caller.
};

void add_unique(std::vector<std::string>& list, std::string path) {
  if (!path.empty() && std::ranges::find(list, path) == list.end()) list.push_back(std::move(path));
}

void add_matches(std::vector<std::string>& list, const std::string& pattern) {
  glob_t matches{};
  if (glob(pattern.c_str(), GLOB_NOSORT, nullptr, &matches) == 0) {
    for (std::size_t i = 0; i < matches.gl_pathc; ++i) add_unique(list, real_path(matches.gl_pathv[i]));
  }
  globfree(&matches);
}

std::string file_named_by(const char* variable) {
  const char* path = getenv(variable);
  return path != nullptr && path[0] == '/' && fs::is_regular_file(path) ? path : std::string();
}

Host look_at_host() {
  Host host;
  host.bundle = host_bundle();
  for (const char* path : bundle_paths) add_unique(host.bundles, real_path(path));
  host.directory = real_path(certificate_directory);
  std::string home = home_directory();
  for (const char* pattern : java_patterns) add_matches(host.java_stores, pattern);
  for (const char* pattern : java_patterns_at_home) add_matches(host.java_stores, home + pattern);
  if (const char* java = getenv("JAVA_HOME"); java != nullptr && java[0] == '/') {
    add_unique(host.java_stores, real_path(std::string(java) + "/lib/security/cacerts"));
  }
  host.nss_database = real_path(home + "/.pki/nssdb");
  host.callers_bundle = file_named_by("SSL_CERT_FILE");
  host.callers_node_extra = file_named_by("NODE_EXTRA_CA_CERTS");
  return host;
}

/// Changes whenever the prepared files would.
std::string cache_key(const Host& host, std::string_view ca) {
  std::string facts = fmt::format("{}\n{}\n", cache_version, ca);
  for (const std::string& path :
       {host.bundle, host.directory, host.callers_bundle, host.callers_node_extra}) {
    struct stat status{};
    if (path.empty() || stat(path.c_str(), &status) != 0) continue;
    fmt::format_to(std::back_inserter(facts), "{} {} {} {} {}\n", path, status.st_ino, status.st_size,
                   status.st_mtim.tv_sec, status.st_mtim.tv_nsec);
  }
  if (!host.nss_database.empty()) facts += "nss\n";
  return hex(digest(EVP_sha256(), facts)).substr(0, 32);
}

// ---------------------------------------------------------------------------------------------------------------
// Preparing

std::string with_newline(std::string text) {
  if (!text.empty() && text.back() != '\n') text += '\n';
  return text;
}

bool is_bundle(const Host& host, const fs::path& path) {
  return std::ranges::find(host.bundles, real_path(path.string())) != host.bundles.end();
}

/// Links are copied as links: the copy is mounted where the original was, so even relative ones lead where
/// they did.
Result<void> copy_entry(const Host& host, const fs::directory_entry& entry, const fs::path& to,
                        std::string_view merged) {
  std::error_code error;
  if (entry.is_regular_file(error) && is_bundle(host, entry.path())) return write_file(to, merged);
  if (entry.is_symlink(error)) {
    fs::copy_symlink(entry.path(), to, error);
  } else if (entry.is_directory(error)) {
    fs::create_directory(to,
                         error);  // A mount point for the Java store below it; its files follow one by one.
    for (const auto& below : fs::directory_iterator(entry.path(), error)) {
      if (below.is_regular_file(error)) fs::copy_file(below.path(), to / below.path().filename(), error);
    }
  } else if (entry.is_regular_file(error) && entry.file_size(error) <= copied_file_bytes_max) {
    fs::copy_file(entry.path(), to, error);  // One that we may not read is none that the program may read.
  }
  return {};
}

/// The directory that OpenSSL looks into by the hash of the issuer's name, with our CA in it.
Result<void> copy_directory(const Host& host, const fs::path& to, const std::string& merged,
                            std::string_view ca, X509* certificate) {
  fs::create_directory(to);
  std::error_code error;
  for (const auto& entry : fs::directory_iterator(host.directory, error)) {
    if (auto copied = copy_entry(host, entry, to / entry.path().filename(), merged); !copied) return copied;
  }
  if (auto written = write_file(to / "postern-ca.pem", ca); !written) return written;
  unsigned long hash = X509_NAME_hash_ex(X509_get_subject_name(certificate), nullptr, nullptr, nullptr);
  for (int number = 0; number < 100; ++number) {
    fs::path link = to / fmt::format("{:08x}.{}", hash, number);
    if (fs::symlink_status(link).type() != fs::file_type::not_found) continue;
    fs::create_symlink("postern-ca.pem", link);
    return {};
  }
  return fail(Reason::internal, "the certificate directory has a hundred names of the same hash");
}

bool run_quietly(std::vector<std::string> words) {
  std::vector<char*> pointers;
  pointers.reserve(words.size() + 1);
  for (std::string& word : words) pointers.push_back(word.data());
  pointers.push_back(nullptr);
  posix_spawn_file_actions_t actions;
  posix_spawn_file_actions_init(&actions);
  for (int fd : {0, 1, 2}) posix_spawn_file_actions_addopen(&actions, fd, "/dev/null", O_RDWR, 0);
  pid_t child = -1;
  int state = posix_spawn(&child, pointers[0], &actions, nullptr, pointers.data(), environ);
  posix_spawn_file_actions_destroy(&actions);
  int status = -1;
  return state == 0 && waitpid(child, &status, 0) == child && WIFEXITED(status) && WEXITSTATUS(status) == 0;
}

/// A fresh database with our CA alone, for Chromium. Not a copy of the user's: that one may hold private
/// keys.
void make_nss_database(const fs::path& directory) {
  constexpr const char* certutil = "/usr/bin/certutil";
  if (access(certutil, X_OK) != 0)
    return;  // The user's database is hidden, then; Chromium trusts public roots only.
  fs::path to = directory / "nssdb";
  fs::create_directory(to);
  std::string database = "sql:" + to.string();
  bool made =
      run_quietly({certutil, "-N", "-d", database, "--empty-password"}) &&
      run_quietly({certutil, "-A", "-d", database, "-n", "Postern", "-t", "C,,", "-i", directory / "ca.pem"});
  if (!made) fs::remove_all(to);
}

Result<void> fill(const fs::path& directory, const Host& host, const std::string& ca, X509* certificate) {
  std::string roots = host.bundle.empty() ? std::string() : with_newline(read_file(host.bundle));
  if (!host.callers_bundle.empty() && real_path(host.callers_bundle) != real_path(host.bundle)) {
    roots += with_newline(read_file(host.callers_bundle));
  }
  std::string merged = roots + ca;
  std::string extra =
      host.callers_node_extra.empty() ? ca : with_newline(read_file(host.callers_node_extra)) + ca;
  auto store = java_key_store(merged);
  if (!store) return std::unexpected(store.error());
  for (const auto& [name, content] : {std::pair<const char*, const std::string&>{"bundle.pem", merged},
                                      {"ca.pem", ca},
                                      {"node-extra.pem", extra},
                                      {"cacerts", *store}}) {
    if (auto written = write_file(directory / name, content); !written) return written;
  }
  if (!host.directory.empty()) {
    if (auto copied = copy_directory(host, directory / "certs", merged, ca, certificate); !copied)
      return copied;
  }
  if (!host.nss_database.empty()) make_nss_database(directory);
  return {};
}

void drop_old(const fs::path& cache) {
  std::error_code error;
  auto now = fs::file_time_type::clock::now();
  for (const auto& entry : fs::directory_iterator(cache, error)) {
    if (now - entry.last_write_time(error) > cache_age_max) fs::remove_all(entry.path(), error);
  }
}

/// The prepared directory, made if it is not there. Another process may be making it at the same time: the
/// first rename wins, and both made the same.
Result<fs::path> prepared_directory(const Host& host, const TrustRequest& request, X509* certificate) {
  std::string ca = with_newline(request.ca_certificate_pem);
  fs::path cache = request.cache_directory;
  fs::path final_place = cache / cache_key(host, ca);
  std::error_code error;
  if (fs::is_directory(final_place, error)) {
    utimensat(AT_FDCWD, final_place.c_str(), nullptr, 0);  // In use: not to be dropped for its age.
    return final_place;
  }
  fs::create_directories(cache, error);
  chmod(cache.c_str(), 0700);
  drop_old(cache);
  std::string draft = (cache / ".draft-XXXXXX").string();
  if (mkdtemp(draft.data()) == nullptr) return fail_errno(fmt::format("write to {}", cache.string()));
  if (auto filled = fill(draft, host, ca, certificate); !filled) {
    fs::remove_all(draft, error);
    return std::unexpected(filled.error());
  }
  chmod(draft.c_str(), 0755);
  if (rename(draft.c_str(), final_place.c_str()) != 0) {
    fs::remove_all(draft, error);
    if (!fs::is_directory(final_place)) return fail_errno(fmt::format("write {}", final_place.string()));
  }
  return final_place;
}

// ---------------------------------------------------------------------------------------------------------------
// What the sandbox is given

std::vector<MountStep> mounts(const Host& host, const fs::path& prepared) {
  using Kind = MountStep::Kind;
  std::vector<MountStep> steps;
  auto bind = [&](const char* name, std::string_view destination) {
    steps.push_back({Kind::ro_bind, (prepared / name).string(), std::string(destination), {}});
  };
  if (!host.directory.empty()) bind("certs", host.directory);
  for (const std::string& place : host.bundles) {
    if (host.directory.empty() || !is_within(place, host.directory)) bind("bundle.pem", place);
  }
  for (const std::string& store : host.java_stores) bind("cacerts", store);
  bind("bundle.pem", inside_bundle);
  bind("node-extra.pem", inside_ca);
  if (!host.nss_database.empty() && fs::is_directory(prepared / "nssdb")) {
    // Writable, since NSS does not open a database that is not.
    steps.push_back({Kind::hide_tree, {}, host.nss_database, {}});
    for (const char* name : {"cert9.db", "key4.db", "pkcs11.txt"}) {
      steps.push_back({Kind::copy, (prepared / "nssdb" / name).string(), host.nss_database + "/" + name, {}});
    }
  }
  return steps;
}

std::vector<Variable> environment() {
  std::vector<Variable> variables;
  for (const char* name :
       {"SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "PIP_CERT", "GIT_SSL_CAINFO",
        "CARGO_HTTP_CAINFO", "AWS_CA_BUNDLE", "CLOUDSDK_CORE_CUSTOM_CA_CERTS_FILE",
        "GRPC_DEFAULT_SSL_ROOTS_FILE_PATH", "NIX_SSL_CERT_FILE", "HEX_CACERTS_PATH", "BUNDLE_SSL_CA_CERT"}) {
    variables.emplace_back(name, inside_bundle);
  }
  variables.emplace_back("NODE_EXTRA_CA_CERTS",
                         inside_ca);  // Adds to Node's own roots, which no file replaces.
  variables.emplace_back("NODE_USE_SYSTEM_CA", "1");
  variables.emplace_back("DENO_TLS_CA_STORE", "system");
  return variables;
}

}  // namespace

Result<Trust> prepare_trust(const TrustRequest& request) {
  auto own = certificates(request.ca_certificate_pem);
  if (own.size() != 1) return fail(Reason::internal, "the workspace's CA is not one PEM certificate");
  Host host = look_at_host();
  auto prepared = prepared_directory(host, request, own.front().get());
  if (!prepared) return std::unexpected(prepared.error());
  return Trust{mounts(host, *prepared), environment()};
}

}  // namespace postern::sandbox
