#include "proxy/request_treatment.h"

#include <algorithm>
#include <array>
#include <fmt/format.h>
#include <utility>

#include "proxy/limits.h"
#include "wire/http1.h"
#include "wire/prefix.h"
#include "wire/presigned.h"
#include "wire/target.h"

namespace postern::proxy {

namespace {

std::unexpected<Error> refuse(Reason reason, std::string detail) {
  return fail(reason, std::move(detail), Side::sandbox);
}

std::unexpected<Error> blocked(const policy::Detectors& detectors, std::size_t which) {
  return refuse(Reason::content_blocked,
                fmt::format("it holds what the rule blocks ({})", detectors.set->name(which)));
}

std::unexpected<Error> would_change() {
  return refuse(Reason::content_blocked,
                "it carries a signature that would not be true any more after the rule's transformation");
}

std::unexpected<Error> too_large(std::uint64_t most) {
  return refuse(Reason::body_too_large, fmt::format("a body may have at most {} bytes here", most));
}

bool has_body(const RequestHead& head) {
  return head.framing != BodyFraming::none &&
         (head.framing != BodyFraming::length || head.content_length != 0);
}

template <class Visit>
void each_value(const FieldList& fields, std::string_view name, Visit visit) {
  for (const HeaderField& field : fields)
    if (wire::same_name(field.name, name)) visit(field.value);
}

/// "application/json" of "Application/JSON; charset=utf-8".
std::string media_type(std::string_view value) {
  value = value.substr(0, value.find(';'));
  while (value.ends_with(' ') || value.ends_with('\t')) value.remove_suffix(1);
  return wire::lower(value);
}

bool is_json(std::string_view type) { return type == "application/json" || type.ends_with("+json"); }
bool is_form(std::string_view type) { return type == "application/x-www-form-urlencoded"; }

bool in_range(std::string_view range, std::string_view type) {
  if (range == type || range == "*/*") return true;
  return range.ends_with("/*") && type.starts_with(range.substr(0, range.size() - 1));
}

/// Fields with a hash of the body, which is not that of the body that is sent.
bool is_digest(std::string_view name) {
  constexpr std::array<std::string_view, 4> names = {"content-md5", "digest", "content-digest",
                                                     "repr-digest"};
  return std::ranges::any_of(names, [&](std::string_view known) { return wire::same_name(name, known); }) ||
         (name.size() > 15 && wire::same_name(name.substr(0, 15), "x-amz-checksum-"));
}

}  // namespace

bool carries_signature(const FieldList& fields, std::string_view target) {
  constexpr std::array<std::string_view, 8> schemes = {"aws4-",    "aws ",   "sharedkey", "signature ",
                                                       "hmac-sha", "oauth ", "hawk ",     "digest "};
  const auto signs = [&](const HeaderField& field) {
    if (wire::same_name(field.name, "signature") || wire::same_name(field.name, "signature-input"))
      return true;
    if (!wire::same_name(field.name, "authorization")) return false;
    return std::ranges::any_of(schemes, [&](std::string_view scheme) {
      return wire::starts_with_ignoring_case(field.value, scheme);
    });
  };
  return std::ranges::any_of(fields, signs) || wire::is_presigned(target);
}

/// One step's part of the body's way.
class RequestTreatment::Stage {
 public:
  virtual ~Stage() = default;
  /// What may go on, valid until the next call and while `piece` is.
  virtual Result<std::string_view> pass(std::string_view piece, bool last) = 0;
  virtual bool changed() const { return false; }
  virtual std::size_t held_bytes() const { return 0; }
  virtual void add_redactions(std::vector<audit::Redaction>&) const {}
};

namespace {

void add(std::vector<audit::Redaction>& out, const audit::Redaction& more) {
  const auto same = std::ranges::find(out, more.detector, &audit::Redaction::detector);
  if (same == out.end())
    out.push_back(more);
  else
    same->count += more.count;
}

void add(std::vector<audit::Redaction>& out, const policy::Detectors& detectors,
         const transform::DetectorCounts& counts) {
  for (std::size_t i = 0; i < counts.size(); ++i)
    if (counts[i] != 0) add(out, {detectors.set->name(i), counts[i]});
}

}  // namespace

class RequestTreatment::RedactStage final : public Stage {
 public:
  explicit RedactStage(const policy::Detectors& detectors)
      : detectors_(detectors), redactor_(detectors.set) {}
  Result<std::string_view> pass(std::string_view piece, bool last) override {
    return redactor_.pass(piece, last);
  }
  bool changed() const override { return redactor_.changed(); }
  void add_redactions(std::vector<audit::Redaction>& out) const override {
    add(out, detectors_, redactor_.counts());
  }

