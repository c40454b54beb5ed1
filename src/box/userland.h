#pragma once
// The default snapshot: the host's own programs (/usr) in an otherwise empty system. What boxes have in
// common is made once, into a directory that holds
//
//   root/      the lower layer of every such box's "/": empty places, and an /etc of which the host gives
//   only
//              what is on a list and open to everybody; accounts and profile are our own
//   programs/  the agent and the launcher, which boxes of any snapshot see at /run/postern
//
// All of that is box_owner()'s, and nothing in it is run by anybody else.

#include <string>
#include <vector>

#include "base/fd.h"
#include "base/result.h"

namespace postern::box {

/// Places of the host that boxes see read-only where they are directories (on most hosts: links into /usr,
/// which are part of `root/`).
std::vector<std::string> userland_places();

class Userland {
 public:
  /// Some tens of milliseconds. Below `state_directory`, which is there; what ended keepers left is removed.
  /// Forks: for single-threaded processes. `host_etc` is "/etc", but in tests.
  static Result<Userland> make(const std::string& state_directory, const std::string& host_etc = "/etc");

  const std::string& path() const { return path_; }
  /// The program that holders become (rest/main.cc): this process' user's, without a name, so that no box's
  /// owner can put another in its place.
  const Fd& rest() const { return rest_; }

 private:
  Userland(std::string path, Fd taken, Fd rest)
      : path_(std::move(path)), taken_(std::move(taken)), rest_(std::move(rest)) {}
  std::string path_;
  Fd taken_;  ///< Others leave it alone while this is open. It is not removed: boxes may hold it still.
  Fd rest_;
};

}  // namespace postern::box
