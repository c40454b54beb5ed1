#include "api/door.h"

namespace postern::api {

std::optional<control::Principal> admit(control::Call& call, const Identify& identify, control::Scope scope) {
  auto caller = identify(call.request());
  if (!caller) {
    call.answer(caller.error());
    return std::nullopt;
  }
  call.note_caller(caller->workspace, caller->key_id);
  if (const auto refused = control::require(*caller, scope)) {
    call.answer(*refused);
    return std::nullopt;
  }
  return std::move(*caller);
}

control::Route admitting_route(std::string method, std::string pattern, Identify identify,
                               control::Scope scope, AdmittedHandler handler) {
  return {std::move(method), std::move(pattern),
          [identify = std::move(identify), scope,
           handler = std::move(handler)](const std::shared_ptr<control::Call>& call) {
            if (const auto caller = admit(*call, identify, scope)) handler(call, *caller);
          }};
}

}  // namespace postern::api
