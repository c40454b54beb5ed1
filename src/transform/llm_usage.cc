#include "transform/llm_usage.h"

#include <algorithm>
#include <array>
#include <limits>

namespace postern::transform {
namespace {

enum Count : std::uint8_t { total, input, output, cache_written, cache_read, counts, none = counts };

using Counts = std::array<std::optional<std::uint64_t>, counts>;

Count count_named(std::string_view key) {
  struct Known {
    std::string_view key;
    Count count;
  };
  static constexpr auto known = std::to_array<Known>({
      {"total_tokens", total},
      {"prompt_tokens", input},
      {"input_tokens", input},
      {"completion_tokens", output},
      {"output_tokens", output},
      {"cache_creation_input_tokens", cache_written},
      {"cache_read_input_tokens", cache_read},
      // Gemini
      {"totalTokenCount", total},
      {"promptTokenCount", input},
      {"candidatesTokenCount", output},
  });
  const auto found = std::ranges::find(known, key, &Known::key);
  return found == known.end() ? none : found->count;
}

/// The place of a value, as far as it matters: reports stand at the top, or in what wraps an answer. What a
/// model has made (the input of a tool) stands in other places, and in strings.
enum class Place : std::uint8_t { top, wrapped, usage, elsewhere };

Place place_of(Place parent, std::string_view key) {
  const bool reports = key == "usage" || key == "usageMetadata";
  if ((parent == Place::top || parent == Place::wrapped) && reports) return Place::usage;
  // Responses of OpenAI, message_start of Anthropic, the last piece of Groq.
  if (parent == Place::top && (key == "response" || key == "message" || key == "x_groq"))
    return Place::wrapped;
  return Place::elsewhere;
}

/// One JSON text after the other, in pieces. Lenient: what is not JSON reports nothing, or something odd.
class JsonReader {
 public:
  explicit JsonReader(Counts& found) : found_(found) {}

  void feed(std::string_view piece) {
    while (!piece.empty()) {
      if (inside_string_) {
        piece = rest_of_string(piece);
        continue;
      }
      outside_string(piece.front());
      piece.remove_prefix(1);
    }
  }

  /// Whatever was open is over.
  void reset() {
    end_number();
    depth_ = 0;
    inside_string_ = escaped_ = wants_key_ = false;
    value_ = Place::top;
  }

 private:
  static constexpr std::size_t key_bytes_max = 32;  // Longer ones are none of ours.
  static constexpr std::size_t levels = 6;          // Deeper, nothing is looked for.

  struct Level {
    Place place = Place::elsewhere;
    bool object = false;
  };

  void outside_string(char c) {
    if (in_number_ && continue_number(c)) return;
    switch (c) {
      case '"': begin_string(); break;
      case '{': open(true); break;
      case '[': open(false); break;
      case '}':
      case ']': close(); break;
      case ',': next_member(); break;
      case ':': wants_key_ = false; break;
      default: begin_number(c);
    }
  }

  void open(bool object) {
    // An array of answers, as Gemini streams them, is no level of its own.
    const bool transparent = depth_ == 0 && !object;
    const Place place = object || transparent ? value_ : Place::elsewhere;
    if (depth_ < levels) open_[depth_] = {place, object};
    ++depth_;
    next_member();
  }

  void close() {
    if (depth_ > 0) --depth_;
    wants_key_ = false;
    count_ = none;
    value_ = depth_ == 0 ? Place::top : Place::elsewhere;
  }

  void next_member() {
    const Level level = depth_ > 0 && depth_ <= levels ? open_[depth_ - 1] : Level{};
    wants_key_ = level.object;
    count_ = none;
    value_ = !level.object && depth_ == 1 ? level.place : Place::elsewhere;
  }

  void begin_string() {
    inside_string_ = true;
    key_size_ = 0;
  }

  std::string_view rest_of_string(std::string_view piece) {
    if (escaped_) {
      escaped_ = false;
      key_size_ = key_bytes_max + 1;  // No server writes our keys with escapes.
      return piece.substr(1);
    }
    const auto stop = std::ranges::find_if(piece, [](char c) { return c == '"' || c == '\\'; });
    const auto end = static_cast<std::size_t>(stop - piece.begin());
    if (wants_key_) add_to_key(piece.substr(0, end));
    if (end == piece.size()) return {};
    if (piece[end] == '\\') {
      escaped_ = true;
    } else {
      inside_string_ = false;
      if (wants_key_) end_key();
    }
    return piece.substr(end + 1);
  }

  void add_to_key(std::string_view part) {
    for (const char c : part.substr(0, key_bytes_max + 1))
      if (key_size_ < key_bytes_max) {
        key_[key_size_++] = c;
      } else {
        key_size_ = key_bytes_max + 1;
      }
  }

  void end_key() {
    wants_key_ = false;
    const std::string_view key =
        key_size_ <= key_bytes_max ? std::string_view(key_.data(), key_size_) : std::string_view();
    const Place place = open_[depth_ - 1].place;
    value_ = place_of(place, key);
    count_ = place == Place::usage ? count_named(key) : none;
  }

