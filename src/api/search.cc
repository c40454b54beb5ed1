#include "api/search.h"

#include <nlohmann/json.hpp>
#include <optional>
#include <utility>

#include "api/execute.h"
#include "api/execute_request.h"
#include "api/files.h"
#include "base/date.h"

namespace postern::api {

namespace {

using control::Call;
using nlohmann::json;

constexpr std::int64_t default_limit = 1000;
constexpr std::int64_t limit_max = 10'000;
constexpr std::size_t answer_bytes_max = 32 * 1024 * 1024;

std::string written(const json& document) {
  return document.dump(-1, ' ', false, json::error_handler_t::replace);
}

json to_json(const box::FileEntry& entry) {
  return {{"path", entry.path},
          {"is_dir", entry.kind == box::FileEntry::Kind::folder},
          {"size_bytes", entry.bytes},
          {"modified_at", date_text(entry.modified)}};
}

json to_json(const box::FoundLine& line) {
  return {{"path", line.path}, {"line", line.number}, {"text", line.text}};
}

/// nullopt when it is nothing that an agent says.
template <class Found>
std::optional<std::string> to_answer(std::optional<std::vector<Found>> found, std::uint64_t limit) {
  if (!found) return std::nullopt;
  const bool truncated = found->size() > limit;
  json matches = json::array();
  for (const Found& one : *found)
    if (matches.size() < limit) matches.push_back(to_json(one));
  return written(json{{"matches", std::move(matches)}, {"truncated", truncated}});
}

using Answer = std::optional<std::string> (*)(std::string_view said, std::uint64_t limit);
using Ask = box::RunRequest (*)(const SearchRequest& request, std::string path);

void search(const std::shared_ptr<Call>& call, BoxDoor& door, const control::Principal& caller, Ask ask_for,
            Answer say) {
  call->read_body(document_bytes_max, [call, &door, caller, ask_for, say](const std::string& body) {
    auto request = parse_search(body, default_limit, limit_max);
    if (!request) return call->answer(to_response(request.error()));
    door.with_box(caller, call->request().parameter("sandbox_id"),
                  [call, request = std::move(*request), ask_for, say](auto box) {
                    if (!box) return call->answer(box.error());
                    const std::string path =
                        request.path.empty() ? (*box)->home : path_in(**box, request.path);
                    ask(**box, call, ask_for(request, path), answer_bytes_max,
                        [call, limit = request.limit, say](const auto& said) {
                          if (!said) return call->answer(said.error());
                          auto answer = say(*said, limit);
                          if (!answer) return call->answer(box_gone());
                          call->answer(control::json_response(200, std::move(*answer)));
                        });
                  });
  });
}

}  // namespace

void glob(const std::shared_ptr<Call>& call, BoxDoor& door, const control::Principal& caller) {
  search(
      call, door, caller,
      [](const SearchRequest& request, std::string path) {
        return box::glob_request(request.pattern, std::move(path), request.limit);
      },
      [](std::string_view said, std::uint64_t limit) { return to_answer(box::parse_entries(said), limit); });
}

void grep(const std::shared_ptr<Call>& call, BoxDoor& door, const control::Principal& caller) {
  search(
      call, door, caller,
      [](const SearchRequest& request, std::string path) {
        return box::grep_request(request.pattern, std::move(path), request.glob, request.limit);
      },
      [](std::string_view said, std::uint64_t limit) { return to_answer(box::parse_lines(said), limit); });
}

}  // namespace postern::api
