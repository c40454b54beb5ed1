#include "transform/codings.h"

#include <array>
#include <brotli/decode.h>
#include <brotli/encode.h>
#include <cstdlib>
#include <cstring>
#include <fmt/format.h>
#include <span>
#include <zlib.h>
#include <zstd.h>

#include "wire/http1.h"

namespace postern::transform {
namespace detail {

/// What is done with a piece of the body at a time.
enum class Flush : std::uint8_t { none, piece, end };

/// One library's stream, in either direction.
class CodingEngine {
 public:
  CodingEngine() = default;
  CodingEngine(const CodingEngine&) = delete;
  CodingEngine& operator=(const CodingEngine&) = delete;
  virtual ~CodingEngine() = default;

  struct Step {
    std::size_t written = 0;
    /// Ask again, even without input: there may be more than fitted.
    bool more = false;
  };
  /// Takes from the front of `in` and writes to `out`. With nothing written, `in` is used up. nullopt: the
  /// bytes are wrong (or, for an encoder, there is no memory).
  virtual std::optional<Step> step(std::string_view& in, std::span<char> out, Flush flush) = 0;
  /// Whether the body could end here.
  virtual bool complete() const { return true; }
};

}  // namespace detail

namespace {

using detail::CodingEngine;
using detail::Flush;

// zlib counts in 32 bits; what is fed at once is less than that in any case.
constexpr std::size_t zlib_input_max = 1 << 30;
// RFC 9659: a content coding's window is at most 8 MiB.
constexpr int zstd_window_log_max = 23;
// RFC 7932 §9.1: at most 16 MiB. It grows into that, with half as much beside it meanwhile, and keeps tables.
constexpr std::size_t brotli_decoder_memory_max = 26 * MiB;
// Enough for what a few levels of nesting repeat; smaller than the ones that servers take for files.
constexpr int zstd_encoder_window_log = 18;
constexpr int brotli_encoder_window_log = 18;
constexpr int brotli_quality = 1;

Bytef* bytes_of(const char* text) {
  return const_cast<Bytef*>(reinterpret_cast<const Bytef*>(text));  // zlib writes through next_out only
}
const std::uint8_t* octets(std::string_view text) {
  return reinterpret_cast<const std::uint8_t*>(text.data());
}

void lead(z_stream& stream, std::string_view in, std::span<char> out) {
  stream.next_in = bytes_of(in.data());
  stream.avail_in = static_cast<uInt>(std::min(in.size(), zlib_input_max));
  stream.next_out = bytes_of(out.data());
  stream.avail_out = static_cast<uInt>(out.size());
}

enum class Wrapper : std::uint8_t { gzip, zlib_or_none };

class Inflate final : public CodingEngine {
 public:
  explicit Inflate(Wrapper wrapper) : wrapper_(wrapper) {
    if (wrapper == Wrapper::gzip) ready_ = ::inflateInit2(&stream_, MAX_WBITS + 16) == Z_OK;
  }
  ~Inflate() override {
    if (ready_) ::inflateEnd(&stream_);
  }

  std::optional<Step> step(std::string_view& in, std::span<char> out, Flush) override {
    if (wrapper_ == Wrapper::zlib_or_none && !ready_) {
      if (!look_for_wrapper(in)) return failed_ ? std::nullopt : std::optional<Step>(Step{});
      std::string_view head(head_.data(), head_bytes_);
      auto begun = inflate_some(head, out);
      if (!begun || begun->written) return begun;
    }
    while (true) {
      if (ended_ && in.empty()) return Step{};
      if (ended_ && !begin_another()) return std::nullopt;
      auto step = inflate_some(in, out);
      if (!step || step->written || (in.empty() && !step->more)) return step;
    }
  }
  bool complete() const override { return ended_; }

