// What the road costs in instructions: a real Worker on its loop, both of its ends in this thread, a fixed
// number of requests and connections, and nothing that depends on a clock. Made to be run under
// valgrind --tool=callgrind by road_check.py, which counts what happens inside Loop::run_once() and
// inside measured() and nothing of the ends. It also runs bare, as a smoke test.
//
//   road_cost CASE...     without a name: all of them
//
// Prints one line of JSON per case: its name and how many times its work was done, or how many bytes are
// held.

#include <cstdio>
#include <fmt/format.h>
#include <functional>
#include <malloc.h>
#include <map>
#include <stdexcept>
#include <string>
#include <string_view>
#include <valgrind/callgrind.h>

#include "audit/record.h"
#include "policy/decide.h"
#include "policy/document.h"
#include "proxy/road_harness.h"
#include "transform/detectors.h"

namespace {

using namespace postern;  // NOLINT(google-build-using-namespace): a program of its own
using proxy::road::Http2Peer;
using proxy::road::Peer;
using proxy::road::Road;

namespace kit = http2::kit;

constexpr const char* host = "api.example.com";

/// Ends that wait for an acknowledgement before they send would have the loop turn in vain, as often as the
/// kernel's timer says.
const proxy::road::RoadOptions prompt{.prompt_peers = true};

/// Work without a loop is counted in here; the name stands in road_check.py.
[[gnu::noinline]] void measured(const std::function<void()>& work) { work(); }

void start_counting() {
  CALLGRIND_START_INSTRUMENTATION;
  CALLGRIND_ZERO_STATS;
}

void stop_counting(const char* name, int times) {
  CALLGRIND_DUMP_STATS_AT(name);
  CALLGRIND_STOP_INSTRUMENTATION;
  std::printf("{\"case\": \"%s\", \"times\": %d}\n", name, times);
  std::fflush(stdout);
}

void must(bool good, const char* what) {
  if (!good) throw std::runtime_error(what);
}

/// Longer than a loaded machine needs for what takes a moment, even under valgrind.
bool wait(Road& road, const std::function<bool()>& done) {
  return road.wait_until(done, std::chrono::seconds(60));
}

std::string small_request() {
  return fmt::format(
      "GET /v1/small?with=query HTTP/1.1\r\nHost: {}\r\nUser-Agent: road-cost\r\nAccept: */*\r\n"
      "X-Client: postern bench\r\n\r\n",
      host);
}

std::string answer_with(std::size_t bytes) {
  return fmt::format("HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{}",
                     bytes, std::string(bytes, 'a'));
}

/// One request on the newest connection of the sandbox, answered by whichever origin connection got it.
void exchange(Road& road, Peer& origin, const std::string& request, const std::string& answer) {
  road.sandbox().send(request);
  must(wait(road, [&] { return origin.received().ends_with("\r\n\r\n"); }), "no request arrived");
  must(origin.take().find(proxy::road::canary) != std::string::npos, "no credential was put on it");
  origin.send(answer);
  must(wait(road, [&] { return road.sandbox().received().size() >= answer.size(); }), "no answer");
  must(road.sandbox().take().starts_with("HTTP/1.1 200"), "another answer");
}

/// The first request of a road makes the connection to its origin, which serves all that follow.
Peer& open_origin(Road& road, const std::string& answer) {
  road.connect(host, 443, host);
  road.sandbox().send(small_request());
  must(wait(road, [&] { return road.origin() && road.origin()->received().ends_with("\r\n\r\n"); }),
       "the origin was not reached");
  road.origin()->take();
  road.origin()->send(answer);
  must(wait(road, [&] { return road.sandbox().received().size() >= answer.size(); }), "no first answer");
  road.sandbox().take();
  return *road.origin();
}

/// Requests one after the other on one intercepted connection, with a credential and a record each.
void keepalive() {
  Road road(prompt);
  const std::string request = small_request();
  const std::string answer = answer_with(512);
  Peer& origin = open_origin(road, answer);
  for (int i = 0; i < 50; ++i) exchange(road, origin, request, answer);
  constexpr int times = 400;
  start_counting();
  for (int i = 0; i < times; ++i) exchange(road, origin, request, answer);
  stop_counting("keepalive", times);
}

/// Small JSON posted: without steps of `transform.request`, and looked into by every detector.
void posted(const char* name, std::string_view steps) {
  proxy::road::RoadOptions options = prompt;
  options.policy = fmt::format(R"(
rules:
  - name: api
    match_hosts: [api.example.com]
    headers: [{{name: Authorization, type: workspace_secret, value: "Bearer {{API_KEY}}"}}]
    transform: {{request: [{}], response: {{scrub_secrets: false}}}}
)",
                               steps);
  Road road(std::move(options));
  const std::string body =
      R"({"model":"small","messages":[{"role":"system","content":"You answer shortly, and say what you do not know. )"
      R"(When a customer asks for somebody, you say when that person can be reached."},{"role":"user","content":)"
      R"("What is the difference between a request that was answered from a cache and one that was not, when both )"
      R"(took twelve milliseconds at the most?"}],"temperature":0.7,"max_tokens":256,"stream":false})";
  const std::string request = fmt::format(
      "POST /v1/chat?version=3 HTTP/1.1\r\nHost: {}\r\nUser-Agent: road-cost/1.0\r\nAccept: "
      "application/json\r\n"
      "Accept-Encoding: gzip, deflate\r\nContent-Type: application/json\r\nX-Client: postern bench\r\n"
      "Content-Length: {}\r\n\r\n{}",
      host, body.size(), body);
  const std::string answer = answer_with(512);
  Peer& origin = open_origin(road, answer);
  const auto once = [&] {
    road.sandbox().send(request);
    must(wait(road, [&] { return origin.received().ends_with(body); }), "no request arrived");
    must(origin.take().find(proxy::road::canary) != std::string::npos, "no credential was put on it");
    origin.send(answer);
    must(wait(road, [&] { return road.sandbox().received().size() >= answer.size(); }), "no answer");
    must(road.sandbox().take().starts_with("HTTP/1.1 200"), "another answer");
  };
  for (int i = 0; i < 50; ++i) once();
  constexpr int times = 200;
  start_counting();
  for (int i = 0; i < times; ++i) once();
  stop_counting(name, times);
}

