// What counts here is what any origin might do with the request, and they differ: in which of two members
// counts, in upper and lower case, in forms, encodings and the names of stored queries. Where some of them
// would read another request than we do, nothing is said.

#include <algorithm>
#include <array>
#include <cstdint>
#include <map>
#include <nlohmann/json.hpp>
#include <string>
#include <utility>

#include "base/utf8.h"
#include "transform/graphql.h"
#include "transform/operations.h"

namespace postern::transform {
namespace {

using nlohmann::json;
using Found = std::optional<std::vector<Operation>>;

constexpr std::size_t json_depth_max = 64;
// Of what is looked at: members of requests, of their params and of their extensions.
constexpr std::size_t members_max = 256;  // of one object
constexpr std::size_t all_members_max = 10'000;
/// An answer to what an MCP server has asked (a sample, what the user said) asks for this.
constexpr std::string_view response_operation = "response";

char lower(char c) { return c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c; }
bool is_ascii(std::string_view text) {
  return std::ranges::all_of(text, [](char c) { return static_cast<unsigned char>(c) < 0x80; });
}
bool has_control(std::string_view text) {
  return std::ranges::any_of(text, [](char c) { return static_cast<unsigned char>(c) < 0x20 || c == 0x7f; });
}

/// As lenient readers compare names: "operation_name" is operationName.
std::string folded(std::string_view name) {
  std::string out;
  for (const char c : name)
    if (c != '_' && c != '-') out += lower(c);
  return out;
}

bool same_text(std::string_view text, std::string_view lower_case) {
  return std::ranges::equal(text, lower_case, [](char a, char b) { return lower(a) == b; });
}

std::string_view trimmed(std::string_view text) {
  while (text.starts_with(' ') || text.starts_with('\t')) text.remove_prefix(1);
  while (text.ends_with(' ') || text.ends_with('\t')) text.remove_suffix(1);
  return text;
}

/// A name of ours in other letters, which some readers take for it and some do not.
bool is_nearly(std::string_view name, std::string_view known) {
  return name != known && folded(name) == folded(known);
}

enum class Type : std::uint8_t { null, string, object, array, other };

struct Member {
  std::string name;
  Type type = Type::other;
  std::string text;  ///< Of a string, where it is wanted.
};

struct Members {
  std::vector<Member> all;

  const Member* find(std::string_view name) const {
    const auto found = std::ranges::find(all, name, &Member::name);
    return found == all.end() ? nullptr : &*found;
  }
  bool has(std::string_view name) const { return find(name) != nullptr; }
  bool confuses(std::string_view known) const {
    return std::ranges::any_of(all, [&](const Member& member) { return is_nearly(member.name, known); });
  }
  /// Letters that only Unicode folds into ours (a long s, the sign for Kelvin), or a NUL that ends a name.
  bool has_odd_names() const {
    return std::ranges::any_of(all, [](const Member& member) {
      return !is_ascii(member.name) || has_control(member.name) || trimmed(member.name) != member.name;
    });
  }
};

/// One request of a body.
struct Call {
  Members members, params, extensions;
};

/// Keeps what matters of a body, so that a body of a MiB is no more in memory. false from any of its
/// functions ends the parser.
class CallReader final : public json::json_sax_t {
 public:
  std::vector<Call> calls;
  bool batch = false;

  bool null() override { return value(Type::null); }
  bool boolean(bool) override { return value(Type::other); }
  bool number_integer(number_integer_t) override { return value(Type::other); }
  bool number_unsigned(number_unsigned_t) override { return value(Type::other); }
  bool number_float(number_float_t, const string_t&) override { return value(Type::other); }
  bool binary(binary_t&) override { return false; }
  bool parse_error(std::size_t, const std::string&, const json::exception&) override { return false; }

  bool string(string_t& text) override {
    Member* const member = current();
    if (!value(Type::string)) return false;
    if (member && is_wanted(member->name)) member->text = std::move(text);
    return true;
  }

