#include "audit/chain.h"

#include <algorithm>
#include <charconv>
#include <cstdlib>
#include <fmt/format.h>
#include <memory>
#include <nlohmann/json.hpp>
#include <openssl/evp.h>
#include <openssl/rand.h>
#include <span>

#include "audit/record.h"

namespace postern::audit {

namespace {

using Json = nlohmann::json;

constexpr std::string_view seq_name = R"(,"seq":)";
constexpr std::string_view chain_name = R"(,"chain":")";
constexpr std::string_view mark_name = R"("kind":"chain")";
constexpr std::size_t hex_digits = 64;

std::string hex(std::span<const std::uint8_t> bytes) {
  std::string out;
  for (const std::uint8_t byte : bytes) fmt::format_to(std::back_inserter(out), "{:02x}", byte);
  return out;
}

bool take_hex(std::string_view text, ChainHash& out) {
  if (text.size() != hex_digits || text.find_first_not_of("0123456789abcdef") != text.npos) return false;
  for (std::size_t i = 0; i < out.size(); ++i) {
    const char* at = text.data() + 2 * i;
    const auto [end, error] = std::from_chars(at, at + 2, out[i], 16);
    if (error != std::errc{} || end != at + 2) return false;
  }
  return true;
}

/// Of the hash before and the bytes of a line.
ChainHash next_hash(const ChainHash& before, std::string_view bytes) {
  struct Free {
    void operator()(EVP_MD_CTX* context) const { EVP_MD_CTX_free(context); }
  };
  thread_local const std::unique_ptr<EVP_MD_CTX, Free> context(EVP_MD_CTX_new());
  ChainHash out{};
  if (EVP_DigestInit_ex(context.get(), EVP_sha256(), nullptr) != 1 ||
      EVP_DigestUpdate(context.get(), before.data(), before.size()) != 1 ||
      EVP_DigestUpdate(context.get(), bytes.data(), bytes.size()) != 1 ||
      EVP_DigestFinal_ex(context.get(), out.data(), nullptr) != 1)
    std::abort();  // There is memory, and SHA-256 is always there.
  return out;
}

std::string payload_of(const ChainEnd& end) {
  return fmt::format(R"({{"log":"{}","seq":{},"chain":"{}"}})", end.log, end.seq, hex(end.hash));
}

std::unexpected<Error> wrong(std::string what) { return fail(Reason::internal, std::move(what)); }

/// A line taken apart: what is hashed, and what it says of itself.
struct Link {
  std::string_view hashed;
  std::uint64_t seq = 0;
  ChainHash hash{};
  std::string_view rest;  ///< Behind the hash: `}` or a signature.
};

// From the end: what stands before may hold anything that a record holds, and a name in it has its quotes
// escaped.
std::optional<Link> take_apart(std::string_view line) {
  const std::size_t chain = line.rfind(chain_name);
  if (chain == std::string_view::npos) return std::nullopt;
  Link link;
  link.hashed = line.substr(0, chain);
  std::string_view rest = line.substr(chain + chain_name.size());
  if (rest.size() < hex_digits + 2 || !take_hex(rest.substr(0, hex_digits), link.hash)) return std::nullopt;
  link.rest = rest.substr(hex_digits);
  const std::size_t seq = link.hashed.rfind(seq_name);
  if (seq == std::string_view::npos) return std::nullopt;
  const std::string_view number = link.hashed.substr(seq + seq_name.size());
  const auto [end, error] = std::from_chars(number.data(), number.data() + number.size(), link.seq);
  if (error != std::errc{} || end != number.data() + number.size() || number.starts_with('0'))
    return std::nullopt;
  return link;
}

std::string text_of(const Json& object, const char* name) {
  const auto found = object.find(name);
  return found != object.end() && found->is_string() ? found->get<std::string>() : std::string();
}

std::uint64_t number_of(const Json& object, const char* name) {
  const auto found = object.find(name);
  return found != object.end() && found->is_number_unsigned() ? found->get<std::uint64_t>() : 0;
}

}  // namespace

std::string chain_hex(const ChainHash& hash) { return hex(hash); }

Chain::Chain(SignPayload sign) : sign_(std::move(sign)) {
  std::array<std::uint8_t, 16> id{};
  if (RAND_bytes(id.data(), static_cast<int>(id.size())) != 1) std::abort();
  end_.log = hex(id);
}

/// `object`: without its last brace.
void Chain::add(std::string_view object, std::string& out) {
  const std::size_t begin = out.size();
  out += object;
  fmt::format_to(std::back_inserter(out), "{}{}", seq_name, ++end_.seq);
  end_.hash = next_hash(end_.hash, std::string_view(out).substr(begin));
  out.append(chain_name).append(hex(end_.hash)).append("\"");
  ++unsigned_lines_;
}

