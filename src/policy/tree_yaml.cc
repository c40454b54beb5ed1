#include <istream>
#include <streambuf>
#include <yaml-cpp/eventhandler.h>
#include <yaml-cpp/exceptions.h>
#include <yaml-cpp/mark.h>
#include <yaml-cpp/parser.h>

#include "policy/tree.h"

namespace postern::policy {

namespace {

/// Thrown out of yaml-cpp to end its parse; the builder holds the reason.
struct Stop {};

/// Reads the text in place: a policy may hold a credential, so no stray copies.
class ViewBuffer : public std::streambuf {
 public:
  explicit ViewBuffer(std::string_view text) {
    char* begin = const_cast<char*>(text.data());  // setg's signature; never written through
    setg(begin, begin, begin + text.size());
  }
};

Position position_of(const YAML::Mark& mark) {
  return mark.is_null() ? Position{} : Position{mark.line + 1, mark.column + 1};
}

bool all_digits(std::string_view text, std::string_view digits = "0123456789") {
  return !text.empty() && text.find_first_not_of(digits) == std::string_view::npos;
}

/// YAML 1.2.2 §10.3.2, the core schema's integers and floats.
bool is_number(std::string_view text) {
  if (text.starts_with("0o")) return all_digits(text.substr(2), "01234567");
  if (text.starts_with("0x")) return all_digits(text.substr(2), "0123456789abcdefABCDEF");
  if (text == ".nan" || text == ".NaN" || text == ".NAN") return true;
  if (text.starts_with('-') || text.starts_with('+')) text.remove_prefix(1);
  if (text == ".inf" || text == ".Inf" || text == ".INF") return true;
  if (const auto exponent = text.find_first_of("eE"); exponent != std::string_view::npos) {
    std::string_view digits = text.substr(exponent + 1);
    if (digits.starts_with('-') || digits.starts_with('+')) digits.remove_prefix(1);
    if (!all_digits(digits)) return false;
    text = text.substr(0, exponent);
  }
  const auto point = text.find('.');
  if (point == std::string_view::npos) return all_digits(text);
  const std::string_view whole = text.substr(0, point), fraction = text.substr(point + 1);
  if (whole.empty()) return all_digits(fraction);
  return all_digits(whole) && (fraction.empty() || all_digits(fraction));
}

Node plain_scalar(const std::string& value, Position at) {
  if (value == "true" || value == "True" || value == "TRUE" || value == "false" || value == "False" ||
      value == "FALSE") {
    Node node(Node::Kind::boolean, at);
    node.truth = value[0] == 't' || value[0] == 'T';
    return node;
  }
  return {is_number(value) ? Node::Kind::number : Node::Kind::string, at, value};
}

class Handler : public YAML::EventHandler {
 public:
  Handler(std::string_view text, TreeBuilder& builder) : text_(text), builder_(builder) {}

  void OnDocumentStart(const YAML::Mark& mark) override {
    if (builder_.done()) stop(mark, "a second YAML document begins here; a policy is one document");
  }
  void OnDocumentEnd() override {}
  void OnAnchor(const YAML::Mark& mark, const std::string&) override {
    stop(mark, "YAML anchors (&name) are not supported: write the value out");
  }
  void OnAlias(const YAML::Mark& mark, YAML::anchor_t) override { stop(mark, alias_message); }
  void OnNull(const YAML::Mark& mark, YAML::anchor_t anchor) override {
    check("?", anchor, mark);
    if (builder_.wants_key()) stop(mark, "a key is missing");
    check(builder_.scalar(Node(Node::Kind::null, position_of(mark))));
  }
  void OnScalar(const YAML::Mark& mark, const std::string& tag, YAML::anchor_t anchor,
                const std::string& value) override {
    check(tag, anchor, mark);
    const Position at = position_of(mark);
    if (tag == "!") check_closed(mark);
    if (builder_.wants_key()) {
      if (tag != "!" && value == "<<") stop(mark, "YAML merge keys (<<) are not supported");
      check(builder_.key(value, at));
    } else {
      check(builder_.scalar(tag == "!" ? Node(Node::Kind::string, at, value) : plain_scalar(value, at)));
    }
  }
  void OnSequenceStart(const YAML::Mark& mark, const std::string& tag, YAML::anchor_t anchor,
                       YAML::EmitterStyle::value) override {
    open(Node::Kind::sequence, mark, tag, anchor);
  }
  void OnSequenceEnd() override { check(builder_.close()); }
  void OnMapStart(const YAML::Mark& mark, const std::string& tag, YAML::anchor_t anchor,
                  YAML::EmitterStyle::value) override {
    open(Node::Kind::mapping, mark, tag, anchor);
  }
  void OnMapEnd() override { check(builder_.close()); }

