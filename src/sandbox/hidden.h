#pragma once
// Places of the host that a sandboxed program has no business with, though the host's root is visible to it.
//
// Three kinds: where tools keep credentials (below the home, named by variables such as KUBECONFIG, and
// root's own below /etc), programs' profiles that hold logins (browsers, mail, chats), and unix sockets: a
// read-only mount does not stop connect(), and behind a socket is another program of the same user (an agent,
// a container engine). Symbolic links are followed, so that ~/.aws -> ~/dotfiles/aws hides the latter.

#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace postern::sandbox {

struct HiddenPlace {
  enum class Kind : unsigned char { directory, file };
  std::string path;  ///< Absolute, without symbolic links.
  Kind kind;
  bool operator==(const HiddenPlace&) const = default;
};

/// What exists of the known credential places. `homes` are absolute; `caller` is an environ block.
std::vector<HiddenPlace> credential_places(std::span<const std::string> homes,
                                           std::span<const char* const> caller);

/// Unix sockets with a name in the file system, out of a text in the form of /proc/net/unix. Only those that
/// exist.
std::vector<HiddenPlace> socket_places(std::string_view proc_net_unix);

/// `path` with its symbolic links followed, and what it is. Empty path: there is nothing.
HiddenPlace resolve_place(const std::string& path);

/// Whether `path` is `ancestor` or below it. Both absolute and normal.
bool is_within(std::string_view path, std::string_view ancestor);

}  // namespace postern::sandbox