  void begin_number(char c) {
    if (count_ == none || c == ' ' || c == '\t' || c == '\r' || c == '\n') return;
    if (c < '0' || c > '9') return void(count_ = none);
    in_number_ = true;
    number_ = 0;
    (void)continue_number(c);
  }

  /// What is no whole number is no count.
  bool continue_number(char c) {
    if (c >= '0' && c <= '9') {
      constexpr std::uint64_t most = std::numeric_limits<std::uint64_t>::max();
      const auto digit = static_cast<std::uint64_t>(c - '0');
      number_ = number_ > (most - digit) / 10 ? most : number_ * 10 + digit;
      return true;
    }
    if (c == '.' || c == 'e' || c == 'E' || c == '-' || c == '+') {
      in_number_ = false;
      count_ = none;
      return true;
    }
    end_number();
    return false;
  }

  void end_number() {
    if (!in_number_) return;
    in_number_ = false;
    std::optional<std::uint64_t>& most = found_[count_];
    most = std::max(most.value_or(0), number_);
    count_ = none;
  }

  Counts& found_;
  std::uint64_t depth_ = 0;
  std::array<Level, levels> open_{};
  bool inside_string_ = false, escaped_ = false;
  bool wants_key_ = false;    ///< The next string is a member's name.
  Place value_ = Place::top;  ///< Of the value that comes next.
  Count count_ = none;        ///< What the number that comes next would be.
  bool in_number_ = false;
  std::uint64_t number_ = 0;
  std::array<char, key_bytes_max> key_{};
  std::size_t key_size_ = 0;
};

/// The data of server-sent events (WHATWG HTML §9.2.6), each a JSON text.
class EventReader {
 public:
  explicit EventReader(JsonReader& json) : json_(json) {}

  void feed(std::string_view piece) {
    while (!piece.empty()) {
      const char c = piece.front();
      const bool second_of_two = after_return_ && c == '\n';
      after_return_ = false;
      if (second_of_two) {
        piece.remove_prefix(1);
      } else if (c == '\n' || c == '\r') {
        after_return_ = c == '\r';
        end_line();
        piece.remove_prefix(1);
      } else if (name_size_ < data_name.size()) {
        if (name_matches_ && c == data_name[name_size_])
          ++name_size_;
        else
          name_matches_ = false, name_size_ = data_name.size();
        empty_ = false;
        piece.remove_prefix(1);
      } else {
        const std::size_t end = std::min(piece.find_first_of("\r\n"), piece.size());
        if (name_matches_) json_.feed(piece.substr(0, end));
        piece.remove_prefix(end);
      }
    }
  }

 private:
  static constexpr std::string_view data_name = "data:";

  /// An empty one ends the event; data may have several lines.
  void end_line() {
    if (empty_)
      json_.reset();
    else if (name_matches_ && name_size_ == data_name.size())
      json_.feed("\n");
    empty_ = true;
    name_matches_ = true;
    name_size_ = 0;
  }

  JsonReader& json_;
  bool after_return_ = false;
  bool empty_ = true;
  bool name_matches_ = true;
  std::size_t name_size_ = 0;
};

}  // namespace

struct LlmUsage::State {
  enum class Framing : std::uint8_t { unknown, plain, events };

  Counts found;
  JsonReader json{found};
  EventReader events{json};
  Framing framing = Framing::unknown;

  /// White space and a byte order mark tell nothing.
  void look(std::string_view& piece) {
    piece.remove_prefix(std::min(piece.find_first_not_of(" \t\r\n\xef\xbb\xbf"), piece.size()));
    if (piece.empty()) return;
    framing = piece.front() == '{' || piece.front() == '[' ? Framing::plain : Framing::events;
  }
};

LlmUsage::LlmUsage() : state_(std::make_unique<State>()) {}
LlmUsage::LlmUsage(LlmUsage&&) noexcept = default;
LlmUsage& LlmUsage::operator=(LlmUsage&&) noexcept = default;
LlmUsage::~LlmUsage() = default;

void LlmUsage::feed(std::string_view piece) {
  if (state_->framing == State::Framing::unknown) state_->look(piece);
  switch (state_->framing) {
    case State::Framing::plain: state_->json.feed(piece); break;
    case State::Framing::events: state_->events.feed(piece); break;
    case State::Framing::unknown: break;
  }
}

std::optional<std::uint64_t> LlmUsage::tokens() const {
  const Counts& found = state_->found;
  if (found[total]) return found[total];
  std::optional<std::uint64_t> sum;
  for (const Count count : {input, output, cache_written, cache_read}) {
    if (!found[count]) continue;
    const std::uint64_t room = std::numeric_limits<std::uint64_t>::max() - sum.value_or(0);
    sum = sum.value_or(0) + std::min(*found[count], room);
  }
  return sum;
}

}  // namespace postern::transform
