#include "policy/opaque_values.h"

#include <fmt/format.h>
#include <unordered_map>
#include <utility>

#include "policy/provider_secrets.h"

namespace postern::policy {

namespace {

/// `each(place, value, from)` for every opaque entry, with or without a value.
template <class Each>
void each_opaque(Document& document, Each each) {
  const auto headers = [&](std::vector<Header>& list, const std::string& where) {
    for (std::size_t i = 0; i < list.size(); ++i)
      if (list[i].type == HeaderType::opaque)
        each(fmt::format("{}[{}]", where, i), list[i].value, list[i].from);
  };
  for (std::size_t i = 0; i < document.rules.size(); ++i) {
    Rule& rule = document.rules[i];
    headers(rule.headers, fmt::format("rules[{}].headers", i));
    each_secret(rule.provider, [&](std::string_view name, SecretValue& secret) {
      if (secret.type == HeaderType::opaque)
        each(fmt::format("rules[{}].{}.{}", i, type_of(rule.provider), name), secret.value, secret.from);
    });
  }
  for (std::size_t i = 0; i < document.callbacks.size(); ++i)
    headers(document.callbacks[i].request_headers, fmt::format("callbacks[{}].request_headers", i));
}

}  // namespace

std::vector<PlacedValue> take_opaque_values(Document& document) {
  std::vector<PlacedValue> values;
  each_opaque(document, [&](std::string place, Secret& value, const std::string&) {
    if (!value.empty()) values.push_back({std::move(place), std::move(value)});
  });
  return values;
}

void put_opaque_values(Document& document, std::vector<PlacedValue> values) {
  std::unordered_map<std::string_view, Secret*> by_place;
  for (PlacedValue& value : values) by_place.emplace(value.place, &value.value);
  each_opaque(document, [&](const std::string& place, Secret& value, const std::string&) {
    if (const auto found = by_place.find(place); found != by_place.end()) value = std::move(*found->second);
  });
}

std::vector<PlacedReference> refer_by_place(Document& document, const std::string& prefix) {
  std::vector<PlacedReference> said;
  each_opaque(document, [&](const std::string& place, Secret&, std::string& from) {
    if (!from.empty()) said.push_back({place, from});
    from = prefix + place;
  });
  return said;
}

}  // namespace postern::policy
