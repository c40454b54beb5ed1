#pragma once
// A small API that shows everything the server can do: for the tests here and, as the program
// control_test_server, for real clients.

#include <charconv>
#include <condition_variable>
#include <fmt/format.h>
#include <map>
#include <memory>
#include <mutex>
#include <stdexcept>
#include <string>
#include <vector>

#include "control/call.h"
#include "control/http_server.h"
#include "control/router.h"

namespace postern::control::test {

/// So many times the letter 'x'.
class Letters final : public BodySource {
 public:
  explicit Letters(std::uint64_t count) : left_(count) {}
  Piece next(std::span<char> into) override {
    const std::size_t size = static_cast<std::size_t>(std::min<std::uint64_t>(into.size(), left_));
    std::ranges::fill(into.first(size), 'x');
    left_ -= size;
    return {size, left_ == 0 ? Then::end : Then::more};
  }

 private:
  std::uint64_t left_;
};

/// Lines that somebody else writes.
class Feed {
 public:
  void say(const std::string& line) {
    change([&] { text_ += line; });
  }
  void end() {
    change([&] { ended_ = true; });
  }
  void follow(std::weak_ptr<Call> call) {
    const std::lock_guard lock(mutex_);
    calls_.push_back(std::move(call));
  }

  class Source final : public BodySource {
   public:
    explicit Source(std::shared_ptr<Feed> feed) : feed_(std::move(feed)) {}
    Piece next(std::span<char> into) override {
      const std::lock_guard lock(feed_->mutex_);
      const std::size_t size = feed_->text_.copy(into.data(), into.size(), at_);
      at_ += size;
      if (at_ < feed_->text_.size()) return {size, Then::more};
      return {size, feed_->ended_ ? Then::end : Then::wait};
    }

   private:
    std::shared_ptr<Feed> feed_;
    std::size_t at_ = 0;
  };

 private:
  template <class Change>
  void change(Change what) {
    std::vector<std::weak_ptr<Call>> calls;
    {
      const std::lock_guard lock(mutex_);
      what();
      calls = calls_;
    }
    for (const auto& weak : calls)
      if (auto call = weak.lock()) call->wake();
  }

  std::mutex mutex_;
  std::string text_;
  bool ended_ = false;
  std::vector<std::weak_ptr<Call>> calls_;
};

/// Counts what comes, and notices when it breaks off.
class Counter final : public BodySink {
 public:
  Counter(std::shared_ptr<Call> call, std::function<void(std::uint64_t, bool)> told)
      : call_(std::move(call)), told_(std::move(told)) {}
  ~Counter() override { told_(count_, complete_); }
  Then take(std::string_view piece) override {
    count_ += piece.size();
    return Then::more;
  }
  void end() override {
    complete_ = true;
    Response response;
    response.body = std::to_string(count_);
    call_->answer(std::move(response));
  }

 private:
  std::shared_ptr<Call> call_;
  std::function<void(std::uint64_t, bool)> told_;
  std::uint64_t count_ = 0;
  bool complete_ = false;
};

/// Takes a piece whenever somebody says so: `each` is told of it, and of the end.
class Hesitant final : public BodySink {
 public:
  Hesitant(std::shared_ptr<Call> call, std::function<void(std::string_view)> each)
      : call_(std::move(call)), each_(std::move(each)) {}
  ~Hesitant() override { each_("sink gone"); }
  Then take(std::string_view piece) override {
    count_ += piece.size();
    each_("piece");
    return Then::wait;
  }
  void end() override {
    Response response;
    response.body = std::to_string(count_);
    call_->answer(std::move(response));
  }

