#include "transform/body_schema.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <deque>
#include <fmt/format.h>
#include <map>
#include <nlohmann/json.hpp>
#include <optional>
#include <re2/re2.h>
#include <set>
#include <vector>

namespace postern::transform {
namespace {

using nlohmann::json;

constexpr std::int64_t automaton_bytes_max = 1 << 20;
// Steps: a schema held to a value, or what takes as long.
constexpr std::size_t steps_free = 100'000;
constexpr std::size_t steps_for_a_byte = 10;

enum Type : unsigned { null = 1, boolean = 2, integer = 4, number = 8, string = 16, array = 32, object = 64 };

std::optional<unsigned> type_named(std::string_view name) {
  static constexpr auto names =
      std::to_array<std::pair<std::string_view, unsigned>>({{"null", null},
                                                            {"boolean", boolean},
                                                            {"integer", integer},
                                                            {"number", number | integer},
                                                            {"string", string},
                                                            {"array", array},
                                                            {"object", object}});
  for (const auto& [known, bits] : names)
    if (known == name) return bits;
  return std::nullopt;
}

unsigned type_of(const json& value) {
  switch (value.type()) {
    case json::value_t::null: return null;
    case json::value_t::boolean: return boolean;
    case json::value_t::number_integer:
    case json::value_t::number_unsigned: return integer;
    case json::value_t::number_float: {
      const double real = value.get<double>();
      return std::isfinite(real) && real == std::floor(real) ? integer : number;
    }
    case json::value_t::string: return string;
    case json::value_t::array: return array;
    case json::value_t::object: return object;
    default: return 0;
  }
}

/// Characters, as JSON Schema counts them. The parser let only good UTF-8 in.
std::size_t characters(const std::string& text) {
  return static_cast<std::size_t>(std::count_if(
      text.begin(), text.end(), [](char c) { return (static_cast<unsigned char>(c) & 0xc0U) != 0x80; }));
}

bool is_multiple(const json& value, const json& of) {
  // A divisor is above 0, so it is unsigned where it is an integer.
  if (value.is_number_unsigned() && of.is_number_unsigned())
    return value.get<std::uint64_t>() % of.get<std::uint64_t>() == 0;
  if (value.is_number_integer() && of.is_number_unsigned())
    return (0 - static_cast<std::uint64_t>(value.get<std::int64_t>())) % of.get<std::uint64_t>() == 0;
  const double quotient = value.get<double>() / of.get<double>();
  return std::isfinite(quotient) &&
         std::abs(quotient - std::round(quotient)) <= 1e-9 * std::max(1.0, std::abs(quotient));
}

/// Depth without recursion and without building anything.
bool is_too_deep(std::string_view text) {
  std::size_t depth = 0;
  bool inside = false;
  for (std::size_t i = 0; i < text.size(); ++i) {
    const char c = text[i];
    if (inside) {
      if (c == '\\') ++i;
      if (c == '"') inside = false;
    } else if (c == '"') {
      inside = true;
    } else if (c == '[' || c == '{') {
      if (++depth > schema_depth_max) return true;
    } else if ((c == ']' || c == '}') && depth > 0) {
      --depth;
    }
  }
  return false;
}

std::expected<json, std::string> parse(std::string_view text) {
  if (is_too_deep(text)) return std::unexpected(fmt::format("is nested deeper than {}", schema_depth_max));
  std::vector<std::set<std::string>> names;
  bool twice = false;
  json value = json::parse(
      text,
      [&](int, json::parse_event_t event, json& parsed) {
        if (event == json::parse_event_t::object_start) names.emplace_back();
        if (event == json::parse_event_t::object_end) names.pop_back();
        if (event == json::parse_event_t::key)
          twice |= !names.back().insert(parsed.get<std::string>()).second;
        return true;
      },
      /*allow_exceptions=*/false);
  if (value.is_discarded()) return std::unexpected("is not JSON");
  if (twice) return std::unexpected("has a name twice in one object");
  return value;
}

std::string escaped(std::string_view name) {
  std::string out;
  for (char c : name) out += c == '~' ? "~0" : c == '/' ? "~1" : std::string(1, c);
  return out;
}

}  // namespace

struct BodySchema::Node {
  struct PatternNode {
    std::unique_ptr<re2::RE2> pattern;
    const Node* node;
  };
  bool never = false;  // the schema `false`
  std::optional<unsigned> types;
  std::optional<json> constant;
  std::optional<std::vector<json>> choices;
  std::optional<json> minimum, maximum, exclusive_minimum, exclusive_maximum, multiple_of;
  std::optional<std::size_t> length_min, length_max, items_min, items_max, properties_min, properties_max,
      contains_min, contains_max;
  std::unique_ptr<re2::RE2> pattern;
  bool unique = false;
  std::vector<std::string> required;
  std::map<std::string, std::vector<std::string>, std::less<>> dependent_required;
  std::map<std::string, const Node*, std::less<>> dependent;
  std::map<std::string, const Node*, std::less<>> properties;
  std::vector<PatternNode> pattern_properties;
  const Node* additional = nullptr;
  const Node* names = nullptr;
  std::vector<const Node*> first_items;
  const Node* items = nullptr;
  const Node* contains = nullptr;
  std::vector<const Node*> all_of, any_of, one_of;
  const Node* negated = nullptr;
  const Node* condition = nullptr;
  const Node* consequence = nullptr;
  const Node* otherwise = nullptr;
  const Node* reference = nullptr;
};

struct BodySchema::Parts {
  std::deque<Node> nodes;  // stay where they are
  const Node* root = nullptr;
};

/// One keyword after the other. The first complaint stays.
class BodySchema::Compiler {
 public:
  Compiler(const json& root, Parts& parts) : root_(root), parts_(parts) {}

