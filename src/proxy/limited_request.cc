#include "proxy/limited_request.h"

#include <algorithm>
#include <memory>
#include <utility>

#include "wire/http1.h"

namespace postern::proxy {

namespace {

// English has some four letters for a token, and other bytes have no fewer.
constexpr std::uint64_t bytes_per_token = 4;

}  // namespace

void TokenMeter::begin(const ResponseHead& head) {
  is_error_ = head.status >= 400;
  const auto coding = transform::read_content_encoding(head.fields);
  // Without a decoder for it nothing is found in what is fed.
  if (coding && *coding != transform::Coding::identity) decoder_.emplace(*coding, Side::origin);
}

void TokenMeter::feed(std::string_view piece, bool last) {
  coded_bytes_ += piece.size();
  if (!decoder_) {
    plain_bytes_ += piece.size();
    usage_.feed(piece);
    return;
  }
  decoder_->feed(piece, last);
  while (true) {
    const auto plain = decoder_->pull();
    if (!plain) return decoder_.reset();  // What follows is taken as it is: as so many bytes.
    if (plain->empty()) return;
    usage_.feed(*plain);
    plain_bytes_ += plain->size();
  }
}

std::uint64_t TokenMeter::tokens(std::uint64_t request_bytes) const {
  if (const auto reported = usage_.tokens()) return *reported;
  if (is_error_) return 0;
  const std::uint64_t bytes = request_bytes + std::max(coded_bytes_, plain_bytes_);
  return (bytes + bytes_per_token - 1) / bytes_per_token;
}

std::expected<std::unique_ptr<LimitedRequest>, quota::Refused> LimitedRequest::admit(
    const quota::Gates& gates, std::uint32_t rule, std::uint32_t other_rule, const RequestHead& head,
    std::uint64_t was_read, const Clock& clock) {
  const std::uint64_t announced = head.framing == BodyFraming::length ? head.content_length : 0;
  auto ticket = gates.admit(rule, other_rule, std::max(announced, was_read), clock);
  if (!ticket) return std::unexpected(ticket.error());
  if (!*ticket) return nullptr;
  auto limited = std::make_unique<LimitedRequest>(std::move(*ticket));
  (void)limited->pass_request(was_read);  // As it was announced.
  return limited;
}

LimitedRequest::LimitedRequest(quota::Ticket ticket) : ticket_(std::move(ticket)) {
  if (ticket_.limits_tokens()) meter_.emplace();
}

std::expected<void, quota::Refused> LimitedRequest::pass_request(std::size_t bytes) {
  if (auto passed = ticket_.pass(bytes); !passed) return passed;
  if (tunnel_) return pass_tunnel(bytes);
  request_bytes_ += bytes;
  return {};
}

void LimitedRequest::ask_for_readable(FieldList& fields) {
  if (!meter_) return;
  accept_encoding_.clear();  // Of another attempt.
  // Two such fields are one list (RFC 9110 §5.3).
  for (const HeaderField& field : fields)
    if (wire::same_name(field.name, "accept-encoding")) {
      if (!accept_encoding_.empty()) accept_encoding_ += ", ";
      accept_encoding_ += field.value;
    }
  if (accept_encoding_.empty()) return;
  accept_encoding_ = transform::filter_accept_encoding(accept_encoding_);
  std::erase_if(fields,
                [](const HeaderField& field) { return wire::same_name(field.name, "accept-encoding"); });
  fields.push_back({"Accept-Encoding", accept_encoding_});
}

void LimitedRequest::begin_answer(const ResponseHead& head) {
  if (meter_) meter_->begin(head);
}

void LimitedRequest::pass_answer(std::string_view piece, bool last) {
  if (meter_) meter_->feed(piece, last);
  if (last) settle();
}

std::expected<void, quota::Refused> LimitedRequest::pass_tunnel(std::size_t bytes) {
  if (!meter_) return {};
  tunnel_bytes_ += bytes;
  ticket_.spend(std::exchange(tunnel_bytes_, tunnel_bytes_ % bytes_per_token) / bytes_per_token);
  return ticket_.tokens_left();
}

void LimitedRequest::settle() {
  if (std::exchange(settled_, true)) return;
  if (meter_ && sent_ && !tunnel_) ticket_.spend(meter_->tokens(request_bytes_));
  ticket_.leave();
}

}  // namespace postern::proxy
