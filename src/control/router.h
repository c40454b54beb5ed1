#pragma once
// Which handler answers a request. The raw path is split on '/' first and each segment is decoded then, so
// that a name may hold an encoded slash, and no decoded byte is ever taken for structure.

#include <functional>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

#include "control/errors.h"
#include "control/message.h"

namespace postern::control {

class Call;
using Handler = std::function<void(const std::shared_ptr<Call>&)>;

/// One resource tree, to be mounted under as many prefixes as it is known by.
struct Route {
  std::string method;
  std::string pattern;  ///< "/boxes/{name}/status": a segment is a literal or one `{name}`.
  Handler handler;
};

/// Filled once, then only asked; asking is thread-safe.
class Router {
 public:
  struct Match {
    const Handler* handler;    ///< Valid as long as the Router.
    std::string_view pattern;  ///< With the prefix: for logs and metrics. Valid as long as the Router.
    Fields parameters;
  };

  static constexpr std::size_t segments_max = 32;  // the deepest route has seven; keeps find() shallow

  /// `prefix`: "/v2/sandboxes", or empty. A route that is there already, or a malformed one, is a mistake of
  /// the program and ends it.
  void mount(std::string_view prefix, const std::vector<Route>& routes);

  /// `path`: raw, without the query. Where several patterns fit, literals go before names, from left to
  /// right; a pattern that does not answer the method gives way to one that does. HEAD is answered by GET's
  /// handler unless it has its own. One slash at the end does not matter, nor does an empty first segment
  /// behind a prefix, since callers join base and path in both ways; other empty segments match nothing.
  /// Errors: 400 for a segment that decode_segment() refuses, or that is "." or "..", written plainly or
  /// encoded; 404; 405 with Allow.
  std::variant<Match, ApiError> find(std::string_view method, std::string_view path) const;

  /// Method and pattern of every route, in order: what the server can be asked.
  std::vector<std::pair<std::string, std::string>> routes() const;

  /// Finds, fills in the parameters and the query of the request, and calls the handler, or answers.
  void serve(const std::shared_ptr<Call>& call) const;

 private:
  struct Target {
    Handler handler;
    std::string pattern;
    std::vector<std::string> names;  ///< Of the parameters, from left to right.
  };
  struct Node {
    std::map<std::string, std::unique_ptr<Node>, std::less<>> literals;
    std::unique_ptr<Node> parameter;
    std::map<std::string, Target, std::less<>> methods;
    bool mounted = false;  ///< A prefix ends here.
  };
  struct Search;
  Node& node_at(std::string_view path, std::vector<std::string>& names);
  static const Target* target_of(const Node& node, std::string_view method);
  static void list(const Node& node, std::vector<std::pair<std::string, std::string>>& out);

  Node root_;
};

}  // namespace postern::control
