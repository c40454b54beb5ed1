// What it costs to look into bodies: detectors over realistic texts, the search for secrets in answers, and
// content codings both ways.
//
//   transform_cost [ROUNDS]
//
// Prints one line of JSON: GB/s of one core for redaction with all detectors by kind of text and size of
// piece, the share of bytes that were replaced; GB/s of the search for so many secrets, and of both, with a
// hundred secrets; and MB/s of uncompressed bytes for decoders and encoders. The best of the rounds, by CPU
// time of the thread.

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <fmt/format.h>
#include <random>
#include <time.h>

#include "base/units.h"
#include "credential/scrubber.h"
#include "transform/codings.h"
#include "transform/redactor.h"

namespace {

using namespace postern;  // NOLINT(google-build-using-namespace): a program of its own

constexpr std::size_t text_bytes = 8 * MiB;

double cpu_seconds() {
  timespec now{};
  ::clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
  return static_cast<double>(now.tv_sec) + static_cast<double>(now.tv_nsec) / 1e9;
}

class Writer {
 public:
  std::string words(int count) {
    static constexpr const char* known[] = {"the", "model", "of",     "answer",   "request", "to",
                                            "is",  "value", "with",   "customer", "and",     "system",
                                            "in",  "that",  "result", "for",      "a",       "token"};
    std::string out;
    for (int i = 0; i < count; ++i) out += fmt::format("{}{}", i ? " " : "", known[pick(std::size(known))]);
    return out;
  }
  std::string record() {
    return fmt::format(
        R"({{"id":"{:08x}-{:04x}-4{:03x}-a{:03x}-{:012x}","created_at":"2026-{:02}-{:02}T{:02}:{:02}:{:02}Z","amount":{}.{:02},)"
        R"("count":{},"url":"https://api.example.com/v1/items/{}?page={}","tags":["{}","{}"],"ok":true}})",
        pick(1U << 31), pick(65536), pick(4096), pick(4096), pick(1U << 31), 1 + pick(12), 1 + pick(28),
        pick(24), pick(60), pick(60), pick(1000), pick(100), pick(100000), pick(10000000), pick(9), words(1),
        words(1));
  }
  std::string message() {
    return fmt::format(R"({{"role":"user","content":"{}."}})", words(40 + static_cast<int>(pick(100))));
  }
  std::string embedding() {
    std::string out = "{\"embedding\":[";
    for (int i = 0; i < 64; ++i)
      out += fmt::format("{}{}0.{:016}", i ? "," : "", pick(2) ? "-" : "", pick(1U << 31) * 4093ULL);
    return out + "]}";
  }
  std::string log_line() {
    return fmt::format(
        "2026-11-30T{:02}:{:02}:{:02}.{:03}Z INFO worker-{} GET /v1/items/{} 200 {}ms client=10.{}.{}.{}",
        pick(24), pick(60), pick(60), pick(1000), pick(9), pick(1000000), pick(900), pick(256), pick(256),
        pick(256));
  }
  std::string base64() {
    std::string out = "{\"data\":\"";
    for (int i = 0; i < 1000; ++i)
      out += "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"[pick(64)];
    return out + "\"}";
  }
  std::string personal() {
    return fmt::format(
        R"({{"name":"{}","mail":"{}.{}@example.com","phone":"+1 212-555-{:04}","card":"4111 1111 1111 1111"}})",
        words(2), words(1), pick(1000), pick(10000));
  }
  std::size_t pick(std::size_t below) { return random_() % below; }

 private:
  std::mt19937 random_{1};
};

template <class Make>
std::string fill(Make make) {
  std::string out;
  while (out.size() < text_bytes) out += make() + "\n";
  return out;
}

struct Scanned {
  double gigabytes_per_second;
  double replaced;
};

Scanned scan(const std::shared_ptr<const transform::DetectorSet>& set, std::string_view text,
             std::size_t piece, int rounds) {
  double best = 1e9;
  std::size_t kept = 0;
  for (int round = 0; round < rounds; ++round) {
    transform::Redactor redactor(set);
    kept = 0;
    const double began = cpu_seconds();
    for (std::size_t at = 0; at < text.size(); at += piece)
      kept += redactor.pass(text.substr(at, piece), at + piece >= text.size()).size();
    best = std::min(best, cpu_seconds() - began);
  }
  return {static_cast<double>(text.size()) / best / 1e9,
          1 - static_cast<double>(std::min(kept, text.size())) / static_cast<double>(text.size())};
}

/// Of `secrets` bearer tokens of 40 characters.
std::shared_ptr<const credential::Scrubber> scrubber(std::size_t secrets) {
  static constexpr std::string_view letters =
      "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789";
  std::mt19937 random(7);
  std::vector<credential::InjectedHeader> headers;
  for (std::size_t i = 0; i < secrets; ++i) {
    std::string value = "Bearer sk-";
    while (value.size() < 50) value += letters[random() % letters.size()];
    headers.push_back(credential::make_header("Authorization", "bench", value).value());
  }
  std::vector<const credential::InjectedHeader*> all;
  for (const auto& header : headers) all.push_back(&header);
  return credential::Scrubber::make(all);
}

double scrub(const std::shared_ptr<const credential::Scrubber>& scrubber, std::string_view text, int rounds) {
  double best = 1e9;
  for (int round = 0; round < rounds; ++round) {
    credential::ScrubbedStream stream(std::span(&scrubber, 1));
    const double began = cpu_seconds();
    for (std::size_t at = 0; at < text.size(); at += 16 * KiB)
      (void)stream.pass(text.substr(at, 16 * KiB), at + 16 * KiB >= text.size());
    best = std::min(best, cpu_seconds() - began);
    if (stream.found() != 0) std::abort();
  }
  return static_cast<double>(text.size()) / best / 1e9;
}

/// All detectors, and the search for so many secrets in what they left: of a text that is looked at twice.
double both(const std::shared_ptr<const transform::DetectorSet>& set,
            const std::shared_ptr<const credential::Scrubber>& scrubber, std::string_view text, int rounds) {
  double best = 1e9;
  for (int round = 0; round < rounds; ++round) {
    transform::Redactor redactor(set);
    credential::ScrubbedStream stream(std::span(&scrubber, 1));
    const double began = cpu_seconds();
    for (std::size_t at = 0; at < text.size(); at += 16 * KiB) {
      const bool last = at + 16 * KiB >= text.size();
      (void)stream.pass(redactor.pass(text.substr(at, 16 * KiB), last), last);
    }
    best = std::min(best, cpu_seconds() - began);
  }
  return static_cast<double>(text.size()) / best / 1e9;
}

template <class Coder>
std::string run(Coder& coder, std::string_view text) {
  std::string out;
  for (std::size_t at = 0; at < text.size() || at == 0; at += 16 * KiB) {
    coder.feed(text.substr(at, 16 * KiB), at + 16 * KiB >= text.size());
    while (true) {
      const auto step = coder.pull();
      if (!step) std::abort();
      if (step->empty()) break;
      out += *step;
    }
  }
  return out;
}

template <class Work>
double megabytes_per_second(int rounds, Work work) {
  double best = 1e9;
  for (int round = 0; round < rounds; ++round) {
    const double began = cpu_seconds();
    work();
    best = std::min(best, cpu_seconds() - began);
  }
  return static_cast<double>(text_bytes) / best / 1e6;
}

}  // namespace

