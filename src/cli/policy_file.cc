#include "cli/policy_file.h"

#include <cerrno>
#include <charconv>
#include <cstring>
#include <fcntl.h>
#include <fmt/format.h>
#include <nlohmann/json.hpp>
#include <unistd.h>

#include "base/fd.h"
#include "cli/client_command.h"
#include "cli/steps.h"
#include "policy/document.h"

namespace postern::cli {

namespace {

using policy::Node;
using Json = nlohmann::ordered_json;

constexpr std::size_t file_bytes_max = 8 * 1024 * 1024;  // more than that no server takes

credential::WipedString read_file(const std::string& name) {
  const Fd file(name == "-" ? ::fcntl(STDIN_FILENO, F_DUPFD_CLOEXEC, 3)
                            : ::open(name.c_str(), O_RDONLY | O_CLOEXEC | O_NOCTTY));
  credential::WipedString text;
  char piece[16 * 1024];
  ssize_t count = file ? 1 : -1;
  while (count > 0 && text.view().size() <= file_bytes_max) {
    count = ::read(file.get(), piece, sizeof piece);
    if (count < 0 && errno == EINTR)
      count = 1;
    else if (count > 0)
      text.append({piece, static_cast<std::size_t>(count)});
  }
  const int error = errno;
  ::explicit_bzero(piece, sizeof piece);
  if (count >= 0 && text.view().size() <= file_bytes_max) return text;
  complain(fmt::format("{}: {}", name,
                       count < 0 ? fmt::format("cannot be read: {}", std::strerror(error))
                                 : "is larger than any policy may be (8 MiB)"));
  throw Stop{};
}

void append_text(std::string_view text, credential::WipedString& out) {
  out.append("\"");
  for (const char& c : text) {
    const auto byte = static_cast<unsigned char>(c);
    if (c == '"' || c == '\\') {
      out.append("\\");
      out.append({&c, 1});
    } else if (byte < 0x20 || byte == 0x7F) {
      out.append(fmt::format("\\u{:04x}", byte));
    } else {
      out.append({&c, 1});
    }
  }
  out.append("\"");
}

/// The tree is at most tree_depth_max deep.
void append_json(const Node& node, credential::WipedString& out) {
  const char* separator = "";
  switch (node.kind) {
    case Node::Kind::null: return out.append("null");
    case Node::Kind::boolean: return out.append(node.truth ? "true" : "false");
    case Node::Kind::number:  // YAML has forms that JSON has not: the server says what is wrong with those.
      return Json::accept(node.text) ? out.append(node.text) : append_text(node.text, out);
    case Node::Kind::string: return append_text(node.text, out);
    case Node::Kind::sequence:
      out.append("[");
      for (const Node& item : node.items) {
        out.append(std::exchange(separator, ","));
        append_json(item, out);
      }
      return out.append("]");
    case Node::Kind::mapping:
      out.append("{");
      for (const policy::Member& member : node.members) {
        out.append(std::exchange(separator, ","));
        append_text(member.key, out);
        out.append(":");
        append_json(member.value, out);
      }
      return out.append("}");
  }
}

/// Where "rules[2].headers[0].value" stands, or the last of it that is there.
policy::Position position_of(const Node& root, std::string_view place) {
  const Node* node = &root;
  while (!place.empty()) {
    if (place.starts_with('[')) {
      std::size_t index = 0;
      const auto [end, error] = std::from_chars(place.data() + 1, place.data() + place.size(), index);
      if (error != std::errc{} || index >= node->items.size()) break;
      place.remove_prefix(
          std::min<std::size_t>(static_cast<std::size_t>(end - place.data()) + 1, place.size()));
      node = &node->items[index];
      continue;
    }
    if (place.starts_with('.')) place.remove_prefix(1);
    const std::string_view key = place.substr(0, place.find_first_of(".["));
    const Node* next = node->find(key);
    if (!next) break;
    place.remove_prefix(key.size());
    node = next;
  }
  return node->at;
}

/// Text that is the same plain and quoted, or the quotes. JSON's strings are YAML's.
std::string yaml_scalar(const Json& value) {
  if (!value.is_string()) return value.dump(-1, ' ', true, Json::error_handler_t::replace);
  const auto& text = value.get_ref<const std::string&>();
  const auto is_letter = [](char c) { return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z'); };
  bool plain = !text.empty() && is_letter(text.front());
  for (const char c : text)
    plain = plain && (is_letter(c) || (c >= '0' && c <= '9') || c == '-' || c == '_' || c == '.');
  for (const char* word : {"true", "false", "null", "yes", "no", "on", "off", "y", "n"})
    plain = plain && ::strcasecmp(text.c_str(), word) != 0;
  return plain ? text : value.dump(-1, ' ', true, Json::error_handler_t::replace);
}

void append_yaml(const Json& value, std::size_t depth, bool after_dash, std::string& out) {
  bool first = after_dash;
  const auto begin = [&] {
    if (!std::exchange(first, false)) out.append(2 * depth, ' ');
  };
  const auto append_value = [&](const Json& inner, std::size_t deeper) {
    if (inner.is_structured() && !inner.empty()) {
      out += '\n';
      append_yaml(inner, deeper, false, out);
    } else {
      out += " " + yaml_scalar(inner) + "\n";
    }
  };
  if (value.is_object()) {
    for (const auto& [key, inner] : value.items()) {
      begin();
      out += yaml_scalar(key) + ":";
      append_value(inner, depth + 1);
    }
    return;
  }
  for (const Json& inner : value) {
    begin();
    out += "-";
    if (inner.is_object() && !inner.empty()) {
      out += ' ';
      append_yaml(inner, depth + 1, true, out);
    } else {
      append_value(inner, depth + 1);
    }
  }
}

}  // namespace

PolicyFile read_policy_file(const std::string& name) {
  const auto text = read_file(name);
  auto tree = must(policy::read_tree(text.view(), policy::format_of(name)), name);
  const auto document = must(policy::read_document(tree, policy::UnknownFields::refuse), name);
  for (const auto& warning : document.warnings) complain("warning: " + policy::describe(warning, name));
  PolicyFile file{name, std::move(tree), credential::WipedString(2 * text.view().size())};
  append_json(file.tree, file.json);
  return file;
}

int exit_of_policy(const Asked<void>& done, const PolicyFile& file) {
  if (done || done.error().mistakes.empty()) return exit_of(done);
  constexpr std::string_view document = "proxy_config";
  for (const auto& [where, message] : done.error().mistakes) {
    const bool ours = where.starts_with(document);
    std::string_view place = where;
    if (ours) place.remove_prefix(document.size());
    if (ours && place.starts_with('.')) place.remove_prefix(1);
    complain(policy::describe(
        {std::string(place), ours ? position_of(file.tree, place) : policy::Position{}, message},
        ours ? file.name : "the server refuses"));
  }
  return static_cast<int>(done.error().exit);
}

std::string yaml_of(const std::string& json) {
  const auto document = document_of(json);
  std::string out;
  if (!document || document->empty()) return "{}\n";
  append_yaml(*document, 0, false, out);
  return out;
}

}  // namespace postern::cli