 private:
  std::shared_ptr<Call> call_;
  std::function<void(std::string_view)> each_;
  std::uint64_t count_ = 0;
};

/// Things that happen on other threads, waited for.
class Events {
 public:
  void add(const std::string& event) {
    const std::lock_guard lock(mutex_);
    ++seen_[event];
    changed_.notify_all();
  }
  /// False when it does not happen in time.
  bool wait_for(const std::string& event, int times = 1) {
    std::unique_lock lock(mutex_);
    return changed_.wait_for(lock, std::chrono::seconds(20), [&] { return seen_[event] >= times; });
  }
  int count(const std::string& event) {
    const std::lock_guard lock(mutex_);
    return seen_[event];
  }

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  std::map<std::string, int> seen_;
};

struct App;

/// Sends back what it gets. Texts that begin with '!' are orders.
class Echo final : public WebSocketHandler {
 public:
  explicit Echo(App& app) : app_(app) {}
  void on_open(const std::shared_ptr<WebSocketSession>& session) override;
  void on_message(std::string_view data, Kind kind) override;
  void on_room() override;
  void on_closed(int code, std::string_view reason) override;

 private:
  void pour();
  App& app_;
  std::shared_ptr<WebSocketSession> session_;
  std::uint64_t to_pour_ = 0;
};

struct App {
  Events events;
  std::shared_ptr<Feed> feed = std::make_shared<Feed>();
  std::mutex mutex;
  std::vector<std::shared_ptr<Call>> kept;
  std::shared_ptr<WebSocketSession> session;
  std::vector<AccessRecord> records;
  Router router;

  App() { router.mount("", routes()); }

  Handler handler() {
    return [this](const std::shared_ptr<Call>& call) { router.serve(call); };
  }
  AccessLog log() {
    return [this](const AccessRecord& record) {
      {
        const std::lock_guard lock(mutex);
        records.push_back(record);
      }
      events.add("record");
    };
  }
  AccessRecord last_record() {
    const std::lock_guard lock(mutex);
    return records.back();
  }
  std::vector<std::shared_ptr<Call>> take_kept() {
    const std::lock_guard lock(mutex);
    return std::exchange(kept, {});
  }

  static Response text(std::string body, int status = 200) {
    Response response;
    response.status = status;
    response.fields.push_back({"Content-Type", "text/plain"});
    response.body = std::move(body);
    return response;
  }
  static std::uint64_t number(const Call& call, std::string_view name) {
    std::uint64_t value = 0;
    if (const std::string* text = call.request().query_value(name))
      std::from_chars(text->data(), text->data() + text->size(), value);
    return value;
  }

