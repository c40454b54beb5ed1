#pragma once
// What handlers of files share: paths, the agent's answers to small questions, and its troubles in the
// contract's words.

#include <cstdint>
#include <expected>
#include <memory>
#include <string>
#include <string_view>

#include "api/door.h"
#include "box/file_requests.h"

namespace postern::api {

inline constexpr std::size_t path_bytes_max = 4096;  // PATH_MAX

/// The `path` of the query, or answers 422.
std::optional<std::string> path_parameter(control::Call& call);

enum class Doing : std::uint8_t { reading, writing };
/// `number`: errno, as the agent says it.
control::ApiError file_error(int number, Doing doing);
/// The agent is gone, or says what no agent says.
control::ApiError box_gone();
/// As file_error(), or about a request that did not end with `status` 0.
control::ApiError request_error(int status, std::string_view standard_error, Doing doing);

/// Asks the agent, and hands its whole answer on, at most `bytes_max`; with an error, when it fails or takes
/// longer than a client waits. On the loop. Ends when the caller of `call` goes.
using AskThen = std::move_only_function<void(std::expected<std::string, control::ApiError>)>;
void ask(box::OpenBox& box, const std::shared_ptr<control::Call>& call, const box::RunRequest& request,
         std::size_t bytes_max, AskThen then);
/// The entry of one path.
using StatThen = std::move_only_function<void(std::expected<box::FileEntry, control::ApiError>)>;
void ask_entry(box::OpenBox& box, const std::shared_ptr<control::Call>& call, const std::string& path,
               StatThen then);

/// The end of a request to the agent that takes long: kills it when nothing moves any more.
inline constexpr std::chrono::seconds file_patience{60};  // as the clients'

}  // namespace postern::api