 private:
  const policy::Detectors& detectors_;
  transform::Redactor redactor_;
};

class RequestTreatment::BlockStage final : public Stage {
 public:
  explicit BlockStage(const policy::Detectors& detectors) : detectors_(detectors), finder_(detectors.set) {}
  Result<std::string_view> pass(std::string_view piece, bool last) override {
    if (const auto found = finder_.pass(piece, last)) return blocked(detectors_, *found);
    const std::size_t held = last ? 0 : finder_.held();
    if (waiting_.empty() && held == 0) return piece;
    out_.swap(waiting_);
    out_ += piece;
    waiting_.assign(out_, out_.size() - std::min(held, out_.size()));
    out_.resize(out_.size() - waiting_.size());
    return std::string_view(out_);
  }

 private:
  const policy::Detectors& detectors_;
  transform::Finder finder_;
  std::string waiting_, out_;
};

/// Names and values of a form are escaped, so it is read whole.
class RequestTreatment::FormStage final : public Stage {
 public:
  FormStage(const policy::Detectors& detectors, bool blocks) : detectors_(detectors), blocks_(blocks) {}
  Result<std::string_view> pass(std::string_view piece, bool last) override {
    form_ += piece;
    if (form_.size() > limits::treated_body_bytes_max) return too_large(limits::treated_body_bytes_max);
    if (!last) return std::string_view();
    if (blocks_) {
      transform::Finder finder(detectors_.set);
      if (const auto found = transform::find_in_form(finder, form_)) return blocked(detectors_, *found);
    } else {
      transform::Redactor redactor(detectors_.set);
      if (auto redacted = transform::redact_form(redactor, form_)) {
        form_ = std::move(*redacted);
        counts_ = redactor.take_counts();
      }
    }
    return std::string_view(form_);
  }
  bool changed() const override { return !counts_.empty(); }
  std::size_t held_bytes() const override { return form_.size(); }
  void add_redactions(std::vector<audit::Redaction>& out) const override { add(out, detectors_, counts_); }

 private:
  const policy::Detectors& detectors_;
  const bool blocks_;
  std::string form_;
  transform::DetectorCounts counts_;
};

class RequestTreatment::SchemaStage final : public Stage {
 public:
  explicit SchemaStage(const policy::Require& step) : step_(step) {}
  Result<std::string_view> pass(std::string_view piece, bool last) override {
    const std::uint64_t most = step_.max_body_bytes.value_or(limits::treated_body_bytes_max);
    body_ += piece;
    if (body_.size() > most) return too_large(most);
    if (!last) return std::string_view();
    if (auto valid = step_.schema->validate(body_); !valid)
      return refuse(Reason::schema_violation, std::move(valid.error()));
    return std::string_view(body_);
  }
  std::size_t held_bytes() const override { return body_.size(); }

