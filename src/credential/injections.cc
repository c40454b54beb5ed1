#include "credential/injections.h"

#include <fmt/format.h>

#include "credential/wiped_string.h"
#include "policy/pattern.h"
#include "wire/http1.h"

namespace postern::credential {

/// Builds the Injections of one snapshot and collects what is wrong on the way.
struct Buildup {
  const SecretStore& secrets;
  Injections out;
  std::vector<policy::Problem> problems;

  void fail(const std::string& where, policy::Position at, std::string message) {
    if (problems.size() < policy::problems_max) problems.push_back({where, at, std::move(message)});
  }

  void add_rule(const policy::Rule& rule, std::size_t index) {
    auto& headers = out.rules_.emplace_back();
    if (!rule.enabled) return;
    headers.reserve(rule.headers.size());
    for (std::size_t i = 0; i < rule.headers.size(); ++i) {
      add_header(rule.headers[i], fmt::format("rules[{}].headers[{}].value", index, i), headers);
    }
  }

  void add_header(const policy::Header& header, const std::string& where,
                  std::vector<InjectedHeader>& headers) {
    switch (header.type) {
      case policy::HeaderType::plaintext: return finish(header, where, "plaintext", header.text, headers);
      case policy::HeaderType::opaque:
        if (header.value.empty())
          return fail(where, header.at, fmt::format("no value is set for the opaque header {}", header.name));
        return finish(header, where, "opaque", header.value.unwrap(), headers);
      case policy::HeaderType::workspace_secret: return add_template(header, where, headers);
    }
  }

  void add_template(const policy::Header& header, const std::string& where,
                    std::vector<InjectedHeader>& headers) {
    const auto parsed = policy::parse_template(header.text);
    if (!parsed) return fail(where, header.at, parsed.error());
    std::string source = "workspace_secret:";
    std::size_t size = 0;
    bool complete = true;
    std::vector<std::string_view> values;
    for (const auto& piece : parsed->pieces) {
      if (!piece.is_key) {
        values.push_back(piece.text);
      } else if (const Secret* secret = secrets.find(piece.text)) {
        values.push_back(secret->unwrap());
        source += source.ends_with(':') ? piece.text : "," + piece.text;
      } else {
        fail(where, header.at, fmt::format("there is no secret named {}", piece.text));
        complete = false;
        continue;
      }
      size += values.back().size();
    }
    if (!complete) return;
    WipedString value(size);
    for (const std::string_view part : values) value.bytes() += part;
    finish(header, where, std::move(source), value.view(), headers);
  }

  void finish(const policy::Header& header, const std::string& where, std::string source,
              std::string_view value, std::vector<InjectedHeader>& headers) {
    // RFC 9110 §5.5: a line break in a value would write the sandbox's or the secret's author a header of
    // their own.
    if (!wire::is_field_value(value)) {
      return fail(
          where, header.at,
          fmt::format(
              "the value for {} ({}) holds CR, LF, NUL or another control character, which no header can",
              header.name, source));
    }
    if (value.size() > policy::header_value_bytes_max) {
      return fail(where, header.at,
                  fmt::format("the value for {} ({}) is longer than {} bytes", header.name, source,
                              policy::header_value_bytes_max));
    }
    WipedString line(header.name.size() + value.size() + 4);
    line.bytes().append(header.name).append(": ").append(value).append("\r\n");
    InjectedHeader& injected = headers.emplace_back();
    injected.name = header.name;
    injected.source_ = std::move(source);
    injected.line_ = std::move(line).seal();
  }
};

void append_header_line(const InjectedHeader& header, std::string& out) { out += header.line_.unwrap(); }

void append_header_value(const InjectedHeader& header, std::string& out) {
  std::string_view value = header.line_.unwrap();
  value.remove_prefix(header.name.size() + std::string_view(": ").size());
  value.remove_suffix(std::string_view("\r\n").size());
  out += value;
}

std::size_t line_size(const InjectedHeader& header) { return header.line_.unwrap().size(); }

std::string_view source_of(const InjectedHeader& header) { return header.source_; }

std::expected<Injections, std::vector<policy::Problem>> resolve(const policy::Snapshot& snapshot,
                                                                const SecretStore& secrets) {
  Buildup buildup{secrets, {}, {}};
  for (std::size_t i = 0; i < snapshot.rules().size(); ++i) buildup.add_rule(snapshot.rules()[i], i);
  if (!buildup.problems.empty()) return std::unexpected(std::move(buildup.problems));
  return std::move(buildup.out);
}

}  // namespace postern::credential
