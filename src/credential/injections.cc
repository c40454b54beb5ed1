#include "credential/injections.h"

#include <fmt/format.h>

#include "credential/wiped_string.h"
#include "policy/pattern.h"

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

  void add_callback(const policy::Callback& callback, std::size_t index) {
    auto& headers = out.callbacks_.emplace_back();
    for (std::size_t i = 0; i < callback.request_headers.size(); ++i) {
      const std::string where = fmt::format("callbacks[{}].request_headers[{}].value", index, i);
      add_header(callback.request_headers[i], where, headers);
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
    auto made = make_header(header.name, std::move(source), value);
    if (!made) return fail(where, header.at, std::move(made.error()));
    headers.push_back(std::move(*made));
  }
};

std::expected<Injections, std::vector<policy::Problem>> resolve(const policy::Snapshot& snapshot,
                                                                const SecretStore& secrets) {
  Buildup buildup{secrets, {}, {}};
  for (std::size_t i = 0; i < snapshot.rules().size(); ++i) buildup.add_rule(snapshot.rules()[i], i);
  for (std::size_t i = 0; i < snapshot.callbacks().size(); ++i)
    buildup.add_callback(snapshot.callbacks()[i], i);
  if (!buildup.problems.empty()) return std::unexpected(std::move(buildup.problems));
  return std::move(buildup.out);
}

}  // namespace postern::credential