  std::string run() {
    parts_.root = node(root_, "");
    return complaint_;
  }

 private:
  const Node* node(const json& schema, const std::string& where) {
    if (const auto known = known_.find(&schema); known != known_.end()) return known->second;
    Node& out = parts_.nodes.emplace_back();
    known_.emplace(&schema, &out);
    if (parts_.nodes.size() > schema_nodes_max) return complain(where, "the schema is too large");
    if (depth_ == 2 * schema_depth_max) return complain(where, "one $ref leads to the next too often");
    ++depth_;
    if (schema.is_boolean()) {
      out.never = !schema.get<bool>();
    } else if (schema.is_object()) {
      for (const auto& [keyword, value] : schema.items()) {
        if (!complaint_.empty()) break;
        read(out, schema, keyword, value, where);
      }
    } else {
      complain(where, "a schema is an object or a boolean");
    }
    --depth_;
    return &out;
  }

  void read(Node& out, const json& schema, const std::string& keyword, const json& value,
            const std::string& where) {
    const std::string at = where + "/" + escaped(keyword);
    if (read_annotation(schema, keyword, value, at) || read_value(out, keyword, value, at) ||
        read_number(out, keyword, value, at) || read_count(out, keyword, value, at) ||
        read_object(out, keyword, value, at) || read_array(out, schema, keyword, value, at) ||
        read_combination(out, schema, keyword, value, at))
      return;
    complain(where, fmt::format("the keyword '{}' is not known", keyword));
  }

  bool read_annotation(const json& schema, const std::string& keyword, const json& value,
                       const std::string& at) {
    // What says nothing about whether a body is good. `format` is such by default since 2019-09.
    static constexpr auto ignored = std::to_array<std::string_view>(
        {"$schema", "$comment", "title", "description", "default", "examples", "deprecated", "readOnly",
         "writeOnly", "format", "contentMediaType", "contentEncoding"});
    if (std::find(ignored.begin(), ignored.end(), keyword) != ignored.end()) return true;
    if (keyword == "$id") {
      if (&schema != &root_) complain(at, "only the whole schema may have an $id");
      return true;
    }
    if (keyword != "definitions" && keyword != "$defs") return false;
    (void)map_of_nodes(value, at);
    return true;
  }

  bool read_value(Node& out, const std::string& keyword, const json& value, const std::string& at) {
    if (keyword == "type") {
      unsigned types = 0;
      const json list = value.is_array() ? value : json::array({value});
      for (const json& name : list) {
        const auto bits = name.is_string() ? type_named(name.get_ref<const std::string&>()) : std::nullopt;
        if (!bits) complain(at, "this is no type");
        types |= bits.value_or(0);
      }
      out.types = types;
    } else if (keyword == "const") {
      out.constant = value;
    } else if (keyword == "enum") {
      if (!value.is_array() || value.empty()) return complain(at, "this is a list of values"), true;
      out.choices = value.get<std::vector<json>>();
    } else if (keyword == "pattern") {
      out.pattern = regex(value, at);
    } else {
      return false;
    }
    return true;
  }