 private:
  /// Senders disagree on what "deflate" is (RFC 9110 §8.4.1.2): the first two bytes tell (RFC 1950 §2.2).
  bool look_for_wrapper(std::string_view& in) {
    while (head_bytes_ < head_.size() && !in.empty()) {
      head_[head_bytes_++] = in.front();
      in.remove_prefix(1);
    }
    if (head_bytes_ < head_.size()) return false;
    const unsigned first = static_cast<unsigned char>(head_[0]),
                   second = static_cast<unsigned char>(head_[1]);
    const bool wrapped =
        (first & 0x0fU) == Z_DEFLATED && (first >> 4U) <= 7 && (first * 256 + second) % 31 == 0;
    ready_ = ::inflateInit2(&stream_, wrapped ? MAX_WBITS : -MAX_WBITS) == Z_OK;
    failed_ = !ready_;
    return ready_;
  }

  bool begin_another() {
    if (wrapper_ != Wrapper::gzip || ::inflateReset(&stream_) != Z_OK) return false;
    ended_ = false;
    return true;
  }

  std::optional<Step> inflate_some(std::string_view& in, std::span<char> out) {
    if (!ready_) return std::nullopt;
    lead(stream_, in, out);
    const uInt offered = stream_.avail_in;
    const int state = ::inflate(&stream_, Z_NO_FLUSH);
    in.remove_prefix(offered - stream_.avail_in);
    if (state != Z_OK && state != Z_STREAM_END && state != Z_BUF_ERROR) return std::nullopt;
    ended_ = state == Z_STREAM_END;
    return Step{out.size() - stream_.avail_out, stream_.avail_out == 0};
  }

  z_stream stream_{};
  Wrapper wrapper_;
  std::array<char, 2> head_{};
  std::size_t head_bytes_ = 0;
  bool ready_ = false, ended_ = false, failed_ = false;
};

class Deflate final : public CodingEngine {
 public:
  explicit Deflate(Wrapper wrapper) {
    const int bits = wrapper == Wrapper::gzip ? MAX_WBITS + 16 : MAX_WBITS;
    ready_ = ::deflateInit2(&stream_, Z_BEST_SPEED, Z_DEFLATED, bits, 8, Z_DEFAULT_STRATEGY) == Z_OK;
  }
  ~Deflate() override {
    if (ready_) ::deflateEnd(&stream_);
  }

  std::optional<Step> step(std::string_view& in, std::span<char> out, Flush flush) override {
    if (!ready_) return std::nullopt;
    lead(stream_, in, out);
    const uInt offered = stream_.avail_in;
    const int how = offered < in.size() ? Z_NO_FLUSH : flush == Flush::end ? Z_FINISH : Z_SYNC_FLUSH;
    const int state = ::deflate(&stream_, how);
    in.remove_prefix(offered - stream_.avail_in);
    if (state != Z_OK && state != Z_STREAM_END && state != Z_BUF_ERROR) return std::nullopt;
    return Step{out.size() - stream_.avail_out, state != Z_STREAM_END && stream_.avail_out == 0};
  }

 private:
  z_stream stream_{};
  bool ready_ = false;
};

/// Memory that ends: the stream's own header says how large a window its reader shall have.
class Allowance {
 public:
  explicit Allowance(std::size_t bytes) : left_(bytes) {}

  static void* allocate(void* self, std::size_t bytes) {
    auto& left = static_cast<Allowance*>(self)->left_;
    if (bytes > left || left - bytes < header_bytes) return nullptr;
    void* const block = std::malloc(bytes + header_bytes);
    if (!block) return nullptr;
    left -= bytes + header_bytes;
    std::memcpy(block, &bytes, sizeof bytes);
    return static_cast<char*>(block) + header_bytes;
  }
  static void release(void* self, void* given) {
    if (!given) return;
    char* const block = static_cast<char*>(given) - header_bytes;
    std::size_t bytes = 0;
    std::memcpy(&bytes, block, sizeof bytes);
    static_cast<Allowance*>(self)->left_ += bytes + header_bytes;
    std::free(block);
  }

