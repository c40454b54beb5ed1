#pragma once
// Credentials that do not stand on a request but sign it: AWS's SigV4, Azure's SharedKey. They are made last,
// over the very fields that go out, and differ for each request.
//
// Three lives, three types: a Signing belongs to a rule and is shared by the loops, a Signer is its working
// memory on one loop, and a RequestSigner is what one request's client meant. The road knows no more than
// these.

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/clock.h"
#include "base/result.h"
#include "credential/injected_header.h"
#include "model/http.h"

namespace postern::credential {

struct Grant;

/// A request as it will be written. Views live as long as the call.
struct RequestToSign {
  std::string_view method;
  std::string_view target;                      ///< Origin-form, with the query.
  std::string_view authority;                   ///< The Host field or `:authority`, as written.
  std::string_view host;                        ///< The same, canonical, without a port.
  std::span<const HeaderField> fields;          ///< Without Host and Content-Length.
  std::optional<std::uint64_t> content_length;  ///< When a Content-Length is written.
  bool has_body = false;
};

/// A body that has signatures inside. What comes out is as long as what went in.
class BodySigner {
 public:
  virtual ~BodySigner() = default;

  struct Step {
    std::size_t consumed = 0;  ///< Bytes of the input that are done with.
    std::string_view output;   ///< What goes to the origin, maybe nothing yet. Valid until the next step().
    bool finished = false;     ///< The body is complete.
  };
  /// Looks at the next bytes of the body. Call again with the rest until `consumed` is all of it. Errors,
  /// after which nothing more can be asked: unsignable_request.
  virtual Result<Step> step(std::string_view input) = 0;
  /// Whether the body may end here.
  virtual bool finished() const = 0;
};

/// The credential of one request, and what its body has to go through.
class Signature {
 public:
  Signature() = default;
  Signature(Signature&&) noexcept = default;
  Signature& operator=(Signature&& other) noexcept;
  Signature(const Signature&) = delete;
  Signature& operator=(const Signature&) = delete;
  ~Signature();

  /// Each once; they replace the client's. Empty for a request that is signed in its target.
  std::vector<InjectedHeader> headers;
  std::unique_ptr<BodySigner> body;  ///< Where the body is signed in pieces.
  std::string_view place;            ///< For the record: the field or parameter of the signature. Static.

  /// The target with its signature, to be written instead; or empty. It opens what it names for whoever has
  /// it: for the request line only, never for a record.
  std::string_view target() const { return target_; }
  void set_target(std::string_view target);

 private:
  std::vector<char> target_storage_;  // wiped; a vector, so that moving keeps the view valid
  std::string_view target_;
};

/// One request that is to be signed.
class RequestSigner {
 public:
  virtual ~RequestSigner() = default;

  /// The whole body must be known before sign(): its SHA-256.
  virtual bool wants_body_hash() const { return false; }
  /// The client's fields that do not go on: those of its own signature.
  virtual bool drops(std::string_view field_name) const = 0;
  /// `request` is what will be written, without what drops() names. `body_hash`: in hexadecimal, where it is
  /// wanted. `grant`: where the rule's credentials are asked for. `now` dates the signature. Again for each
  /// connection that is tried. Errors: unsignable_request, for the one who set the client up;
  /// credential_unavailable.
  virtual Result<Signature> sign(const RequestToSign& request, std::string_view body_hash, const Grant* grant,
                                 WallTime now) = 0;
};

/// Signs for one rule on one loop.
class Signer {
 public:
  virtual ~Signer() = default;
  /// What the client meant; nullptr: the request goes as it came, without a credential. The signer outlives
  /// it. Errors: as of RequestSigner::sign().
  virtual Result<std::unique_ptr<RequestSigner>> read(const RequestToSign& request) = 0;
};

/// How requests of one rule are signed. Immutable.
class Signing {
 public:
  virtual ~Signing() = default;
  /// For the record, e.g. "aws". Lives as long as the rule.
  virtual const std::string& label() const = 0;
  virtual std::unique_ptr<Signer> make_signer() const = 0;
};

/// The signers that one loop has used for one sandbox lately.
class LoopSigners {
 public:
  /// `version`: of the policy that `signing` belongs to, never used again. Shared with whoever still signs.
  std::shared_ptr<Signer> of(std::uint64_t version, const Signing& signing);

 private:
  static constexpr std::size_t kept_max = 16;
  struct Kept {
    const Signing* signing;
    std::shared_ptr<Signer> signer;
  };
  std::uint64_t version_ = 0;
  std::vector<Kept> kept_;
};

}  // namespace postern::credential
