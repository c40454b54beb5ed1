// How minting got cheap, measured with OpenSSL 3.0 (µs each):
//   220  X509 functions, key from EVP_EC_gen: X509_set_pubkey encodes the key and decodes it again (170)
//   150  a DER template by hand, 20 for the signature, then d2i_X509, which decodes the key again (128)
//    42  X509 functions, key from the older EC_KEY interface: X509_set_pubkey takes it as it is
// The price of the last: an X509 that was built and not parsed is encoded anew for each handshake (4 instead
// of 0.4). The EC_KEY interface is deprecated, though there in 3.5; only make_leaf_key() touches it.

#include "tls/leaf.h"

#include <algorithm>
#include <array>
#include <list>
#include <openssl/ec.h>
#include <openssl/err.h>
#include <openssl/evp.h>
#include <openssl/rand.h>
#include <openssl/x509.h>
#include <openssl/x509v3.h>
#include <string>
#include <unordered_map>
#include <vector>

#include "model/address.h"

namespace postern::tls {
namespace {

constexpr std::size_t host_bytes_max = 255;  // RFC 1035 §2.3.4

template <class T, void (*release)(T*)>
struct Free {
  void operator()(T* value) const { release(value); }
};
using DigestContextPtr = std::unique_ptr<EVP_MD_CTX, Free<EVP_MD_CTX, EVP_MD_CTX_free>>;
using DigestPtr = std::unique_ptr<EVP_MD, Free<EVP_MD, EVP_MD_free>>;
using NamePtr = std::unique_ptr<X509_NAME, Free<X509_NAME, X509_NAME_free>>;
using ExtensionPtr = std::unique_ptr<X509_EXTENSION, Free<X509_EXTENSION, X509_EXTENSION_free>>;
using OctetsPtr = std::unique_ptr<ASN1_OCTET_STRING, Free<ASN1_OCTET_STRING, ASN1_OCTET_STRING_free>>;

std::unexpected<Error> library_failure(const char* doing) {
  char reason[256] = "unknown error";
  if (unsigned long code = ERR_get_error()) ERR_error_string_n(code, reason, sizeof reason);
  ERR_clear_error();
  return fail(Reason::internal, std::string(doing) + ": " + reason);
}

#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wdeprecated-declarations"
KeyPtr make_leaf_key() {
  EC_KEY* ec = EC_KEY_new_by_curve_name(NID_X9_62_prime256v1);
  KeyPtr key(EVP_PKEY_new());
  if (!ec || !key || EC_KEY_generate_key(ec) != 1 || EVP_PKEY_assign_EC_KEY(key.get(), ec) != 1) {
    EC_KEY_free(ec);
    return nullptr;
  }
  return key;
}
#pragma GCC diagnostic pop

/// The subject alternative name (RFC 5280 §4.2.1.6), written by hand: GENERAL_NAMES holds one GeneralName,
/// dNSName [2] or iPAddress [7]. nullopt: the host cannot stand in it.
std::optional<std::string> alternative_name(std::string_view host) {
  std::string value(host);
  char tag = '\x82';
  if (auto address = IpAddress::parse(host)) {
    value.assign(reinterpret_cast<const char*>(address->bytes().data()), address->is_v4() ? 4 : 16);
    tag = '\x87';
  } else {
    // A '*' would make it a certificate for many names.
    bool plain = std::ranges::all_of(host, [](char c) { return c > 0x20 && c < 0x7f && c != '*'; });
    if (host.empty() || host.size() > host_bytes_max || !plain) return std::nullopt;
  }
  // DER lengths: below 128 the byte itself, below 256 one byte, else two.
  auto wrap = [](char type, const std::string& content) {
    std::string out(1, type);
    if (content.size() >= 256) {
      out += '\x82';
      out += static_cast<char>(content.size() >> 8);
    } else if (content.size() >= 128) {
      out += '\x81';
    }
    out += static_cast<char>(content.size() & 0xff);
    return out + content;
  };
  return wrap('\x30', wrap(tag, value));
}

struct Entry {
  std::string host;
  CertificatePtr certificate;
  WallTime not_before;
  WallTime renew_at;
};

/// Least recently used out first. Keys of the map are views into the list's nodes, which never move.
class LeafCache {
 public:
  explicit LeafCache(std::size_t max) : max_(std::max<std::size_t>(max, 1)) { index_.reserve(max_); }

