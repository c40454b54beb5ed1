#include "dns/name_table.h"

#include <algorithm>
#include <mutex>
#include <random>

namespace postern::dns {
namespace {

constexpr std::uint32_t network = 0x64400000;  // 100.64.0.0
constexpr std::uint32_t network_size = 1u << 22;
constexpr std::uint32_t reserved_at_start = 256;  // Postern's own addresses
constexpr std::uint32_t reserved_at_end = 1;      // the broadcast address, which some programs refuse to dial
constexpr std::uint32_t usable = network_size - reserved_at_start - reserved_at_end;
constexpr std::size_t name_bytes_max = 255;  // RFC 1035 §2.3.4

NameTableLimits clamped(NameTableLimits limits) {
  limits.allowed_max = std::clamp<std::uint32_t>(limits.allowed_max, 1, usable / 2);
  limits.denied_max = std::clamp<std::uint32_t>(limits.denied_max, 1, usable / 2);
  return limits;
}

std::uint32_t first_address(NameTableLimits limits, std::uint32_t start) {
  const std::uint32_t last_start = network_size - reserved_at_end - limits.allowed_max - limits.denied_max;
  return network + std::clamp(start, reserved_at_start, last_start);
}

std::uint32_t random_start(NameTableLimits limits) {
  limits = clamped(limits);
  std::random_device device;
  const std::uint32_t last_start = network_size - reserved_at_end - limits.allowed_max - limits.denied_max;
  return std::uniform_int_distribution<std::uint32_t>(reserved_at_start, last_start)(device);
}

}  // namespace

const std::string& NameTable::Names::add(std::string_view name) {
  const std::uint32_t index = size_.load(std::memory_order_relaxed);
  const Place place(index);
  if (!blocks_[place.block])
    blocks_[place.block] = std::make_unique<std::string[]>(first_block << place.block);
  std::string& added = blocks_[place.block][place.offset];
  added = name;
  size_.store(index + 1, std::memory_order_release);
  return added;
}

NameTable::NameTable(NameTableLimits limits) : NameTable(limits, random_start(limits)) {}

NameTable::NameTable(NameTableLimits limits, std::uint32_t start)
    : limits_(clamped(limits)), first_(first_address(limits_, start)) {}

IpAddress NameTable::address_at(std::uint32_t index) const { return IpAddress::v4(first_ + index); }

Result<IpAddress> NameTable::address_for(std::string_view canonical_name, NameUse use) {
  if (canonical_name.empty() || canonical_name.size() > name_bytes_max) {
    return fail(Reason::malformed_host, "A name of this length has no address.", Side::sandbox);
  }
  {
    std::shared_lock reading(mutex_);
    if (auto found = allowed_.find(canonical_name); found != allowed_.end()) return address_at(found->second);
  }
  std::unique_lock writing(mutex_);
  return use == NameUse::allowed ? allowed_address(canonical_name) : denied_address(canonical_name);
}

Result<IpAddress> NameTable::allowed_address(std::string_view name) {
  // Again: between the two locks another loop may have given it one.
  if (auto found = allowed_.find(name); found != allowed_.end()) return address_at(found->second);
  const std::uint32_t index = allowed_names_.size();
  if (index == limits_.allowed_max) {
    return fail(Reason::overloaded, "The sandbox has asked for more names than it may.", Side::sandbox);
  }
  allowed_.emplace(allowed_names_.add(name), index);
  return address_at(index);
}

IpAddress NameTable::denied_address(std::string_view name) {
  if (auto found = allowed_.find(name); found != allowed_.end()) return address_at(found->second);
  auto found = denied_.find(name);
  if (found != denied_.end()) {
    denied_list_.splice(denied_list_.begin(), denied_list_, found->second);
  } else if (denied_list_.size() < limits_.denied_max) {
    denied_list_.push_front({std::string(name), static_cast<std::uint32_t>(denied_list_.size())});
    denied_at_.push_back(denied_list_.begin());
    denied_.emplace(denied_list_.front().name, denied_list_.begin());
  } else {
    denied_list_.splice(denied_list_.begin(), denied_list_, std::prev(denied_list_.end()));
    Denied& recycled = denied_list_.front();
    denied_.erase(recycled.name);  // before the name changes: the key is a view of it
    recycled.name = name;
    denied_.emplace(recycled.name, denied_list_.begin());
  }
  return address_at(limits_.allowed_max + denied_list_.front().index);
}

std::optional<std::string> NameTable::name_of(const IpAddress& address) const {
  const IpAddress plain = address.unmapped();  // a dual-stack socket reports ::ffff:100.64.x.y
  if (!plain.is_v4() || plain.v4_host_order() < first_) return std::nullopt;
  const std::uint32_t index = plain.v4_host_order() - first_;
  if (index < limits_.allowed_max) {
    if (index < allowed_names_.size()) return allowed_names_[index];
    return std::nullopt;
  }
  std::shared_lock reading(mutex_);
  const std::uint32_t denied_index = index - limits_.allowed_max;
  if (denied_index < denied_at_.size()) return denied_at_[denied_index]->name;
  return std::nullopt;
}

bool NameTable::is_synthetic(const IpAddress& address) {
  const IpAddress plain = address.unmapped();
  if (!plain.is_v4()) return false;
  const std::uint32_t value = plain.v4_host_order();
  return value >= network + reserved_at_start && value < network + network_size;
}

}  // namespace postern::dns
