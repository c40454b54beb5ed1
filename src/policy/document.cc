#include "policy/document.h"

#include <array>
#include <charconv>
#include <fcntl.h>
#include <fmt/format.h>
#include <fmt/ranges.h>
#include <nlohmann/json.hpp>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <unordered_map>

#include "base/fd.h"
#include "base/put_in_order.h"
#include "base/units.h"
#include "policy/provider_secrets.h"
#include "policy/treatment_reader.h"
#include "wire/http1.h"

namespace postern::policy {

namespace {

constexpr std::array<std::string_view, 6> document_fields = {"rules",       "callbacks", "access_control",
                                                             "description", "limits",    "no_proxy"};
constexpr std::array<std::string_view, 2> access_fields = {"allow_list", "deny_list"};
constexpr std::array<std::string_view, 14> rule_fields = {
    "name",          "description",      "enabled", "action",   "match_hosts", "match_paths", "match_methods",
    "match_headers", "match_operations", "headers", "env_vars", "rewrite",     "transform",   "limits"};
constexpr std::array<std::string_view, 5> header_fields = {"name", "type", "value", "from", "is_set"};
constexpr std::array<std::string_view, 5> callback_fields = {"match_hosts", "url", "ttl_seconds",
                                                             "full_request", "request_headers"};
// Ours in every request to a callback.
constexpr std::array<std::string_view, 2> callback_own_headers = {"content-type",
                                                                  "x-langsmith-signature-jwt"};
constexpr std::array<std::string_view, 3> header_types = {"workspace_secret", "plaintext", "opaque"};

std::size_t characters(std::string_view utf8) {
  return static_cast<std::size_t>(
      std::ranges::count_if(utf8, [](char c) { return (static_cast<unsigned char>(c) & 0xc0) != 0x80; }));
}

bool has_control(std::string_view text) {
  return std::ranges::any_of(text, [](char c) { return static_cast<unsigned char>(c) < 0x20 || c == 0x7f; });
}

/// Walks the tree once and collects every problem, so that the author mends them in one go. Rules come first,
/// each as soon as it is read.
class Reader final : TreatmentReader, public ItemSink {
 public:
  using TreatmentReader::TreatmentReader;
  ~Reader() = default;

  std::string_view key() const override { return "rules"; }
  void take(Node item) override { take_rule(item); }
  void take_rule(const Node& item) {
    if (rules_seen_++ >= rules_max) return;
    const std::string where = child("rules", rules_seen_ - 1);
    if (expect(item, where, Node::Kind::mapping)) read_rule(item, where, document_.rules.emplace_back());
  }

  /// The rest of the document.
  std::expected<Document, std::vector<Problem>> read(const Node& root) {
    if (expect(root, "", Node::Kind::mapping)) read_document(root, document_);
    document_.rules.shrink_to_fit();
    if (problems_.empty()) return std::move(document_);
    // In the order of the text; those of rules were found first.
    put_in_order(problems_, [](const Problem& a, const Problem& b) {
      return std::pair(a.at.line, a.at.column) < std::pair(b.at.line, b.at.column);
    });
    return std::unexpected(std::move(problems_));
  }

 private:
  void read_description(const Node& mapping, const std::string& where, std::string& out) {
    const Node* node = read_string(mapping, where, "description");
    if (node == nullptr) return;
    if (const std::size_t length = characters(node->text); length > description_characters_max) {
      return fail(child(where, "description"), node->at,
                  fmt::format("{} characters: at most {} are accepted", length, description_characters_max));
    }
    out = node->text;
  }

  void read_document(const Node& root, Document& out) {
    check_fields(root, "", document_fields);
    read_description(root, "", out.description);
    if (const Node* ignored = find(root, "no_proxy")) {
      read_strings(root, "", "no_proxy", rule_entries_max, [](const Node&, const std::string&) {});
      out.warnings.push_back({"no_proxy", ignored->at, "is deprecated and has no effect: leave it out"});
    }
    read_limits(root, "", out.limits);
    if (const Node* access = find(root, "access_control");
        access != nullptr && expect(*access, "access_control", Node::Kind::mapping)) {
      read_access_control(*access, out.access_control.emplace());
    }
    if (const Node* rules = find(root, "rules");
        rules != nullptr && expect(*rules, "rules", Node::Kind::sequence) && rules_seen_ > rules_max) {
      fail("rules", rules->at, fmt::format("{} entries: at most {} are accepted", rules_seen_, rules_max));
    }
    read_list(root, "", "callbacks", callbacks_max, [&](const Node& item, const std::string& where) {
      if (!expect(item, where, Node::Kind::mapping)) return;
      read_callback(item, where, out.callbacks.emplace_back());
    });
  }

