#pragma once
// The limits of one policy, connected with the counters of its sandbox: what a request passes before it goes
// on, and what it holds until it is over.

#include <array>
#include <chrono>
#include <cstdint>
#include <expected>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/clock.h"
#include "policy/snapshot.h"
#include "quota/ledger.h"

namespace postern::quota {

enum class Limit : std::uint8_t {
  requests_per_second,
  concurrent_requests,
  requests_per_day,
  request_bytes_per_day,
  tokens_per_day,
};
/// As a policy has it. Static storage.
std::string_view token(Limit limit);

/// One limit that was reached.
struct Refused {
  Limit limit = Limit::requests_per_second;
  std::string_view rule;  ///< Empty: the sandbox's own. Valid while the policy lives.
  std::uint64_t most = 0;
  std::chrono::seconds retry_after{1};  ///< At least one.

  /// "requests_per_second of the rule 'llm' (5)"
  std::string detail() const;
};

/// The limits of a rule, or of the sandbox, and what was used of them.
struct Gate {
  std::string_view rule;  ///< Empty: the sandbox.
  const policy::Limits* limits = nullptr;
  std::shared_ptr<Counter> counter;
};

/// What a request holds: its places, and the bytes that its head announced, which are given back as far as
/// they did not come. One exchange's; not longer than the Gates.
class Ticket {
 public:
  Ticket() = default;
  Ticket(Ticket&& other) noexcept { *this = std::move(other); }
  Ticket& operator=(Ticket&& other) noexcept;
  ~Ticket() { leave(); }

  /// Whether anything is limited at all.
  explicit operator bool() const { return count_ != 0; }
  /// Somebody wants to know the tokens.
  bool limits_tokens() const;
  /// So many bytes of the request's body have come. Errors: they are too many, and counted nowhere.
  std::expected<void, Refused> pass(std::uint64_t bytes);
  /// What its answer cost. More than was left is counted, and the next request is refused.
  void spend(std::uint64_t tokens);
  /// As for a new request. For what goes on without new requests.
  std::expected<void, Refused> tokens_left() const;
  /// Its places are free again, and the bytes that will not come. Idempotent.
  void leave();

 private:
  friend class Gates;
  static constexpr std::size_t gates_max = 3;

  std::span<const Gate* const> gates() const { return std::span(gates_).first(count_); }

  std::array<const Gate*, gates_max> gates_{};
  std::size_t count_ = 0;
  const Clock* clock_ = nullptr;
  Day day_{};                    ///< When it began.
  std::uint64_t announced_ = 0;  ///< Bytes that were counted and have not come yet.
  bool inside_ = false;
};

class Gates {
 public:
  Gates() = default;
  /// `snapshot` outlives it.
  Gates(const policy::Snapshot& snapshot, Ledger& ledger);

  bool any() const { return sandbox_.limits || !rules_.empty(); }
  /// A request with which the rule of this number (or no_rule) has to do, and another that gives it
  /// credentials. `announced`: bytes of its body, as far as they are known. What is refused consumes nothing:
  /// every limit is tried before one is counted. Of several that are reached, the one that takes longest is
  /// named. `clock` outlives the ticket.
  std::expected<Ticket, Refused> admit(std::uint32_t rule, std::uint32_t other_rule, std::uint64_t announced,
                                       const Clock& clock) const;

 private:
  Gate sandbox_;
  std::vector<Gate> rules_;  ///< By number; empty when none is limited.
};

}  // namespace postern::quota