 private:
  static constexpr std::size_t header_bytes = alignof(std::max_align_t);
  std::size_t left_;
};

class BrotliDecoder final : public CodingEngine {
 public:
  BrotliDecoder()
      : state_(::BrotliDecoderCreateInstance(Allowance::allocate, Allowance::release, &allowance_)) {}
  ~BrotliDecoder() override {
    if (state_) ::BrotliDecoderDestroyInstance(state_);
  }

  std::optional<Step> step(std::string_view& in, std::span<char> out, Flush) override {
    if (!state_) return std::nullopt;
    if (ended_) return in.empty() ? std::optional<Step>(Step{}) : std::nullopt;
    std::size_t left = in.size(), room = out.size();
    const std::uint8_t* from = octets(in);
    auto* to = reinterpret_cast<std::uint8_t*>(out.data());
    const auto state = ::BrotliDecoderDecompressStream(state_, &left, &from, &room, &to, nullptr);
    in.remove_prefix(in.size() - left);
    if (state == BROTLI_DECODER_RESULT_ERROR) return std::nullopt;
    ended_ = state == BROTLI_DECODER_RESULT_SUCCESS;
    if (ended_ && !in.empty()) return std::nullopt;
    return Step{out.size() - room, state == BROTLI_DECODER_RESULT_NEEDS_MORE_OUTPUT};
  }
  bool complete() const override { return ended_; }

 private:
  Allowance allowance_{brotli_decoder_memory_max};
  BrotliDecoderState* state_;
  bool ended_ = false;
};

class BrotliEncoder final : public CodingEngine {
 public:
  BrotliEncoder()
      : state_(::BrotliEncoderCreateInstance(Allowance::allocate, Allowance::release, &allowance_)) {
    if (!state_) return;
    ::BrotliEncoderSetParameter(state_, BROTLI_PARAM_QUALITY, brotli_quality);
    ::BrotliEncoderSetParameter(state_, BROTLI_PARAM_LGWIN, brotli_encoder_window_log);
  }
  ~BrotliEncoder() override {
    if (state_) ::BrotliEncoderDestroyInstance(state_);
  }

  std::optional<Step> step(std::string_view& in, std::span<char> out, Flush flush) override {
    if (!state_) return std::nullopt;
    if (::BrotliEncoderIsFinished(state_)) return Step{};
    std::size_t left = in.size(), room = out.size();
    const std::uint8_t* from = octets(in);
    auto* to = reinterpret_cast<std::uint8_t*>(out.data());
    const auto how = flush == Flush::end ? BROTLI_OPERATION_FINISH : BROTLI_OPERATION_FLUSH;
    if (!::BrotliEncoderCompressStream(state_, how, &left, &from, &room, &to, nullptr)) return std::nullopt;
    in.remove_prefix(in.size() - left);
    const bool more = !in.empty() || ::BrotliEncoderHasMoreOutput(state_) ||
                      (flush == Flush::end && !::BrotliEncoderIsFinished(state_));
    return Step{out.size() - room, more};
  }

 private:
  Allowance allowance_{encoder_memory_max(Coding::br) - coding_step_bytes_max};
  BrotliEncoderState* state_;
};

class ZstdDecoder final : public CodingEngine {
 public:
  ZstdDecoder() : stream_(::ZSTD_createDStream()) {
    if (stream_) ::ZSTD_DCtx_setParameter(stream_, ZSTD_d_windowLogMax, zstd_window_log_max);
  }
  ~ZstdDecoder() override { ::ZSTD_freeDStream(stream_); }

  std::optional<Step> step(std::string_view& in, std::span<char> out, Flush) override {
    if (!stream_) return std::nullopt;
    while (true) {
      if (ended_) {
        if (!gather_magic(in)) return Step{};
        if (!is_frame()) return std::nullopt;
        std::string_view magic(magic_.data(), magic_.size());
        magic_bytes_ = 0;
        ended_ = false;
        auto begun = decode(magic, out);
        if (!begun || begun->written || !magic.empty()) return std::nullopt;  // four bytes hold no output
      }
      auto step = decode(in, out);
      if (!step || step->written || (in.empty() && !step->more)) return step;
    }
  }
  bool complete() const override { return ended_ && magic_bytes_ == 0; }

