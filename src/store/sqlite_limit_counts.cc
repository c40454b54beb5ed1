#include "store/sqlite_parts.h"

namespace postern::store {

namespace {

std::int64_t number(LimitCounts::Day day) { return day.time_since_epoch().count(); }

Outcome<LimitCount> count_of(const Row& row) {
  return LimitCount{.rule = row.text(0),
                    .requests = static_cast<std::uint64_t>(row.number(1)),
                    .request_bytes = static_cast<std::uint64_t>(row.number(2)),
                    .tokens = static_cast<std::uint64_t>(row.number(3))};
}

}  // namespace

Outcome<std::vector<LimitCount>> SqliteLimitCounts::read(const WorkspaceId& workspace,
                                                         const std::string& sandbox, Day day) {
  return core_.read([&](SqliteConnection& in) {
    return in.all(
        "SELECT rule, requests, request_bytes, tokens FROM limit_counts JOIN resources ON id = sandbox "
        "WHERE workspace = ?1 AND sandbox = ?2 AND day = ?3 ORDER BY rule",
        {workspace, sandbox, number(day)}, count_of);
  });
}

Outcome<void> SqliteLimitCounts::keep(Day day, std::span<const SandboxCounts> sandboxes) {
  return core_.write([&](SqliteConnection& in) -> Outcome<void> {
    auto dropped = in.execute("DELETE FROM limit_counts WHERE day != ?1", {number(day)});
    if (!dropped) return failed(dropped);
    for (const auto& [workspace, sandbox, counts] : sandboxes)
      for (const LimitCount& count : counts) {
        auto done = in.execute(
            "INSERT INTO limit_counts (sandbox, rule, day, requests, request_bytes, tokens) "
            "SELECT id, ?3, ?4, ?5, ?6, ?7 FROM resources WHERE id = ?2 AND workspace = ?1 AND kind = "
            "'sandbox' "
            "ON CONFLICT DO UPDATE SET requests = excluded.requests, request_bytes = excluded.request_bytes, "
            "tokens = excluded.tokens",
            {workspace, sandbox, count.rule, number(day), count.requests, count.request_bytes, count.tokens});
        if (!done) return failed(done);
      }
    return {};
  });
}

}  // namespace postern::store