  Entry* find(std::string_view host) {
    auto found = index_.find(host);
    if (found == index_.end()) return nullptr;
    entries_.splice(entries_.begin(), entries_, found->second);
    return &entries_.front();
  }

  Entry& insert(Entry entry) {
    if (Entry* old = find(entry.host)) {
      old->certificate = std::move(entry.certificate);  // the key of the map views old->host, which stays
      old->not_before = entry.not_before;
      old->renew_at = entry.renew_at;
      return *old;
    }
    if (entries_.size() == max_) {
      index_.erase(entries_.back().host);
      entries_.pop_back();
    }
    entries_.push_front(std::move(entry));
    index_.emplace(entries_.front().host, entries_.begin());
    return entries_.front();
  }

  std::size_t size() const { return entries_.size(); }

 private:
  std::size_t max_;
  std::list<Entry> entries_;
  std::unordered_map<std::string_view, std::list<Entry>::iterator> index_;
};

}  // namespace

struct LeafMinter::State {
  explicit State(LeafLimits limits) : allowed(limits.allowed_max), refusals(limits.refusal_max) {}

  LeafCache& cache(LeafUse use) { return use == LeafUse::allowed ? allowed : refusals; }
  Result<void> prepare(const WorkspaceCa& ca);
  Result<Entry> mint(std::string_view host, WallTime now) const;
  bool fill(X509* certificate, const std::string& alternative, WallTime not_before, WallTime not_after) const;
  bool sign(X509* certificate) const;

