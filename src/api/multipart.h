#pragma once
// The one file in a multipart/form-data body (RFC 7578, RFC 2046 §5.1), as it arrives. Strict: what two
// readers could read differently is refused, so that nothing but what the client called the file is written.
// Holds a part's head, or less than a line of its content.

#include <cstdint>
#include <expected>
#include <optional>
#include <string>
#include <string_view>

namespace postern::api {

class MultipartFile {
 public:
  static constexpr std::size_t head_bytes_max = 8 * 1024;

  /// nullopt: `content_type` is not multipart/form-data with a well-formed boundary.
  static std::optional<MultipartFile> for_type(std::string_view content_type);

  /// Appends to `out` what of the file has arrived. Or a sentence; then no more is taken.
  std::expected<void, std::string_view> take(std::string_view bytes, std::string& out);
  /// The body is over: whether it was all there.
  bool complete() const { return state_ == State::end && ended_well_; }

 private:
  enum class State : std::uint8_t { start, head, content, after, end };
  explicit MultipartFile(std::string boundary) : boundary_(std::move(boundary)) {}
  /// False: more has to come.
  std::expected<bool, std::string_view> step(std::string& out);
  std::expected<bool, std::string_view> take_head();

  std::string boundary_;
  std::string waiting_;
  State state_ = State::start;
  bool ended_well_ = false;
};

/// Parameters of "form-data; name=x; filename=y", names in lower case. nullopt: malformed, or a name twice.
std::optional<std::string> parameter_of(std::string_view value, std::string_view kind, std::string_view name);

}  // namespace postern::api
