#pragma once
// What the data plane needs from those who know callers and boxes: the control plane.

#include <expected>
#include <functional>
#include <memory>
#include <optional>
#include <string>

#include "box/box_loop.h"
#include "control/auth.h"
#include "control/call.h"
#include "control/router.h"

namespace postern::api {

class BoxDoor {
 public:
  using Then = std::move_only_function<void(std::expected<box::OpenBox*, control::ApiError>)>;
  virtual ~BoxDoor() = default;
  /// Finds the box of a caller by name or id, wakes it when it is stopped, and calls `then` on the box loop;
  /// with an error on any thread. Called on workers, and does not wait. The box loop outlives the server.
  virtual void with_box(const control::Principal& caller, const std::string& name_or_id, Then then) = 0;
};

/// Who asks; refuses web pages, too. Every handler calls it first.
using Identify = std::function<std::expected<control::Principal, control::ApiError>(control::Request&)>;

/// A route whose handler is called for those whose key is good for `scope`; others are answered.
using AdmittedHandler = std::function<void(const std::shared_ptr<control::Call>&, const control::Principal&)>;
control::Route admitting_route(std::string method, std::string pattern, Identify identify,
                               control::Scope scope, AdmittedHandler handler);

/// Identifies the caller and what the key is good for, notes it, or answers.
std::optional<control::Principal> admit(control::Call& call, const Identify& identify, control::Scope scope);

}  // namespace postern::api