  void read_access_control(const Node& node, AccessControl& out) {
    const std::string where = "access_control";
    check_fields(node, where, access_fields);
    const Node* allow = find(node, "allow_list");
    const Node* deny = find(node, "deny_list");
    if ((allow == nullptr) == (deny == nullptr)) {
      const bool empty_field = node.find("allow_list") != nullptr || node.find("deny_list") != nullptr;
      if (allow == nullptr && empty_field && unknown_fields_ == UnknownFields::refuse)
        return;  // said already
      return fail(where, node.at,
                  fmt::format("{} of allow_list and deny_list is set: exactly one is accepted",
                              allow == nullptr ? "none" : "each"));
    }
    out.kind = allow != nullptr ? AccessControl::Kind::allow_list : AccessControl::Kind::deny_list;
    read_strings(node, where, allow != nullptr ? "allow_list" : "deny_list", access_entries_max,
                 [&](const Node& item, const std::string& place) {
                   auto pattern = parse_destination_pattern(item.text);
                   if (!pattern) return fail(place, item.at, pattern.error());
                   out.entries.push_back({item.text, item.at, std::move(*pattern)});
                 });
  }

  void read_rule(const Node& node, const std::string& where, Rule& out) {
    out.at = node.at;
    const std::string_view type = read_provider(node, where, out.provider);
    check_fields(node, where, rule_fields_with(type));
    read_rule_name(node, where, out);
    read_description(node, where, out.description);
    out.enabled = read_flag(node, where, "enabled", true);
    read_action(node, where, out);
    if (type.empty() || type == "oauth2" || node.find("match_hosts") != nullptr)
      read_match_hosts(node, where, "rule", out.match_hosts);
    if (!type.empty()) complete_provider(node, where, out);
    read_match_paths(node, where, out);
    read_match_methods(node, where, out);
    read_match_headers(node, where, out);
    read_match_operations(node, where, out);
    read_headers(node, where, "headers", header_types, out.headers);
    read_env_vars(node, where, out);
    read_treatment(node, where, out);
    if (out.action == Action::deny && !out.headers.empty()) {
      fail(child(where, "headers"), node.find("headers")->at,
           "a rule whose action is deny sends nothing: leave the headers out");
    }
  }

  /// With the type's own field, and without those that its rules do not have.
  static std::vector<std::string_view> rule_fields_with(std::string_view type) {
    std::vector<std::string_view> names(rule_fields.begin(), rule_fields.end());
    names.push_back("type");
    if (type.empty()) return names;
    std::erase(names, "headers");
    std::erase(names, "rewrite");
    names.push_back(type);
    return names;
  }

  void read_rule_name(const Node& node, const std::string& where, Rule& out) {
    const Node* name = find(node, "name");
    if (name == nullptr) {
      if (node.find("name") == nullptr || unknown_fields_ == UnknownFields::tolerate)
        fail(where, node.at, "a rule needs a 'name'");
      return;
    }
    const std::string place = child(where, "name");
    if (!expect(*name, place, Node::Kind::string)) return;
    if (name->text.empty() || name->text.size() > rule_name_bytes_max || has_control(name->text)) {
      return fail(place, name->at,
                  fmt::format("must have 1 to {} bytes and no control characters", rule_name_bytes_max));
    }
    const auto [first, is_new] = rule_names_.try_emplace(name->text, name->at.line);
    if (!is_new) {
      return fail(place, name->at,
                  fmt::format("{} is the name of another rule already (line {}); names are unique",
                              in_quotes(name->text), first->second));
    }
    out.name = name->text;
  }

  void read_action(const Node& node, const std::string& where, Rule& out) {
    const Node* action = read_string(node, where, "action");
    if (action == nullptr || action->text == "allow") return;
    if (action->text == "deny") {
      out.action = Action::deny;
    } else {
      fail(child(where, "action"), action->at,
           fmt::format("{} is not an action (accepted: allow, deny)", in_quotes(action->text)));
    }
  }