  std::vector<Route> routes() {
    using C = const std::shared_ptr<Call>&;
    return {
        {"GET", "/hello", [](C call) { call->answer(text("hello\n")); }},
        {"GET", "/hello/{name}",
         [](C call) {
           call->note_caller("acme", "key-1");
           call->answer(text(fmt::format("hello {}\n", call->request().parameter("name"))));
         }},
        {"DELETE", "/hello", [](C call) { call->answer(text("", 204)); }},
        {"POST", "/echo",
         [](C call) {
           call->read_body(MiB, [call](std::string body) { call->answer(text(std::move(body))); });
         }},
        {"POST", "/ignore", [](C call) { call->answer(text("ignored")); }},
        {"POST", "/count",
         [this](C call) {
           events.add("counting");
           call->stream_body(64 * 1024 * MiB,
                             std::make_shared<Counter>(call, [this](std::uint64_t, bool complete) {
                               events.add(complete ? "counted" : "broke off");
                             }));
         }},
        {"POST", "/hesitate",
         [this](C call) {
           {
             const std::lock_guard lock(mutex);
             kept.push_back(call);
           }
           call->stream_body(64 * MiB, std::make_shared<Hesitant>(call, [this](std::string_view what) {
                               events.add(std::string(what));
                             }));
         }},
        {"POST", "/hurry",  // wakes while it is being taken
         [this](C call) {
           call->stream_body(64 * MiB, std::make_shared<Hesitant>(
                                           call, [this, weak = std::weak_ptr(call)](std::string_view what) {
                                             if (auto one = weak.lock(); one && what == "piece")
                                               one->take_more();
                                             events.add(std::string(what));
                                           }));
         }},
        {"GET", "/letters",
         [](C call) {
           Response response;
           response.source = std::make_unique<Letters>(number(*call, "count"));
           if (call->request().query_value("chunked") == nullptr) response.length = number(*call, "count");
           call->answer(std::move(response));
         }},
        {"GET", "/large", [](C call) { call->answer(text(std::string(number(*call, "count"), 'x'))); }},
        {"GET", "/short",
         [](C call) {
           Response response;
           response.source = std::make_unique<Letters>(10);
           response.length = 20;
           call->answer(std::move(response));
         }},
        {"GET", "/feed",
         [this](C call) {
           Response response;
           response.fields.push_back({"Content-Type", "text/event-stream"});
           response.source = std::make_unique<Feed::Source>(feed);
           call->on_gone([this] { events.add("gone"); });
           feed->follow(call);
           {
             const std::lock_guard lock(mutex);
             kept.push_back(call);
           }
           call->answer(std::move(response));
           events.add("feeding");
         }},
        {"GET", "/wait",
         [this](C call) {
           call->on_gone([this] { events.add("gone"); });
           {
             const std::lock_guard lock(mutex);
             kept.push_back(call);
           }
           events.add("waiting");
         }},
        {"GET", "/wait/for/all",
         [this](C call) {
           call->on_gone([this] { events.add("gone"); }, Call::Half::is_gone);
           {
             const std::lock_guard lock(mutex);
             kept.push_back(call);
           }
           events.add("waiting");
         }},
        {"GET", "/throw/source",
         [](C call) {
           struct Broken final : BodySource {
             Piece next(std::span<char>) override { throw std::runtime_error("canary"); }
           };
           Response response;
           response.source = std::make_unique<Broken>();
           call->answer(std::move(response));
         }},
        {"POST", "/throw/sink",
         [](C call) {
           struct Broken final : BodySink {
             Then take(std::string_view) override { throw std::runtime_error("canary"); }
             void end() override {}
           };
           call->stream_body(MiB, std::make_shared<Broken>());
         }},
        {"POST", "/throw/body",
         [](C call) {
           call->read_body(MiB, [call](const std::string&) { throw std::runtime_error("canary"); });
         }},
        {"GET", "/throw", [](C) { throw std::runtime_error("canary"); }},
        {"GET", "/forget", [](C) {}},
        {"GET", "/split",
         [](C call) {
           Response response = text("x");
           response.fields.push_back({"X-Name", "a\r\nSet-Cookie: b"});
           call->answer(std::move(response));
         }},
        {"GET", "/twice",
         [](C call) {
           call->answer(text("first"));
           call->answer(text("second"));
         }},
        {"GET", "/ws", [this](C call) { call->upgrade(std::make_unique<Echo>(*this), 64 * KiB); }},
    };
  }
};

inline void Echo::on_open(const std::shared_ptr<WebSocketSession>& session) {
  session_ = session;
  {
    const std::lock_guard lock(app_.mutex);
    app_.session = session;
  }
  app_.events.add("open");
}

inline void Echo::on_message(std::string_view data, Kind kind) {
  if (data == "!throw") throw std::runtime_error("canary");
  if (data == "!close") return session_->close(4000, "as you wish");
  if (data == "!pause") {
    session_->pause();
    return app_.events.add("paused");
  }
  if (data.starts_with("!pour ")) {
    std::from_chars(data.data() + 6, data.data() + data.size(), to_pour_);
    return pour();
  }
  if (kind == Kind::text) {
    session_->send_text(std::string(data));
  } else {
    session_->send_binary(std::string(data));
  }
}

/// 16 KiB at a time, for as long as there is room.
inline void Echo::pour() {
  while (to_pour_ > 0) {
    const std::size_t size = std::min<std::uint64_t>(to_pour_, 16 * KiB);
    if (session_->send_binary(std::string(size, 'x')) != WebSocketSession::Sent::taken) return;
    to_pour_ -= size;
  }
  app_.events.add("poured");
}

inline void Echo::on_room() {
  app_.events.add("room");
  pour();
}

inline void Echo::on_closed(int code, std::string_view reason) {
  app_.events.add(fmt::format("closed {} {}", code, reason));
}

}  // namespace postern::control::test