std::string all_detectors() { return fmt::format("[{}]", fmt::join(transform::builtin_detectors(), ", ")); }

/// The same over HTTP/2, toward an origin of either version.
void keepalive_http2(const char* name, bool origin_speaks_it) {
  Road road({.origin_http2 = origin_speaks_it, .prompt_peers = true});
  ManualClock clock;
  io::Loop loop(clock);
  Http2Peer sandbox(road.connect(host, 443, host, proxy::road::Offer::both), loop, http2::Role::client);
  std::unique_ptr<Http2Peer> origin;
  const std::string answer = answer_with(512);
  const std::string body(512, 'a');
  const kit::Pairs head{{":method", "GET"},           {":scheme", "https"},
                        {":authority", host},         {":path", "/v1/small?with=query"},
                        {"user-agent", "road-cost"},  {"accept", "*/*"},
                        {"x-client", "postern bench"}};
  const kit::Pairs answer_head{
      {":status", "200"}, {"content-type", "application/json"}, {"content-length", "512"}};
  kit::Sending sending;
  const auto answer_what_came = [&] {
    if (!origin_speaks_it) {
      if (!road.origin() || !road.origin()->received().ends_with("\r\n\r\n")) return;
      road.origin()->take();
      return road.origin()->send(answer);
    }
    if (!origin && road.origin())
      origin = std::make_unique<Http2Peer>(*road.origin(), loop, http2::Role::server);
    if (!origin) return;
    origin->pump();
    for (const auto& request : std::exchange(origin->end.requests, {})) {
      must(kit::send_head(*request, answer_head, false), "no head was sent");
      origin->end.send(request, body, true, sending);
    }
    origin->pump();
    origin->text.clear();
  };
  const auto once = [&] {
    kit::Seen seen;
    must(sandbox.end.ask(head, seen) != nullptr, "no stream");
    must(wait(road,
              [&] {
                sandbox.pump();
                answer_what_came();
                return seen.over;
              }),
         "no answer");
    must(seen.status() == 200 && seen.body.size() == body.size(), "another answer");
    sandbox.text.clear();
  };
  for (int i = 0; i < 50; ++i) once();
  constexpr int times = 400;
  start_counting();
  for (int i = 0; i < times; ++i) once();
  stop_counting(name, times);
}