  void read_match_hosts(const Node& node, const std::string& where, std::string_view what,
                        std::vector<Rule::MatchHost>& out) {
    const Node* hosts = find(node, "match_hosts");
    if (hosts == nullptr) {
      if (node.find("match_hosts") == nullptr || unknown_fields_ == UnknownFields::tolerate) {
        fail(where, node.at, fmt::format("a {} needs 'match_hosts', the hosts that it is for", what));
      }
      return;
    }
    if (hosts->kind == Node::Kind::sequence && hosts->items.empty()) {
      return fail(child(where, "match_hosts"), hosts->at,
                  fmt::format("is empty: a {} needs at least one host", what));
    }
    read_strings(node, where, "match_hosts", rule_entries_max,
                 [&](const Node& item, const std::string& place) {
                   auto pattern = parse_host_pattern(item.text);
                   if (!pattern) return fail(place, item.at, pattern.error());
                   out.push_back({item.text, std::move(*pattern)});
                 });
  }

  void read_match_paths(const Node& node, const std::string& where, Rule& out) {
    read_strings(node, where, "match_paths", rule_entries_max,
                 [&](const Node& item, const std::string& place) {
                   auto pattern = parse_path_pattern(item.text);
                   if (!pattern) return fail(place, item.at, pattern.error());
                   out.match_paths.push_back({item.text, std::move(*pattern)});
                 });
  }

  void read_match_methods(const Node& node, const std::string& where, Rule& out) {
    read_strings(
        node, where, "match_methods", rule_entries_max, [&](const Node& item, const std::string& place) {
          const bool upper = std::ranges::none_of(item.text, [](char c) { return c >= 'a' && c <= 'z'; });
          if (!wire::is_field_name(item.text) || item.text.size() > wire::method_bytes_max || !upper) {
            return fail(
                place, item.at,
                fmt::format("{} is not a method (accepted: names in capitals such as GET, HEAD, POST)",
                            in_quotes(item.text)));
          }
          out.match_methods.push_back(item.text);
        });
  }

  void read_match_headers(const Node& node, const std::string& where, Rule& out) {
    read_strings(
        node, where, "match_headers", rule_entries_max, [&](const Node& item, const std::string& place) {
          const auto colon = item.text.find(':');
          const std::string_view name = std::string_view(item.text).substr(0, colon);
          if (colon == std::string::npos || !wire::is_field_name(name) || name != wire::lower(name)) {
            return fail(place, item.at, "must be \"name: value\" with the header's name in lower case");
          }
          std::string_view value = std::string_view(item.text).substr(colon + 1);
          while (value.starts_with(' ') || value.starts_with('\t')) value.remove_prefix(1);
          while (value.ends_with(' ') || value.ends_with('\t')) value.remove_suffix(1);
          if (!wire::is_field_value(value))
            return fail(place, item.at, "the value holds control characters, which no header can");
          out.match_headers.push_back({std::string(name), std::string(value)});
        });
  }

  void read_headers(const Node& node, const std::string& where, std::string_view key, Names types,
                    std::vector<Header>& out) {
    read_list(node, where, key, rule_headers_max, [&](const Node& item, const std::string& place) {
      if (!expect(item, place, Node::Kind::mapping)) return;
      Header header;
      header.at = item.at;
      check_fields(item, place, header_fields);
      const bool named = read_header_name(item, place, header);
      const bool typed = read_header_type(item, place, types, header);
      if (typed) read_header_value(item, place, header);
      if (!named || !typed) return;
      const auto same = [&](const Header& other) { return wire::same_name(other.name, header.name); };
      if (std::ranges::any_of(out, same)) {
        return fail(
            child(place, "name"), item.find("name")->at,
            fmt::format("{} is set twice here (names are compared without case)", in_quotes(header.name)));
      }
      out.push_back(std::move(header));
    });
  }

