#pragma once
// Which synthetic address stands for which name, for one sandbox. A program that asked for a name dials the
// address it was given, and that address is all that a connection of a protocol without names (SSH, a
// database) tells us.
//
// So an address, once given for an allowed name, means that name for the sandbox's life: JVMs and connection
// pools keep addresses far longer than any TTL. Denied names get addresses too (an HTTP client then reads its
// 403), but from a pool of their own in which the least recently asked for is recycled: a million denied
// names can neither use up the addresses of allowed ones nor ever come to stand behind an address that an
// allowed name had.
//
// One per sandbox, shared by the DNS side and every loop; thread-safe. Reading takes a shared lock.

#include <cstddef>
#include <cstdint>
#include <deque>
#include <list>
#include <optional>
#include <shared_mutex>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "base/result.h"
#include "model/address.h"

namespace postern::dns {

/// The verdict on a name when it was asked for.
enum class NameUse : unsigned char { allowed, denied };

struct NameTableLimits {
  std::uint32_t allowed_max = 65'536;  ///< About 22 MB when all are as long as a name can be.
  std::uint32_t denied_max = 16'384;
};

class NameTable {
 public:
  /// A random part of 100.64.0.0/10 (RFC 6598), so that one sandbox's addresses mean little in another.
  explicit NameTable(NameTableLimits limits = {});
  /// With the part's first address chosen: 100.64.0.0 plus `start`, moved to where the whole part fits.
  NameTable(NameTableLimits limits, std::uint32_t start);
  NameTable(const NameTable&) = delete;
  NameTable& operator=(const NameTable&) = delete;

  /// The address for a canonical name, new if need be. A name that has an allowed address keeps it, whatever
  /// `use` says now; one that was denied and is now allowed gets an allowed one. Errors: overloaded when all
  /// allowed addresses are taken (answer SERVFAIL); malformed_host for an empty name or one above 255 bytes.
  Result<IpAddress> address_for(std::string_view canonical_name, NameUse use);

  /// The name that an address stands for now; nullopt when none does.
  std::optional<std::string> name_of(const IpAddress& address) const;

  /// True for all of 100.64.0.0/10 beyond Postern's own 100.64.0.0/24: a connection there without a name is
  /// refused.
  static bool is_synthetic(const IpAddress& address);

 private:
  struct Denied {
    std::string name;
    std::uint32_t index = 0;
  };
  using DeniedList = std::list<Denied>;

  Result<IpAddress> allowed_address(std::string_view name);
  IpAddress denied_address(std::string_view name);
  IpAddress address_at(std::uint32_t index) const;

  const NameTableLimits limits_;
  const std::uint32_t first_;  ///< Address of index 0, host order. Denied indexes follow the allowed ones.
  mutable std::shared_mutex mutex_;

  // The maps' keys are views of names in the deque and the list, whose elements never move.
  std::deque<std::string> allowed_names_;  ///< By index.
  std::unordered_map<std::string_view, std::uint32_t> allowed_;
  DeniedList denied_list_;                       ///< Most recently asked for first.
  std::vector<DeniedList::iterator> denied_at_;  ///< By index.
  std::unordered_map<std::string_view, DeniedList::iterator> denied_;
};

}  // namespace postern::dns