/// Requests in turn on sixteen connections, of one sandbox, or each of another one among many that listen
/// too.
void tenants(const char* name, int count) {
  Road road(prompt);
  const std::string request = small_request();
  const std::string answer = answer_with(512);
  std::vector<Fd> listening;
  std::vector<proxy::Tenant*> all;
  for (int i = 0; i < count; ++i) {
    std::uint16_t port = 0;
    listening.push_back(proxy::road::listen_on_loopback(port));
    all.push_back(&road.new_tenant());
    road.worker().serve(*all.back(), listening.back().get());
  }
  Peer& origin = open_origin(road, answer);
  std::vector<Peer*> asking;
  for (std::size_t i = 0; i < 16; ++i)
    asking.push_back(&road.connect(host, 443, host, proxy::road::Offer::http1, all[i * all.size() / 16]));
  const auto round = [&] {
    for (Peer* peer : asking) {
      peer->send(request);
      must(wait(road, [&] { return origin.received().ends_with("\r\n\r\n"); }), "no request arrived");
      origin.take();
      origin.send(answer);
      must(wait(road, [&] { return peer->received().size() >= answer.size(); }), "no answer");
      peer->take();
    }
  };
  for (int i = 0; i < 4; ++i) round();
  constexpr int times = 25;
  start_counting();
  for (int i = 0; i < times; ++i) round();
  stop_counting(name, times * static_cast<int>(asking.size()));
}

/// A connection with a full handshake for every request; the leaf is cached, the origin's connection kept.
void connection() {
  Road road(prompt);
  const std::string request = small_request();
  const std::string answer = answer_with(512);
  Peer& origin = open_origin(road, answer);
  const auto once = [&] {
    road.connect(host, 443, host);
    exchange(road, origin, request, answer);
    road.sandbox().close();
    must(wait(road, [&] { return road.worker().loop.active() == 1; }), "a connection did not end");
  };
  for (int i = 0; i < 10; ++i) once();
  constexpr int times = 40;
  start_counting();
  for (int i = 0; i < times; ++i) once();
  stop_counting("connection", times);
}

/// A connection that no rule covers: judged by its name, dialled, relayed, ended.
void pass_through() {
  Road road(prompt);
  const std::string request = "GET / HTTP/1.1\r\nHost: tls.example.com\r\n\r\n";
  const std::string answer = answer_with(512);
  const auto once = [&] {
    const std::size_t origins = road.origins();
    road.connect("tls.example.com", 443, "tls.example.com");
    road.sandbox().send(request);
    must(wait(road,
              [&] { return road.origins() > origins && road.origin()->received().ends_with("\r\n\r\n"); }),
         "nothing passed");
    road.origin()->take();
    road.origin()->send(answer);
    must(wait(road, [&] { return road.sandbox().received().size() >= answer.size(); }), "no answer");
    road.sandbox().close();
    road.origin()->close();
    must(wait(road, [&] { return road.worker().loop.active() == 0; }), "a connection did not end");
  };
  for (int i = 0; i < 10; ++i) once();
  constexpr int times = 40;
  start_counting();
  for (int i = 0; i < times; ++i) once();
  stop_counting("pass_through", times);
}

