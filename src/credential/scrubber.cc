#include "credential/scrubber.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <iterator>
#include <set>

#include "credential/base64.h"
#include "credential/wiped_string.h"
#include "wire/http1.h"

namespace postern::credential {

namespace {

constexpr std::size_t stride_max = 64;     // Scrubber::Block::step
constexpr std::size_t blocks_max = 16384;  // With more of them places stand closer: to 4, not below.
constexpr std::uint64_t bits_max = 1 << 24;

/// Eight bytes, the first one lowest.
inline std::uint64_t load(const char* bytes) {
  std::uint64_t loaded = 0;
  std::memcpy(&loaded, bytes, 8);
  if constexpr (std::endian::native == std::endian::big) loaded = std::byteswap(loaded);
  return loaded;
}

inline std::uint64_t first_bytes(std::size_t count) { return ~std::uint64_t{0} >> (64 - 8 * count); }

/// Its upper half depends on all of them.
inline std::uint64_t hash_of(std::uint64_t bytes) { return bytes * 0x9e3779b97f4a7c15U; }

/// Among bits, of which there are some power of two.
inline std::uint64_t place_of(std::uint64_t hash, std::uint64_t mask) { return hash >> 40 & mask; }

/// Of four bytes.
inline std::uint64_t start_of(const char* bytes) {
  std::uint32_t loaded = 0;
  std::memcpy(&loaded, bytes, 4);
  return hash_of(loaded);
}

/// Of at least so many bits, if there can be.
std::uint64_t mask_for(std::uint64_t bits) { return std::min(std::bit_ceil(bits), bits_max) - 1; }

inline bool has(const std::uint64_t* bits, std::uint64_t bit) { return bits[bit / 64] >> (bit % 64) & 1; }

void put(std::vector<std::uint64_t>& bits, std::uint64_t bit) {
  bits[bit / 64] |= std::uint64_t{1} << (bit % 64);
}

/// Of the block there. The text has eight bytes at least.
std::uint64_t hash_at(std::string_view text, std::size_t at, std::size_t size) {
  const std::size_t from = std::min(at, text.size() - 8);
  return hash_of(load(text.data() + from) >> (8 * (at - from)) & first_bytes(size));
}

bool is_unreserved(unsigned char c) {  // RFC 3986 §2.3
  return (c >= '0' && c <= '9') || (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z') || c == '-' || c == '.' ||
         c == '_' || c == '~';
}

using Append = void (*)(std::string_view, std::string&);

/// What stands in base64 for these bytes alone, wherever they begin within a group of three.
std::string aligned(std::string_view bytes, std::size_t alignment, Append append) {
  std::string padded(alignment, '\0');
  padded += bytes;
  std::string encoded;
  append(padded, encoded);
  const std::size_t first = (8 * alignment + 5) / 6;           // The first character without foreign bits,
  const std::size_t end = 8 * (alignment + bytes.size()) / 6;  // and the one behind the last such.
  std::string out = encoded.substr(first, end - first);
  explicit_bzero(padded.data(), padded.size());
  explicit_bzero(encoded.data(), encoded.size());
  return out;
}

std::string percent(std::string_view bytes, std::string_view kept, bool upper, bool plus) {
  const std::string_view digits = upper ? "0123456789ABCDEF" : "0123456789abcdef";
  std::string out;
  for (const char c : bytes) {
    const auto byte = static_cast<unsigned char>(c);
    if (is_unreserved(byte) || kept.find(c) != std::string_view::npos) {
      out += c;
    } else if (plus && c == ' ') {
      out += '+';
    } else {
      out += '%';
      out += digits[byte >> 4];
      out += digits[byte & 15];
    }
  }
  return out;
}

/// Every byte with this in front of its digits: "%", "\\u00", or nothing.
std::string in_hex(std::string_view bytes, std::string_view front, bool upper) {
  const std::string_view digits = upper ? "0123456789ABCDEF" : "0123456789abcdef";
  std::string out;
  for (const char c : bytes) {
    const auto byte = static_cast<unsigned char>(c);
    out.append(front) += digits[byte >> 4];
    out += digits[byte & 15];
  }
  return out;
}

std::string json(std::string_view bytes, bool slashes) {
  std::string out;
  for (const char c : bytes) {
    if (c == '"' || c == '\\' || (slashes && c == '/')) out += '\\';
    if (c == '\t')
      out += "\\t";
    else
      out += c;
  }
  return out;
}

/// With what HTML and JavaScript within pages need escaped, as Go and others write JSON.
std::string json_for_pages(std::string_view bytes, bool upper) {
  std::string out;
  for (const char c : json(bytes, false)) {
    if (c == '<')
      out += upper ? "\\u003C" : "\\u003c";
    else if (c == '>')
      out += upper ? "\\u003E" : "\\u003e";
    else if (c == '&')
      out += "\\u0026";
    else if (c == '\'')
      out += "\\u0027";
    else
      out += c;
  }
  return out;
}

}  // namespace

class ScrubberMaker {
 public:
  ~ScrubberMaker() {
    for (const std::string& form : forms_) wipe(form);
  }

