#include "transform/graphql.h"

#include <algorithm>
#include <cstdint>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <utility>

#include "base/utf8.h"

namespace postern::transform {
namespace {

constexpr std::string_view byte_order_mark = "\xef\xbb\xbf";

bool is_digit(char c) { return c >= '0' && c <= '9'; }
bool is_hex(char c) { return is_digit(c) || (c >= 'a' && c <= 'f') || (c >= 'A' && c <= 'F'); }
bool begins_name(char c) { return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_'; }
bool continues_name(char c) { return begins_name(c) || is_digit(c); }
bool is_control(char c) { return static_cast<unsigned char>(c) < 0x20 || c == 0x7f; }

enum class Kind : std::uint8_t { end, name, punctuator, spread, value };

struct Token {
  Kind kind = Kind::end;
  std::string_view text;

  bool is(char c) const { return kind == Kind::punctuator && text.front() == c; }
  bool is_name(std::string_view name) const { return kind == Kind::name && text == name; }
};

/// Where lexers are known to differ (what ends a comment, block strings before 2018, a byte order mark
/// within, a number that a name follows) nothing is read: a server must not see a field where we see a
/// comment.
class Lexer {
 public:
  explicit Lexer(std::string_view text) : rest_(text) {
    if (rest_.starts_with(byte_order_mark)) rest_.remove_prefix(byte_order_mark.size());
  }

  /// nullopt: not understood.
  std::optional<Token> next() {
    if (!skip_ignored()) return std::nullopt;
    if (rest_.empty()) return Token{};
    const char c = rest_.front();
    if (begins_name(c)) return take(Kind::name, name_size());
    if (rest_.starts_with("...")) return take(Kind::spread, 3);
    if (std::string_view("!$():=@[]{}").find(c) != std::string_view::npos) return take(Kind::punctuator, 1);
    const std::size_t size = c == '"' ? string_size() : number_size();
    if (size == 0) return std::nullopt;
    return take(Kind::value, size);
  }

 private:
  Token take(Kind kind, std::size_t size) {
    const Token token{kind, rest_.substr(0, size)};
    rest_.remove_prefix(size);
    return token;
  }

  char at(std::size_t i) const { return i < rest_.size() ? rest_[i] : '\0'; }

  std::size_t digits_from(std::size_t i) const {
    while (is_digit(at(i))) ++i;
    return i;
  }

  std::size_t name_size() const {
    std::size_t i = 0;
    while (continues_name(at(i))) ++i;
    return i;
  }

  bool skip_ignored() {
    while (!rest_.empty()) {
      const char c = rest_.front();
      if (c == '#') {
        if (!skip_comment()) return false;
      } else if (c == ' ' || c == '\t' || c == '\n' || c == '\r' || c == ',') {
        rest_.remove_prefix(1);
      } else {
        break;
      }
    }
    return true;
  }

  /// Some end one at a lone CR, or at the line ends of Unicode, and some do not.
  bool skip_comment() {
    const std::size_t end = std::min(rest_.find('\n'), rest_.size());
    std::string_view comment = rest_.substr(0, end);
    if (end < rest_.size() && comment.ends_with('\r')) comment.remove_suffix(1);
    for (const char c : comment)
      if (is_control(c) && c != '\t') return false;
    for (const std::string_view line_end : {"\xe2\x80\xa8", "\xe2\x80\xa9", "\xc2\x85"})
      if (comment.find(line_end) != std::string_view::npos) return false;
    rest_.remove_prefix(end);
    return true;
  }

  /// 0: none that is understood.
  std::size_t string_size() const {
    if (rest_.starts_with("\"\"\"")) return block_string_size();
    for (std::size_t i = 1; i < rest_.size(); ++i) {
      if (rest_[i] == '"') return i + 1;
      if (is_control(rest_[i]) && rest_[i] != '\t') return 0;
      if (rest_[i] == '\\' && !skip_escape(i)) return 0;
    }
    return 0;
  }

  bool skip_escape(std::size_t& i) const {
    const char escaped = at(++i);
    if (escaped != 'u') return escaped != '\0' && std::string_view("\"\\/bfnrt").contains(escaped);
    for (int digit = 0; digit < 4; ++digit)
      if (!is_hex(at(++i))) return false;
    return true;
  }

  /// A lexer that knows no block strings reads three strings: only without quotes within do they end alike.
  std::size_t block_string_size() const {
    for (std::size_t i = 3; i < rest_.size(); ++i) {
      if (rest_[i] == '"') return rest_.substr(i).starts_with("\"\"\"") && at(i + 3) != '"' ? i + 3 : 0;
      if (rest_[i] == '\\') return 0;
      if (is_control(rest_[i]) && rest_[i] != '\t' && rest_[i] != '\n' && rest_[i] != '\r') return 0;
    }
    return 0;
  }

  std::size_t number_size() const {
    std::size_t i = at(0) == '-' ? 1 : 0;
    const std::size_t whole = digits_from(i);
    if (whole == i || (at(i) == '0' && whole > i + 1)) return 0;
    i = whole;
    if (at(i) == '.') {
      const std::size_t end = digits_from(i + 1);
      if (end == i + 1) return 0;
      i = end;
    }
    if (at(i) == 'e' || at(i) == 'E') {
      const std::size_t begin = at(i + 1) == '+' || at(i + 1) == '-' ? i + 2 : i + 1;
      i = digits_from(begin);
      if (i == begin) return 0;
    }
    return continues_name(at(i)) || at(i) == '.' ? 0 : i;
  }

  std::string_view rest_;
};

/// Of a selection set at the root, inline fragments opened up.
struct Selection {
  bool spread = false;  ///< `name` is a fragment's.
  std::string_view name;
};
using Selections = std::vector<Selection>;

struct RootOperation {
  std::string_view type;
  Selections selections;
};

/// Each function begins at its first token and ends behind its last. false: not understood.
class Parser {
 public:
  explicit Parser(std::string_view document) : lexer_(document) {}

  bool run() {
    if (!advance()) return false;
    while (token_.kind != Kind::end)
      if (!definition()) return false;
    return !operations.empty();
  }

  std::vector<RootOperation> operations;
  std::map<std::string_view, Selections> fragments;

 private:
  bool advance() {
    const auto token = lexer_.next();
    if (token) token_ = *token;
    return token.has_value();
  }

  bool definition() {
    if (token_.is_name("fragment")) return fragment();
    if (operations.size() == operations_max) return false;  // Each of them asks for something.
    RootOperation operation{"query", {}};
    if (!token_.is('{')) {
      if (!token_.is_name("query") && !token_.is_name("mutation") && !token_.is_name("subscription"))
        return false;
      operation.type = token_.text;
      if (!advance() || (token_.kind == Kind::name && !advance())) return false;
      if (token_.is('(') && !skip_brackets()) return false;
      if (!directives()) return false;
    }
    if (!selection_set(operation.selections, 0)) return false;
    operations.push_back(std::move(operation));
    return true;
  }

  bool fragment() {
    if (!advance() || token_.kind != Kind::name || token_.text == "on") return false;
    const std::string_view name = token_.text;
    if (!advance() || !type_condition() || !directives()) return false;
    Selections selections;
    if (!selection_set(selections, 0)) return false;
    return fragments.size() < graphql_fragments_max && fragments.emplace(name, std::move(selections)).second;
  }

  bool type_condition() {
    return token_.is_name("on") && advance() && token_.kind == Kind::name && advance();
  }

  bool directives() {
    while (token_.is('@')) {
      if (!advance() || token_.kind != Kind::name || !advance()) return false;
      if (token_.is('(') && !skip_brackets()) return false;
    }
    return true;
  }

  bool selection_set(Selections& out, std::size_t depth) {
    if (!token_.is('{') || depth == graphql_depth_max || !advance() || token_.is('}')) return false;
    while (!token_.is('}'))
      if (!selection(out, depth)) return false;
    return advance();
  }

  bool selection(Selections& out, std::size_t depth) {
    if (token_.kind != Kind::spread) return field(out);
    if (!advance()) return false;
    if (token_.kind == Kind::name && token_.text != "on") {
      out.push_back({true, token_.text});
      return advance() && directives();
    }
    if (token_.is_name("on") && !type_condition()) return false;
    return directives() && selection_set(out, depth + 1);
  }

  bool field(Selections& out) {
    if (token_.kind != Kind::name) return false;
    std::string_view name = token_.text;
    if (!advance()) return false;
    if (token_.is(':')) {
      if (!advance() || token_.kind != Kind::name) return false;
      name = token_.text;
      if (!advance()) return false;
    }
    out.push_back({false, name});
    if (token_.is('(') && !skip_brackets()) return false;
    if (!directives()) return false;
    return !token_.is('{') || skip_brackets();
  }

  /// Arguments, variables, and what is selected below the root: where it ends is all that matters.
  bool skip_brackets() {
    std::string open;
    do {
      if (token_.kind == Kind::end) return false;
      const char c = token_.kind == Kind::punctuator ? token_.text.front() : '\0';
      if (c == '(' || c == '[' || c == '{') {
        if (open.size() == graphql_depth_max) return false;
        open += c == '(' ? ')' : c == '[' ? ']' : '}';
      } else if (c == ')' || c == ']' || c == '}') {
        if (open.back() != c) return false;
        open.pop_back();
      }
      if (!advance()) return false;
    } while (!open.empty());
    return true;
  }

  Lexer lexer_;
  Token token_;
};

/// Resolves the fragments of one operation after the other.
class Resolver {
 public:
  Resolver(const Parser& parsed, std::vector<Operation>& out) : parsed_(parsed), out_(out) {}

  bool run() {
    return std::ranges::all_of(parsed_.operations,
                               [this](const RootOperation& operation) { return resolve(operation); });
  }

 private:
  bool resolve(const RootOperation& operation) {
    const std::size_t before = out_.size();
    names_typename_ = false;
    entered_.clear();
    // A stack of our own: fragments may lead to fragments as often as there are any.
    std::vector<std::pair<const Selections*, std::size_t>> open{{&operation.selections, 0}};
    while (!open.empty()) {
      auto& [selections, at] = open.back();
      if (at == selections->size()) {
        open.pop_back();
        continue;
      }
      const Selection& selection = (*selections)[at++];
      if (!selection.spread) {
        if (!add(operation.type, selection.name)) return false;
        continue;
      }
      const auto found = parsed_.fragments.find(selection.name);
      if (found == parsed_.fragments.end() || ++steps_ > graphql_steps_max) return false;
      // A fragment again, or within itself, asks for nothing new.
      if (!entered_.insert(&found->second).second) continue;
      open.emplace_back(&found->second, 0);
    }
    if (out_.size() == before && names_typename_)
      return append(Operation{std::string(operation.type), "__typename"});
    return out_.size() > before;
  }

  bool add(std::string_view type, std::string_view field) {
    if (field == "__typename") return names_typename_ = true;
    return field.size() <= operation_bytes_max && append({std::string(type), std::string(field)});
  }

  bool append(Operation operation) {
    if (out_.size() >= operations_max) return false;
    out_.push_back(std::move(operation));
    return true;
  }

  const Parser& parsed_;
  std::vector<Operation>& out_;
  std::set<const Selections*> entered_;
  bool names_typename_ = false;
  std::size_t steps_ = 0;
};

}  // namespace

bool read_graphql(std::string_view document, std::vector<Operation>& out) {
  if (!is_utf8(document)) return false;
  Parser parser(document);
  return parser.run() && Resolver(parser, out).run();
}

}  // namespace postern::transform
