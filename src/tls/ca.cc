#include "tls/ca.h"

#include <array>
#include <openssl/bio.h>
#include <openssl/crypto.h>
#include <openssl/ec.h>
#include <openssl/err.h>
#include <openssl/evp.h>
#include <openssl/pem.h>
#include <openssl/rand.h>
#include <openssl/x509.h>
#include <openssl/x509v3.h>
#include <optional>

#include "base/private_directory.h"

namespace postern::tls {

void CertificateFree::operator()(x509_st* certificate) const { X509_free(certificate); }
void KeyFree::operator()(evp_pkey_st* key) const { EVP_PKEY_free(key); }

namespace {

constexpr const char* file_name = "ca.pem";

struct BioFree {
  void operator()(BIO* bio) const { BIO_free_all(bio); }
};
using BioPtr = std::unique_ptr<BIO, BioFree>;

/// A buffer that held the private key is wiped, whichever way its owner returns.
struct WipedString {
  WipedString() = default;
  WipedString(const WipedString&) = delete;
  WipedString& operator=(const WipedString&) = delete;
  ~WipedString() { OPENSSL_cleanse(text.data(), text.size()); }
  std::string text;
};

std::unexpected<Error> library_failure(const char* doing) {
  char reason[256] = "unknown error";
  if (unsigned long code = ERR_get_error()) ERR_error_string_n(code, reason, sizeof reason);
  ERR_clear_error();
  return fail(Reason::internal, std::string(doing) + ": " + reason);
}

std::unexpected<Error> unusable(std::string detail) {
  return fail(Reason::invalid_configuration, std::move(detail));
}

std::optional<WallTime> to_wall_time(const ASN1_TIME* time) {
  std::tm parts{};
  if (ASN1_TIME_to_tm(time, &parts) != 1) return std::nullopt;
  return std::chrono::system_clock::from_time_t(timegm(&parts));
}

std::string hex(const unsigned char* bytes, std::size_t count, const char* separator) {
  constexpr char digits[] = "0123456789ABCDEF";
  std::string text;
  for (std::size_t i = 0; i < count; ++i) {
    if (i > 0) text += separator;
    text += digits[bytes[i] >> 4];
    text += digits[bytes[i] & 0x0f];
  }
  return text;
}

bool is_p256(const EVP_PKEY* key) {
  char group[32] = "";
  return EVP_PKEY_is_a(key, "EC") == 1 && EVP_PKEY_get_group_name(key, group, sizeof group, nullptr) == 1 &&
         OBJ_sn2nid(group) == NID_X9_62_prime256v1;
}

bool add_extension(X509* certificate, int nid, const char* value) {
  X509V3_CTX context;
  X509V3_set_ctx(&context, certificate, certificate, nullptr, nullptr, 0);
  X509_EXTENSION* extension = X509V3_EXT_conf_nid(nullptr, &context, nid, value);
  const bool added = extension != nullptr && X509_add_ext(certificate, extension, -1) == 1;
  X509_EXTENSION_free(extension);
  return added;
}

/// RFC 5280 §4.1.2.2: positive, at most 20 bytes, unguessable.
bool set_random_serial(X509* certificate) {
  std::array<unsigned char, 16> serial{};
  if (RAND_bytes(serial.data(), serial.size()) != 1) return false;
  serial[0] = static_cast<unsigned char>((serial[0] & 0x7f) | 0x40);
  return ASN1_STRING_set(X509_get_serialNumber(certificate), serial.data(), serial.size()) == 1;
}

/// "Postern CA 1A2B3C4D": part of the key's hash, so that people can tell two workspaces' CAs apart.
bool set_names(X509* certificate, EVP_PKEY* key) {
  unsigned char* spki = nullptr;
  const int spki_bytes = i2d_PUBKEY(key, &spki);
  if (spki_bytes <= 0) return false;
  std::array<unsigned char, EVP_MAX_MD_SIZE> digest{};
  const int hashed =
      EVP_Digest(spki, static_cast<std::size_t>(spki_bytes), digest.data(), nullptr, EVP_sha256(), nullptr);
  OPENSSL_free(spki);
  if (hashed != 1) return false;
  const std::string name = "Postern CA " + hex(digest.data(), 4, "");
  X509_NAME* subject = X509_get_subject_name(certificate);
  return X509_NAME_add_entry_by_txt(subject, "CN", MBSTRING_ASC,
                                    reinterpret_cast<const unsigned char*>(name.data()),
                                    static_cast<int>(name.size()), -1, 0) == 1 &&
         X509_set_issuer_name(certificate, subject) == 1;
}

bool set_validity(X509* certificate, WallTime not_before, WallTime not_after) {
  using std::chrono::system_clock;
  return ASN1_TIME_set(X509_getm_notBefore(certificate), system_clock::to_time_t(not_before)) != nullptr &&
         ASN1_TIME_set(X509_getm_notAfter(certificate), system_clock::to_time_t(not_after)) != nullptr;
}

/// Never asks on a terminal for a pass phrase.
int no_pass_phrase(char*, int, int, void*) { return -1; }

}  // namespace

Result<WorkspaceCa> WorkspaceCa::from_parts(KeyPtr key, CertificatePtr certificate) {
  WorkspaceCa ca;
  auto not_before = to_wall_time(X509_get0_notBefore(certificate.get()));
  auto not_after = to_wall_time(X509_get0_notAfter(certificate.get()));
  if (!not_before || !not_after) return unusable("the CA's certificate has no readable validity");
  ca.not_before_ = *not_before;
  ca.not_after_ = *not_after;

  BioPtr pem(BIO_new(BIO_s_mem()));
  if (!pem || PEM_write_bio_X509(pem.get(), certificate.get()) != 1)
    return library_failure("writing the CA's certificate");
  char* text = nullptr;
  const long length = BIO_get_mem_data(pem.get(), &text);
  ca.certificate_pem_.assign(text, static_cast<std::size_t>(length));

  std::array<unsigned char, EVP_MAX_MD_SIZE> digest{};
  unsigned digest_bytes = 0;
  if (X509_digest(certificate.get(), EVP_sha256(), digest.data(), &digest_bytes) != 1) {
    return library_failure("hashing the CA's certificate");
  }
  ca.fingerprint_ = hex(digest.data(), digest_bytes, ":");
  ca.key_ = std::move(key);
  ca.certificate_ = std::move(certificate);
  return ca;
}

Result<WorkspaceCa> WorkspaceCa::generate(WallTime now) {
  KeyPtr key(EVP_EC_gen("P-256"));  // Ed25519 would fail in Chromium
  CertificatePtr certificate(X509_new());
  if (!key || !certificate) return library_failure("making the CA's key");
  // pathlen:0: what it signs can sign nothing. The key identifier: Python from 3.13 on insists.
  const bool made =
      X509_set_version(certificate.get(), X509_VERSION_3) == 1 && set_random_serial(certificate.get()) &&
      X509_set_pubkey(certificate.get(), key.get()) == 1 && set_names(certificate.get(), key.get()) &&
      set_validity(certificate.get(), now - certificate_backdating, now + ca_lifetime) &&
      add_extension(certificate.get(), NID_basic_constraints, "critical,CA:TRUE,pathlen:0") &&
      add_extension(certificate.get(), NID_key_usage, "critical,keyCertSign,cRLSign") &&
      add_extension(certificate.get(), NID_subject_key_identifier, "hash") &&
      X509_sign(certificate.get(), key.get(), EVP_sha256()) > 0;
  if (!made) return library_failure("making the CA's certificate");
  return from_parts(std::move(key), std::move(certificate));
}

Result<WorkspaceCa> WorkspaceCa::from_pem(const std::string& pem) {
  // One BIO each: reading a key skips over other blocks, in whichever order they are.
  auto open = [&] { return BioPtr(BIO_new_mem_buf(pem.data(), static_cast<int>(pem.size()))); };
  KeyPtr key(PEM_read_bio_PrivateKey(open().get(), nullptr, no_pass_phrase, nullptr));
  CertificatePtr certificate(PEM_read_bio_X509(open().get(), nullptr, no_pass_phrase, nullptr));
  ERR_clear_error();
  if (!key) return unusable("the CA's file holds no readable private key");
  if (!certificate) return unusable("the CA's file holds no readable certificate");
  if (!is_p256(key.get())) return unusable("the CA's key is not on the curve P-256");
  const bool matches = X509_check_private_key(certificate.get(), key.get()) == 1;
  const bool is_ca = X509_check_ca(certificate.get()) == 1 &&
                     X509_get0_subject_key_id(certificate.get()) != nullptr &&
                     X509_self_signed(certificate.get(), 1) == 1;
  ERR_clear_error();
  if (!matches) return unusable("the CA's key is not the one of its certificate");
  if (!is_ca) return unusable("the certificate is not that of a self-signed CA");
  return from_parts(std::move(key), std::move(certificate));
}

Result<std::string> WorkspaceCa::private_pem() const {
  BioPtr pem(BIO_new(BIO_s_secmem()));  // wipes what it held
  if (!pem ||
      PEM_write_bio_PKCS8PrivateKey(pem.get(), key_.get(), nullptr, nullptr, 0, nullptr, nullptr) != 1) {
    return library_failure("writing the CA's key");
  }
  char* text = nullptr;
  const long length = BIO_get_mem_data(pem.get(), &text);
  std::string out;
  out.reserve(static_cast<std::size_t>(length) + certificate_pem_.size());
  return out.append(text, static_cast<std::size_t>(length)).append(certificate_pem_);
}

Result<WorkspaceCa> WorkspaceCa::load_or_create(const std::string& directory_path, WallTime now) {
  auto directory = PrivateDirectory::open(directory_path);
  if (!directory) return std::unexpected(directory.error());
  const std::string path = directory->path_of(file_name);
  WipedString stored;
  auto found = directory->read(file_name, stored.text);
  if (!found) return std::unexpected(found.error());
  if (*found) {
    auto ca = from_pem(stored.text);
    if (!ca) return unusable("'" + path + "': " + ca.error().detail);
    if (now < ca->not_before_) return unusable("'" + path + "' begins in the future: is the clock right?");
    if (now < ca->not_after_) return ca;
  }

  auto ca = generate(now);
  if (!ca) return ca;
  WipedString fresh;
  auto pem = ca->private_pem();
  if (!pem) return std::unexpected(pem.error());
  fresh.text.swap(*pem);
  if (auto written = directory->write(file_name, fresh.text); !written)
    return std::unexpected(written.error());
  return ca;
}

}  // namespace postern::tls