  bool read_header_name(const Node& node, const std::string& where, Header& out) {
    const Node* name = find(node, "name");
    if (name == nullptr) {
      if (node.find("name") == nullptr || unknown_fields_ == UnknownFields::tolerate)
        fail(where, node.at, "a header needs a 'name'");
      return false;
    }
    const std::string place = child(where, "name");
    if (!expect(*name, place, Node::Kind::string)) return false;
    if (!wire::is_field_name(name->text) || name->text.size() > header_name_bytes_max) {
      // Not quoted: the value may stand where the name should.
      fail(place, name->at,
           fmt::format("is not a header name (accepted: 1 to {} letters, digits and !#$%&'*+-.^_`|~)",
                       header_name_bytes_max));
      return false;
    }
    if (is_reserved_header(name->text)) {
      fail(place, name->at,
           fmt::format("{} belongs to the connection and cannot be set (nor can Host, Content-Length, "
                       "Transfer-Encoding, Connection, "
                       "Upgrade, TE, Trailer, Keep-Alive, Expect, Proxy-*, Sec-WebSocket-*)",
                       in_quotes(name->text)));
      return false;
    }
    out.name = name->text;
    return true;
  }

  bool read_header_type(const Node& node, const std::string& where, Names types, Header& out) {
    const Node* type = find(node, "type");
    if (type == nullptr) {
      if (node.find("type") == nullptr || unknown_fields_ == UnknownFields::tolerate) {
        fail(where, node.at, fmt::format("a header needs a 'type' (accepted: {})", fmt::join(types, ", ")));
      }
      return false;
    }
    const std::string place = child(where, "type");
    if (!expect(*type, place, Node::Kind::string)) return false;
    for (const HeaderType known : {HeaderType::workspace_secret, HeaderType::plaintext, HeaderType::opaque}) {
      if (type->text != token(known) || !contains(types, type->text)) continue;
      out.type = known;
      return true;
    }
    fail(
        place, type->at,
        fmt::format("{} is not a header type (accepted: {})", in_quotes(type->text), fmt::join(types, ", ")));
    return false;
  }

  void read_callback(const Node& node, const std::string& where, Callback& out) {
    constexpr std::array<std::string_view, 2> types = {"plaintext", "opaque"};
    out.at = node.at;
    check_fields(node, where, callback_fields);
    read_match_hosts(node, where, "callback", out.match_hosts);
    read_callback_url(node, where, out);
    read_callback_ttl(node, where, out);
    out.full_request = read_flag(node, where, "full_request", false);
    read_headers(node, where, "request_headers", types, out.request_headers);
    for (std::size_t i = 0; i < out.request_headers.size(); ++i) {
      const Header& header = out.request_headers[i];
      if (contains(callback_own_headers, wire::lower(header.name)))
        fail(fmt::format("{}.request_headers[{}].name", where, i), header.at,
             fmt::format("{} is set by Postern itself", in_quotes(header.name)));
    }
  }

  void read_callback_url(const Node& node, const std::string& where, Callback& out) {
    const Node* text = find(node, "url");
    if (text == nullptr) {
      if (node.find("url") == nullptr || unknown_fields_ == UnknownFields::tolerate)
        fail(where, node.at, "a callback needs a 'url', the endpoint that is asked");
      return;
    }
    const std::string place = child(where, "url");
    if (!expect(*text, place, Node::Kind::string)) return;
    auto url = wire::parse_url(text->text);
    if (!url) return fail(place, text->at, url.error().detail);
    out.url = std::move(*url);
  }

  void read_callback_ttl(const Node& node, const std::string& where, Callback& out) {
    const Node* ttl = find(node, "ttl_seconds");
    const auto [least, most] = std::pair(callback_ttl_min.count(), callback_ttl_max.count());
    if (ttl == nullptr) {
      if (node.find("ttl_seconds") == nullptr || unknown_fields_ == UnknownFields::tolerate)
        fail(where, node.at,
             fmt::format("a callback needs 'ttl_seconds', for how long an answer is used ({} to {})", least,
                         most));
      return;
    }
    const std::string place = child(where, "ttl_seconds");
    if (!expect(*ttl, place, Node::Kind::number)) return;
    long seconds = 0;
    const char* const end = ttl->text.data() + ttl->text.size();
    const auto read = std::from_chars(ttl->text.data(), end, seconds);
    if (read.ec != std::errc() || read.ptr != end || seconds < least || seconds > most)
      return fail(
          place, ttl->at,
          fmt::format("{} is not accepted: whole seconds from {} to {}", in_quotes(ttl->text), least, most));
    out.ttl = std::chrono::seconds(seconds);
  }

