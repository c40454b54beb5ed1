#include "api/network_log.h"

#include <algorithm>
#include <charconv>
#include <fmt/format.h>
#include <future>

#include "base/reason.h"
#include "control/call.h"
#include "credential/expiry.h"
#include "wire/host.h"

namespace postern::api {

namespace {

using audit::LogFilter;
using audit::LogPlace;
using control::Call;
using control::Principal;
using CallPointer = std::shared_ptr<Call>;

constexpr std::size_t items_max = 500;
constexpr std::size_t items_usual = 100;

// Cursors and event ids.

std::string token_of(LogPlace place) { return fmt::format("{:016x}", place); }

std::optional<LogPlace> place_of(std::string_view token) {
  LogPlace place = 0;
  const auto [end, error] = std::from_chars(token.data(), token.data() + token.size(), place, 16);
  if (error != std::errc{} || end != token.data() + token.size()) return std::nullopt;
  return place;
}

std::optional<std::size_t> number(std::string_view text) {
  std::size_t value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc{} || end != text.data() + text.size()) return std::nullopt;
  return value;
}

std::optional<Reason> reason_of(std::string_view text) {
#define X(name, decision, status) \
  if (text == #name) return Reason::name;
  POSTERN_REASONS(X)
#undef X
  return std::nullopt;
}

// Questions

struct Question {
  LogFilter filter;
  std::optional<LogPlace> cursor;
  std::size_t limit = items_usual;
  bool follow = false;
};

std::unexpected<control::ApiError> wrong(std::string_view key, std::string_view accepted) {
  return std::unexpected(control::bad_request(fmt::format("the query's '{}' must be {}", key, accepted)));
}

/// What is there and not empty.
const std::string* said(const control::Request& request, std::string_view key) {
  const std::string* text = request.query_value(key);
  return text && !text->empty() ? text : nullptr;
}

std::optional<std::string> host_pattern(std::string_view text) {
  const bool wildcard = text.starts_with("*.");
  const auto host = wire::canonical_host(wildcard ? text.substr(2) : text);
  if (!host) return std::nullopt;
  return wildcard ? "*." + host->name : host->name;
}

std::expected<LogFilter, control::ApiError> read_filter(const control::Request& request) {
  LogFilter filter;
  for (const auto& [key, time] : {std::pair{"since", &filter.since}, std::pair{"until", &filter.until}})
    if (const std::string* text = said(request, key); text && !(*time = parse_time(*text)))
      return wrong(key, "a time as RFC 3339 writes it (2026-01-31T12:00:00Z)");
  if (const std::string* text = said(request, "host")) {
    auto host = host_pattern(*text);
    if (!host) return wrong("host", "a host, or *. before a domain");
    filter.host = std::move(*host);
  }
  if (const std::string* text = said(request, "decision")) {
    if (*text != "allowed" && *text != "denied" && *text != "failed")
      return wrong("decision", "allowed, denied or failed");
    filter.decision = *text;
  }
  if (const std::string* text = said(request, "reason")) {
    if (!reason_of(*text)) return wrong("reason", "a reason of docs/refusals.md, or allowed");
    filter.reason = *text;
  }
  if (const std::string* text = said(request, "rule")) filter.rule = *text;
  return filter;
}

std::expected<Question, control::ApiError> read_question(const control::Request& request) {
  auto filter = read_filter(request);
  if (!filter) return std::unexpected(std::move(filter.error()));
  Question question{.filter = std::move(*filter)};
  if (const std::string* text = said(request, "follow")) {
    if (*text != "true" && *text != "false") return wrong("follow", "true or false");
    question.follow = *text == "true";
  }
  if (question.follow)
    for (const char* key : {"until", "limit", "cursor"})
      if (said(request, key)) return wrong(key, "absent together with follow");
  if (const std::string* text = said(request, "limit")) {
    const auto limit = number(*text);
    if (!limit || *limit == 0) return wrong("limit", "a number above 0");
    question.limit = std::min(*limit, items_max);
  }
  if (const std::string* text = said(request, "cursor"))
    if (!(question.cursor = place_of(*text))) return wrong("cursor", "the next_cursor of an earlier answer");
  return question;
}

std::string page_json(const audit::NetworkLog::Page& page) {
  std::string out = R"({"items":[)";
  for (const audit::KeptLine& line : page.lines) {
    if (out.back() != '[') out += ',';
    out += line.text;
  }
  out += R"(],"next_cursor":)";
  out += page.next ? fmt::format("\"{}\"", token_of(*page.next)) : "null";
  out += '}';
  return out;
}

class Handlers : public std::enable_shared_from_this<Handlers> {
 public:
  Handlers(const audit::NetworkLog& log, LogFollowers& followers, platform::Boxes& boxes, Identify identify)
      : log_(log), followers_(followers), boxes_(boxes), identify_(std::move(identify)) {}

  std::vector<control::Route> routes() {
    return {route("/network-log", &Handlers::of_workspace),
            route("/boxes/{name}/network-log", &Handlers::of_box)};
  }

 private:
  using Method = void (Handlers::*)(const CallPointer&, const Principal&);

  control::Route route(std::string pattern, Method handler) {
    return admitting_route("GET", std::move(pattern), identify_, control::Scope::read_only,
                           std::bind_front(handler, shared_from_this()));
  }

  void of_workspace(const CallPointer& call, const Principal& caller) {
    auto question = read_question(call->request());
    if (!question) return call->answer(question.error());
    if (const std::string* sandbox = said(call->request(), "sandbox")) {
      // One that is gone has records still, by its id.
      const auto box = boxes_.find({caller.workspace}, *sandbox);
      question->filter.sandbox = box ? box->id : *sandbox;
    }
    answer(call, caller, std::move(*question));
  }

  void of_box(const CallPointer& call, const Principal& caller) {
    auto box = boxes_.find({caller.workspace}, call->request().parameter("name"));
    if (!box) return call->answer(std::move(box.error()));
    auto question = read_question(call->request());
    if (!question) return call->answer(question.error());
    question->filter.sandbox = box->id;
    answer(call, caller, std::move(*question));
  }

  void answer(const CallPointer& call, const Principal& caller, Question question) {
    question.filter.workspace = caller.workspace;
    if (question.follow) return follow(call, caller, question.filter);
    if (question.cursor && !log_.is_place(*question.cursor))
      return call->answer(control::bad_request("there is no such cursor"));
    const audit::LineMatcher wanted(question.filter);
    auto response =
        control::json_response(200, page_json(log_.newest(wanted, question.cursor, question.limit)));
    response.fields.push_back({"Cache-Control", "no-store"});
    call->answer(std::move(response));
  }

  void follow(const CallPointer& call, const Principal& caller, const LogFilter& filter) {
    LogPlace from = filter.since ? log_.first_since(*filter.since) : log_.end();
    if (const std::string* last = call->request().field("Last-Event-ID"); last && !last->empty()) {
      const auto place = place_of(*last);
      // One behind the end was told before a power cut took the end: it is answered with a gap.
      if (!place || (*place <= log_.end() && !log_.is_place(*place)))
        return call->answer(control::bad_request("Last-Event-ID is no id of this log"));
      from = *place;
    }
    followers_.follow(call, caller.workspace, filter, from);
  }

  const audit::NetworkLog& log_;
  LogFollowers& followers_;
  platform::Boxes& boxes_;
  const Identify identify_;
};

}  // namespace

struct LogFollowers::Follower {
  Follower(CallPointer of, std::string in) : call(std::move(of)), workspace(std::move(in)) {}
  const CallPointer call;
  const std::string workspace;
  TimePoint next_beat = TimePoint::max();  ///< Of the loop's thread.
  std::atomic<bool> beat = true;           ///< At once, so that the caller has a head to read.
};

/// Reads the log at the pace of its reader, who so loses nothing but what is removed before it comes there.
class LogFollowers::Source final : public control::BodySource {
 public:
  Source(const LogFollowers& followers, std::shared_ptr<Follower> follower, const LogFilter& filter,
         LogPlace from)
      : followers_(followers), follower_(std::move(follower)), wanted_(filter), place_(from) {}