/// A request for which the origin's connection is made: its last one is gone. With the origin's tickets the
/// handshake is resumed, without it is a full one.
void new_origin(const char* name, bool resumed) {
  Road road(prompt);
  const std::string request = small_request();
  const std::string answer = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok";
  open_origin(road, answer_with(512));
  road.origin()->close();
  const auto once = [&] {
    if (!resumed) proxy::road::Certificates::shared().forget_ticket_keys();
    const std::size_t origins = road.origins();
    road.sandbox().send(request);
    must(wait(road,
              [&] { return road.origins() > origins && road.origin()->received().ends_with("\r\n\r\n"); }),
         "no new connection to the origin");
    must(road.origin()->resumed() == resumed, "the other kind of handshake");
    road.origin()->take();
    road.origin()->send(answer);
    must(wait(road, [&] { return road.sandbox().received().ends_with("ok"); }), "no answer");
    road.sandbox().take();
    road.origin()->close();
  };
  for (int i = 0; i < 10; ++i) once();
  constexpr int times = 40;
  start_counting();
  for (int i = 0; i < times; ++i) once();
  stop_counting(name, times);
}

/// Counted per MiB that was relayed.
void download() {
  Road road(prompt);
  const std::string request = small_request();
  Peer& origin = open_origin(road, answer_with(512));
  constexpr int times = 2;
  const std::string answer = answer_with(std::size_t{times} << 20);
  start_counting();
  exchange(road, origin, request, answer);
  stop_counting("download", times);
}

/// What an intercepted connection holds between two requests, in bytes of the heap: what the allocator hands
/// out, its own overhead included, less what it gets back.
void idle() {
  Road road(prompt);
  const std::string request = small_request();
  const std::string answer = answer_with(512);
  Peer& origin = open_origin(road, answer);
  std::ptrdiff_t held = 0;
  std::size_t before = 0;
  road.watch_inside([&](bool begins) {
    const std::size_t now = ::mallinfo2().uordblks;
    if (!begins) held += static_cast<std::ptrdiff_t>(now) - static_cast<std::ptrdiff_t>(before);
    before = now;
  });
  const auto open = [&](int count) {
    for (int i = 0; i < count; ++i) {
      road.connect(host, 443, host);
      exchange(road, origin, request, answer);
    }
  };
  open(20);  // fills caches and pools
  held = 0;
  constexpr int times = 200;
  open(times);
  std::printf("{\"case\": \"idle\", \"bytes\": %td}\n", held / times);
}

/// What tells rules apart. All but those of hosts are for the same one.
enum class RuleShape : unsigned char { hosts, paths, endings, headers };

/// One judgement with many rules. The last of them matches: the worst order.
std::shared_ptr<const policy::Snapshot> rules_of(int count, RuleShape shape) {
  policy::Document document;
  for (int i = 0; i < count; ++i) {
    policy::Rule& rule = document.rules.emplace_back();
    const bool last = i + 1 == count;
    rule.name = fmt::format("rule {}", i);
    const std::string other = fmt::format("api{}.service{}.example.com", i, i % 97);
    const std::string name = shape == RuleShape::hosts && !last ? other : host;
    rule.match_hosts.push_back({name, {name, false}});
    const auto path = [&rule](const std::string& text) {
      rule.match_paths.push_back({text, policy::parse_path_pattern(text).value()});
    };
    if (last) continue;
    switch (shape) {
      case RuleShape::hosts:
      case RuleShape::paths: path(fmt::format("/v{}/resource-{}/*", i % 7, i)); break;
      case RuleShape::endings: path(fmt::format("*/{}{}/thing", std::string(i % 40, 'x'), i)); break;
      case RuleShape::headers:
        rule.match_headers.push_back({"user-agent", fmt::format("agent {}", i)});
        break;
    }
  }
  return policy::compile(std::move(document)).value();
}

