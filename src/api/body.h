#pragma once
// The JSON body of a request, read field by field. What is wrong is collected, so that a caller mends all of
// it in one go, and answered as a 422 with the list that the SDKs parse (control/errors.h).
//
// BodyFields that nobody asks for are tolerated: they are a newer client's. `null` is as good as absent.

#include <cstdint>
#include <expected>
#include <functional>
#include <limits>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "control/call.h"
#include "control/errors.h"
#include "policy/tree.h"

namespace postern::api {

/// The body as a tree, which is wiped at its end: it may hold credentials. An empty body is an empty mapping.
/// Errors: 400 for what is no JSON, 422 for what is no mapping.
std::expected<policy::Node, control::Response> read_body(std::string_view text);

class BodyFields {
 public:
  /// `body` outlives the reader. `where`: of `body` in the request's body, "run_config".
  explicit BodyFields(const policy::Node& body, std::string where = {})
      : body_(body), where_(std::move(where)) {}

  /// nullptr when it is absent or null.
  const policy::Node* find(std::string_view key) const;
  bool has(std::string_view key) const { return find(key) != nullptr; }

  // nullopt: absent, or wrong and noted.
  std::optional<std::string> text(std::string_view key, std::size_t bytes_max = 4096);
  std::optional<std::int64_t> integer(std::string_view key, std::int64_t min, std::int64_t max);
  std::optional<bool> flag(std::string_view key);
  /// A mapping of names to strings.
  std::optional<std::map<std::string, std::string>> strings(std::string_view key, std::size_t entries_max);
  std::optional<std::vector<std::string>> list(std::string_view key, std::size_t entries_max);
  /// Another mapping, to be read by BodyFields of its own, whose problems are then taken over.
  const policy::Node* mapping(std::string_view key);
  void take_problems(BodyFields& inner);

  void note(std::string_view key, std::string message);
  bool good() const { return problems_.empty(); }
  /// When it is not good.
  control::Response refusal() const { return control::validation_response(problems_, ""); }

 private:
  std::string place(std::string_view key) const;
  const policy::Node* expect(std::string_view key, policy::Node::Kind kind);

  const policy::Node& body_;
  std::string where_;
  std::vector<policy::Problem> problems_;
};

/// Reads a call's body as read_body() does, and wipes its text, which may hold credentials: `then` gets the
/// fields on a worker, or the call is answered.
void with_body(const std::shared_ptr<control::Call>& call, std::size_t bytes_max,
               std::function<void(BodyFields&)> then);

}  // namespace postern::api