  bool read_number(Node& out, const std::string& keyword, const json& value, const std::string& at) {
    const auto target = [&]() -> std::optional<json>* {
      if (keyword == "minimum") return &out.minimum;
      if (keyword == "maximum") return &out.maximum;
      if (keyword == "exclusiveMinimum") return &out.exclusive_minimum;
      if (keyword == "exclusiveMaximum") return &out.exclusive_maximum;
      if (keyword == "multipleOf") return &out.multiple_of;
      return nullptr;
    }();
    if (!target) return false;
    if (!value.is_number()) complain(at, "this is a number");
    if (keyword == "multipleOf" && value.is_number() && value.get<double>() <= 0)
      complain(at, "this is a number above 0");
    *target = value;
    return true;
  }

  bool read_count(Node& out, const std::string& keyword, const json& value, const std::string& at) {
    const auto target = [&]() -> std::optional<std::size_t>* {
      if (keyword == "minLength") return &out.length_min;
      if (keyword == "maxLength") return &out.length_max;
      if (keyword == "minItems") return &out.items_min;
      if (keyword == "maxItems") return &out.items_max;
      if (keyword == "minProperties") return &out.properties_min;
      if (keyword == "maxProperties") return &out.properties_max;
      if (keyword == "minContains") return &out.contains_min;
      if (keyword == "maxContains") return &out.contains_max;
      return nullptr;
    }();
    if (!target) return false;
    if (!value.is_number_unsigned()) return complain(at, "this is a count"), true;
    *target = value.get<std::size_t>();
    return true;
  }

  bool read_object(Node& out, const std::string& keyword, const json& value, const std::string& at) {
    if (keyword == "required") {
      out.required = names(value, at);
    } else if (keyword == "properties") {
      out.properties = map_of_nodes(value, at);
    } else if (keyword == "patternProperties") {
      if (!value.is_object()) return complain(at, "this is an object"), true;
      for (const auto& [pattern, schema] : value.items()) {
        const std::string below = at + "/" + escaped(pattern);
        out.pattern_properties.push_back({regex(pattern, below), node(schema, below)});
      }
    } else if (keyword == "additionalProperties") {
      out.additional = node(value, at);
    } else if (keyword == "propertyNames") {
      out.names = node(value, at);
    } else if (keyword == "dependentRequired" || keyword == "dependentSchemas" || keyword == "dependencies") {
      read_dependencies(out, keyword, value, at);
    } else {
      return false;
    }
    return true;
  }

  void read_dependencies(Node& out, const std::string& keyword, const json& value, const std::string& at) {
    if (!value.is_object()) return (void)complain(at, "this is an object");
    for (const auto& [name, of] : value.items()) {
      const std::string below = at + "/" + escaped(name);
      if (keyword == "dependentRequired" || (keyword == "dependencies" && of.is_array()))
        out.dependent_required[name] = names(of, below);
      else
        out.dependent[name] = node(of, below);
    }
  }

  bool read_array(Node& out, const json& schema, const std::string& keyword, const json& value,
                  const std::string& at) {
    if (keyword == "prefixItems" || (keyword == "items" && value.is_array())) {
      out.first_items = list_of_nodes(value, at);
    } else if (keyword == "items") {
      out.items = node(value, at);
    } else if (keyword == "additionalItems") {
      // Draft 7: only beside a list of items.
      if (const auto items = schema.find("items"); items != schema.end() && items->is_array())
        out.items = node(value, at);
    } else if (keyword == "contains") {
      out.contains = node(value, at);
    } else if (keyword == "uniqueItems") {
      if (!value.is_boolean()) complain(at, "this is true or false");
      out.unique = value.is_boolean() && value.get<bool>();
    } else {
      return false;
    }
    return true;
  }

