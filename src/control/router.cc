#include "control/router.h"

#include <algorithm>
#include <cstdlib>
#include <fmt/format.h>
#include <set>

#include "control/call.h"

namespace postern::control {

namespace {

/// "/a//b/" → "a", "", "b", "". `path` begins with '/'.
std::vector<std::string_view> split(std::string_view path) {
  std::vector<std::string_view> segments;
  while (!path.empty()) {
    path.remove_prefix(1);
    const std::size_t end = std::min(path.find('/'), path.size());
    segments.push_back(path.substr(0, end));
    path.remove_prefix(end);
  }
  return segments;
}

bool is_name(std::string_view segment) { return segment.starts_with('{'); }

}  // namespace

Router::Node& Router::node_at(std::string_view path, std::vector<std::string>& names) {
  Node* node = &root_;
  for (const std::string_view segment : split(path)) {
    if (segment.empty() || segment.ends_with('}') != is_name(segment)) std::abort();
    std::unique_ptr<Node>& next = is_name(segment) ? node->parameter : node->literals[std::string(segment)];
    if (is_name(segment)) names.emplace_back(segment.substr(1, segment.size() - 2));
    if (!next) next = std::make_unique<Node>();
    node = next.get();
  }
  return *node;
}

void Router::mount(std::string_view prefix, const std::vector<Route>& routes) {
  std::vector<std::string> names;
  node_at(prefix, names).mounted = true;
  for (const Route& route : routes) {
    names.clear();
    std::string pattern = fmt::format("{}{}", prefix, route.pattern);
    Node& node = node_at(route.pattern == "/" ? prefix : pattern, names);
    Target target{route.handler, std::move(pattern), names};
    if (!node.methods.emplace(route.method, std::move(target)).second) std::abort();
  }
}

const Router::Target* Router::target_of(const Node& node, std::string_view method) {
  auto found = node.methods.find(method);
  if (found == node.methods.end() && method == "HEAD") found = node.methods.find("GET");
  return found == node.methods.end() ? nullptr : &found->second;
}

/// A walk through the tree that goes back where a branch did not answer.
struct Router::Search {
  std::string_view method;
  const std::vector<std::string>& segments;
  std::vector<std::string_view> values;
  std::set<std::string> allowed;

  const Target* walk(const Node& node, std::size_t at) {
    if (at == segments.size()) {
      const Target* const target = target_of(node, method);
      for (const auto& entry : node.methods) allowed.insert(entry.first);
      return target;
    }
    const std::string& segment = segments[at];
    if (segment.empty()) return node.mounted ? walk_past(node, at) : nullptr;
    if (const auto literal = node.literals.find(segment); literal != node.literals.end())
      if (const Target* target = walk(*literal->second, at + 1)) return target;
    if (!node.parameter) return nullptr;
    values.push_back(segment);
    const Target* const target = walk(*node.parameter, at + 1);
    if (target == nullptr) values.pop_back();
    return target;
  }

  /// One empty segment only: two are nobody's way of joining paths.
  const Target* walk_past(const Node& node, std::size_t at) {
    const bool another = at + 1 < segments.size() && segments[at + 1].empty();
    return another ? nullptr : walk(node, at + 1);
  }
};

std::variant<Router::Match, ApiError> Router::find(std::string_view method, std::string_view path) const {
  if (!path.starts_with('/')) return not_found("There is nothing here.");  // the "*" of OPTIONS
  std::vector<std::string_view> raw = split(path);
  if (raw.size() > 1 && raw.back().empty()) raw.pop_back();
  if (raw.size() > segments_max) return not_found("There is nothing here.");
  std::vector<std::string> segments;
  for (const std::string_view segment : raw) {
    auto decoded = decode_segment(segment);
    if (!decoded) return bad_request(fmt::format("The path holds {}.", decoded.error()));
    if (*decoded == "." || *decoded == "..") return bad_request("The path holds a dot segment.");
    segments.push_back(std::move(*decoded));
  }
  if (segments.size() == 1 && segments.front().empty()) segments.clear();  // "/"

  Search search{method, segments, {}, {}};
  if (const Target* target = search.walk(root_, 0)) {
    Match match{&target->handler, target->pattern, {}};
    for (std::size_t at = 0; at < target->names.size(); ++at)
      match.parameters.push_back({target->names[at], std::string(search.values[at])});
    return match;
  }
  if (search.allowed.empty()) return not_found("There is nothing here.");
  if (search.allowed.contains("GET")) search.allowed.insert("HEAD");
  return method_not_allowed(fmt::format("{}", fmt::join(search.allowed, ", ")));
}

void Router::list(const Node& node, std::vector<std::pair<std::string, std::string>>& out) {
  for (const auto& [method, target] : node.methods) out.emplace_back(method, target.pattern);
  for (const auto& [segment, next] : node.literals) list(*next, out);
  if (node.parameter) list(*node.parameter, out);
}

std::vector<std::pair<std::string, std::string>> Router::routes() const {
  std::vector<std::pair<std::string, std::string>> out;
  list(root_, out);
  return out;
}

void Router::serve(const std::shared_ptr<Call>& call) const {
  Request& request = call->request();
  auto found = find(request.method, request.path());
  if (const ApiError* error = std::get_if<ApiError>(&found)) return call->answer(*error);
  Match& match = std::get<Match>(found);
  call->note_route(match.pattern);
  auto query = parse_query(request.target);
  if (!query) return call->answer(bad_request(fmt::format("The query holds {}.", query.error())));
  request.parameters = std::move(match.parameters);
  request.query = std::move(*query);
  (*match.handler)(call);
}

}  // namespace postern::control