  Piece next(std::span<char> into) override {
    Then then = Then::more;
    if (waiting_.empty()) then = look();
    const std::size_t size = waiting_.copy(into.data(), into.size(), taken_);
    taken_ += size;
    if (taken_ < waiting_.size()) return {size, Then::more};
    taken_ = 0;
    waiting_ = {};  // An idle follower holds nothing.
    return {size, then};
  }

 private:
  Then look() {
    if (followers_.stopping_) return Then::end;
    if (follower_->beat.exchange(false)) waiting_ += ": \n\n";
    const auto ahead = followers_.log_.ahead(wanted_, place_);
    if (ahead.lost) waiting_ += "event: gap\ndata: {}\n\n";
    for (const audit::KeptLine& line : ahead.lines)
      fmt::format_to(std::back_inserter(waiting_), "id: {}\ndata: {}\n\n", token_of(line.end), line.text);
    place_ = ahead.next;
    return ahead.at_end ? Then::wait : Then::more;
  }

  const LogFollowers& followers_;
  const std::shared_ptr<Follower> follower_;
  const audit::LineMatcher wanted_;
  LogPlace place_;
  std::string waiting_;
  std::size_t taken_ = 0;  ///< Of these.
};

class LogFollowers::Look final : public io::Timer {
 public:
  Look(LogFollowers& followers, io::Loop& loop) : Timer(loop), followers_(followers), loop_(loop) {
    on_timer();
  }