  bool read_combination(Node& out, const json& schema, const std::string& keyword, const json& value,
                        const std::string& at) {
    if (keyword == "allOf")
      out.all_of = list_of_nodes(value, at);
    else if (keyword == "anyOf")
      out.any_of = list_of_nodes(value, at);
    else if (keyword == "oneOf")
      out.one_of = list_of_nodes(value, at);
    else if (keyword == "not")
      out.negated = node(value, at);
    else if (keyword == "if")
      out.condition = node(value, at);
    else if (keyword == "then" && schema.contains("if"))
      out.consequence = node(value, at);
    else if (keyword == "else" && schema.contains("if"))
      out.otherwise = node(value, at);
    else if (keyword == "$ref")
      out.reference = referenced(value, at);
    else
      return keyword == "then" || keyword == "else";
    return true;
  }

  const Node* referenced(const json& value, const std::string& at) {
    const std::string text = value.is_string() ? value.get<std::string>() : "";
    if (!text.starts_with('#'))
      return complain(at, "a $ref points into the schema itself (\"#/...\"): nothing is fetched");
    const json* found = &root_;
    for (std::string_view rest = std::string_view(text).substr(1); !rest.empty();) {
      if (rest.front() != '/') return complain(at, "a $ref is a JSON pointer");
      rest.remove_prefix(1);
      const std::size_t end = std::min(rest.find('/'), rest.size());
      std::string name(rest.substr(0, end));
      rest.remove_prefix(end);
      for (const auto& [code, character] : {std::pair("~1", "/"), std::pair("~0", "~")})
        for (std::size_t i = name.find(code); i != std::string::npos; i = name.find(code, i + 1))
          name.replace(i, 2, character);
      if (!found->is_object() || !found->contains(name)) return complain(at, "a $ref leads nowhere");
      found = &(*found)[name];
    }
    return node(*found, text);
  }

  std::unique_ptr<re2::RE2> regex(const json& value, const std::string& at) {
    if (!value.is_string()) return complain(at, "this is a regular expression"), nullptr;
    re2::RE2::Options options;
    options.set_log_errors(false);
    options.set_never_capture(true);
    options.set_max_mem(automaton_bytes_max);
    auto compiled = std::make_unique<re2::RE2>(value.get_ref<const std::string&>(), options);
    if (!compiled->ok()) complain(at, fmt::format("RE2 does not take the expression: {}", compiled->error()));
    return compiled;
  }

  std::vector<std::string> names(const json& value, const std::string& at) {
    std::vector<std::string> out;
    if (!value.is_array()) complain(at, "this is a list of names");
    for (const json& name : value) {
      if (!name.is_string()) return complain(at, "this is a list of names"), out;
      out.push_back(name.get<std::string>());
    }
    return out;
  }

  std::map<std::string, const Node*, std::less<>> map_of_nodes(const json& value, const std::string& at) {
    std::map<std::string, const Node*, std::less<>> out;
    if (!value.is_object()) return complain(at, "this is an object of schemas"), out;
    for (const auto& [name, schema] : value.items())
      out.emplace(name, node(schema, at + "/" + escaped(name)));
    return out;
  }

  std::vector<const Node*> list_of_nodes(const json& value, const std::string& at) {
    std::vector<const Node*> out;
    if (!value.is_array() || value.empty()) return complain(at, "this is a list of schemas"), out;
    for (const json& schema : value) out.push_back(node(schema, fmt::format("{}/{}", at, out.size())));
    return out;
  }

  std::nullptr_t complain(const std::string& where, std::string_view what) {
    if (complaint_.empty()) complaint_ = fmt::format("at {}: {}", where.empty() ? "/" : where, what);
    return nullptr;
  }

  const json& root_;
  Parts& parts_;
  std::map<const json*, const Node*> known_;
  std::size_t depth_ = 0;
  std::string complaint_;
};

/// One body held to a schema.
class BodySchema::Check {
 public:
  explicit Check(std::size_t body_bytes) : steps_(steps_free + steps_for_a_byte * body_bytes) {}

  bool holds(const Node& node, const json& value) {
    if (!may_go_on(1)) return false;
    if (depth_ == 2 * schema_depth_max) return exhaust("holds schemas within schemas too deeply");
    ++depth_;
    const bool good = holds_value(node, value) && holds_number(node, value) && holds_text(node, value) &&
                      holds_array(node, value) && holds_object(node, value) && holds_combination(node, value);
    --depth_;
    return good && !exhausted_;
  }
  const std::string& what() const { return what_; }

