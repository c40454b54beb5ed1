#include "policy/carry_over.h"

#include <algorithm>
#include <fmt/format.h>
#include <string_view>
#include <unordered_map>

#include "policy/provider_secrets.h"
#include "wire/http1.h"

namespace postern::policy {

namespace {

bool covers(const HostPattern& stored, const HostPattern& wanted) {
  if (stored.host == wanted.host) return stored.subdomains == wanted.subdomains;
  return stored.subdomains && wanted.host.ends_with("." + stored.host);
}

bool lie_within(const std::vector<Rule::MatchHost>& wanted, const std::vector<Rule::MatchHost>& stored) {
  return std::ranges::all_of(wanted, [&](const Rule::MatchHost& host) {
    return std::ranges::any_of(stored,
                               [&](const Rule::MatchHost& own) { return covers(own.pattern, host.pattern); });
  });
}

/// Who is shown the secret itself, or is told by it whom to trust.
bool same_recipient(const Provider& wanted, const Provider& stored) {
  const auto* oauth2 = std::get_if<Oauth2Auth>(&wanted);
  return oauth2 == nullptr || oauth2->token_url.text == std::get<Oauth2Auth>(stored).token_url.text;
}

/// Nothing is put on a request to another destination than before.
bool same_destination(const Rule& wanted, const Rule& stored) {
  const Rewrite* now = wanted.rewrite();
  const Rewrite* before = stored.rewrite();
  return !now == !before && (!now || now->same_destination(*before));
}

template <class Value>
bool is_left_out(const Value& value) {
  return value.type == HeaderType::opaque && value.value.empty() && value.from.empty();
}

class Carrier {
 public:
  Carrier(Document& update, Document& stored) : update_(update), stored_(stored) {}

  std::vector<Problem> run() {
    std::unordered_map<std::string_view, Rule*> rules;
    for (Rule& rule : stored_.rules) rules.emplace(rule.name, &rule);
    for (std::size_t i = 0; i < update_.rules.size(); ++i) {
      const auto found = rules.find(update_.rules[i].name);
      if (found != rules.end()) carry_rule(update_.rules[i], *found->second, fmt::format("rules[{}]", i));
    }
    carry_callbacks();
    return std::move(problems_);
  }

 private:
  void carry_rule(Rule& rule, Rule& stored, const std::string& where) {
    const bool within = lie_within(rule.match_hosts, stored.match_hosts) && same_destination(rule, stored);
    carry_headers(rule.headers, stored.headers, where + ".headers", within);
    if (rule.provider.index() != stored.provider.index()) return;
    const bool kept = within && same_recipient(rule.provider, stored.provider);
    each_secret(rule.provider, [&](std::string_view name, SecretValue& secret) {
      if (!is_left_out(secret)) return;
      each_secret(stored.provider, [&](std::string_view other, SecretValue& old) {
        if (other == name)
          keep(secret, old, fmt::format("{}.{}.{}.value", where, type_of(rule.provider), name), kept);
      });
    });
  }

  void carry_headers(std::vector<Header>& headers, std::vector<Header>& stored, const std::string& where,
                     bool within) {
    for (std::size_t i = 0; i < headers.size(); ++i) {
      if (!is_left_out(headers[i])) continue;
      for (Header& old : stored)
        if (wire::same_name(old.name, headers[i].name))
          keep(headers[i], old, fmt::format("{}[{}].value", where, i), within);
    }
  }

  /// Callbacks have no names. Their values go to their URL and nowhere else.
  void carry_callbacks() {
    std::unordered_map<std::string_view, std::size_t> next;
    for (std::size_t i = 0; i < update_.callbacks.size(); ++i) {
      Callback& callback = update_.callbacks[i];
      std::size_t& from = next[callback.url.text];
      while (from < stored_.callbacks.size() && stored_.callbacks[from].url.text != callback.url.text) ++from;
      if (from == stored_.callbacks.size()) continue;
      carry_headers(callback.request_headers, stored_.callbacks[from++].request_headers,
                    fmt::format("callbacks[{}].request_headers", i), true);
    }
  }

  template <class Value>
  void keep(Value& value, Value& old, const std::string& where, bool within) {
    if (old.type != HeaderType::opaque || old.value.empty()) return;
    if (within)
      value.value = std::move(old.value);
    else if (problems_.size() < problems_max)
      problems_.push_back({where, value.at,
                           "the stored value is not kept, because the rule's hosts, its rewrite or its token "
                           "endpoint changed: give the value again"});
  }

  Document& update_;
  Document& stored_;
  std::vector<Problem> problems_;
};

}  // namespace

std::vector<Problem> carry_over(Document& update, Document& stored) { return Carrier(update, stored).run(); }

}  // namespace postern::policy