 private:
  void on_timer() override {
    followers_.look();
    set(loop_.now() + look_time);
  }
  LogFollowers& followers_;
  io::Loop& loop_;
};

LogFollowers::LogFollowers(const audit::NetworkLog& log, io::Loop& loop) : log_(log), loop_(loop) {
  loop_.post([this] { look_ = std::make_unique<Look>(*this, loop_); });
}

LogFollowers::~LogFollowers() { stop(); }

void LogFollowers::stop() {
  if (stopping_.exchange(true)) return;
  std::promise<void> done;
  loop_.post([this, &done] {
    look_.reset();
    done.set_value();
  });
  done.get_future().wait();
  const std::lock_guard lock(mutex_);
  for (const auto& weak : followers_)
    if (const auto follower = weak.lock()) follower->call->wake();
}

bool LogFollowers::add(const std::shared_ptr<Follower>& follower) {
  const std::lock_guard lock(mutex_);
  std::erase_if(followers_, [](const auto& weak) { return weak.expired(); });
  const auto of_workspace = std::ranges::count_if(followers_, [&](const auto& weak) {
    const auto other = weak.lock();
    return other && other->workspace == follower->workspace;
  });
  if (followers_.size() >= followers_max ||
      static_cast<std::size_t>(of_workspace) >= followers_of_workspace_max)
    return false;
  followers_.push_back(follower);
  return true;
}

void LogFollowers::follow(const CallPointer& call, const std::string& workspace, const LogFilter& filter,
                          LogPlace from) {
  const auto follower = std::make_shared<Follower>(call, workspace);
  if (!add(follower)) return call->answer(control::overloaded("Too many follow the log already."));
  control::Response response;
  response.fields = {{"Content-Type", "text/event-stream"}, {"Cache-Control", "no-store"}};
  response.source = std::make_unique<Source>(*this, follower, filter, from);
  call->answer(std::move(response));
  // So that a caller who closes is noticed before the next heartbeat.
  call->on_gone([] {}, Call::Half::is_gone);
}

void LogFollowers::look() {
  const LogPlace end = log_.end();
  const bool grown = end != seen_;
  seen_ = end;
  const TimePoint now = loop_.now();
  std::vector<std::shared_ptr<Follower>> to_wake;  // Woken, and perhaps let go, without the lock.
  {
    const std::lock_guard lock(mutex_);
    for (const auto& weak : followers_) {
      auto follower = weak.lock();
      if (!follower) continue;
      if (follower->next_beat == TimePoint::max()) follower->next_beat = now + heartbeat;
      const bool beat = now >= follower->next_beat;
      if (beat) {
        follower->next_beat = now + heartbeat;
        follower->beat = true;
      }
      if (beat || grown) to_wake.push_back(std::move(follower));
    }
  }
  for (const auto& follower : to_wake) follower->call->wake();
}

std::vector<control::Route> network_log_routes(const audit::NetworkLog& log, LogFollowers& followers,
                                               platform::Boxes& boxes, Identify identify) {
  return std::make_shared<Handlers>(log, followers, boxes, std::move(identify))->routes();
}

std::optional<WallTime> parse_time(std::string_view text) {
  constexpr std::size_t seconds_end = std::string_view("2026-11-29T13:00:00").size();
  std::string_view rest = text.substr(std::min(seconds_end, text.size()));
  const auto seconds = credential::parse_utc(std::string(text.substr(0, seconds_end)) + "Z");
  if (!seconds || *seconds < std::chrono::sys_days(std::chrono::year(1970) / 1 / 1) ||
      *seconds >= std::chrono::sys_days(std::chrono::year(2200) / 1 / 1))
    return std::nullopt;
  WallTime time = *seconds;
  if (rest.starts_with('.')) {
    std::size_t digits = 0;
    std::chrono::microseconds unit{100'000};
    for (rest.remove_prefix(1); digits < rest.size() && rest[digits] >= '0' && rest[digits] <= '9';
         ++digits) {
      time += (rest[digits] - '0') * unit;
      unit /= 10;
    }
    if (digits == 0) return std::nullopt;
    rest.remove_prefix(digits);
  }
  if (rest == "Z") return time;
  // A '+' that was not escaped has become a space on its way through the query.
  if (rest.size() != 6 || rest[3] != ':' || (rest[0] != '+' && rest[0] != ' ' && rest[0] != '-'))
    return std::nullopt;
  const auto hours = number(rest.substr(1, 2)), minutes = number(rest.substr(4, 2));
  if (!hours || !minutes || *hours > 23 || *minutes > 59) return std::nullopt;
  const auto offset = std::chrono::hours(*hours) + std::chrono::minutes(*minutes);
  return rest[0] == '-' ? time + offset : time - offset;
}

}  // namespace postern::api