  void add(const InjectedHeader& header) {
    const std::string_view line = header.line_.unwrap();
    const std::string_view value = line.substr(header.name.size() + 2, line.size() - header.name.size() - 4);
    const bool basic = value.size() > 6 && wire::same_name(value.substr(0, 6), "basic ");
    for (const SecretSpan& span : header.secrets_) {
      const std::string_view secret = value.substr(span.begin, span.size);
      add(secret);
      if (basic) add_login(secret);
    }
  }

  std::shared_ptr<const Scrubber> make() {
    if (forms_.empty()) return nullptr;
    std::size_t size = 0;
    for (const std::string& form : forms_) size += form.size();
    WipedString all(size);
    std::shared_ptr<Scrubber> out(new Scrubber);
    for (const std::string& form : forms_) {
      out->all_.push_back(
          {static_cast<std::uint32_t>(all.view().size()), static_cast<std::uint32_t>(form.size())});
      all.bytes() += form;
    }
    out->forms_ = std::move(all).seal();
    out->index();
    return out;
  }

 private:
  static void wipe(const std::string& text) {
    explicit_bzero(const_cast<char*>(text.data()), text.size());  // NOLINT: it is ours, and at its end
  }

  void add(std::string_view secret) {
    if (secret.size() < Scrubber::secret_bytes_min) return;
    keep(std::string(secret));
    for (std::size_t alignment = 0; alignment < 3; ++alignment) {
      keep(aligned(secret, alignment, append_base64));
      keep(aligned(secret, alignment, append_base64url));
    }
    // What encodeURIComponent, urllib's quote, and forms leave alone.
    for (const bool upper : {true, false}) {
      for (const std::string_view kept : {"", "/", "!'()*", ":/?#[]@!$&'()*+,;="})
        keep(percent(secret, kept, upper, false));
      keep(percent(secret, "", upper, true));
      keep(json_for_pages(secret, upper));
      for (const std::string_view front : {"", "%", "\\u00"}) keep(in_hex(secret, front, upper));
    }
    keep(json(secret, false));
    keep(json(secret, true));
  }

  /// "user:password" within Basic (RFC 7617 §2).
  void add_login(std::string_view encoded) {
    const auto login = decode_base64(encoded);
    if (!login) return;
    add(login->unwrap());
    const std::string_view text = login->unwrap();
    if (const std::size_t colon = text.find(':'); colon != std::string_view::npos)
      add(text.substr(colon + 1));
  }

  void keep(std::string form) {
    if (const auto [place, is_new] = forms_.insert(std::move(form)); !is_new) wipe(form);
  }

