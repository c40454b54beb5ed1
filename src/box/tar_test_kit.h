#pragma once
// Tar archives for tests, entry by entry, with whatever they should not hold (POSIX.1 ustar, pax).

#include <cstring>
#include <string>
#include <string_view>

namespace postern::box {

class Tar {
 public:
  Tar& entry(char type, std::string_view path, std::string_view content = "", std::string_view link = "",
             unsigned mode = 0644) {
    if (path.size() >= 100 || link.size() >= 100) {
      std::string records;
      if (path.size() >= 100) records += record("path", path);
      if (link.size() >= 100) records += record("linkpath", link);
      header('x', "long", records.size(), "", 0644);
      data(records);
    }
    header(type, path.substr(0, 99), content.size(), link.substr(0, 99), mode);
    data(content);
    return *this;
  }
  Tar& file(std::string_view path, std::string_view content, unsigned mode = 0644) {
    return entry('0', path, content, "", mode);
  }
  Tar& directory(std::string_view path, unsigned mode = 0755) { return entry('5', path, "", "", mode); }
  Tar& link(std::string_view path, std::string_view target) { return entry('2', path, "", target); }
  Tar& hard_link(std::string_view path, std::string_view target) { return entry('1', path, "", target); }

  std::string bytes() const { return bytes_ + std::string(1024, '\0'); }

 private:
  static std::string record(std::string_view key, std::string_view value) {
    const std::size_t rest = key.size() + value.size() + 3;
    std::size_t size = rest + 1;
    while (std::to_string(size).size() + rest != size) ++size;
    return std::to_string(size) + " " + std::string(key) + "=" + std::string(value) + "\n";
  }
  static void octal(char* at, std::size_t width, unsigned long long value) {
    for (std::size_t i = width - 1; i > 0; --i, value /= 8) at[i - 1] = static_cast<char>('0' + value % 8);
  }
  void header(char type, std::string_view path, std::size_t size, std::string_view link, unsigned mode) {
    char block[512] = {};
    std::memcpy(block, path.data(), path.size());
    octal(block + 100, 8, mode);
    octal(block + 108, 8, 1234);  // Some user and group that a box does not have.
    octal(block + 116, 8, 1234);
    octal(block + 124, 12, size);
    octal(block + 136, 12, 1'000'000'000);
    std::memset(block + 148, ' ', 8);
    block[156] = type;
    std::memcpy(block + 157, link.data(), link.size());
    std::memcpy(block + 257,
                "ustar\0"
                "00",
                8);
    octal(block + 329, 8, 0);
    octal(block + 337, 8, 0);
    unsigned sum = 0;
    for (const char c : block) sum += static_cast<unsigned char>(c);
    octal(block + 148, 7, sum);
    bytes_.append(block, sizeof block);
  }
  void data(std::string_view content) {
    bytes_ += content;
    bytes_.append((512 - content.size() % 512) % 512, '\0');
  }

  std::string bytes_;
};

}  // namespace postern::box