 private:
  bool holds_value(const Node& node, const json& value) {
    if (node.never) return wrong("is not allowed");
    if (node.types) {
      const unsigned type = type_of(value);
      if (!(*node.types & type)) return wrong("is not of the required type");
    }
    if (node.constant && *node.constant != value) return wrong("is not the required value");
    if (node.choices) {
      if (!may_go_on(node.choices->size())) return false;
      if (std::find(node.choices->begin(), node.choices->end(), value) == node.choices->end())
        return wrong("is none of the allowed values");
    }
    return true;
  }

  bool holds_number(const Node& node, const json& value) {
    if (!value.is_number()) return true;
    if (node.minimum && value < *node.minimum) return wrong("is too small");
    if (node.exclusive_minimum && value <= *node.exclusive_minimum) return wrong("is too small");
    if (node.maximum && value > *node.maximum) return wrong("is too large");
    if (node.exclusive_maximum && value >= *node.exclusive_maximum) return wrong("is too large");
    if (node.multiple_of && !is_multiple(value, *node.multiple_of))
      return wrong("is not a multiple of what it has to be");
    return true;
  }

  bool holds_text(const Node& node, const json& value) {
    if (!value.is_string()) return true;
    const auto& text = value.get_ref<const std::string&>();
    if (!may_go_on(text.size() / 16)) return false;
    if (node.length_min || node.length_max) {
      const std::size_t length = characters(text);
      if (node.length_min && length < *node.length_min) return wrong("is too short");
      if (node.length_max && length > *node.length_max) return wrong("is too long");
    }
    if (node.pattern && !matches(*node.pattern, text)) return wrong("does not match its pattern");
    return true;
  }

  bool holds_array(const Node& node, const json& value) {
    if (!value.is_array()) return true;
    if (!may_go_on(value.size())) return false;
    if (node.items_min && value.size() < *node.items_min) return wrong("has too few items");
    if (node.items_max && value.size() > *node.items_max) return wrong("has too many items");
    for (std::size_t i = 0; i < value.size() && (i < node.first_items.size() || node.items); ++i) {
      const Node& of_item = i < node.first_items.size() ? *node.first_items[i] : *node.items;
      if (!holds_below(of_item, value[i], std::to_string(i))) return false;
    }
    if (node.unique && !are_unique(value)) return wrong("has an item twice");
    return holds_contained(node, value);
  }

  bool holds_contained(const Node& node, const json& value) {
    if (!node.contains) return true;
    std::size_t found = 0;
    for (const json& item : value) found += attempt(*node.contains, item);
    if (exhausted_) return false;
    if (found < node.contains_min.value_or(1)) return wrong("lacks an item that it has to contain");
    if (node.contains_max && found > *node.contains_max) return wrong("contains too many such items");
    return true;
  }

  bool are_unique(const json& value) {
    std::vector<const json*> items;
    for (const json& item : value) items.push_back(&item);
    if (!may_go_on(items.size() * 4)) return false;
    std::sort(items.begin(), items.end(), [](const json* a, const json* b) { return *a < *b; });
    return std::adjacent_find(items.begin(), items.end(),
                              [](const json* a, const json* b) { return *a == *b; }) == items.end();
  }

  bool holds_object(const Node& node, const json& value) {
    if (!value.is_object()) return true;
    if (!may_go_on(value.size() + node.required.size() + node.dependent_required.size())) return false;
    if (node.properties_min && value.size() < *node.properties_min) return wrong("has too few properties");
    if (node.properties_max && value.size() > *node.properties_max) return wrong("has too many properties");
    for (const auto& name : node.required)
      if (!value.contains(name)) return wrong(fmt::format("lacks the property '{}'", name));
    for (const auto& [name, others] : node.dependent_required)
      for (const auto& other : others)
        if (value.contains(name) && !value.contains(other))
          return wrong(fmt::format("lacks the property '{}'", other));
    for (const auto& [name, other] : node.dependent)
      if (value.contains(name) && !holds(*other, value)) return false;
    for (const auto& [name, of] : value.get_ref<const json::object_t&>())
      if (!holds_property(node, name, of)) return false;
    return true;
  }