  std::set<std::string> forms_;
};

std::shared_ptr<const Scrubber> Scrubber::make(std::span<const InjectedHeader* const> headers) {
  ScrubberMaker maker;
  for (const InjectedHeader* header : headers) maker.add(*header);
  return maker.make();
}

std::string_view Scrubber::text_of(const Form& form) const {
  return forms_.unwrap().substr(form.begin, form.size);
}

Scrubber::~Scrubber() {  // What is known of a secret's blocks may be as good as the secret.
  explicit_bzero(blocks_.data(), blocks_.size() * sizeof(Block));
  explicit_bzero(seen_.data(), seen_.size() * sizeof(std::uint64_t));
}

// Of a form its last bytes are taken, as many as the shortest form has: beginnings are often the same
// ("sk-proj-"), and known to all.
void Scrubber::index() {
  shortest_ = all_.front().size;
  for (const Form& form : all_) {
    shortest_ = std::min<std::size_t>(shortest_, form.size);
    longest_ = std::max<std::size_t>(longest_, form.size);
  }
  block_ = std::clamp<std::size_t>(shortest_ / 3, 4, 8);
  stride_ = std::min(shortest_ - block_ + 1, stride_max);
  while (stride_ >= 8 && stride_ * all_.size() > blocks_max) stride_ /= 2;
  blocks_.reserve(stride_ * all_.size());
  // A block that stands in no form mostly finds its bit unset.
  seen_mask_ = mask_for(32 * stride_ * all_.size());
  seen_.assign((seen_mask_ + 1) / 64, 0);
  starts_mask_ = mask_for(64 * all_.size());
  starts_.assign((starts_mask_ + 1) / 64, 0);
  for (std::uint32_t number = 0; number < all_.size(); ++number) {
    const std::string_view text = text_of(all_[number]);
    put(starts_, place_of(start_of(text.data()), starts_mask_));
    for (std::uint32_t step = 0; step < stride_; ++step) {
      const std::uint64_t hash = hash_at(text, text.size() - shortest_ + step, block_);
      put(seen_, place_of(hash, seen_mask_));
      blocks_.push_back({static_cast<std::uint32_t>(hash >> 32), number, step});
    }
  }
  std::ranges::sort(blocks_, {}, &Block::hash);
}

void Scrubber::look_closer(std::string_view text, std::size_t at, std::uint64_t hash,
                           std::vector<Match>& out) const {
  for (const Block& block :
       std::ranges::equal_range(blocks_, static_cast<std::uint32_t>(hash >> 32), {}, &Block::hash)) {
    const std::string_view form = text_of(all_[block.form]);
    const std::size_t before = form.size() - shortest_ + block.step;
    if (before > at) continue;
    const std::size_t begin = at - before;
    if (text.substr(begin).starts_with(form)) out.push_back({begin, begin + form.size()});
  }
}

void Scrubber::find(std::string_view text, std::vector<Match>& out) const {
  if (text.size() < shortest_) return;
  // Everything that is asked of an answer is asked here: nothing is looked up twice.
  const std::uint64_t* const seen = seen_.data();
  const std::uint64_t mask = seen_mask_;
  const std::size_t stride = stride_;
  const std::uint64_t of_block = first_bytes(block_);
  const auto look = [&](std::size_t at) {
    const std::uint64_t hash = hash_of(load(text.data() + at) & of_block);
    if (has(seen, place_of(hash, mask))) [[unlikely]]
      look_closer(text, at, hash, out);
  };
  std::size_t at = 0;
  const std::size_t end = text.size() - 8;
  for (; at + stride <= end; at += 2 * stride) {
    look(at);
    look(at + stride);
  }
  if (at <= end) look(at), at += stride;
  for (; at + block_ <= text.size(); at += stride) look_closer(text, at, hash_at(text, at, block_), out);
}

std::size_t Scrubber::open_from(std::string_view text) const {
  const std::uint64_t* const starts = starts_.data();
  const std::uint64_t mask = starts_mask_;
  const std::size_t size = text.size();
  std::size_t at = size - std::min(size, longest_ - 1);
  for (; at < size; ++at) {
    for (; at + 4 <= size && !has(starts, place_of(start_of(text.data() + at), mask)); ++at) {
    }
    const std::string_view rest = text.substr(at);
    if (rest.empty()) break;
    // The forms that begin with it, and are longer, stand together.
    const auto next =
        std::ranges::upper_bound(all_, rest, {}, [this](const Form& form) { return text_of(form); });
    if (next != all_.end() && text_of(*next).starts_with(rest)) break;
  }
  return at;
}

namespace {

/// To the same length.
void write_mark(char* at, std::size_t size) {
  constexpr std::string_view mark = "[redacted]";
  std::memset(at, '*', size);
  if (size >= mark.size()) std::memcpy(at, mark.data(), mark.size());
}

}  // namespace

std::string_view ScrubbedStream::pass(std::string_view piece, bool last) {
  std::string_view text = piece;
  if (!held_.empty()) {
    work_.swap(held_);
    held_.clear();
    work_ += piece;
    text = work_;
  }
  matches_.clear();
  std::size_t open = text.size();
  for (const auto& scrubber : scrubbers_) {
    scrubber->find(text, matches_);
    if (!last) open = std::min(open, scrubber->open_from(text));
  }
  if (!matches_.empty() || covered_ != 0) {
    if (text.data() != work_.data()) work_.assign(text);
    held_.assign(work_, open);
    write_over(open);
    return std::string_view(work_).substr(0, open);
  }
  if (open < text.size()) held_.assign(text.substr(open));
  return text.substr(0, open);
}

/// Whatever is held from there on is looked at once more: it may be a part of more.
void ScrubbedStream::write_over(std::size_t held_from) {
  if (covered_ != 0) matches_.push_back({0, covered_});
  std::ranges::sort(matches_, {}, &Scrubber::Match::begin);
  std::size_t still_covered = 0;
  for (auto at = matches_.begin(); at != matches_.end();) {
    Scrubber::Match whole = *at++;
    while (at != matches_.end() && at->begin < whole.end) whole.end = std::max(whole.end, at++->end);
    if (whole.begin >= held_from) break;
    const bool continued = covered_ != 0 && whole.begin == 0;
    const std::size_t end = std::min(whole.end, held_from);
    if (continued)
      std::memset(work_.data(), '*', end);
    else
      write_mark(work_.data() + whole.begin, end - whole.begin), ++found_;
    if (whole.end > held_from) still_covered = whole.end - held_from;
  }
  covered_ = still_covered;
}

}  // namespace postern::credential
