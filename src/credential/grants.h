#pragma once
// The grants of one policy: who has been asked, what was answered, and for how long it is good. Belongs to
// one sandbox and one version of its policy, so nothing here can cross to another. Shared by the loops: a
// question is asked once, whoever waits for the answer. A request that finds its grant in the LoopGrants of
// its own loop takes no lock.

#include <cstdint>
#include <deque>
#include <memory>
#include <mutex>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "credential/source.h"
#include "io/wait.h"

namespace postern::credential {

class Grants : public std::enable_shared_from_this<Grants> {
 public:
  static constexpr std::chrono::seconds answer_time{10};  // for one question, its wait in the queue included
  static constexpr std::chrono::seconds retry_time{1};    // after a refresh ahead of time that failed
  static constexpr std::size_t asking_max = 16;  // of one source at once: one that hangs holds up itself only
  static constexpr std::size_t queued_max = 4096;  // of one source; beyond it a request fails at once
  static constexpr std::size_t entries_max = 4096;

  using Sources = std::vector<std::unique_ptr<const Source>>;
  /// By their numbers; of rules, nullptr where there is nobody to ask.
  explicit Grants(Sources callbacks, Sources rules = {});
  ~Grants();
  Grants(const Grants&) = delete;

  const Source& of_callback(std::uint32_t callback_index) const { return *callbacks_[callback_index]; }
  const Source* of_rule(std::uint32_t rule_index) const {
    return rule_index < rules_.size() ? rules_[rule_index].get() : nullptr;
  }
  /// Never used again, unlike an address.
  std::uint64_t number() const { return number_; }

  /// What there is. Asks ahead of time on the way, when that is due. nullptr: obtain() it.
  GrantRef current(Caller& caller, const Source& source, const Subject& subject);
  /// What there is, or the answer to a question that is under way or begins now. `request` for sources that
  /// want to see it. Errors: the source's, and those of not being answered in time.
  io::Task<Result<GrantRef>> obtain(Caller& caller, const Source& source, const Subject& subject,
                                    const ShownRequest* request);

 private:
  struct Waiter;
  struct Flight;
  struct Entry;
  struct Queue;
  class Place;

  std::string key_of(const Source& source, const Subject& subject) const;
  io::Task<Result<GrantRef>> ask(Caller& caller, const Source& source, const Subject& subject,
                                 const ShownRequest* request, TimePoint deadline);
  static io::Task<void> fly(std::shared_ptr<Grants> self, Caller& caller, const Source& source,
                            Subject subject, std::string key, std::shared_ptr<Flight> flight);
  void take_off(Caller& caller, const Source& source, const Subject& subject, const std::string& key,
                Entry& entry);
  void land(const std::string& key, Flight& flight, Result<GrantRef> outcome, const Clock& clock);
  bool make_room(const Clock& clock);
  io::Task<Result<void>> enter(Caller& caller, const Source& source, TimePoint deadline);
  void leave(const Source& source);

  const std::uint64_t number_;
  const Sources callbacks_;
  const Sources rules_;
  std::mutex mutex_;  ///< Of all below; held for moments only.
  std::unordered_map<std::string, Entry> entries_;
  std::unordered_map<const Source*, Queue> queues_;
};

/// The grants that one loop has used for one sandbox lately.
class LoopGrants {
 public:
  /// nullptr when there is none of this version, or it has expired.
  GrantRef find(const Grants& grants, const Source& source, const Host& host, std::uint16_t port,
                const Clock& clock);
  void keep(const Grants& grants, const Source& source, const Host& host, std::uint16_t port, GrantRef grant);
  /// What the grant before this one is found by in answers; nullptr when there was none.
  std::shared_ptr<const Scrubber> earlier(const Grants& grants, const Source& source, const Host& host,
                                          std::uint16_t port);

 private:
  struct Kept {
    GrantRef grant;
    std::shared_ptr<const Scrubber> earlier;
  };
  static constexpr std::size_t kept_max = 256;
  void set_key(const Source& source, const Host& host, std::uint16_t port);

  std::uint64_t version_ = 0;  ///< Grants::number()
  std::string key_;
  std::unordered_map<std::string, Kept> kept_;
};

}  // namespace postern::credential
