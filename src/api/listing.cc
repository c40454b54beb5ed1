#include "api/listing.h"

#include <algorithm>
#include <charconv>
#include <fmt/format.h>

#include "store/checks.h"

namespace postern::api {

namespace {

std::optional<std::size_t> number(const std::string* text, std::size_t max) {
  if (!text) return std::nullopt;
  std::size_t value = 0;
  const auto [end, error] = std::from_chars(text->data(), text->data() + text->size(), value);
  if (error != std::errc{} || end != text->data() + text->size()) return std::nullopt;
  return std::min(value, max);
}

}  // namespace

std::expected<ListQuery, control::Response> read_list_query(const control::Request& request,
                                                            const control::Principal& caller) {
  const auto wrong = [](std::string_view key, std::string_view accepted) {
    return std::unexpected(control::to_response(
        control::bad_request(fmt::format("the query's '{}' must be {}", key, accepted))));
  };
  ListQuery out;
  out.query.page.limit = 50;
  for (const std::string_view key : {"limit", "page_size"})
    if (const std::string* text = request.query_value(key)) {
      const auto limit = number(text, store::page_items_max);
      if (!limit || *limit == 0) return wrong(key, "a number above 0");
      out.query.page.limit = *limit;
      out.by_cursor |= key == "page_size";
    }
  if (const std::string* text = request.query_value("offset")) {
    const auto offset = number(text, 1'000'000);
    if (!offset) return wrong("offset", "a number");
    out.offset = *offset;
  }
  if (const std::string* cursor = request.query_value("cursor")) {
    out.query.page.cursor = *cursor;
    out.by_cursor = true;
  }
  if (const std::string* text = request.query_value("name_contains")) out.query.name_contains = *text;
  if (const std::string* text = request.query_value("status"); text && !text->empty()) {
    const auto status = store::from_token<store::Status>(*text);
    if (!status) return wrong("status", "provisioning, building, ready, failed, stopped or deleting");
    out.query.status = *status;
  }
  if (const std::string* text = request.query_value("created_by"))
    out.query.created_by = *text == "me" ? caller.key_id : *text;
  if (const std::string* text = request.query_value("sort_by"); text && !text->empty()) {
    if (*text == "name")
      out.query.order = store::Order::name;
    else if (*text == "status")
      out.query.order = store::Order::status;
    else if (*text == "created_at")
      out.query.order = store::Order::created;
    else if (*text == "stopped_at")
      out.query.order = store::Order::stopped;
    else
      return wrong("sort_by", "name, status, created_at or stopped_at");
  }
  for (const std::string_view key : {"sort_order", "sort_direction"})
    if (const std::string* text = request.query_value(key); text && !text->empty()) {
      if (*text == "asc")
        out.query.direction = store::Direction::ascending;
      else if (*text == "desc")
        out.query.direction = store::Direction::descending;
      else
        return wrong(key, "asc or desc");
    }
  for (const control::Field& field : request.query) {
    if (field.name == "tag_value_id") out.tags.push_back(field.value);
    if (field.name != "label") continue;
    const auto equals = field.value.find('=');
    store::LabelFilter filter{field.value.substr(0, equals), std::nullopt};
    if (equals != std::string::npos) filter.value = field.value.substr(equals + 1);
    out.query.labels.push_back(std::move(filter));
  }
  return out;
}

store::Outcome<store::Listed<store::Resource>> list(store::Resources& from,
                                                    const store::WorkspaceId& workspace, ListQuery query,
                                                    const Accept& accept) {
  store::Listed<store::Resource> out;
  const std::size_t limit = query.query.page.limit;
  std::size_t skip = query.offset;
  while (true) {
    query.query.page.limit = std::min(store::page_items_max, limit - out.items.size() + skip);
    auto page = from.list(workspace, query.query);
    if (!page) return page;
    for (store::Resource& box : page->items) {
      if (!query.tags.empty() && !(accept && accept(box, query.tags))) continue;
      if (skip > 0)
        --skip;
      else
        out.items.push_back(std::move(box));
    }
    out.next_cursor = page->next_cursor;
    query.query.page.cursor = page->next_cursor;
    if (out.items.size() >= limit || page->next_cursor.empty()) return out;
  }
}

}  // namespace postern::api