 private:
  bool gather_magic(std::string_view& in) {
    while (magic_bytes_ < magic_.size() && !in.empty()) {
      magic_[magic_bytes_++] = in.front();
      in.remove_prefix(1);
    }
    return magic_bytes_ == magic_.size();
  }
  /// RFC 8878 §3.1. The library also reads the formats that came before the RFC, with code of their time.
  bool is_frame() const {
    const std::string_view magic(magic_.data(), magic_.size());
    const bool skippable =
        (static_cast<unsigned char>(magic[0]) & 0xf0U) == 0x50 && magic.substr(1) == "\x2a\x4d\x18";
    return skippable || magic == "\x28\xb5\x2f\xfd";
  }
  std::optional<Step> decode(std::string_view& in, std::span<char> out) {
    ZSTD_inBuffer from{in.data(), in.size(), 0};
    ZSTD_outBuffer to{out.data(), out.size(), 0};
    const std::size_t state = ::ZSTD_decompressStream(stream_, &to, &from);
    if (::ZSTD_isError(state)) return std::nullopt;
    in.remove_prefix(from.pos);
    ended_ = state == 0;
    return Step{to.pos, to.pos == to.size && !ended_};
  }

  ZSTD_DStream* stream_;
  std::array<char, 4> magic_{};
  std::size_t magic_bytes_ = 0;
  bool ended_ = true;  // between frames
};

class ZstdEncoder final : public CodingEngine {
 public:
  ZstdEncoder() : stream_(::ZSTD_createCStream()) {
    if (!stream_) return;
    ::ZSTD_CCtx_setParameter(stream_, ZSTD_c_compressionLevel, 1);
    ::ZSTD_CCtx_setParameter(stream_, ZSTD_c_windowLog, zstd_encoder_window_log);
  }
  ~ZstdEncoder() override { ::ZSTD_freeCStream(stream_); }

  std::optional<Step> step(std::string_view& in, std::span<char> out, Flush flush) override {
    if (!stream_) return std::nullopt;
    if (ended_) return Step{};
    ZSTD_inBuffer from{in.data(), in.size(), 0};
    ZSTD_outBuffer to{out.data(), out.size(), 0};
    const std::size_t left =
        ::ZSTD_compressStream2(stream_, &to, &from, flush == Flush::end ? ZSTD_e_end : ZSTD_e_flush);
    if (::ZSTD_isError(left)) return std::nullopt;
    in.remove_prefix(from.pos);
    ended_ = flush == Flush::end && left == 0;
    return Step{to.pos, left != 0};
  }

