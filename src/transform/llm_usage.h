#pragma once
// The tokens that an answer of a language model says it has cost: `usage` as the APIs of OpenAI (Chat
// Completions, Responses, Embeddings) and Anthropic (Messages) report it, and those that do it alike, in JSON
// and in server-sent events.

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <string_view>

namespace postern::transform {

/// Reads along with one answer, decoded. Bounded memory, whatever the answer; nothing throws.
class LlmUsage {
 public:
  LlmUsage();
  LlmUsage(LlmUsage&&) noexcept;
  LlmUsage& operator=(LlmUsage&&) noexcept;
  ~LlmUsage();

  void feed(std::string_view piece);
  /// What is reported so far: of a stream's reports the largest of each kind, since later ones count from the
  /// beginning. nullopt: nothing was.
  std::optional<std::uint64_t> tokens() const;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace postern::transform
