#pragma once
// Where credentials come from that must be asked for: each kind is one Source, and what it answers is a
// Grant. Grants (credential/grants.h) decides when a source is asked.

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/clock.h"
#include "base/result.h"
#include "credential/injected_header.h"
#include "credential/scrubber.h"
#include "io/task.h"
#include "model/host.h"

namespace postern::credential {

class Caller;
struct AwsCredentials;

/// A request as it is shown to a source that wants to see it. Outlives the question.
struct ShownRequest {
  std::string method;
  std::string url;
  std::string_view scheme;
  std::string path;
  std::string query;  ///< Without "?".
  std::vector<std::pair<std::string, std::string>> fields;
  std::string body;  ///< As much as was taken.
  bool body_truncated = false;
};

/// For whom, and for which destination. Owned: a question may outlive the request that asked it.
struct Subject {
  std::shared_ptr<const std::string> workspace;
  std::shared_ptr<const std::string> sandbox;
  Host host;
  std::uint16_t port = 0;
};

/// What was answered. Immutable, shared by those who use it meanwhile.
struct Grant {
  std::vector<InjectedHeader> headers;
  std::shared_ptr<const AwsCredentials> aws;  ///< What requests are signed with, for rules that sign.
  std::shared_ptr<const Scrubber> scrubber;   ///< Of the headers; set by Grants.
  TimePoint expires = TimePoint::max();
  TimePoint refresh_after = TimePoint::max();  ///< A new one is asked for while this one is still good.
  WallTime expires_by_date = WallTime::max();

  /// Good for `lifetime` from `asked` on, and replaced ahead of its end, not by everybody at once.
  void expire_after(std::chrono::seconds lifetime, TimePoint asked, const Clock& clock);
  /// By both clocks: neither a date that was set back nor a machine that slept makes an old one good.
  bool usable(const Clock& clock) const { return clock.now() < expires && clock.wall() < expires_by_date; }
};
using GrantRef = std::shared_ptr<const Grant>;

class Source {
 public:
  virtual ~Source() = default;

  /// For the record, e.g. "callback:creds.example.com". Lives as long as the source.
  virtual const std::string& label() const = 0;
  /// Why a request was not sent, when there is no answer.
  virtual Reason reason() const { return Reason::credential_unavailable; }
  /// Whether one answer serves several requests.
  virtual bool cached() const = 0;
  /// Whether an answer is for one destination only, and not for all that the rule or callback covers.
  virtual bool per_destination() const = 0;
  /// What a destination is, with its port: the host itself, or what several hosts share. Lives as long as the
  /// source or `host`.
  virtual std::string_view family_of(std::string_view host) const { return host; }
  /// Asks once, by `deadline`. `request` is there when the source wants to see it. Errors are
  /// callback_failed or credential_unavailable, with a sentence for the record that holds nothing of the
  /// answer. A grant that is not cached has no expiry.
  virtual io::Task<Result<Grant>> ask(Caller& caller, const Subject& subject, const ShownRequest* request,
                                      TimePoint deadline) const = 0;
};

/// One whose answer is kept, and serves all that its rule covers unless it says otherwise.
class KeptSource : public Source {
 public:
  const std::string& label() const final { return label_; }
  bool cached() const final { return true; }
  bool per_destination() const override { return false; }

 protected:
  explicit KeptSource(std::string label) : label_(std::move(label)) {}
  const std::string label_;
};

}  // namespace postern::credential
