#pragma once
// What the tests of stores share.

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <gtest/gtest.h>
#include <iterator>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "credential/sealing.h"
#include "credential/secret_test_kit.h"
#include "store/sqlite_connection.h"
#include "store/store.h"

namespace postern::store {

/// The same number, the same key: a MasterKey cannot be copied.
inline credential::MasterKey key(int number) {
  return std::move(
      *credential::MasterKey::from_text(Secret(std::string(64, static_cast<char>('0' + number)))));
}

/// Of a call that must succeed.
template <class T>
T value(Outcome<T> outcome) {
  if (!outcome) throw std::runtime_error("it failed: " + outcome.error().detail);
  if constexpr (!std::is_void_v<T>) return std::move(*outcome);
}

/// Of a call that must fail.
template <class T>
Fault fault(const Outcome<T>& outcome) {
  if (outcome) throw std::runtime_error("it succeeded");
  return outcome.error().fault;
}

inline Document document(std::string json, std::vector<std::pair<std::string, std::string>> secrets) {
  Document made{std::move(json), {}};
  for (auto& [place, text] : secrets) made.secrets.push_back({place, Secret(text)});
  return made;
}

inline std::string text_of(const Document& document) {
  std::string text = document.json;
  for (const NamedSecret& secret : document.secrets)
    text += " " + secret.name + "=" + credential::revealed(secret.value);
  return text;
}

class TestDirectory {
 public:
  TestDirectory() {
    std::string pattern = (std::filesystem::temp_directory_path() / "postern-store-XXXXXX").string();
    path_ = ::mkdtemp(pattern.data());
  }
  TestDirectory(const TestDirectory&) = delete;
  TestDirectory& operator=(const TestDirectory&) = delete;
  ~TestDirectory() { std::filesystem::remove_all(path_); }
  const std::string& path() const { return path_; }
  std::string all_bytes() const {
    std::string bytes;
    for (const auto& entry : std::filesystem::directory_iterator(path_)) {
      std::ifstream file(entry.path(), std::ios::binary);
      bytes.append(std::istreambuf_iterator<char>(file), {});
    }
    return bytes;
  }

 private:
  std::string path_;
};

inline void sql_in(const std::string& path, const std::string& sql) {
  auto connection = SqliteConnection::open(path, SqliteConnection::Access::read_write);
  ASSERT_TRUE(connection) << connection.error().detail;
  const auto done = connection->script(sql);
  ASSERT_TRUE(done) << done.error().detail << ": " << sql;
}

}  // namespace postern::store