int main(int count, char** arguments) {
  const int rounds = count > 1 ? std::max(1, std::atoi(arguments[1])) : 5;
  std::vector<transform::DetectorSpec> specs;
  for (std::string_view name : transform::builtin_detectors()) specs.push_back({std::string(name)});
  const auto set = transform::DetectorSet::compile(specs).value();
  specs.push_back({"ticket", "ACME-[0-9]{6}"});
  const auto with_pattern = transform::DetectorSet::compile(specs).value();

  Writer writer;
  std::vector<std::pair<const char*, std::string>> texts;
  texts.emplace_back("messages", fill([&] { return writer.message(); }));
  texts.emplace_back("records", fill([&] { return writer.record(); }));
  texts.emplace_back("embeddings", fill([&] { return writer.embedding(); }));
  texts.emplace_back("log", fill([&] { return writer.log_line(); }));
  texts.emplace_back("base64", fill([&] { return writer.base64(); }));
  texts.emplace_back("personal", fill([&] { return writer.personal(); }));
  texts.emplace_back("mixed", fill([&] {
                       const std::size_t kind = writer.pick(20);
                       return kind < 10   ? writer.message()
                              : kind < 16 ? writer.record()
                              : kind < 17 ? writer.embedding()
                              : kind < 19 ? writer.log_line()
                                          : writer.base64();
                     }));

  std::string out = "{\"redact_gb_per_s\":{";
  for (const auto& [name, text] : texts) {
    const Scanned small = scan(set, text, 16 * KiB, rounds), large = scan(set, text, 64 * KiB, rounds);
    out += fmt::format(
        "\"{}\":{{\"16k\":{:.2f},\"64k\":{:.2f},\"16k_with_pattern\":{:.2f},\"replaced\":{:.4f}}},", name,
        small.gigabytes_per_second, large.gigabytes_per_second,
        scan(with_pattern, text, 16 * KiB, rounds).gigabytes_per_second, small.replaced);
  }
  out.back() = '}';
  out += ",\"scrub_gb_per_s\":{";
  for (const std::size_t secrets : {1U, 10U, 100U}) {
    const auto searched = scrubber(secrets);
    out += fmt::format("\"{}\":{{", secrets);
    for (const auto& [name, text] : texts)
      out += fmt::format("\"{}\":{:.2f},", name, scrub(searched, text, rounds));
    out.back() = '}';
    out += ',';
  }
  out.back() = '}';
  out += ",\"both_gb_per_s\":{";
  for (const auto& [name, text] : texts)
    out += fmt::format("\"{}\":{:.2f},", name, both(set, scrubber(100), text, rounds));
  out.back() = '}';
  out += ",\"codings_mb_per_s\":{";
  const std::string& text = texts.back().second;
  for (auto coding : {transform::Coding::gzip, transform::Coding::deflate, transform::Coding::br,
                      transform::Coding::zstd}) {
    std::string coded;
    const double encode = megabytes_per_second(rounds, [&] {
      transform::Encoder encoder(coding);
      coded = run(encoder, text);
    });
    const double decode = megabytes_per_second(rounds, [&] {
      transform::Decoder decoder(coding, Side::origin);
      if (run(decoder, coded) != text) std::abort();
    });
    out += fmt::format("\"{}\":{{\"encode\":{:.0f},\"decode\":{:.0f},\"ratio\":{:.1f}}},",
                       transform::token(coding), encode, decode,
                       static_cast<double>(text.size()) / static_cast<double>(coded.size()));
  }
  out.back() = '}';
  std::puts((out + "}").c_str());
}