void rules(const char* name, int count, RuleShape shape) {
  const auto snapshot = rules_of(count, shape);
  const Host asked{host, {}};
  const HeaderField fields[] = {{"Host", host}, {"User-Agent", "road-cost"}, {"Accept", "*/*"}};
  const policy::RequestFacts facts{
      .host = asked, .port = 443, .tls = true, .method = "GET", .path = "/v3/other/thing", .fields = fields};
  const auto judge = [&] {
    for (int i = 0; i < 100; ++i) {
      const policy::Verdict verdict = policy::decide(*snapshot, facts);
      must(verdict.rule_index == static_cast<std::uint32_t>(count - 1), "another rule matched");
    }
  };
  judge();
  start_counting();
  measured(judge);
  stop_counting(name, 100);
}

/// A record as JSON: the journal's thread does it.
void record() {
  audit::Record sample;
  sample.time = std::chrono::system_clock::time_point(std::chrono::microseconds(1'700'000'000'123'456));
  sample.sandbox = std::make_shared<const std::string>("box");
  sample.workspace = std::make_shared<const std::string>("home");
  sample.reason = Reason::allowed;
  sample.rule = "api";
  sample.method = "GET";
  sample.scheme = "https";
  sample.host = host;
  sample.port = 443;
  sample.path = "/v1/small";
  sample.status = 200;
  sample.protocol = "HTTP/1.1";
  sample.intercepted = true;
  sample.origin_address = "127.0.0.1:443";
  sample.credentials.push_back({"Authorization", "workspace_secret:API_KEY"});
  sample.request_bytes = 180;
  sample.response_bytes = 610;
  sample.duration = std::chrono::microseconds(1234);
  std::string out;
  const auto print = [&] {
    out.clear();
    for (int i = 0; i < 100; ++i) audit::append_json(sample, out);
  };
  print();
  start_counting();
  measured(print);
  stop_counting("record", 100);
}

const std::map<std::string_view, std::function<void()>>& cases() {
  static const std::map<std::string_view, std::function<void()>> all = {
      {"keepalive", keepalive},
      {"http2_to_http1", [] { keepalive_http2("http2_to_http1", false); }},
      {"http2_to_http2", [] { keepalive_http2("http2_to_http2", true); }},
      {"connection", connection},
      {"pass_through", pass_through},
      {"download", download},
      {"idle", idle},
      {"posted", [] { posted("posted", ""); }},
      {"posted_blocked", [] { posted("posted_blocked", fmt::format("{{block: {}}}", all_detectors())); }},
      {"posted_redacted", [] { posted("posted_redacted", fmt::format("{{redact: {}}}", all_detectors())); }},
      {"origin_full", [] { new_origin("origin_full", false); }},
      {"origin_resumed", [] { new_origin("origin_resumed", true); }},
      {"record", record},
      {"sandboxes_1", [] { tenants("sandboxes_1", 1); }},
      {"sandboxes_5000", [] { tenants("sandboxes_5000", 5000); }},
      {"rules_10", [] { rules("rules_10", 10, RuleShape::hosts); }},
      {"rules_100000", [] { rules("rules_100000", 100'000, RuleShape::hosts); }},
      {"paths_10", [] { rules("paths_10", 10, RuleShape::paths); }},
      {"paths_100000", [] { rules("paths_100000", 100'000, RuleShape::paths); }},
      {"endings_10", [] { rules("endings_10", 10, RuleShape::endings); }},
      {"endings_100000", [] { rules("endings_100000", 100'000, RuleShape::endings); }},
      {"headers_10", [] { rules("headers_10", 10, RuleShape::headers); }},
      {"headers_100000", [] { rules("headers_100000", 100'000, RuleShape::headers); }},
  };
  return all;
}

}  // namespace

int main(int argc, char** argv) {
  try {
    std::printf("{\"compiler\": \"%s %d\"}\n",
#if defined(__clang__)
                "clang++", __clang_major__
#else
                "g++", __GNUC__
#endif
    );
    if (argc < 2)
      for (const auto& [name, run] : cases()) run();
    for (int i = 1; i < argc; ++i) {
      const auto found = cases().find(argv[i]);
      must(found != cases().end(), "unknown case");
      found->second();
    }
  } catch (const std::exception& error) {
    std::fprintf(stderr, "road_cost: %s\n", error.what());
    return 1;
  }
  return 0;
}