 private:
  const policy::Require& step_;
  std::string body_;
};

RequestTreatment::RequestTreatment(const policy::Transform& transform, const Names& names)
    : transform_(transform) {
  const auto said = [&](policy::Variable variable) {
    switch (variable) {
      case policy::Variable::sandbox_name: return names.sandbox;
      case policy::Variable::workspace_id: return names.workspace;
      case policy::Variable::rule_name: return names.rule;
    }
    return std::string_view();
  };
  for (const policy::RequestStep& step : transform_.request) {
    const auto* set = std::get_if<policy::SetHeader>(&step);
    if (!set) continue;
    std::string& value = set_values_.emplace_back();
    for (const auto& piece : set->pieces) {
      if (const auto* text = std::get_if<std::string>(&piece))
        value += *text;
      else
        value += said(std::get<policy::Variable>(piece));
    }
  }
}

RequestTreatment::~RequestTreatment() = default;

Result<void> RequestTreatment::judge(const RequestHead& head, FieldList fields, std::string& target) {
  const FieldList as_sent = fields;
  if (auto ran = run(head, fields, &target); !ran) return ran;
  return begin_body(head, as_sent);
}

Result<void> RequestTreatment::forbid_changes() {
  if (changed_head_ || decoder_) return would_change();
  forbids_changes_ = true;
  return {};
}

void RequestTreatment::apply(FieldList& fields) {
  field_redactions_.clear();
  // What it could complain about was complained about by judge().
  static_cast<void>(run({}, fields, nullptr));
  std::erase_if(fields, [this](const HeaderField& field) {
    if (decoder_ && wire::same_name(field.name, "content-encoding")) return true;
    if (!changes_length_ || forbids_changes_) return false;
    return is_digest(field.name) || (signed_anew_ && wire::same_name(field.name, "x-amz-content-sha256"));
  });
}

/// `target`: nullptr, and `head` means nothing, when it was judged already.
Result<void> RequestTreatment::run(const RequestHead& head, FieldList& fields, std::string* target) {
  std::size_t value = 0;
  const auto remove = [&fields](std::string_view name) {
    std::erase_if(fields, [&](const HeaderField& field) { return wire::same_name(field.name, name); });
  };
  for (const policy::RequestStep& step : transform_.request) {
    Result<void> done;
    if (const auto* set = std::get_if<policy::SetHeader>(&step)) {
      remove(set->name);
      fields.push_back({set->name, set_values_[value++]});
    } else if (const auto* taken = std::get_if<policy::RemoveHeader>(&step)) {
      remove(taken->name);
    } else if (const auto* redacted = std::get_if<policy::Redact>(&step)) {
      done = redact(*redacted, fields, target);
    } else if (const auto* stopped = std::get_if<policy::Block>(&step); stopped && target) {
      done = block(*stopped, fields, *target);
    } else if (const auto* wanted = std::get_if<policy::Require>(&step); wanted && target) {
      done = require(*wanted, head, fields);
    }
    if (!done) return done;
  }
  return {};
}

Result<void> RequestTreatment::redact(const policy::Redact& step, FieldList& fields, std::string* target) {
  // Those that judge() saw, or fewer.
  if (!target && !redacts_fields_) return {};
  transform::Redactor redactor(step.detectors.set);
  for (HeaderField& field : fields) {
    const auto redacted = redactor.whole(field.value);
    if (!redacted) continue;
    changed_head_ = redacts_fields_ = true;
    // How the body is read hangs on it: a boundary, a charset.
    if (wire::same_name(field.name, "content-type"))
      return refuse(Reason::content_blocked, "its Content-Type holds what the rule redacts");
    field.value = kept_.emplace_front(*redacted);
  }
  add(field_redactions_, step.detectors, redactor.take_counts());
  if (!target) return {};
  const std::string_view query = wire::query_of(*target);
  if (auto redacted = transform::redact_form(redactor, query)) {
    changed_head_ = true;
    target->replace(target->size() - query.size(), query.size(), *redacted);
    add(query_redactions_, step.detectors, redactor.take_counts());
  }
  return {};
}

Result<void> RequestTreatment::block(const policy::Block& step, const FieldList& fields,
                                     std::string_view target) const {
  transform::Finder finder(step.detectors.set);
  for (const HeaderField& field : fields)
    if (const auto found = finder.whole(field.value)) return blocked(step.detectors, *found);
  if (const auto found = transform::find_in_form(finder, wire::query_of(target)))
    return blocked(step.detectors, *found);
  return {};
}

Result<void> RequestTreatment::require(const policy::Require& step, const RequestHead& head,
                                       const FieldList& fields) {
  if (step.max_body_bytes) {
    body_bytes_max_ = std::min(body_bytes_max_, *step.max_body_bytes);
    if (head.framing == BodyFraming::length && head.content_length > *step.max_body_bytes)
      return too_large(*step.max_body_bytes);
  }
  if (!has_body(head)) {
    // What asks for something without saying more is not what a schema is for.
    constexpr std::array<std::string_view, 4> without = {"GET", "HEAD", "OPTIONS", "DELETE"};
    if (step.schema && std::ranges::find(without, head.method) == without.end())
      return refuse(Reason::schema_violation, "there is no body");
    return {};
  }
  if (step.content_types.empty() && !step.schema) return {};
  std::vector<std::string> types;
  each_value(fields, "content-type", [&](std::string_view value) { types.push_back(media_type(value)); });
  if (types.size() != 1)
    return refuse(Reason::unsupported_content, "a body needs one Content-Type field here");
  const auto fits = [&](const std::string& range) { return in_range(range, types[0]); };
  if (!step.content_types.empty() && std::ranges::none_of(step.content_types, fits))
    return refuse(Reason::unsupported_content,
                  fmt::format("a body must be {}", fmt::join(step.content_types, " or ")));
  if (step.schema && step.content_types.empty() && !is_json(types[0]))
    return refuse(Reason::unsupported_content, "a body must be application/json");
  return {};
}

/// How the body is read, by the fields that the sandbox sent.
Result<void> RequestTreatment::begin_body(const RequestHead& head, const FieldList& fields) {
  bool detects = false, checks = false;
  for (const policy::RequestStep& step : transform_.request) {
    const auto* wanted = std::get_if<policy::Require>(&step);
    detects = detects || std::holds_alternative<policy::Redact>(step) ||
              std::holds_alternative<policy::Block>(step);
    checks = checks || (wanted && wanted->schema);
  }
  const bool upgrades = head.framing == BodyFraming::none && !head.upgrade.empty() &&
                        !wire::has_token(head.upgrade, "h2c");  // which is not passed on
  if ((detects || checks) && upgrades)
    return refuse(Reason::unsupported_content,
                  "what passes on a connection that changes its protocol cannot be looked into");
  if (!has_body(head)) return {};
  bool text = true, form = false;
  std::size_t types = 0;
  // Of several, an origin may follow any.
  each_value(fields, "content-type", [&](std::string_view value) {
    text = (types++ != 0 && text) || transform::is_text_like(value);
    form = form || is_form(media_type(value));
  });
  detects = detects && text;
  for (const policy::RequestStep& step : transform_.request) {
    const auto* redacted = std::get_if<policy::Redact>(&step);
    const auto* stopped = std::get_if<policy::Block>(&step);
    const auto* wanted = std::get_if<policy::Require>(&step);
    const policy::Detectors* detectors = redacted  ? &redacted->detectors
                                         : stopped ? &stopped->detectors
                                                   : nullptr;
    if (detects && detectors && form)
      stages_.push_back(std::make_unique<FormStage>(*detectors, stopped != nullptr));
    else if (detects && redacted)
      stages_.push_back(std::make_unique<RedactStage>(*detectors));
    else if (detects && stopped)
      stages_.push_back(std::make_unique<BlockStage>(*detectors));
    else if (wanted && wanted->schema)
      stages_.push_back(std::make_unique<SchemaStage>(*wanted));
    changes_length_ = changes_length_ || (detects && redacted);
  }
  needs_whole_ = checks || (detects && form);
  reads_body_ = !stages_.empty() || body_bytes_max_ != ~std::uint64_t{0};
  if (!reads_body_) return {};
  const auto coding = transform::read_content_encoding(fields);
  if (!coding) return refuse(Reason::unsupported_content, "the body's content coding cannot be looked into");
  if (*coding == transform::Coding::identity) return {};
  decoder_.emplace(*coding, Side::sandbox);
  changes_length_ = true;
  return {};
}

void RequestTreatment::feed(std::string_view piece, bool last) {
  sent_bytes_ += piece.size();
  if (decoder_) decoder_->feed(piece, last);
  piece_ = piece;
  fed_ = true;
  last_ = last;
}

bool RequestTreatment::body_changed() const {
  return std::ranges::any_of(stages_, [](const auto& stage) { return stage->changed(); });
}

Result<BodyPiece> RequestTreatment::pull() {
  if (sent_bytes_ > body_bytes_max_) return too_large(body_bytes_max_);
  while (!finished_) {
    std::string_view text;
    if (decoder_) {
      auto plain = decoder_->pull();
      if (!plain) return std::unexpected(std::move(plain.error()));
      if (plain->empty() && !last_) return BodyPiece{};
      text = *plain;
      finished_ = text.empty();
    } else {
      if (!std::exchange(fed_, false)) return BodyPiece{};
      text = piece_;
      finished_ = last_;
    }
    plain_bytes_ += text.size();
    if (plain_bytes_ > body_bytes_max_) return too_large(body_bytes_max_);
    for (const auto& stage : stages_) {
      auto passed = stage->pass(text, finished_);
      if (!passed) return std::unexpected(std::move(passed.error()));
      text = *passed;
    }
    if (forbids_changes_ && body_changed()) return would_change();
    if (!text.empty() || finished_) return BodyPiece{text, finished_, false};
  }
  return BodyPiece{};
}

std::size_t RequestTreatment::held_bytes() const {
  std::size_t held = 0;
  for (const auto& stage : stages_) held += stage->held_bytes();
  return held;
}

void RequestTreatment::filter_trailers(FieldList& trailers) const {
  std::erase_if(trailers, [this](const HeaderField& field) {
    return std::ranges::any_of(transform_.request, [&](const policy::RequestStep& step) {
      if (const auto* set = std::get_if<policy::SetHeader>(&step))
        return wire::same_name(field.name, set->name);
      if (const auto* taken = std::get_if<policy::RemoveHeader>(&step))
        return wire::same_name(field.name, taken->name);
      const auto* redacted = std::get_if<policy::Redact>(&step);
      const auto* stopped = std::get_if<policy::Block>(&step);
      if (!redacted && !stopped) return false;
      transform::Finder finder((redacted ? redacted->detectors : stopped->detectors).set);
      return finder.whole(field.value).has_value();
    });
  });
}

std::vector<audit::Redaction> RequestTreatment::redactions() const {
  auto out = field_redactions_;
  for (const audit::Redaction& of_query : query_redactions_) add(out, of_query);
  for (const auto& stage : stages_) stage->add_redactions(out);
  return out;
}

}  // namespace postern::proxy