 private:
  ZSTD_CStream* stream_;
  bool ended_ = false;
};

std::unique_ptr<CodingEngine> decoding_engine(Coding coding) {
  switch (coding) {
    case Coding::gzip: return std::make_unique<Inflate>(Wrapper::gzip);
    case Coding::deflate: return std::make_unique<Inflate>(Wrapper::zlib_or_none);
    case Coding::br: return std::make_unique<BrotliDecoder>();
    case Coding::zstd: return std::make_unique<ZstdDecoder>();
    case Coding::identity: break;
  }
  return nullptr;
}

std::unique_ptr<CodingEngine> encoding_engine(Coding coding) {
  switch (coding) {
    case Coding::gzip: return std::make_unique<Deflate>(Wrapper::gzip);
    case Coding::deflate: return std::make_unique<Deflate>(Wrapper::zlib_or_none);
    case Coding::br: return std::make_unique<BrotliEncoder>();
    case Coding::zstd: return std::make_unique<ZstdEncoder>();
    case Coding::identity: break;
  }
  return nullptr;
}

/// Identity, in steps as everything.
std::string_view next_step(std::string_view& piece) {
  const std::string_view step = piece.substr(0, coding_step_bytes_max);
  piece.remove_prefix(step.size());
  return step;
}

std::string_view trimmed(std::string_view text) {
  while (!text.empty() && (text.front() == ' ' || text.front() == '\t')) text.remove_prefix(1);
  while (!text.empty() && (text.back() == ' ' || text.back() == '\t')) text.remove_suffix(1);
  return text;
}

bool equals_ignoring_case(std::string_view a, std::string_view lower) {
  return a.size() == lower.size() && std::equal(a.begin(), a.end(), lower.begin(), [](char x, char y) {
           return (x >= 'A' && x <= 'Z' ? static_cast<char>(x - 'A' + 'a') : x) == y;
         });
}

std::optional<Coding> coding_of(std::string_view name) {
  if (equals_ignoring_case(name, "x-gzip")) return Coding::gzip;
  for (auto coding : {Coding::identity, Coding::gzip, Coding::deflate, Coding::br, Coding::zstd})
    if (equals_ignoring_case(name, token(coding))) return coding;
  return std::nullopt;
}

/// Takes the next element of a list off its front, trimmed.
std::string_view next_element(std::string_view& list) {
  const std::size_t comma = std::min(list.find(','), list.size());
  const std::string_view element = trimmed(list.substr(0, comma));
  list.remove_prefix(std::min(comma + 1, list.size()));
  return element;
}

/// RFC 9110 §12.4.2: "0", "0.5", "1.000".
bool is_weight(std::string_view text) {
  if (text.empty() || text.size() > 5 || (text[0] != '0' && text[0] != '1')) return false;
  if (text.size() > 1 && text[1] != '.') return false;
  for (char c : text.substr(std::min<std::size_t>(2, text.size())))
    if (c < '0' || c > (text[0] == '1' ? '0' : '9')) return false;
  return true;
}

bool stays(std::string_view element) {
  const std::size_t semicolon = std::min(element.find(';'), element.size());
  const std::string_view name = trimmed(element.substr(0, semicolon));
  std::string_view weight = "1";
  if (semicolon < element.size()) {
    const std::string_view parameter = trimmed(element.substr(semicolon + 1));
    if (!parameter.starts_with("q=") && !parameter.starts_with("Q=")) return false;
    weight = parameter.substr(2);
    if (!is_weight(weight)) return false;
  }
  if (name == "*") return weight.find_first_not_of("0.") == std::string_view::npos;
  return coding_of(name).has_value();
}

}  // namespace

std::string_view token(Coding coding) {
  switch (coding) {
    case Coding::identity: return "identity";
    case Coding::gzip: return "gzip";
    case Coding::deflate: return "deflate";
    case Coding::br: return "br";
    case Coding::zstd: return "zstd";
  }
  return "identity";
}

bool is_supported(std::string_view coding) { return coding_of(coding).has_value(); }

std::optional<Coding> read_content_encoding(std::string_view value) {
  HeaderField fields[] = {{"content-encoding", value}};
  return read_content_encoding(fields);
}

std::optional<Coding> read_content_encoding(std::span<const HeaderField> fields) {
  Coding found = Coding::identity;
  for (auto [name, value] : fields) {
    if (!wire::same_name(name, "content-encoding")) continue;
    while (!value.empty()) {
      const std::string_view element = next_element(value);
      if (element.empty()) continue;
      const auto coding = coding_of(element);
      if (!coding) return std::nullopt;
      if (*coding == Coding::identity) continue;
      if (found != Coding::identity) return std::nullopt;
      found = *coding;
    }
  }
  return found;
}

std::string filter_accept_encoding(std::string_view value) {
  std::string kept;
  while (!value.empty()) {
    const std::string_view element = next_element(value);
    if (element.empty() || !stays(element)) continue;
    if (!kept.empty()) kept += ", ";
    kept += element;
  }
  return kept.empty() ? "identity" : kept;
}

std::size_t decoder_memory_max(Coding coding) {
  switch (coding) {
    case Coding::identity: return 0;
    case Coding::gzip:
    case Coding::deflate: return 48 * KiB + coding_step_bytes_max;  // zlib.h: 32 KiB and some 7 KiB
    case Coding::br: return brotli_decoder_memory_max + coding_step_bytes_max;
    case Coding::zstd: return (std::size_t{1} << zstd_window_log_max) + 512 * KiB + coding_step_bytes_max;
  }
  return 0;
}

std::size_t encoder_memory_max(Coding coding) {
  switch (coding) {
    case Coding::identity: return 0;
    case Coding::gzip:
    case Coding::deflate: return 272 * KiB + coding_step_bytes_max;  // zlib.h: 256 KiB and a few
    case Coding::br:
    case Coding::zstd: return 2 * MiB + coding_step_bytes_max;
  }
  return 0;
}

Decoder::Decoder(Coding coding, Side sender, DecodeLimits limits)
    : engine_(decoding_engine(coding)), coding_(coding), sender_(sender), limits_(limits) {}
Decoder::Decoder(Decoder&&) noexcept = default;
Decoder& Decoder::operator=(Decoder&&) noexcept = default;
Decoder::~Decoder() = default;

void Decoder::feed(std::string_view piece, bool last) {
  piece_ = piece;
  last_ = last_ || last;
}

std::unexpected<Error> Decoder::refuse(std::string_view what, bool too_large) {
  failed_ = true;
  piece_ = {};
  const bool theirs = sender_ == Side::origin;
  const Reason reason = theirs ? Reason::origin_malformed_response
                               : (too_large ? Reason::body_too_large : Reason::malformed_request);
  return fail(reason, fmt::format("the body's coding {} {}", token(coding_), what), sender_);
}

Result<std::string_view> Decoder::pull() {
  if (failed_) return refuse("was refused");
  if (!engine_) return next_step(piece_);
  if (!room_) {
    if (piece_.empty()) return piece_;  // a body of no bytes at all, so far
    room_ = std::make_unique_for_overwrite<char[]>(coding_step_bytes_max);
  }
  const std::size_t before = piece_.size();
  const auto step = engine_->step(piece_, {room_.get(), coding_step_bytes_max}, Flush::none);
  if (!step) return refuse("is broken");
  taken_ += before - piece_.size();
  given_ += step->written;
  if (given_ > limits_.free_bytes && given_ / limits_.ratio > taken_)
    return refuse("expands beyond all reason", true);
  if (step->written == 0 && last_ && !engine_->complete()) return refuse("ends too early");
  return std::string_view(room_.get(), step->written);
}

Encoder::Encoder(Coding coding) : engine_(encoding_engine(coding)) {}
Encoder::Encoder(Encoder&&) noexcept = default;
Encoder& Encoder::operator=(Encoder&&) noexcept = default;
Encoder::~Encoder() = default;

void Encoder::feed(std::string_view piece, bool last) {
  piece_ = piece;
  busy_ = busy_ || !piece.empty() || (last && !last_);  // a flush of nothing would still be written
  last_ = last_ || last;
}

Result<std::string_view> Encoder::pull() {
  if (!engine_) return next_step(piece_);
  if (!room_) room_ = std::make_unique_for_overwrite<char[]>(coding_step_bytes_max);
  std::size_t written = 0;
  while (busy_ && written == 0 && !failed_) {
    const auto step =
        engine_->step(piece_, {room_.get(), coding_step_bytes_max}, last_ ? Flush::end : Flush::piece);
    failed_ = !step;
    if (!step) break;
    busy_ = step->more || !piece_.empty();
    written = step->written;
  }
  if (failed_) return fail(Reason::overloaded, "there is no memory to encode a body");
  return std::string_view(room_.get(), written);
}

}  // namespace postern::transform
