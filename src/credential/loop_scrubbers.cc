#include "credential/loop_scrubbers.h"

namespace postern::credential {

const std::shared_ptr<const Scrubber>& LoopScrubbers::of(std::uint64_t version,
                                                         const policy::Snapshot& snapshot,
                                                         const Injections& injections, const Host& host,
                                                         std::uint32_t besides) {
  // Most often it is the same again.
  if (last_ && version_ == version && besides == last_besides_ && host.name == last_host_) return *last_;
  if (version_ != version || kept_.size() >= kept_max) kept_.clear();
  version_ = version;
  last_ = nullptr;
  key_.assign(host.name).append(reinterpret_cast<const char*>(&besides), sizeof besides);
  const auto [place, is_new] = kept_.try_emplace(key_);
  last_ = &place->second;
  last_host_ = host.name;
  last_besides_ = besides;
  if (!is_new) return place->second;
  std::vector<const InjectedHeader*> headers;
  const auto add = [&](std::uint32_t rule) {
    for (const InjectedHeader& header : injections.of(rule)) headers.push_back(&header);
  };
  add(besides);
  policy::CoveringRules rules = snapshot.rule_index().covering(host);
  for (std::uint32_t rule = rules.next(); rule != policy::no_rule; rule = rules.next()) add(rule);
  place->second = Scrubber::make(headers);
  return place->second;
}

}  // namespace postern::credential
