#include "quota/gates.h"

#include <algorithm>
#include <fmt/format.h>
#include <optional>
#include <utility>

namespace postern::quota {

namespace {

using std::chrono::seconds;

struct Moment {
  TimePoint now;
  WallTime wall;
  Day today() const { return day_of(wall); }
  seconds until_tomorrow() const {
    return std::max(seconds(1), std::chrono::ceil<seconds>(today() + std::chrono::days(1) - wall));
  }
};

Moment moment(const Clock& clock) { return {clock.now(), clock.wall()}; }

std::uint64_t most(const std::optional<std::uint64_t>& limit) { return limit.value_or(unlimited); }

Refused refused(const Gate& gate, Limit limit, std::uint64_t most, seconds retry_after) {
  return {.limit = limit, .rule = gate.rule, .most = most, .retry_after = std::max(seconds(1), retry_after)};
}

bool fits(std::uint64_t count, std::uint64_t amount, std::uint64_t most) {
  return count <= most && amount <= most - count;
}

std::optional<Refused> tokens_spent(const Gate& gate, const Moment& at) {
  const auto& limit = gate.limits->tokens_per_day;
  if (!limit || gate.counter->tokens.count(at.today()) < *limit) return std::nullopt;
  return refused(gate, Limit::tokens_per_day, *limit, at.until_tomorrow());
}

/// The limit that a request would exceed, of several the one that lasts longest. Counts nothing.
std::optional<Refused> look(const Gate& gate, const Moment& at, std::uint64_t bytes) {
  const policy::Limits& limits = *gate.limits;
  const Counter& counter = *gate.counter;
  const Day today = at.today();
  if (limits.requests_per_day && !fits(counter.requests.count(today), 1, *limits.requests_per_day))
    return refused(gate, Limit::requests_per_day, *limits.requests_per_day, at.until_tomorrow());
  if (limits.request_bytes_per_day &&
      !fits(counter.request_bytes.count(today), bytes, *limits.request_bytes_per_day))
    return refused(gate, Limit::request_bytes_per_day, *limits.request_bytes_per_day, at.until_tomorrow());
  if (auto spent = tokens_spent(gate, at)) return spent;
  if (limits.requests_per_second)
    if (const Duration wait = counter.rate.wait(at.now, *limits.requests_per_second);
        wait != Duration::zero())
      return refused(gate, Limit::requests_per_second, *limits.requests_per_second,
                     std::chrono::ceil<seconds>(wait));
  if (limits.concurrent_requests && counter.places.full(*limits.concurrent_requests))
    return refused(gate, Limit::concurrent_requests, *limits.concurrent_requests, seconds(1));
  return std::nullopt;
}

/// The same, and counts; another thread may have been faster than what look() saw. All or nothing.
std::optional<Refused> take(const Gate& gate, const Moment& at, std::uint64_t bytes) {
  const policy::Limits& limits = *gate.limits;
  Counter& counter = *gate.counter;
  const Day today = at.today();
  if (!counter.places.take(most(limits.concurrent_requests)))
    return refused(gate, Limit::concurrent_requests, *limits.concurrent_requests, seconds(1));
  if (!counter.requests.take(today, 1, most(limits.requests_per_day))) {
    counter.places.give_back();
    return refused(gate, Limit::requests_per_day, *limits.requests_per_day, at.until_tomorrow());
  }
  if (!counter.request_bytes.take(today, bytes, most(limits.request_bytes_per_day))) {
    counter.requests.give_back(today, 1);
    counter.places.give_back();
    return refused(gate, Limit::request_bytes_per_day, *limits.request_bytes_per_day, at.until_tomorrow());
  }
  if (limits.requests_per_second && !counter.rate.take(at.now, *limits.requests_per_second)) {
    counter.request_bytes.give_back(today, bytes);
    counter.requests.give_back(today, 1);
    counter.places.give_back();
    return refused(gate, Limit::requests_per_second, *limits.requests_per_second, seconds(1));
  }
  return std::nullopt;
}

void give_back(const Gate& gate, const Moment& at, std::uint64_t bytes) {
  const Day today = at.today();
  if (gate.limits->requests_per_second) gate.counter->rate.give_back(*gate.limits->requests_per_second);
  gate.counter->request_bytes.give_back(today, bytes);
  gate.counter->requests.give_back(today, 1);
  gate.counter->places.give_back();
}

}  // namespace

std::string_view token(Limit limit) {
  switch (limit) {
    case Limit::requests_per_second: return "requests_per_second";
    case Limit::concurrent_requests: return "concurrent_requests";
    case Limit::requests_per_day: return "requests_per_day";
    case Limit::request_bytes_per_day: return "request_bytes_per_day";
    case Limit::tokens_per_day: return "tokens_per_day";
  }
  return "";
}

std::string Refused::detail() const {
  if (rule.empty()) return fmt::format("{} of the sandbox ({})", token(limit), most);
  return fmt::format("{} of the rule '{}' ({})", token(limit), rule, most);
}

Ticket& Ticket::operator=(Ticket&& other) noexcept {
  if (this == &other) return *this;
  leave();
  gates_ = other.gates_;
  count_ = std::exchange(other.count_, 0);
  clock_ = other.clock_;
  day_ = other.day_;
  announced_ = std::exchange(other.announced_, 0);
  inside_ = std::exchange(other.inside_, false);
  return *this;
}

bool Ticket::limits_tokens() const {
  return std::ranges::any_of(gates(),
                             [](const Gate* gate) { return gate->limits->tokens_per_day.has_value(); });
}

std::expected<void, Refused> Ticket::pass(std::uint64_t bytes) {
  if (count_ == 0) return {};
  const std::uint64_t known = std::min(bytes, announced_);
  announced_ -= known;
  bytes -= known;
  if (bytes == 0) return {};
  const Moment at = moment(*clock_);
  for (std::size_t i = 0; i < count_; ++i) {
    const auto& limit = gates_[i]->limits->request_bytes_per_day;
    if (gates_[i]->counter->request_bytes.take(at.today(), bytes, most(limit))) continue;
    const Refused why = refused(*gates_[i], Limit::request_bytes_per_day, *limit, at.until_tomorrow());
    while (i-- > 0) gates_[i]->counter->request_bytes.give_back(at.today(), bytes);
    return std::unexpected(why);
  }
  return {};
}

void Ticket::spend(std::uint64_t tokens) {
  if (count_ == 0) return;
  const Day today = day_of(clock_->wall());
  for (const Gate* gate : gates()) gate->counter->tokens.take(today, tokens);
}

std::expected<void, Refused> Ticket::tokens_left() const {
  if (count_ == 0) return {};
  const Moment at = moment(*clock_);
  for (const Gate* gate : gates())
    if (auto spent = tokens_spent(*gate, at)) return std::unexpected(*spent);
  return {};
}

void Ticket::leave() {
  if (!std::exchange(inside_, false)) return;
  for (const Gate* gate : gates()) {
    gate->counter->places.give_back();
    gate->counter->request_bytes.give_back(day_, announced_);
  }
  announced_ = 0;
}

Gates::Gates(const policy::Snapshot& snapshot, Ledger& ledger) {
  if (snapshot.limits()) sandbox_ = {.limits = snapshot.limits(), .counter = ledger.counter({})};
  const auto rules = snapshot.rules();
  const auto is_limited = [](const policy::Rule& rule) { return rule.limits() != nullptr; };
  if (std::ranges::none_of(rules, is_limited)) return;
  rules_.resize(rules.size());
  for (std::size_t i = 0; i < rules.size(); ++i)
    if (is_limited(rules[i]))
      rules_[i] = {
          .rule = rules[i].name, .limits = rules[i].limits(), .counter = ledger.counter(rules[i].name)};
}

std::expected<Ticket, Refused> Gates::admit(std::uint32_t rule, std::uint32_t other_rule,
                                            std::uint64_t announced, const Clock& clock) const {
  Ticket ticket;
  const auto add = [&ticket](const Gate& gate) {
    if (gate.limits) ticket.gates_[ticket.count_++] = &gate;
  };
  if (rule < rules_.size()) add(rules_[rule]);
  if (other_rule < rules_.size() && other_rule != rule) add(rules_[other_rule]);
  add(sandbox_);
  if (ticket.count_ == 0) return ticket;

  const Moment at = moment(clock);
  std::optional<Refused> longest;
  for (const Gate* gate : ticket.gates())
    if (auto why = look(*gate, at, announced); why && (!longest || why->retry_after > longest->retry_after))
      longest = why;
  if (longest) return std::unexpected(*longest);
  for (std::size_t i = 0; i < ticket.count_; ++i) {
    const auto why = take(*ticket.gates_[i], at, announced);
    if (!why) continue;
    while (i-- > 0) give_back(*ticket.gates_[i], at, announced);
    return std::unexpected(*why);
  }
  ticket.clock_ = &clock;
  ticket.day_ = at.today();
  ticket.announced_ = announced;
  ticket.inside_ = true;
  return ticket;
}

}  // namespace postern::quota