void Chain::append(std::string_view lines, WallTime now, std::string& out) {
  while (!lines.empty()) {
    const std::size_t end = lines.find('\n');
    add(lines.substr(0, end - 1), out);
    out += "}\n";
    lines.remove_prefix(end + 1);
    if (unsigned_lines_ >= unsigned_lines_max) sign(now, false, out);
  }
}

void Chain::open(WallTime now, std::uint64_t missing, std::string& out) {
  std::string mark = fmt::format(R"({{"time":"{}",{},"event":"{}","log":"{}")", time_text(now), mark_name,
                                 end_.seq == 0 ? "begin" : "continue", end_.log);
  if (end_.seq != 0) mark += fmt::format(R"(,"previous":"{}")", hex(end_.hash));
  if (missing != 0) mark += fmt::format(R"(,"missing":{})", missing);
  add(mark, out);
  out += "}\n";
}

void Chain::sign(WallTime now, bool last, std::string& out) {
  if (unsigned_lines_ == 0 && !last) return;
  add(fmt::format(R"({{"time":"{}",{},"event":"{}","log":"{}")", time_text(now), mark_name,
                  last ? "end" : "checkpoint", end_.log),
      out);
  out.append(R"(,"signature":")").append(sign_(payload_of(end_))).append("\"}\n");
  unsigned_lines_ = 0;
}

std::optional<ChainEnd> chain_end_of(std::string_view line) {
  const auto link = take_apart(line);
  if (!link) return std::nullopt;
  return ChainEnd{{}, link->seq, link->hash};
}

Result<void> ChainCheck::line(std::string_view line) {
  const auto link = take_apart(line);
  if (!link) return wrong("it has no number and hash at its end: it was changed, or is not of this log");
  const bool first = first_ == 0;
  const bool mark = line.find(mark_name) < link->hashed.size();
  const Json object = mark || at_start_ ? Json::parse(line, nullptr, false) : Json();
  const bool is_mark = object.is_object() && text_of(object, "kind") == "chain";
  const std::string event = is_mark ? text_of(object, "event") : "";
  const bool opens = event == "begin" || event == "continue";
  if (at_start_ && !opens)
    return wrong(
        "a file must begin with a line that says where its chain begins or goes on: lines are "
        "missing in front of it");
  if (event == "begin" && !first) return wrong("another chain begins here: what followed was replaced");
  if (first) {
    if (event == "continue" && !take_hex(text_of(object, "previous"), end_.hash))
      return wrong("it does not say which hash it goes on from");
    end_.log = text_of(object, "log");
    end_.seq = link->seq - 1;
    if (event == "begin" && link->seq != 1) return wrong("it begins a chain, and is not its first line");
  }
  if (link->seq > end_.seq + 1)
    return wrong(fmt::format("it is line {} of the chain, and line {} was due: {} missing, or moved",
                             link->seq, end_.seq + 1, link->seq == end_.seq + 2 ? "a line is" : "lines are"));
  if (link->seq <= end_.seq)
    return wrong(fmt::format("it is line {} of the chain, which was there already: it was moved or put in",
                             link->seq));
  const ChainHash hash = next_hash(end_.hash, link->hashed);
  if (hash != link->hash) return wrong("it was changed: its hash does not fit");
  const bool is_signed = event == "checkpoint" || event == "end";
  if (!is_signed && link->rest != "\"}") return wrong("there is something behind its hash");
  if (is_mark && text_of(object, "log") != end_.log) return wrong("it is of another log");
  at_start_ = false;
  at_rest_ = false;
  if (first) first_ = link->seq;
  end_.seq = link->seq;
  end_.hash = link->hash;
  ++unsigned_lines_;
  if (event == "continue") {
    if (const auto missing = number_of(object, "missing"))
      return wrong(fmt::format("{} signed line{} in front of it were gone when the log was opened again",
                               missing, missing == 1 ? "" : "s"));
  }
  if (is_signed) {
    const std::string token = text_of(object, "signature");
    if (link->rest != fmt::format(R"(","signature":"{}"}})", token))
      return wrong("there is something else than a signature behind its hash");
    if (check_) {
      const auto payload = check_(token);
      if (!payload) return wrong("its signature is not good: " + payload.error().detail);
      if (*payload != payload_of(end_)) return wrong("its signature is for another line");
    }
    ++signatures_;
    unsigned_lines_ = 0;
    at_rest_ = event == "end";
  }
  // Who cannot sign leaves signatures out.
  if (unsigned_lines_ > Chain::unsigned_lines_max + 1)
    return wrong(fmt::format("no line of the last {} is signed", unsigned_lines_));
  return {};
}

}  // namespace postern::audit
