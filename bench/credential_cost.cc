// What credentials cost: CPU time of the loop per request, with both of its ends in this thread and outside
// of the count (proxy/road_harness.h). The kinds take turns, fifty requests at a time, so that what the
// machine does meanwhile is shared by all.
//
//   credential_cost [ROUNDS]
//
// Prints one line of JSON: µs of the median request by kind, and of one chunk of 64 KiB that is signed again.

#include <array>
#include <cstdio>
#include <cstdlib>
#include <fmt/format.h>
#include <time.h>

#include "credential/aws_sigv4.h"
#include "in_process.h"
#include "proxy/road_harness.h"

namespace {

using namespace postern;  // NOLINT(google-build-using-namespace): a program of its own
using bench::must;
using bench::part;
using proxy::road::Peer;
using proxy::road::Road;

constexpr const char* host = "api.example.com";
constexpr std::string_view answer = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

double cpu_microseconds() {
  timespec now{};
  ::clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
  return static_cast<double>(now.tv_sec) * 1e6 + static_cast<double>(now.tv_nsec) / 1e3;
}

proxy::road::RoadOptions options(std::string_view policy, const char* name_of_host) {
  proxy::road::RoadOptions made;
  made.policy = policy;
  made.prompt_peers = true;
  made.secrets = {{"AWS_SECRET", "s3cr3t-key"}};
  made.origin_hosts.emplace_back(name_of_host);
  return made;
}

/// One road with one rule, and requests on one kept connection.
class Lane {
 public:
  Lane(const char* name, std::string_view policy, std::string request, std::string expected,
       const char* name_of_host = host)
      : name_(name),
        request_(std::move(request)),
        expected_(std::move(expected)),
        road_(options(policy, name_of_host)) {
    road_.watch_inside([this](bool begins) {
      const double now = cpu_microseconds();
      if (!begins) inside_ += now - before_;
      before_ = now;
    });
    road_.connect(name_of_host, 443, name_of_host);
    for (int i = 0; i < 50; ++i) once();
    times_.clear();
  }

  void once() {
    inside_ = 0;
    road_.sandbox().send(request_);
    must(road_.wait_until([this] {
      answer_endpoint();
      return road_.origin() && road_.origin()->received().ends_with("\r\n\r\n");
    }),
         fmt::format("{}: no request arrived; {}", name_, road_.sandbox().received()).c_str());
    const std::string arrived = road_.origin()->take();
    must(arrived.find(expected_) != std::string::npos, "not the request that was to arrive");
    road_.origin()->send(answer);
    must(road_.wait_until([this] { return road_.sandbox().received().size() >= answer.size(); }),
         "no answer");
    road_.sandbox().take();
    times_.push_back(inside_);
  }

  const char* name() const { return name_; }
  double median() const { return part(times_, 0.5); }

 private:
  /// The callback's endpoint, where there is one.
  void answer_endpoint() {
    if (!road_.endpoint() || road_.endpoint()->received().find("\r\n\r\n{") == std::string::npos) return;
    road_.endpoint()->take();
    constexpr std::string_view grant = R"({"headers":{"Authorization":"Bearer granted"}})";
    road_.endpoint()->send(
        fmt::format("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{}", grant.size(), grant));
  }

  const char* name_;
  std::string request_, expected_;
  double inside_ = 0, before_ = 0;
  std::vector<double> times_;
  Road road_;
};

std::string get(std::string_view name_of_host, std::string_view more = {}) {
  return fmt::format(
      "GET /v1/small HTTP/1.1\r\nHost: {}\r\nUser-Agent: credential-cost\r\nAccept: */*\r\n{}\r\n",
      name_of_host, more);
}

/// A chunk of 64 KiB that comes with a placeholder's signature and leaves with ours.
double chunk_microseconds(int rounds) {
  const auto key = std::make_shared<credential::HmacSha256>(std::string(32, 'k'));
  credential::AwsChunkResigner chunks(
      credential::AwsChunkForm::signed_chunks,
      {key, "20130524T000000Z", "20130524/us-east-1/s3/aws4_request", std::string(64, '0')});
  const std::string chunk =
      fmt::format("10000;chunk-signature={}\r\n{}\r\n", std::string(64, 'f'), std::string(64 * KiB, 'x'));
  std::vector<double> times;
  for (int i = 0; i < rounds; ++i) {
    const double began = cpu_microseconds();
    for (std::string_view rest = chunk; !rest.empty();) {
      const auto step = chunks.step(rest);
      must(step.has_value(), "a chunk was refused");
      rest.remove_prefix(step->consumed);
    }
    times.push_back(cpu_microseconds() - began);
  }
  return part(times, 0.5);
}

constexpr std::string_view plain = R"(
rules: [{name: plain, match_hosts: [api.example.com], headers: []}]
)";
constexpr std::string_view injected = R"(
rules:
  - {name: injected, match_hosts: [api.example.com],
     headers: [{name: Authorization, type: workspace_secret, value: "Bearer {API_KEY}"}]}
)";
constexpr std::string_view callback = R"(
access_control: {allow_list: [api.example.com]}
callbacks: [{match_hosts: [api.example.com], url: "https://creds.example.net/issue", ttl_seconds: 3600}]
)";
constexpr std::string_view callback_each_time = R"(
access_control: {allow_list: [api.example.com]}
callbacks:
  - {match_hosts: [api.example.com], url: "https://creds.example.net/issue", ttl_seconds: 60, full_request: true}
)";
constexpr std::string_view aws = R"(
rules:
  - name: aws
    type: aws
    aws:
      access_key_id: {type: opaque, value: AKIAREAL}
      secret_access_key: {type: workspace_secret, value: "{AWS_SECRET}"}
)";

void measure(int rounds) {
  const char* bucket = "bucket.s3.eu-west-1.amazonaws.com";
  const std::string unsigned_payload =
      "x-amz-content-sha256: UNSIGNED-PAYLOAD\r\nx-amz-date: 20260101T000000Z\r\n";
  std::array<Lane, 5> lanes{
      Lane("plain", plain, get(host), "GET /v1/small"),
      Lane("injected", injected, get(host), "Bearer canary"),
      Lane("callback_cached", callback, get(host), "Bearer granted"),
      Lane("callback_asked", callback_each_time, get(host), "Bearer granted"),
      Lane("aws_sigv4", aws, get(bucket, unsigned_payload), "AWS4-HMAC-SHA256 Credential=AKIAREAL/", bucket),
  };
  constexpr int at_a_time = 50;  // Other code in between would empty the processor's caches each time.
  for (int i = 0; i < rounds; i += at_a_time)
    for (Lane& lane : lanes)
      for (int k = 0; k < at_a_time; ++k) lane.once();
  std::printf("{");
  for (const Lane& lane : lanes) fmt::print("\"{}\": {:.2f}, ", lane.name(), lane.median());
  fmt::print("\"aws_chunk_64k\": {:.2f}}}\n", chunk_microseconds(rounds));
}

}  // namespace

int main(int argc, char** argv) {
  try {
    measure(argc > 1 ? std::atoi(argv[1]) : 2000);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "credential_cost: %s\n", error.what());
    return 1;
  }
  return 0;
}