  void read_header_value(const Node& node, const std::string& where, Header& out) {
    if (read_from(node, where, out.type, out.from)) return;
    const Node* value = find(node, "value");
    const std::string place = child(where, "value");
    if (value == nullptr) {
      // An opaque value may be left out: what is stored already stays (section 5).
      const bool said = node.find("value") != nullptr && unknown_fields_ == UnknownFields::refuse;
      if (out.type != HeaderType::opaque && !said)
        fail(where, node.at, fmt::format("a {} header needs a 'value'", token(out.type)));
      return;
    }
    if (!expect(*value, place, Node::Kind::string)) return;
    if (value->text.size() > header_value_bytes_max) {
      return fail(
          place, value->at,
          fmt::format("{} bytes: at most {} are accepted", value->text.size(), header_value_bytes_max));
    }
    if (!wire::is_field_value(value->text)) {
      return fail(place, value->at, "holds CR, LF, NUL or another control character, which no header can");
    }
    if (out.type == HeaderType::opaque) {
      out.value = seal(*value);
      return;
    }
    if (out.type == HeaderType::workspace_secret) {
      const auto pieces = parse_template(value->text);
      if (!pieces) return fail(place, value->at, pieces.error());
      if (std::ranges::none_of(pieces->pieces, &Template::Piece::is_key)) {
        return fail(
            place, value->at,
            "names no secret (accepted: text with at least one {KEY}, such as Bearer {OPENAI_API_KEY})");
      }
    }
    out.text = value->text;
  }

  void read_env_vars(const Node& node, const std::string& where, Rule& out) {
    const Node* variables = find(node, "env_vars");
    const std::string place = child(where, "env_vars");
    if (variables == nullptr || !expect(*variables, place, Node::Kind::mapping)) return;
    if (variables->members.size() > rule_entries_max) {
      return fail(
          place, variables->at,
          fmt::format("{} entries: at most {} are accepted", variables->members.size(), rule_entries_max));
    }
    for (const Member& member : variables->members) {
      const std::string at = child(place, member.key);
      if (!is_variable_name(member.key)) {
        fail(at, member.at,
             "is not a variable name (accepted: letters, digits and _, not beginning with a digit)");
        continue;
      }
      if (!expect(member.value, at, Node::Kind::string)) continue;
      if (member.value.text.size() > variable_value_bytes_max ||
          member.value.text.find('\0') != std::string::npos) {
        fail(at, member.value.at,
             fmt::format("must have at most {} bytes and no NUL", variable_value_bytes_max));
        continue;
      }
      out.env_vars.push_back({member.key, member.value.text});
    }
  }