  LeafCache allowed;
  LeafCache refusals;
  KeyPtr ca_key;  ///< A copy: OpenSSL counts references and locks within a key, which loops should not share.
  KeyPtr leaf_key;
  DigestPtr sha256;  ///< Fetched once; looking algorithms up is a good part of OpenSSL 3.0's cost.
  NamePtr issuer;
  NamePtr subject;
  std::vector<ExtensionPtr> extensions;  ///< Those that all leaves share.
  WallTime ca_not_after;
};

Result<void> LeafMinter::State::prepare(const WorkspaceCa& ca) {
  ca_key.reset(EVP_PKEY_dup(ca.key()));
  leaf_key = make_leaf_key();
  sha256.reset(EVP_MD_fetch(nullptr, "SHA256", nullptr));
  issuer.reset(X509_NAME_dup(X509_get_subject_name(ca.certificate())));
  subject.reset(X509_NAME_new());
  ca_not_after = ca.not_after();
  if (!ca_key || !leaf_key || !sha256 || !issuer || !subject)
    return library_failure("preparing to mint leaves");
  // Fixed and short: a common name may have 64 characters and a host 255, and clients read the alternative
  // name.
  constexpr unsigned char common_name[] = "postern leaf";
  if (X509_NAME_add_entry_by_txt(subject.get(), "CN", MBSTRING_ASC, common_name, -1, -1, 0) != 1) {
    return library_failure("preparing to mint leaves");
  }
  X509V3_CTX context;
  X509V3_set_ctx(&context, ca.certificate(), nullptr, nullptr, nullptr, 0);
  constexpr std::array<std::pair<int, const char*>, 4> wanted{{
      {NID_basic_constraints, "critical,CA:FALSE"},  // rustls insists
      {NID_key_usage, "critical,digitalSignature"},
      {NID_ext_key_usage, "serverAuth"},
      {NID_authority_key_identifier, "keyid:always"},  // Python from 3.13 on insists
  }};
  for (const auto& [nid, value] : wanted) {
    extensions.emplace_back(X509V3_EXT_conf_nid(nullptr, &context, nid, value));
    if (!extensions.back()) return library_failure("preparing to mint leaves");
  }
  return {};
}

bool LeafMinter::State::fill(X509* certificate, const std::string& alternative, WallTime not_before,
                             WallTime not_after) const {
  std::array<unsigned char, 16> serial{};
  if (RAND_bytes(serial.data(), serial.size()) != 1) return false;
  serial[0] = static_cast<unsigned char>((serial[0] & 0x7f) | 0x40);  // RFC 5280 §4.1.2.2: positive
  using std::chrono::system_clock;
  const bool filled =
      X509_set_version(certificate, X509_VERSION_3) == 1 &&
      ASN1_STRING_set(X509_get_serialNumber(certificate), serial.data(), serial.size()) == 1 &&
      X509_set_issuer_name(certificate, issuer.get()) == 1 &&
      X509_set_subject_name(certificate, subject.get()) == 1 &&
      ASN1_TIME_set(X509_getm_notBefore(certificate), system_clock::to_time_t(not_before)) != nullptr &&
      ASN1_TIME_set(X509_getm_notAfter(certificate), system_clock::to_time_t(not_after)) != nullptr &&
      X509_set_pubkey(certificate, leaf_key.get()) == 1;
  if (!filled) return false;
  for (const ExtensionPtr& extension : extensions) {
    if (X509_add_ext(certificate, extension.get(), -1) != 1) return false;
  }
  OctetsPtr octets(ASN1_OCTET_STRING_new());
  if (!octets ||
      ASN1_OCTET_STRING_set(octets.get(), reinterpret_cast<const unsigned char*>(alternative.data()),
                            static_cast<int>(alternative.size())) != 1) {
    return false;
  }
  ExtensionPtr name(X509_EXTENSION_create_by_NID(nullptr, NID_subject_alt_name, 0, octets.get()));
  return name && X509_add_ext(certificate, name.get(), -1) == 1;
}

bool LeafMinter::State::sign(X509* certificate) const {
  DigestContextPtr context(EVP_MD_CTX_new());
  return context && EVP_DigestSignInit(context.get(), nullptr, sha256.get(), nullptr, ca_key.get()) == 1 &&
         X509_sign_ctx(certificate, context.get()) > 0;
}

Result<Entry> LeafMinter::State::mint(std::string_view host, WallTime now) const {
  auto alternative = alternative_name(host);
  if (!alternative)
    return fail(Reason::malformed_host, "The host cannot stand in a certificate.", Side::sandbox);
  if (now >= ca_not_after)
    return fail(Reason::internal, "The workspace's CA has expired; a restart makes a new one.");
  const WallTime not_before = now - certificate_backdating;
  const WallTime not_after = std::min(now + leaf_lifetime, ca_not_after);
  CertificatePtr certificate(X509_new());
  if (!certificate || !fill(certificate.get(), *alternative, not_before, not_after) ||
      !sign(certificate.get())) {
    return library_failure("minting a leaf");
  }
  // One that ends with its CA cannot be renewed to last longer: it serves to the end.
  const WallTime renew_at = not_after == ca_not_after ? not_after : not_after - leaf_renewal;
  return Entry{std::string(host), std::move(certificate), not_before, renew_at};
}

LeafMinter::LeafMinter(std::unique_ptr<State> state) : state_(std::move(state)) {}
LeafMinter::LeafMinter(LeafMinter&&) noexcept = default;
LeafMinter& LeafMinter::operator=(LeafMinter&&) noexcept = default;
LeafMinter::~LeafMinter() = default;

Result<LeafMinter> LeafMinter::create(const WorkspaceCa& ca, LeafLimits limits) {
  auto state = std::make_unique<State>(limits);
  if (auto prepared = state->prepare(ca); !prepared) return std::unexpected(prepared.error());
  return LeafMinter(std::move(state));
}

Result<Leaf> LeafMinter::leaf_for(std::string_view host, WallTime now, LeafUse use) {
  LeafCache& cache = state_->cache(use);
  Entry* entry = cache.find(host);
  // A clock set back may make a cached leaf one of the future.
  if (!entry || now >= entry->renew_at || now < entry->not_before) {
    auto minted = state_->mint(host, now);
    if (!minted) return std::unexpected(minted.error());
    entry = &cache.insert(std::move(*minted));
  }
  X509_up_ref(entry->certificate.get());
  EVP_PKEY_up_ref(state_->leaf_key.get());
  return Leaf{CertificatePtr(entry->certificate.get()), KeyPtr(state_->leaf_key.get())};
}

std::size_t LeafMinter::cached(LeafUse use) const { return state_->cache(use).size(); }

}  // namespace postern::tls