  bool holds_property(const Node& node, const std::string& name, const json& value) {
    if (node.names && !attempt(*node.names, json(name)))
      return exhausted_ ? false : wrong("has a property of a name that is not allowed");
    bool known = false;
    if (const auto found = node.properties.find(name); found != node.properties.end()) {
      known = true;
      if (!holds_below(*found->second, value, name)) return false;
    }
    for (const auto& [pattern, of] : node.pattern_properties) {
      if (!may_go_on(1 + name.size() / 16)) return false;
      if (!matches(*pattern, name)) continue;
      known = true;
      if (!holds_below(*of, value, "*")) return false;
    }
    if (known || !node.additional) return true;
    if (node.additional->never) return wrong("has a property that is not allowed");
    return holds_below(*node.additional, value, "*");
  }

  bool holds_combination(const Node& node, const json& value) {
    if (node.reference && !holds(*node.reference, value)) return false;
    for (const Node* part : node.all_of)
      if (!holds(*part, value)) return false;
    if (!node.any_of.empty() && std::none_of(node.any_of.begin(), node.any_of.end(),
                                             [&](const Node* one) { return attempt(*one, value); }))
      return wrong("fits none of the alternatives");
    if (!node.one_of.empty()) {
      const auto fitting = std::count_if(node.one_of.begin(), node.one_of.end(),
                                         [&](const Node* one) { return attempt(*one, value); });
      if (fitting != 1)
        return wrong(fitting ? "fits several alternatives and not one" : "fits none of the alternatives");
    }
    if (node.negated && attempt(*node.negated, value)) return wrong("is what it must not be");
    if (exhausted_) return false;
    if (!node.condition) return true;
    const Node* const next = attempt(*node.condition, value) ? node.consequence : node.otherwise;
    return !exhausted_ && (!next || holds(*next, value));
  }

  /// Whether it would hold, without a word about why not.
  bool attempt(const Node& node, const json& value) {
    ++silent_;
    const bool good = holds(node, value);
    --silent_;
    return good;
  }

  bool holds_below(const Node& node, const json& value, std::string name) {
    path_.push_back(std::move(name));
    const bool good = holds(node, value);
    path_.pop_back();
    return good;
  }

  static bool matches(const re2::RE2& pattern, const std::string& text) {
    return pattern.Match(text, 0, text.size(), re2::RE2::UNANCHORED, nullptr, 0);
  }

  bool wrong(std::string_view what) {
    if (silent_ || exhausted_ || !what_.empty()) return false;
    std::string at;
    for (const auto& name : path_) at += "/" + escaped(name);
    what_ = fmt::format("at {}: {}", at.empty() ? "/" : at, what);
    return false;
  }
  bool exhaust(std::string_view what) {
    if (!std::exchange(exhausted_, true)) what_ = fmt::format("at /: {}", what);
    return false;
  }
  bool may_go_on(std::size_t steps) {
    if (exhausted_) return false;
    if (steps > steps_) return exhaust("takes too much work to check");
    steps_ -= steps;
    return true;
  }

  std::size_t steps_, depth_ = 0, silent_ = 0;
  bool exhausted_ = false;
  std::vector<std::string> path_;
  std::string what_;
};

std::expected<std::shared_ptr<const BodySchema>, std::string> BodySchema::compile(std::string_view schema) {
  if (schema.size() > schema_bytes_max)
    return std::unexpected(fmt::format("at /: the schema is larger than {} bytes", schema_bytes_max));
  const auto document = parse(schema);
  if (!document) return std::unexpected("at /: the schema " + document.error());
  auto parts = std::make_unique<Parts>();
  if (std::string complaint = Compiler(*document, *parts).run(); !complaint.empty())
    return std::unexpected(std::move(complaint));
  return std::shared_ptr<const BodySchema>(new BodySchema(std::move(parts)));
}

BodySchema::BodySchema(std::unique_ptr<const Parts> parts) : parts_(std::move(parts)) {}
BodySchema::~BodySchema() = default;

std::expected<void, std::string> BodySchema::validate(std::string_view body) const {
  const auto value = parse(body);
  if (!value) return std::unexpected("at /: " + value.error());
  Check check(body.size());
  if (!check.holds(*parts_->root, *value)) return std::unexpected(check.what());
  return {};
}

}  // namespace postern::transform