  Document document_;
  std::size_t rules_seen_ = 0;
  std::unordered_map<std::string, int> rule_names_;
};

}  // namespace

bool is_reserved_header(std::string_view any_case) {
  const std::string name = wire::lower(any_case);
  constexpr std::array<std::string_view, 10> reserved = {
      "host", "content-length", "transfer-encoding", "connection", "upgrade",
      "te",   "trailer",        "keep-alive",        "expect",     "http2-settings"};
  return contains(reserved, name) || name.starts_with("proxy-") || name.starts_with("sec-websocket-");
}

std::string_view token(HeaderType type) {
  switch (type) {
    case HeaderType::workspace_secret: return "workspace_secret";
    case HeaderType::plaintext: return "plaintext";
    case HeaderType::opaque: return "opaque";
  }
  return "opaque";
}

bool Rule::judges_paths() const {
  if (rewrite()) return true;
  return !match_paths.empty() && std::ranges::none_of(match_paths, [](const MatchPath& path) {
    return path.pattern.form == PathPattern::Form::any;
  });
}

const TokenSubject* Rule::token_subject() const {
  if (const auto* aws = std::get_if<AwsAuth>(&provider)) return aws->role ? &aws->role->subject : nullptr;
  if (const auto* gcp = std::get_if<GcpAuth>(&provider))
    return gcp->federation ? &gcp->federation->subject : nullptr;
  const auto* azure = std::get_if<AzureAuth>(&provider);
  return azure && azure->federation ? &azure->federation->subject : nullptr;
}

bool Rule::injects_credential() const {
  return !std::holds_alternative<std::monostate>(provider) ||
         std::ranges::any_of(headers,
                             [](const Header& header) { return header.type != HeaderType::plaintext; });
}

std::expected<Document, std::vector<Problem>> parse_document(std::string_view text, Format format,
                                                             UnknownFields unknown_fields,
                                                             References references) {
  Reader reader(unknown_fields, references);
  const auto tree = read_tree(text, format, &reader);
  if (!tree) return std::unexpected(tree.error());
  return reader.read(*tree);
}

std::expected<Document, std::vector<Problem>> read_document(const Node& root, UnknownFields unknown_fields) {
  Reader reader(unknown_fields, References::refuse);
  const Node* rules = root.find("rules");
  if (rules && rules->kind == Node::Kind::sequence)
    for (const Node& rule : rules->items) reader.take_rule(rule);
  return reader.read(root);
}

std::expected<Document, std::vector<Problem>> load_document(const std::string& path) {
  const auto unreadable = [](std::string message) {
    return std::unexpected(std::vector{Problem{"", {}, std::move(message)}});
  };
  const Fd file(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NOCTTY));
  if (!file) return unreadable(fmt::format("cannot be read: {}", ::strerror(errno)));
  // What a larger buffer takes the place of is wiped: it may hold a credential.
  std::string text;
  std::size_t length = 0;
  const auto grow_to = [&](std::size_t size) {
    // One byte more than the limit tells "full" from "too large".
    std::string larger(std::min(size, document_bytes_max + 1), '\0');
    std::ranges::copy(std::string_view(text).substr(0, length), larger.begin());
    text.swap(larger);
    explicit_bzero(larger.data(), larger.size());
  };
  struct stat about{};
  if (::fstat(file.get(), &about) != 0)
    return unreadable(fmt::format("cannot be read: {}", ::strerror(errno)));
  const bool sized = S_ISREG(about.st_mode) && about.st_size > 0;
  grow_to(sized ? static_cast<std::size_t>(about.st_size) + 1 : 64 * KiB);
  while (true) {
    if (length == text.size()) {
      if (length > document_bytes_max) break;
      grow_to(2 * length);
    }
    const ssize_t count = ::read(file.get(), text.data() + length, text.size() - length);
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) return unreadable(fmt::format("cannot be read: {}", ::strerror(errno)));
    if (count == 0) break;
    length += static_cast<std::size_t>(count);
  }
  // Whoever may write the file would read ours and run what he likes by a reference.
  const bool ours =
      (about.st_mode & (S_IWGRP | S_IWOTH)) == 0 && (about.st_uid == ::geteuid() || about.st_uid == 0);
  auto document = parse_document(std::string_view(text).substr(0, length), format_of(path),
                                 UnknownFields::refuse, ours ? References::accept : References::refuse);
  explicit_bzero(text.data(), length);
  return document;
}

std::vector<Reference> references_of(std::span<const Rule> rules, std::span<const Callback> callbacks) {
  std::vector<Reference> out;
  const auto add = [&out](const auto& value, const std::string& where) {
    if (!value.from.empty()) out.push_back({value.from, where + ".from", value.at});
  };
  for (std::size_t i = 0; i < rules.size(); ++i) {
    if (!rules[i].enabled) continue;
    for (std::size_t j = 0; j < rules[i].headers.size(); ++j)
      if (!rules[i].headers[j].from.empty())
        add(rules[i].headers[j], fmt::format("rules[{}].headers[{}]", i, j));
    each_secret(rules[i].provider, [&](std::string_view name, const SecretValue& secret) {
      add(secret, fmt::format("rules[{}].{}.{}", i, type_of(rules[i].provider), name));
    });
  }
  for (std::size_t i = 0; i < callbacks.size(); ++i)
    for (std::size_t j = 0; j < callbacks[i].request_headers.size(); ++j)
      add(callbacks[i].request_headers[j], fmt::format("callbacks[{}].request_headers[{}]", i, j));
  return out;
}

