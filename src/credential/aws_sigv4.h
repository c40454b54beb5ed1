#pragma once
// AWS Signature Version 4: what a client signed with placeholders, signed again with the real key.
//
// The way of a request: read() says what the client meant (or that the signature is a stranger's, which is
// left alone), the caller hashes the body where the intent asks for it, and sign() gives the header lines, or
// the pre-signed target, and what the body has to go through. What is signed is what goes out: sign() is
// called last, with the fields as they will be written. Nothing here does I/O, reads a clock, or checks the
// client's signature, which proves nothing (its key is a placeholder that everybody knows).
//
// AWS: "AWS Signature Version 4 for API requests" (IAM), and "Authenticating Requests (AWS Signature Version
// 4)" (S3).

#include <chrono>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/clock.h"
#include "base/result.h"
#include "base/secret.h"
#include "credential/aws_canonical.h"
#include "credential/aws_chunks.h"
#include "credential/aws_endpoint.h"
#include "credential/digest.h"
#include "credential/signer.h"
#include "model/http.h"

namespace postern::credential {

inline constexpr std::size_t aws_signed_headers_max = 128;     // clients sign some ten
inline constexpr std::size_t aws_signing_keys_max = 64;        // days, regions and services at a time
inline constexpr std::chrono::minutes aws_clock_skew_max{15};  // AWS's own tolerance

struct AwsCredentials {
  std::string access_key_id;
  Secret secret_access_key;
  Secret session_token;  ///< Empty where the key is a lasting one.
};

/// It stands between '/' and ',' in a header, and is the one part of the credentials that is no secret.
bool is_aws_key_id(std::string_view text);

enum class AwsPayload : std::uint8_t {
  as_said,       // x-amz-content-sha256 has a hash or UNSIGNED-PAYLOAD; the body streams
  to_be_hashed,  // nobody said: the caller holds the body, hashes it, and gives the hash to sign()
  chunks,        // the body goes through Signature::body
};

/// What a client asked for. Owns what it says.
struct AwsIntent {
  enum class Form : std::uint8_t {
    unsigned_request,  // no SigV4 signature: it gets one for what the host says
    header,            // signed in Authorization
    query,             // pre-signed with the placeholder key
    foreign,           // pre-signed with another key, or in a session of S3 Express: leave it alone
  };
  Form form = Form::unsigned_request;
  AwsPayload payload = AwsPayload::as_said;
  AwsChunkForm chunk_form = AwsChunkForm::signed_chunks;  ///< With AwsPayload::chunks.
  std::string payload_hash;   ///< What stands for the body, unless it is to be hashed.
  bool payload_said = false;  ///< x-amz-content-sha256 stands in the request.
  AwsPathRule path_rule = AwsPathRule::normalised;
  std::string region;
  std::string service;
  std::string access_key_id;                    ///< The client's; empty when it did not sign.
  std::string signed_headers;                   ///< "host;x-amz-date", as the client listed them.
  std::string amz_date;                         ///< Of a pre-signed URL.
  std::optional<std::uint64_t> decoded_length;  ///< What the chunks are said to carry.
};

/// Signs for one set of credentials. Belongs to one loop.
class AwsSigner {
 public:
  /// `placeholder_key_id`: the access key that the sandbox was given.
  AwsSigner(std::shared_ptr<const AwsCredentials> credentials, std::string placeholder_key_id);

  /// For credentials that are renewed: what is signed from now on is signed with these.
  void set_credentials(std::shared_ptr<const AwsCredentials> credentials);

  /// What the client meant. Errors, unsignable_request, each in a sentence for the one who set the client up:
  /// a signature that cannot be read, a scope that is not the host's, both a header and a pre-signed query,
  /// SigV4A, event streams, SigV2 with the placeholder key.
  Result<AwsIntent> read(const RequestToSign& request, const AwsEndpoint& endpoint) const;

  /// `body_hash`: 64 hexadecimal digits with AwsPayload::to_be_hashed, else ignored. `now`: what the
  /// signature is dated with; a pre-signed URL keeps its own date, or it would never expire. Not for a
  /// foreign intent. Errors, unsignable_request: a pre-signed URL that is dated in the future or signs a
  /// header that is not there.
  Result<Signature> sign(const RequestToSign& request, const AwsIntent& intent, std::string_view body_hash,
                         WallTime now);

  /// True for the client's fields that do not go on: those of its own signature.
  static bool drops(std::string_view field_name);

 private:
  struct CachedKey {
    std::string date;
    std::string region;
    std::string service;
    std::shared_ptr<HmacSha256> key;
    std::uint64_t used = 0;
  };
  struct Stamp;
  std::shared_ptr<HmacSha256> key_for(std::string_view date, const AwsIntent& intent);
  Result<Signature> sign_head(const RequestToSign& request, const AwsIntent& intent, std::string_view payload,
                              WallTime now);
  Result<Signature> sign_query(const RequestToSign& request, const AwsIntent& intent,
                               std::string_view payload, WallTime now);
  void split_listed(const AwsIntent& intent);
  bool is_listed(std::string_view name) const;
  void begin_canonical(const RequestToSign& request, const AwsIntent& intent);
  void end_canonical(std::string_view payload);
  std::string sign_canonical(const Stamp& stamp);

  std::shared_ptr<const AwsCredentials> credentials_;
  std::string placeholder_key_id_;
  std::vector<CachedKey> keys_;
  std::uint64_t uses_ = 0;
  // Working memory, kept from request to request.
  Sha256 hash_;
  std::string canonical_;
  std::string message_;
  std::string names_;
  std::vector<HeaderField> fields_;
  std::vector<std::string_view> listed_;
};

}  // namespace postern::credential
