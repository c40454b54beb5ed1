#pragma once
// A policy's callback (section 7 of the policy document): the author's own endpoint is asked for the headers
// of a host, with a signed statement of who asks. Whatever goes wrong, there is no credential and the request
// is not sent.

#include <chrono>
#include <memory>
#include <span>
#include <string>

#include "credential/jwt.h"
#include "credential/source.h"
#include "policy/snapshot.h"

namespace postern::credential {

inline constexpr std::size_t callback_answer_bytes_max = 1024 * 1024;
inline constexpr std::size_t callback_headers_max = 64;  // as a rule's
inline constexpr std::size_t shown_body_bytes_max =
    1024 * 1024;  // of a request whose callback wants to see it

/// Who signs what callbacks are asked (EdDSA). Shared by all sources.
struct CallbackSigner {
  CurrentKey key;
  std::string issuer;  ///< `iss`: where the key set is found, without a trailing slash.
};

class CallbackSource final : public Source {
 public:
  /// `index`: of the callback in the snapshot. `headers`: its request_headers; they live as long as the
  /// source.
  CallbackSource(std::shared_ptr<const policy::Snapshot> snapshot, std::uint32_t index,
                 std::span<const InjectedHeader> headers, std::shared_ptr<const CallbackSigner> signer);

  const std::string& label() const override { return label_; }
  Reason reason() const override { return Reason::callback_failed; }
  bool cached() const override { return !callback().full_request; }
  bool per_destination() const override { return true; }
  io::Task<Result<Grant>> ask(Caller& caller, const Subject& subject, const ShownRequest* request,
                              TimePoint deadline) const override;

 private:
  const policy::Callback& callback() const { return snapshot_->callbacks()[index_]; }

  std::shared_ptr<const policy::Snapshot> snapshot_;
  std::uint32_t index_;
  std::span<const InjectedHeader> headers_;
  std::shared_ptr<const CallbackSigner> signer_;
  std::string label_;
};

/// The question's body, JSON. `request` may be nullptr.
std::string callback_question(const Subject& subject, const ShownRequest* request);

/// The claims of its signature. RFC 7519, and `body_sha256` in lower-case hexadecimal.
std::string callback_claims(const CallbackSigner& signer, const wire::Url& url, WallTime now,
                            std::string_view body);

/// {"headers": {name: value}}: the headers to put on requests. `label` becomes their source. Errors:
/// callback_failed, without quoting the answer.
Result<std::vector<InjectedHeader>> read_callback_answer(std::string_view body, const std::string& label);

}  // namespace postern::credential