  static constexpr const char* alias_message =
      "'*' begins a YAML alias, which is not supported; a pattern that begins with * needs quotes, as in "
      "\"*.example.com\"";

 private:
  void open(Node::Kind kind, const YAML::Mark& mark, const std::string& tag, YAML::anchor_t anchor) {
    check(tag, anchor, mark);
    if (builder_.wants_key()) stop(mark, "a key must be a plain text");
    check(builder_.open(kind, position_of(mark)));
  }
  /// yaml-cpp takes the end of the text for the end of a quoted scalar when a line break stands there. A
  /// forgotten quote would make one long string of what follows it, and the policy would say less than its
  /// author wrote.
  void check_closed(const YAML::Mark& mark) {
    const auto start = static_cast<std::size_t>(mark.pos);
    const char quote = start < text_.size() ? text_[start] : '\0';
    if (quote == '|' || quote == '>') return;  // a block scalar ends by indentation
    if (quote != '\'' && quote != '"')
      stop(mark, "not valid YAML: a scalar that is neither plain, quoted nor a block");
    for (std::size_t i = start + 1; i < text_.size(); ++i) {
      if (quote == '"' && text_[i] == '\\') {
        ++i;
      } else if (text_[i] == quote) {
        if (quote == '"' || i + 1 >= text_.size() || text_[i + 1] != quote) return;
        ++i;  // '' is a literal quote
      }
    }
    stop(mark, "not valid YAML: this quote is never closed");
  }
  void check(const std::string& tag, YAML::anchor_t anchor, const YAML::Mark& mark) {
    if (anchor != 0) stop(mark, "YAML anchors (&name) are not supported: write the value out");
    // "?" is a plain node and "!" a quoted one (YAML 1.2.2 §6.9.1); everything else was written by hand.
    if (!tag.empty() && tag != "?" && tag != "!") stop(mark, "YAML tags (!type) are not supported");
  }
  void check(bool go_on) {
    if (!go_on) throw Stop{};
  }
  [[noreturn]] void stop(const YAML::Mark& mark, std::string message) {
    builder_.fail(position_of(mark), std::move(message));
    throw Stop{};
  }

  std::string_view text_;
  TreeBuilder& builder_;
};

}  // namespace

void read_yaml(std::string_view text, TreeBuilder& builder) {
  ViewBuffer buffer(text);
  std::istream stream(&buffer);
  Handler handler(text, builder);
  try {
    YAML::Parser parser(stream);
    while (parser.HandleNextDocument(handler)) {
    }
  } catch (const Stop&) {
  } catch (const YAML::Exception& error) {
    const bool alias = error.msg == YAML::ErrorMsg::UNKNOWN_ANCHOR ||
                       error.msg == YAML::ErrorMsg::CHAR_IN_ALIAS ||
                       error.msg == YAML::ErrorMsg::ALIAS_NOT_FOUND;
    builder.fail(position_of(error.mark), alias ? Handler::alias_message : "not valid YAML: " + error.msg);
  }
}

}  // namespace postern::policy
