#pragma once
// A compiled list of destinations: one allow list or one deny list of `access_control`.

#include <cstdint>
#include <string_view>
#include <vector>

#include "model/host.h"
#include "policy/host_regexes.h"
#include "policy/host_table.h"
#include "policy/pattern.h"

namespace postern::policy {

/// Ports of one host: every port, or a few.
class Ports {
 public:
  void add(std::optional<std::uint16_t> port);
  /// After the last add().
  void finish();
  bool contains(std::uint16_t port) const;
  bool every() const { return every_; }
  bool empty() const { return !every_ && some_.empty(); }

 private:
  bool every_ = false;
  std::vector<std::uint16_t> some_;  // sorted; documents name one or two
};

class Destinations {
 public:
  /// `*` stands for host names. On the deny side it closes literal addresses too: whoever denies everything
  /// means it.
  enum class Side : std::uint8_t { allow, deny };
  explicit Destinations(Side side) : side_(side) {}

  /// False when there are more regular expressions than accepted.
  bool add(const DestinationPattern& pattern);
  /// After the last add(). False when the regular expressions are too large together.
  bool compile();

  bool empty() const { return size_ == 0; }
  bool contains(const Host& host, std::uint16_t port) const;
  /// True when some port of the host is in the list.
  bool contains_some_port(const Host& host) const;
  /// True when every port of the host is in the list.
  bool contains_every_port(const Host& host) const;

 private:
  template <class Accept>
  bool find(const Host& host, Accept accept) const;

  Side side_;
  std::size_t size_ = 0;
  HostTable<Ports> hosts_;  // literal addresses are exact names here; no host name looks like one
  Ports everything_;
  HostRegexes regexes_;
  std::vector<Cidr> networks_;  // literal addresses only, and few: looked through one by one
};

}  // namespace postern::policy
