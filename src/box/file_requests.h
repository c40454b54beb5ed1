#pragma once
// Files of a box: what its agent is asked (box/agent/files.h), and what it answers. Nothing here touches a
// file system: paths mean what they mean inside the box, and the answers are the box's word.

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/clock.h"
#include "box/agent/protocol.h"

namespace postern::box {

struct FileEntry {
  enum class Kind : std::uint8_t { file, folder, link, other };
  std::string path;
  Kind kind = Kind::other;
  std::uint64_t bytes = 0;
  WallTime modified;
  std::string
      tag;  ///< Another one whenever the content may be another one: a strong validator (RFC 9110 §8.8.1).
};

struct FoundLine {
  std::string path;
  std::uint64_t number = 0;  ///< From 1.
  std::string text;          ///< At most 4096 bytes; any bytes.
};

RunRequest stat_request(std::string path);
/// `length` in bytes; nullopt: to the end.
RunRequest read_request(std::string path, std::uint64_t offset, std::optional<std::uint64_t> length);
/// The content is the command's input, and its entry the answer. The file is there whole or as it was.
RunRequest write_request(std::string path);
/// One more than `limit` is answered where there is one.
RunRequest glob_request(std::string pattern, std::string path, std::uint64_t limit);
RunRequest grep_request(std::string text, std::string path, std::string glob, std::uint64_t limit);

/// A connection to a port of the box (box/agent/connect.h).
RunRequest connect_request(std::uint16_t port);

/// What was answered; nullopt when it is nothing that an agent says.
std::optional<std::vector<FileEntry>> parse_entries(std::string_view answer);
std::optional<std::vector<FoundLine>> parse_lines(std::string_view answer);
/// errno, out of the standard error of a request that ended with file_trouble; EIO when it says none.
int parse_trouble(std::string_view standard_error);

}  // namespace postern::box
