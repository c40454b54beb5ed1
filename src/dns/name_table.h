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
// One per sandbox, shared by the DNS side and every loop; thread-safe. What every connection asks, the name
// behind an allowed address, is read without a lock: such names are only ever added, in blocks that do not
// move. Denied names change and are read under a shared lock.

#include <array>
#include <atomic>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <list>
#include <memory>
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

  /// Strings by index in blocks of 16, 32, 64, …: room for little costs little, and nothing moves.
  class Names {
   public:
    /// Of those that were added before; any thread.
    const std::string& operator[](std::uint32_t index) const {
      const Place place(index);
      return blocks_[place.block][place.offset];
    }
    std::uint32_t size() const { return size_.load(std::memory_order_acquire); }
    /// One thread at a time.
    const std::string& add(std::string_view name);

   private:
    static constexpr std::uint32_t first_block = 16;
    struct Place {
      std::uint32_t block, offset;
      explicit Place(std::uint32_t index) {
        const std::uint32_t shifted = index + first_block;
        block = static_cast<std::uint32_t>(std::bit_width(shifted) - std::bit_width(first_block));
        offset = shifted - (first_block << block);
      }
    };
    // A block is there before size() says that something is in it.
    std::array<std::unique_ptr<std::string[]>, 24> blocks_;
    std::atomic<std::uint32_t> size_ = 0;
  };

  Result<IpAddress> allowed_address(std::string_view name);
  IpAddress denied_address(std::string_view name);
  IpAddress address_at(std::uint32_t index) const;

  const NameTableLimits limits_;
  const std::uint32_t first_;  ///< Address of index 0, host order. Denied indexes follow the allowed ones.
  mutable std::shared_mutex mutex_;

  // The maps' keys are views of names in the blocks and the list, whose elements never move.
  Names allowed_names_;  ///< By index.
  std::unordered_map<std::string_view, std::uint32_t> allowed_;
  DeniedList denied_list_;                       ///< Most recently asked for first.
  std::vector<DeniedList::iterator> denied_at_;  ///< By index.
  std::unordered_map<std::string_view, DeniedList::iterator> denied_;
};

}  // namespace postern::dns
