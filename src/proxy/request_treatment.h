#pragma once
// What a rule's `transform.request` makes of one request: fields set and taken away, what detectors find
// replaced or refused, conditions kept. In the order of the steps, over header values, the query, and bodies
// that are text (docs/transformation.md).
//
// Bodies stream: only what may be the beginning of a match is held back. Compressed ones are decoded and go
// on as they are then; those that cannot be looked into are refused.

#include <cstdint>
#include <forward_list>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "audit/record.h"
#include "model/http.h"
#include "policy/treatment.h"
#include "proxy/sides.h"
#include "transform/codings.h"
#include "transform/redactor.h"

namespace postern::proxy {

class RequestTreatment {
 public:
  /// What variables in values stand for.
  struct Names {
    std::string_view sandbox, workspace, rule;
  };
  /// `transform` outlives it.
  RequestTreatment(const policy::Transform& transform, const Names& names);
  RequestTreatment(const RequestTreatment&) = delete;
  ~RequestTreatment();

  /// Once, before anything is sent. `fields`: those that may travel on; they are not changed. `target`: as it
  /// is sent; its query is. Errors: content_blocked, body_too_large, unsupported_content, schema_violation.
  Result<void> judge(const RequestHead& head, FieldList fields, std::string& target);
  /// The request carries a signature that nobody renews, over `target` as it came too: changes are refused
  /// instead of made. content_blocked when one was made already.
  Result<void> forbid_changes();
  /// It is signed behind this: what it says of its body's hash is not true any more.
  void will_be_signed() { signed_anew_ = true; }
  /// The steps that concern fields. Views that change are into this object. After judge(), as often as
  /// needed.
  void apply(FieldList& fields);
  /// Of trailers, those stay that no step takes away and no detector finds anything in.
  void filter_trailers(FieldList& trailers) const;

  /// The body goes through feed() and pull().
  bool reads_body() const { return reads_body_; }
  /// Nothing of the body comes out before it is whole.
  bool needs_whole_body() const { return needs_whole_; }
  /// Its length is not what was announced.
  bool changes_length() const { return changes_length_; }
  bool decodes() const { return decoder_.has_value(); }
  /// The piece must stay where it is until pull() has nothing more.
  void feed(std::string_view piece, bool last);
  /// What goes on; empty, and not the last, when another piece is needed. Errors as those of judge(), and of
  /// transform::Decoder.
  Result<BodyPiece> pull();
  /// What is held in memory of a body that must be whole.
  std::size_t held_bytes() const;

  /// What was replaced so far. Names live as long as the snapshot.
  std::vector<audit::Redaction> redactions() const;

 private:
  class Stage;
  class RedactStage;
  class BlockStage;
  class FormStage;
  class SchemaStage;

  Result<void> run(const RequestHead& head, FieldList& fields, std::string* target);
  Result<void> redact(const policy::Redact& step, FieldList& fields, std::string* target);
  Result<void> block(const policy::Block& step, const FieldList& fields, std::string_view target) const;
  Result<void> require(const policy::Require& step, const RequestHead& head, const FieldList& fields);
  Result<void> begin_body(const RequestHead& head, const FieldList& fields);
  void count(const policy::Detectors& detectors, const transform::DetectorCounts& counts);
  bool body_changed() const;

  const policy::Transform& transform_;
  std::vector<std::string> set_values_;  ///< Of set_header steps, in turn.
  std::forward_list<std::string> kept_;  ///< Values that were redacted.
  std::vector<audit::Redaction> field_redactions_, query_redactions_;
  std::vector<std::unique_ptr<Stage>> stages_;
  std::optional<transform::Decoder> decoder_;
  std::uint64_t body_bytes_max_ = ~std::uint64_t{0};
  std::uint64_t sent_bytes_ = 0, plain_bytes_ = 0;  ///< Of the body so far, as it came and decoded.
  std::string_view piece_;
  bool reads_body_ = false, needs_whole_ = false, changes_length_ = false;
  bool changed_head_ = false, redacts_fields_ = false, forbids_changes_ = false, signed_anew_ = false;
  bool fed_ = false, last_ = false, finished_ = false;
};

/// Whether a request carries a signature over itself: AWS's, Azure's, OAuth 1's, RFC 9421's, or in its URL.
bool carries_signature(const FieldList& fields, std::string_view target);

}  // namespace postern::proxy
