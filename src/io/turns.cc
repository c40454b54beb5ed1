#include "io/turns.h"

namespace postern::io {

std::uint64_t Turns::Queue::pop() {
  constexpr std::size_t taken_max = 1024;
  const std::uint64_t token = tokens[first++];
  if (empty() || first >= std::max(taken_max, tokens.size() / 2)) {
    tokens.erase(tokens.begin(), tokens.begin() + static_cast<std::ptrdiff_t>(first));
    first = 0;
  }
  return token;
}

void Turns::Lane::push(Queue& queue) {
  queue.next = nullptr;
  (last ? last->next : first) = &queue;
  last = &queue;
}

Turns::Queue& Turns::Lane::pop() {
  Queue& queue = *first;
  first = queue.next;
  if (!first) last = nullptr;
  return queue;
}

void Turns::add(Party party, std::uint64_t token, TimePoint now) {
  if (queues_.size() > forget_above_) forget_idle(now);
  Queue& queue = queues_[party];
  queue.tokens.push_back(token);
  ++waiting_;
  if (queue.queued) return;
  queue.credit = queue.credit_at(now);
  queue.counted = now;
  queue.queued = true;
  (queue.credit >= event_cost ? light_ : busy_).push(queue);
}

Turns::Next Turns::take() {
  while (true) {
    const bool light = light_.first && (!busy_.first || light_in_a_row_ < light_in_a_row_max);
    Lane& lane = light ? light_ : busy_;
    Queue& queue = *lane.first;
    if (queue.empty()) {  // A busy one keeps its place until its turn comes and there is nothing to be done.
      lane.pop();
      queue.queued = false;
      queue.credit = std::min(queue.credit, Duration::zero());  // What was given by turns cannot be saved.
      continue;
    }
    if (queue.credit <= Duration::zero()) {
      // A light one has used up what it had; a busy one gets its quantum and waits for its turn.
      if (!light) queue.credit += quantum;
      busy_.push(lane.pop());
      continue;
    }
    light_in_a_row_ = light ? light_in_a_row_ + 1 : 0;
    served_ = &queue;
    --waiting_;
    const std::uint64_t token = queue.pop();
    if (light && queue.empty()) {
      lane.pop();
      queue.queued = false;
    }
    return {token, light};
  }
}

// Whose credit is full is as one who was never here.
void Turns::forget_idle(TimePoint now) {
  std::erase_if(queues_, [now](const auto& entry) {
    return !entry.second.queued && entry.second.credit_at(now) == quantum;
  });
  forget_above_ = std::max(remembered_min, 2 * queues_.size());
}

}  // namespace postern::io