namespace {

using Json = nlohmann::ordered_json;

Json print_header(const Header& header) {
  Json out = {{"name", header.name}, {"type", token(header.type)}};
  if (!header.from.empty()) {
    out["from"] = header.from;
  } else if (header.type == HeaderType::opaque) {
    out["is_set"] = !header.value.empty();
  } else {
    out["value"] = header.text;
  }
  return out;
}

Json print_secret(const SecretValue& secret) {
  Json out = {{"type", token(secret.type)}};
  if (!secret.from.empty())
    out["from"] = secret.from;
  else if (secret.type == HeaderType::opaque)
    out["is_set"] = !secret.value.empty();
  else
    out["value"] = secret.text;
  return out;
}

Json with_subject(Json out, const TokenSubject& subject) {
  if (!subject.tag.empty()) out["subject_scope"] = "tag:" + subject.tag;
  return out;
}

struct ProviderPrinter {
  Json operator()(const std::monostate&) const { return {}; }
  Json operator()(const AwsAuth& aws) const {
    if (aws.role) {
      Json out = {{"role_arn", aws.role->arn}};
      for (const auto& [name, value] : aws.role->session_tags) out["session_tags"][name] = value;
      return with_subject(std::move(out), aws.role->subject);
    }
    Json out = {{"access_key_id", print_secret(aws.access_key_id)},
                {"secret_access_key", print_secret(aws.secret_access_key)}};
    if (aws.session_token) out["session_token"] = print_secret(*aws.session_token);
    return out;
  }
  Json operator()(const GcpAuth& gcp) const {
    if (gcp.federation) {
      Json out = {{"workload_identity_provider", gcp.federation->provider}, {"scopes", gcp.scopes}};
      if (!gcp.federation->service_account_email.empty())
        out["service_account_email"] = gcp.federation->service_account_email;
      return with_subject(std::move(out), gcp.federation->subject);
    }
    return {{"service_account_json", print_secret(gcp.service_account_json)}, {"scopes", gcp.scopes}};
  }
  Json operator()(const AzureAuth& azure) const {
    if (azure.federation) {
      Json out = {{"tenant_id", azure.federation->tenant_id}, {"client_id", azure.federation->client_id}};
      for (const AzureResource resource : azure.federation->resources)
        out["resources"].push_back(azure_resources[static_cast<std::size_t>(resource)]);
      return with_subject(std::move(out), azure.federation->subject);
    }
    Json out = {{"storage_account", azure.storage_account}};
    if (azure.account_key) out["account_key"] = print_secret(*azure.account_key);
    if (azure.sas_token) out["sas_token"] = print_secret(*azure.sas_token);
    return out;
  }
  Json operator()(const Oauth2Auth& oauth2) const {
    const bool refreshes = oauth2.grant == Oauth2Auth::Grant::refresh_token;
    Json out = {{"token_url", oauth2.token_url.text},
                {"grant", refreshes ? "refresh_token" : "client_credentials"},
                {"client_id", oauth2.client_id}};
    if (oauth2.client_secret) out["client_secret"] = print_secret(*oauth2.client_secret);
    if (oauth2.refresh_token) out["refresh_token"] = print_secret(*oauth2.refresh_token);
    if (!oauth2.scopes.empty()) out["scopes"] = oauth2.scopes;
    return out;
  }
  Json operator()(const GithubAppAuth& app) const {
    Json out = {{"app_id", app.app_id},
                {"installation_id", app.installation_id},
                {"private_key", print_secret(app.private_key)}};
    if (!app.repositories.empty()) out["repositories"] = app.repositories;
    for (const auto& [name, value] : app.permissions) out["permissions"][name] = value;
    return out;
  }
};

Json print_provider(const Provider& provider) { return std::visit(ProviderPrinter{}, provider); }

Json print_rewrite(const Rewrite& rewrite) {
  Json out = {{"host", rewrite.host.name}};
  if (!rewrite.tls) out["scheme"] = "http";
  if (rewrite.port != (rewrite.tls ? 443 : 80)) out["port"] = rewrite.port;
  if (!rewrite.path_prefix.empty()) out["path_prefix"] = rewrite.path_prefix;
  if (rewrite.preserve_host) out["host_header"] = "preserve";
  if (rewrite.credentials != SentCredentials::strip) out["credentials"] = token(rewrite.credentials);
  return out;
}

Json print_detectors(const Detectors& detectors) {
  Json out = Json::array();
  for (const transform::DetectorSpec& spec : detectors.specs) {
    if (spec.pattern.empty()) {
      out.push_back(spec.name);
      continue;
    }
    Json& pattern = out.emplace_back(Json{{"pattern", spec.pattern}});
    if (spec.replace) pattern["replace"] = *spec.replace;
  }
  return out;
}

struct StepPrinter {
  Json operator()(const SetHeader& step) const {
    return {{"set_header", {{"name", step.name}, {"value", step.text}}}};
  }
  Json operator()(const RemoveHeader& step) const { return {{"remove_header", step.name}}; }
  Json operator()(const Redact& step) const { return {{"redact", print_detectors(step.detectors)}}; }
  Json operator()(const Block& step) const { return {{"block", print_detectors(step.detectors)}}; }
  Json operator()(const Require& step) const {
    Json out = Json::object();
    if (step.max_body_bytes) out["max_body_bytes"] = *step.max_body_bytes;
    for (const std::string& type : step.content_types) out["content_types"].push_back(type);
    if (step.schema) out["json_schema"] = Json::parse(step.schema_text);
    return {{"require", std::move(out)}};
  }
};

Json print_limits(const Limits& limits) {
  Json out = Json::object();
  const auto add = [&out](const char* name, const std::optional<std::uint64_t>& limit) {
    if (limit) out[name] = *limit;
  };
  add("requests_per_second", limits.requests_per_second);
  add("concurrent_requests", limits.concurrent_requests);
  add("requests_per_day", limits.requests_per_day);
  add("request_bytes_per_day", limits.request_bytes_per_day);
  add("tokens_per_day", limits.tokens_per_day);
  return out;
}

Json print_transform(const Transform& transform) {
  Json out = Json::object();
  for (const RequestStep& step : transform.request) out["request"].push_back(std::visit(StepPrinter{}, step));
  if (transform.scrub_secrets) out["response"] = {{"scrub_secrets", *transform.scrub_secrets}};
  return out;
}

Json print_rule(const Rule& rule) {
  Json out = {{"name", rule.name}};
  if (!rule.description.empty()) out["description"] = rule.description;
  if (!rule.enabled) out["enabled"] = false;
  if (rule.action == Action::deny) out["action"] = "deny";
  if (const std::string_view type = type_of(rule.provider); !type.empty()) {
    out["type"] = type;
    out[std::string(type)] = print_provider(rule.provider);
  }
  if (!rule.own_hosts)
    for (const auto& host : rule.match_hosts) out["match_hosts"].push_back(host.text);
  for (const auto& path : rule.match_paths) out["match_paths"].push_back(path.text);
  for (const auto& method : rule.match_methods) out["match_methods"].push_back(method);
  for (const auto& [name, value] : rule.match_headers)
    out["match_headers"].push_back(fmt::format("{}: {}", name, value));
  for (const auto& operation : rule.match_operations) out["match_operations"].push_back(operation.text);
  for (const auto& header : rule.headers) out["headers"].push_back(print_header(header));
  for (const auto& [name, value] : rule.env_vars) out["env_vars"][name] = value;
  if (const Rewrite* rewrite = rule.rewrite()) out["rewrite"] = print_rewrite(*rewrite);
  if (rule.treatment && rule.treatment->transform)
    out["transform"] = print_transform(*rule.treatment->transform);
  if (const Limits* limits = rule.limits()) out["limits"] = print_limits(*limits);
  return out;
}

Json print_callback(const Callback& callback) {
  Json out = Json::object();
  for (const auto& host : callback.match_hosts) out["match_hosts"].push_back(host.text);
  out["url"] = callback.url.text;
  out["ttl_seconds"] = callback.ttl.count();
  if (callback.full_request) out["full_request"] = true;
  for (const auto& header : callback.request_headers) out["request_headers"].push_back(print_header(header));
  return out;
}

}  // namespace

std::string print(const Document& document) {
  Json out = Json::object();
  if (!document.description.empty()) out["description"] = document.description;
  if (document.access_control) {
    Json entries = Json::array();
    for (const auto& entry : document.access_control->entries) entries.push_back(entry.text);
    const bool allow = document.access_control->kind == AccessControl::Kind::allow_list;
    out["access_control"] = {{allow ? "allow_list" : "deny_list", std::move(entries)}};
  }
  if (!document.rules.empty()) {
    Json rules = Json::array();
    for (const Rule& rule : document.rules) rules.push_back(print_rule(rule));
    out["rules"] = std::move(rules);
  }
  if (document.limits) out["limits"] = print_limits(*document.limits);
  for (const Callback& callback : document.callbacks) out["callbacks"].push_back(print_callback(callback));
  return out.dump(2);
}

}  // namespace postern::policy