  bool start_object(std::size_t) override {
    if (depth_ + 1 == call_depth()) {
      if (calls.size() == operations_max) return false;
      calls.emplace_back();
    } else if (!value(Type::object)) {
      return false;
    }
    if (depth_ == call_depth()) below_ = members_below();
    return ++depth_ <= json_depth_max;
  }

  bool key(string_t& name) override {
    Members* const members = depth_ == call_depth()       ? &calls.back().members
                             : depth_ == call_depth() + 1 ? below_
                                                          : nullptr;
    if (!members) return true;
    if (members->has(name) || members->all.size() == members_max || ++members_ > all_members_max)
      return false;
    members->all.push_back({std::move(name), Type::other, {}});
    return true;
  }

  bool start_array(std::size_t) override {
    if (depth_ == 0)
      batch = true;
    else if (!value(Type::array))
      return false;
    if (depth_ == call_depth()) below_ = nullptr;
    return ++depth_ <= json_depth_max;
  }

  bool end_object() override { return --depth_, true; }
  bool end_array() override { return --depth_, true; }

 private:
  std::size_t call_depth() const { return batch ? 2 : 1; }

  static bool is_wanted(std::string_view name) {
    return name == "query" || name == "method" || name == "name" || name == "uri";
  }

  Members* members_below() {
    Call& call = calls.back();
    const std::string& name = call.members.all.back().name;
    return name == "params" ? &call.params : name == "extensions" ? &call.extensions : nullptr;
  }

  Member* current() {
    if (depth_ == call_depth()) return &calls.back().members.all.back();
    return depth_ == call_depth() + 1 && below_ ? &below_->all.back() : nullptr;
  }

  /// false where a request should stand.
  bool value(Type type) {
    if (depth_ < call_depth()) return false;
    if (Member* const member = current()) member->type = type;
    return true;
  }

