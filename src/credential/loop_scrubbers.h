#pragma once
// What one loop searches the answers of a sandbox's hosts for, made when the first of them is asked: the
// secrets of every rule for the host, since what one request told it another's answer may repeat.

#include <cstdint>
#include <memory>
#include <string>
#include <unordered_map>

#include "credential/injections.h"
#include "credential/scrubber.h"
#include "model/host.h"

namespace postern::credential {

class LoopScrubbers {
 public:
  /// `version`: of what belongs to both others (Grants::number()). `besides`: a rule whose headers go to the
  /// host although it is not for it; or policy::no_rule. nullptr when there is nothing to look for.
  const std::shared_ptr<const Scrubber>& of(std::uint64_t version, const policy::Snapshot& snapshot,
                                            const Injections& injections, const Host& host,
                                            std::uint32_t besides);

 private:
  static constexpr std::size_t kept_max = 64;  // some 16 KB each
  std::uint64_t version_ = 0;
  std::string key_;
  std::unordered_map<std::string, std::shared_ptr<const Scrubber>> kept_;
  const std::shared_ptr<const Scrubber>* last_ = nullptr;  ///< In kept_,
  std::string last_host_;                                  ///< for this.
  std::uint32_t last_besides_ = 0;
};

}  // namespace postern::credential