  std::size_t depth_ = 0;
  std::size_t members_ = 0;
  Members* below_ = nullptr;  ///< Of the object within a call that is being read, if its names matter.
};

/// What a server may answer from instead of the query.
bool names_stored_query(std::string_view name) {
  const std::string as = folded(name);
  static constexpr auto known = std::to_array<std::string_view>(
      {"id", "docid", "documentid", "queryid", "operationid", "hash", "documenthash", "queryhash", "doc"});
  return std::ranges::find(known, as) != known.end() || as.contains("persist") || as.contains("sha256");
}

bool read_graphql_call(const Call& call, std::vector<Operation>& out) {
  // Another member may be what some server looks for first, and clients send none.
  static constexpr auto known =
      std::to_array<std::string_view>({"query", "operationName", "variables", "extensions"});
  for (const Member& member : call.members.all)
    if (std::ranges::find(known, member.name) == known.end()) return false;
  if (const Member* extensions = call.members.find("extensions")) {
    if (extensions->type != Type::object && extensions->type != Type::null) return false;
    if (call.extensions.has_odd_names()) return false;
    for (const Member& member : call.extensions.all)
      if (names_stored_query(member.name)) return false;
  }
  return read_graphql(call.members.find("query")->text, out);
}

int hex_value(char c) {
  if (c >= '0' && c <= '9') return c - '0';
  c = lower(c);
  return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

/// nullopt: an escape is broken, which some take for what is written.
std::optional<std::string> percent_decoded(std::string_view text) {
  std::string out;
  for (std::size_t i = 0; i < text.size(); ++i) {
    if (text[i] != '%') {
      out += text[i];
      continue;
    }
    if (i + 2 >= text.size()) return std::nullopt;
    const int high = hex_value(text[i + 1]), low = hex_value(text[i + 2]);
    if (high < 0 || low < 0) return std::nullopt;
    out += static_cast<char>(high * 16 + low);
    i += 2;
  }
  return out;
}

/// "file:///srv/../etc/passwd" begins as "file:///srv/" does, and is elsewhere.
bool climbs(std::string_view uri) {
  auto decoded = percent_decoded(uri);
  if (!decoded || decoded->contains('%') || has_control(*decoded)) return true;
  std::string& path = *decoded;
  std::ranges::replace(path, '\\', '/');
  for (std::string_view rest = path; !rest.empty();) {
    const std::size_t end = std::min(rest.find_first_of("/?#"), rest.size());
    std::string_view segment = rest.substr(0, end);
    segment = segment.substr(0, segment.find(';'));  // "..;" too, for some
    if (segment == ".." || segment == ".") return true;
    rest.remove_prefix(std::min(end + 1, rest.size()));
  }
  return false;
}

/// The member of params that says what an MCP server is to do, or empty.
std::string_view argument_of(std::string_view method) {
  if (method == "tools/call" || method == "prompts/get") return "name";
  if (method == "resources/read" || method == "resources/subscribe" || method == "resources/unsubscribe")
    return "uri";
  return {};
}

bool is_good_word(std::string_view text) {
  return !text.empty() && text.size() <= operation_bytes_max && !has_control(text);
}

bool read_json_rpc_call(const Call& call, std::vector<Operation>& out) {
  const Member* const method = call.members.find("method");
  const bool answers = call.members.has("result") || call.members.has("error");
  if ((method != nullptr) == answers) return false;
  if (answers) return out.push_back({std::string(response_operation), {}}), true;
  if (method->type != Type::string || !is_good_word(method->text) || method->text.contains(' ') ||
      method->text == response_operation)
    return false;
  Operation operation{method->text, {}};
  if (const std::string_view name = argument_of(operation.name); !name.empty()) {
    if (call.params.has_odd_names() || call.params.confuses(name)) return false;
    const Member* const argument = call.params.find(name);
    if (!argument || argument->type != Type::string || !is_good_word(argument->text)) return false;
    if (name == "uri" && climbs(argument->text)) return false;
    operation.argument = argument->text;
  }
  out.push_back(std::move(operation));
  return true;
}

bool confuses_any(const Members& members) {
  static constexpr auto known =
      std::to_array<std::string_view>({"jsonrpc", "method", "params", "result", "error", "query",
                                       "operationName", "variables", "extensions"});
  return members.has_odd_names() ||
         std::ranges::any_of(known, [&](std::string_view name) { return members.confuses(name); });
}

Found read_json(std::string_view body) {
  // nlohmann reads over a byte order mark, and takes a NUL for the end.
  if (body.starts_with("\xef\xbb\xbf") || body.contains('\0')) return std::nullopt;
  CallReader reader;
  if (!json::sax_parse(body.begin(), body.end(), &reader) || reader.calls.empty()) return std::nullopt;
  const bool rpc = reader.calls.front().members.has("jsonrpc");
  std::vector<Operation> out;
  for (const Call& call : reader.calls) {
    const Member* const told = call.members.find(rpc ? "jsonrpc" : "query");
    if (!told || told->type != Type::string || call.members.has(rpc ? "query" : "jsonrpc") ||
        confuses_any(call.members))
      return std::nullopt;
    if (!(rpc ? read_json_rpc_call(call, out) : read_graphql_call(call, out)) || out.size() > operations_max)
      return std::nullopt;
  }
  return out;
}

/// What the URL says to a GraphQL or JSON-RPC server. Of other parameters nobody makes an operation.
class UrlQuery {
 public:
  /// false: it is read differently by different servers.
  bool read(std::string_view text) {
    if (text.contains(';')) return false;  // Separates, for some.
    std::size_t begin = 0;
    for (std::size_t i = 0; i <= text.size(); ++i) {
      if (i < text.size() && text[i] != '&') continue;
      if (i > begin && !read_parameter(text.substr(begin, i - begin))) return false;
      begin = i + 1;
    }
    return true;
  }
  bool says_anything() const { return !values_.empty(); }
  const std::string* document() const {
    const auto found = values_.find("query");
    return found == values_.end() ? nullptr : &found->second;
  }

 private:
  bool read_parameter(std::string_view parameter) {
    const std::size_t equals = std::min(parameter.find('='), parameter.size());
    const auto decoded = [](std::string_view part) {
      std::string spaced(part);
      std::ranges::replace(spaced, '+', ' ');
      return percent_decoded(spaced);
    };
    const auto name = decoded(parameter.substr(0, equals));
    auto value = decoded(parameter.substr(std::min(equals + 1, parameter.size())));
    if (!name || !value || !is_ascii(*name) || has_control(*name)) return false;
    if (!concerns(*name)) return true;
    if (*name != "query" && *name != "operationName" && *name != "variables") return false;
    return values_.emplace(*name, std::move(*value)).second;
  }

  /// "query", and what some server makes that of: " Query", "query[]".
  static bool concerns(std::string_view name) {
    std::string as = folded(name);
    as.erase(0, std::min(as.find_first_not_of(" .["), as.size()));
    static constexpr auto beginnings = std::to_array<std::string_view>(
        {"query", "operationname", "variables", "extensions", "jsonrpc", "params"});
    const std::string_view bare = std::string_view(as).substr(0, as.find_first_of(" .[]"));
    return names_stored_query(bare) || bare == "method" ||
           std::ranges::any_of(beginnings, [&](std::string_view known) { return as.starts_with(known); });
  }

  std::map<std::string, std::string> values_;
};

enum class BodyKind : std::uint8_t { json_text, graphql_document, unknown };

bool says_utf8(std::string_view parameter) {
  return same_text(parameter, "charset=utf-8") || same_text(parameter, "charset=\"utf-8\"") ||
         same_text(parameter, "charset=utf8");
}

/// No type at all is unknown too: some servers read a form then.
BodyKind kind_of(std::string_view content_type) {
  if (content_type.contains(',')) return BodyKind::unknown;
  const std::size_t end = std::min(content_type.find(';'), content_type.size());
  // In UTF-7 and its like other letters end a string, and some search all of it for "form-data".
  const std::string_view parameters = content_type.substr(end);
  if (!trimmed(parameters).empty() && !says_utf8(trimmed(parameters.substr(1)))) return BodyKind::unknown;
  const std::string_view type = trimmed(content_type.substr(0, end));
  if (same_text(type, "application/graphql")) return BodyKind::graphql_document;
  if (same_text(type, "application/json") || same_text(type, "text/json")) return BodyKind::json_text;
  const std::string as = folded(type);
  const bool json_like = as.starts_with("application/") && as.ends_with("+json") && !as.contains("form") &&
                         std::ranges::all_of(as, [](char c) { return c > ' ' && c < 0x7f; });
  return json_like ? BodyKind::json_text : BodyKind::unknown;
}

Found read_document(std::string_view document) {
  std::vector<Operation> out;
  if (!read_graphql(document, out)) return std::nullopt;
  return out;
}

}  // namespace

std::optional<std::vector<Operation>> read_operations(const OperationsQuestion& asked) {
  if (asked.body.size() > operations_body_bytes_max || asked.query.size() > operations_body_bytes_max)
    return std::nullopt;
  UrlQuery url;
  if (!url.read(asked.query)) return std::nullopt;
  if (asked.body.empty()) {
    // What a DELETE does is not in its query.
    if (asked.method != "GET" && asked.method != "HEAD" && asked.method != "POST") return std::nullopt;
    return url.document() ? read_document(*url.document()) : std::nullopt;
  }
  if (asked.method != "POST" || url.says_anything()) return std::nullopt;
  switch (kind_of(asked.content_type)) {
    case BodyKind::json_text: return read_json(asked.body);
    case BodyKind::graphql_document: return read_document(asked.body);
    case BodyKind::unknown: break;
  }
  return std::nullopt;
}

}  // namespace postern::transform
