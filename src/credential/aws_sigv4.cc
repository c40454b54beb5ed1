#include "credential/aws_sigv4.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <fmt/format.h>
#include <string.h>

#include "credential/wiped_string.h"
#include "wire/http1.h"
#include "wire/target.h"

namespace postern::credential {

namespace {

constexpr std::string_view sigv4_algorithm = "AWS4-HMAC-SHA256";
constexpr std::string_view scope_end = "aws4_request";
constexpr std::size_t date_digits = 8;       // 20130524
constexpr std::size_t amz_date_length = 16;  // 20130524T000000Z

constexpr std::string_view date_name = "x-amz-date";
constexpr std::string_view hash_name = "x-amz-content-sha256";
constexpr std::string_view token_name = "x-amz-security-token";

std::unexpected<Error> refuse(std::string detail) {
  return fail(Reason::unsignable_request, std::move(detail), Side::sandbox);
}

bool is_digit(char c) { return c >= '0' && c <= '9'; }
bool is_lower_hex(char c) { return is_digit(c) || (c >= 'a' && c <= 'f'); }
bool is_hash(std::string_view text) { return text.size() == 64 && std::ranges::all_of(text, is_lower_hex); }

/// "20130524T000000Z"
bool is_amz_date(std::string_view text) {
  return text.size() == amz_date_length && text[date_digits] == 'T' && text.back() == 'Z' &&
         std::ranges::all_of(text.substr(0, date_digits), is_digit) &&
         std::ranges::all_of(text.substr(date_digits + 1, 6), is_digit);
}

std::string amz_date(WallTime time) {
  const auto day = std::chrono::floor<std::chrono::days>(time);
  const std::chrono::year_month_day date(day);
  const std::chrono::hh_mm_ss clock(std::chrono::floor<std::chrono::seconds>(time - day));
  return fmt::format("{:04}{:02}{:02}T{:02}{:02}{:02}Z", static_cast<int>(date.year()),
                     static_cast<unsigned>(date.month()), static_cast<unsigned>(date.day()),
                     clock.hours().count(), clock.minutes().count(), clock.seconds().count());
}

/// The one field of that name. Errors: there are several.
Result<std::optional<std::string_view>> single(std::span<const HeaderField> fields, std::string_view name) {
  std::optional<std::string_view> found;
  for (const HeaderField& field : fields) {
    if (!wire::same_name(field.name, name)) continue;
    if (found) return refuse(fmt::format("the request has several {} fields", name));
    found = aws_trimmed(field.value);
  }
  return found;
}

/// The next of a list, which is shortened by it.
std::string_view take_until(std::string_view& rest, char separator) {
  const std::string_view part = rest.substr(0, rest.find(separator));
  rest.remove_prefix(std::min(part.size() + 1, rest.size()));
  return part;
}

/// AKID/20130524/us-east-1/s3/aws4_request into the intent.
Result<void> read_credential(std::string_view credential, AwsIntent& intent) {
  std::string_view rest = credential;
  intent.access_key_id = take_until(rest, '/');
  const std::string_view date = take_until(rest, '/');
  intent.region = take_until(rest, '/');
  intent.service = take_until(rest, '/');
  if (intent.access_key_id.empty() || date.size() != date_digits || !std::ranges::all_of(date, is_digit) ||
      intent.region.empty() || intent.service.empty() || rest != scope_end)
    return refuse("the AWS signature's Credential is not KEY/DATE/REGION/SERVICE/aws4_request");
  return {};
}

/// `Credential=..., SignedHeaders=..., Signature=...` in any order, each once.
Result<void> read_authorization(std::string_view parameters, AwsIntent& intent) {
  std::string_view credential, signed_headers, signature;
  while (!parameters.empty()) {
    const std::string_view parameter = aws_trimmed(take_until(parameters, ','));
    std::string_view value = parameter;
    const std::string_view name = take_until(value, '=');
    std::string_view* const place = name == "Credential"      ? &credential
                                    : name == "SignedHeaders" ? &signed_headers
                                    : name == "Signature"     ? &signature
                                                              : nullptr;
    if (place == nullptr || !place->empty() || value.empty())
      return refuse("the AWS signature in Authorization cannot be read");
    *place = value;
  }
  if (credential.empty() || signed_headers.empty() || signature.empty())
    return refuse("the AWS signature in Authorization lacks a Credential, SignedHeaders or Signature");
  intent.form = AwsIntent::Form::header;
  intent.signed_headers = signed_headers;
  return read_credential(credential, intent);
}

/// The parameters of a pre-signed URL, as the client wrote them.
struct Presigned {
  std::optional<std::string> algorithm, credential, date, signed_headers, hash;
  bool has_signature = false;
  bool old_signature = false;  ///< SigV2
  std::optional<std::string> old_key;
};

/// What a parameter of that name is to us.
enum class QueryPart : std::uint8_t {
  other,
  algorithm,
  credential,
  date,
  signed_headers,
  hash,
  token,
  signature,
  old_key,
  old_signature
};

QueryPart part_of(std::string_view raw_name) {
  // The usual case first: few parameters are AWS's, and those are seldom escaped.
  const std::string name = uri_decoded(raw_name);
  constexpr std::pair<std::string_view, QueryPart> parts[] = {
      {"X-Amz-Algorithm", QueryPart::algorithm}, {"X-Amz-Credential", QueryPart::credential},
      {"X-Amz-Date", QueryPart::date},           {"X-Amz-SignedHeaders", QueryPart::signed_headers},
      {"X-Amz-Content-Sha256", QueryPart::hash}, {"X-Amz-Security-Token", QueryPart::token},
      {"X-Amz-Signature", QueryPart::signature},
  };
  for (const auto& [known, part] : parts)
    if (wire::same_name(name, known)) return part;
  if (name == "AWSAccessKeyId") return QueryPart::old_key;
  if (name == "Signature") return QueryPart::old_signature;
  return QueryPart::other;
}

Result<Presigned> read_presigned(std::string_view query) {
  Presigned read;
  while (!query.empty()) {
    std::string_view value = take_until(query, '&');
    const QueryPart part = part_of(take_until(value, '='));
    std::optional<std::string>* place = nullptr;
    switch (part) {
      case QueryPart::algorithm: place = &read.algorithm; break;
      case QueryPart::credential: place = &read.credential; break;
      case QueryPart::date: place = &read.date; break;
      case QueryPart::signed_headers: place = &read.signed_headers; break;
      case QueryPart::hash: place = &read.hash; break;
      case QueryPart::old_key: place = &read.old_key; break;
      case QueryPart::signature:
        if (read.has_signature) return refuse("the pre-signed URL has several signatures");
        read.has_signature = true;
        continue;
      case QueryPart::old_signature: read.old_signature = true; continue;
      case QueryPart::token:
      case QueryPart::other: continue;
    }
    if (*place) return refuse("the pre-signed URL has a parameter of its signature twice");
    *place = uri_decoded(value);
  }
  return read;
}

/// How much the chunks of a body carry. S3 insists on it; the others are left to say so themselves.
Result<void> read_decoded_length(std::span<const HeaderField> fields, AwsIntent& intent) {
  const auto said = single(fields, "x-amz-decoded-content-length");
  if (!said) return std::unexpected(said.error());
  if (!*said) return {};
  std::uint64_t length = 0;
  const std::string_view digits = **said;
  const char* const end = digits.data() + digits.size();
  const auto read = std::from_chars(digits.data(), end, length);
  if (read.ec != std::errc() || read.ptr != end) return refuse("x-amz-decoded-content-length is no number");
  intent.decoded_length = length;
  return {};
}

/// Fills in what x-amz-content-sha256 says. Absent: std::nullopt.
Result<void> read_payload(std::optional<std::string_view> said, const RequestToSign& request,
                          AwsIntent& intent) {
  intent.payload_said = said.has_value();
  if (!said) {
    // S3 takes an unsigned body over TLS, and there is no other way here; the rest want a hash.
    if (is_s3_family(intent.service)) {
      intent.payload_hash = "UNSIGNED-PAYLOAD";
    } else if (request.has_body) {
      intent.payload = AwsPayload::to_be_hashed;
    } else {
      intent.payload_hash = sha256_of_nothing;
    }
    return {};
  }
  intent.payload_hash = *said;
  if (is_hash(*said) || *said == "UNSIGNED-PAYLOAD") return {};
  constexpr std::pair<std::string_view, AwsChunkForm> forms[] = {
      {"STREAMING-AWS4-HMAC-SHA256-PAYLOAD", AwsChunkForm::signed_chunks},
      {"STREAMING-AWS4-HMAC-SHA256-PAYLOAD-TRAILER", AwsChunkForm::signed_chunks_with_trailer},
      {"STREAMING-UNSIGNED-PAYLOAD-TRAILER", AwsChunkForm::unsigned_chunks_with_trailer},
  };
  for (const auto& [name, form] : forms) {
    if (*said != name) continue;
    intent.payload = AwsPayload::chunks;
    intent.chunk_form = form;
    return read_decoded_length(request.fields, intent);
  }
  if (said->starts_with("STREAMING-AWS4-ECDSA-"))
    return refuse(
        "SigV4A (STREAMING-AWS4-ECDSA) cannot be signed here: let the client use SigV4 and one region");
  if (*said == "STREAMING-AWS4-HMAC-SHA256-EVENTS")
    return refuse("signed event streams (STREAMING-AWS4-HMAC-SHA256-EVENTS) cannot be signed here");
  return refuse(
      "x-amz-content-sha256 is neither a SHA-256 in lower-case hexadecimal nor a way of sending that is "
      "known");
}

Result<void> resolve_scope(const AwsEndpoint& endpoint, AwsIntent& intent) {
  const auto scope = aws_scope(endpoint, {intent.region, intent.service});
  if (!scope) return std::unexpected(scope.error());
  // Not by assignment of a view into itself.
  const std::string region(scope->region), service(scope->service);
  intent.region = region;
  intent.service = service;
  intent.path_rule = is_s3_family(intent.service) ? AwsPathRule::s3 : AwsPathRule::normalised;
  return {};
}

bool is_sigv4a(std::string_view text) { return text.starts_with("AWS4-ECDSA-P256-SHA256"); }

constexpr std::string_view no_sigv4a =
    "SigV4A (AWS4-ECDSA-P256-SHA256) cannot be signed here: let the client use SigV4 and one region";

bool is_amz(std::string_view name) { return name.size() > 6 && wire::same_name(name.substr(0, 6), "x-amz-"); }

void wipe(std::string& text) {
  explicit_bzero(text.data(), text.size());
  text.clear();
}

}  // namespace

bool is_aws_key_id(std::string_view text) {
  return !text.empty() && text.size() <= 128 && std::ranges::all_of(text, [](char c) {
    return (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '_' || c == '-';
  });
}

/// When, and for what.
struct AwsSigner::Stamp {
  std::string amz_date;
  std::string scope;  ///< 20130524/us-east-1/s3/aws4_request
  std::shared_ptr<HmacSha256> key;
};

AwsSigner::AwsSigner(std::shared_ptr<const AwsCredentials> credentials, std::string placeholder_key_id)
    : credentials_(std::move(credentials)), placeholder_key_id_(std::move(placeholder_key_id)) {}

void AwsSigner::set_credentials(std::shared_ptr<const AwsCredentials> credentials) {
  if (credentials_ == credentials) return;
  credentials_ = std::move(credentials);
  keys_.clear();
}

bool AwsSigner::drops(std::string_view field_name) {
  return wire::same_name(field_name, "authorization") || wire::same_name(field_name, date_name) ||
         wire::same_name(field_name, token_name);
}

Result<AwsIntent> AwsSigner::read(const RequestToSign& request, const AwsEndpoint& endpoint) const {
  AwsIntent intent;
  const auto authorization = single(request.fields, "authorization");
  if (!authorization) return std::unexpected(authorization.error());
  const auto hash = single(request.fields, hash_name);
  if (!hash) return std::unexpected(hash.error());
  const auto query = read_presigned(wire::query_of(request.target));
  if (!query) return std::unexpected(query.error());

  if (query->has_signature || (query->old_signature && query->old_key)) {
    const bool old = !query->has_signature;
    // Empty where it is not said, which is nobody's key.
    const std::string credential = (old ? query->old_key : query->credential).value_or(std::string());
    if (*authorization)
      return refuse(
          "the request is signed in its URL and has an Authorization field too: AWS takes one of them");
    intent.access_key_id = credential.substr(0, credential.find('/'));
    if (intent.access_key_id != placeholder_key_id_) {
      intent.form = AwsIntent::Form::foreign;
      return intent;
    }
    if (old) return refuse("AWS Signature Version 2 cannot be signed here: let the client use version 4");
    if (!query->algorithm || *query->algorithm != sigv4_algorithm) {
      return refuse(query->algorithm && is_sigv4a(*query->algorithm)
                        ? std::string(no_sigv4a)
                        : "the pre-signed URL's X-Amz-Algorithm is not AWS4-HMAC-SHA256");
    }
    if (!query->date || !is_amz_date(*query->date) || !query->signed_headers)
      return refuse(
          "the pre-signed URL lacks X-Amz-Date or X-Amz-SignedHeaders, or has them in another form");
    intent.form = AwsIntent::Form::query;
    intent.amz_date = *query->date;
    intent.signed_headers = *query->signed_headers;
    if (auto credential_read = read_credential(credential, intent); !credential_read)
      return std::unexpected(credential_read.error());
  } else if (*authorization && is_sigv4a(**authorization)) {
    return refuse(std::string(no_sigv4a));
  } else if (*authorization && (*authorization)->starts_with(sigv4_algorithm)) {
    std::string_view parameters = (*authorization)->substr(sigv4_algorithm.size());
    if (!parameters.starts_with(' ')) return refuse("the AWS signature in Authorization cannot be read");
    if (auto read = read_authorization(parameters, intent); !read) return std::unexpected(read.error());
    // A session of S3 Express has a key of its own, which S3 gave out for some minutes.
    const auto session = single(request.fields, "x-amz-s3session-token");
    if (!session) return std::unexpected(session.error());
    if (*session && intent.access_key_id != placeholder_key_id_) {
      intent.form = AwsIntent::Form::foreign;
      return intent;
    }
  }
  if (std::ranges::count(intent.signed_headers, ';') >= static_cast<std::ptrdiff_t>(aws_signed_headers_max))
    return refuse(fmt::format("the AWS signature covers more than {} headers", aws_signed_headers_max));

  if (auto resolved = resolve_scope(endpoint, intent); !resolved) return std::unexpected(resolved.error());
  std::optional<std::string_view> said = *hash;
  if (intent.form == AwsIntent::Form::query && query->hash) said = *query->hash;
  if (auto payload = read_payload(said, request, intent); !payload) return std::unexpected(payload.error());
  if (intent.form == AwsIntent::Form::query && intent.payload == AwsPayload::chunks)
    return refuse("a body in AWS chunks cannot be signed in a URL");
  return intent;
}

Result<Signature> AwsSigner::sign(const RequestToSign& request, const AwsIntent& intent,
                                  std::string_view body_hash, WallTime now) {
  const std::string_view payload =
      intent.payload == AwsPayload::to_be_hashed ? body_hash : intent.payload_hash;
  if (intent.payload == AwsPayload::to_be_hashed && !is_hash(body_hash))
    return fail(Reason::internal, "the body of a request to AWS was not hashed");
  split_listed(intent);
  fields_.clear();
  auto made = intent.form == AwsIntent::Form::query ? sign_query(request, intent, payload, now)
                                                    : sign_head(request, intent, payload, now);
  wipe(canonical_);  // it had the session token
  return made;
}

/// HMAC over date, region, service and "aws4_request" in turn. Kept, since it holds for a day.
std::shared_ptr<HmacSha256> AwsSigner::key_for(std::string_view date, const AwsIntent& intent) {
  ++uses_;
  for (CachedKey& cached : keys_) {
    if (cached.date != date || cached.region != intent.region || cached.service != intent.service) continue;
    cached.used = uses_;
    return cached.key;
  }
  const std::string_view secret = credentials_->secret_access_key.unwrap();
  WipedString first(secret.size() + 4);
  first.bytes().append("AWS4").append(secret);
  Digest key = HmacSha256(first.view()).sign(date);
  const auto derive = [&key](std::string_view part) {
    return HmacSha256({reinterpret_cast<const char*>(key.data()), key.size()}).sign(part);
  };
  key = derive(intent.region);
  key = derive(intent.service);
  key = derive(scope_end);
  auto made =
      std::make_shared<HmacSha256>(std::string_view(reinterpret_cast<const char*>(key.data()), key.size()));
  explicit_bzero(key.data(), key.size());

  CachedKey entry{std::string(date), intent.region, intent.service, made, uses_};
  if (keys_.size() < aws_signing_keys_max) {
    keys_.push_back(std::move(entry));
  } else {
    *std::ranges::min_element(keys_, {}, &CachedKey::used) = std::move(entry);
  }
  return made;
}

void AwsSigner::split_listed(const AwsIntent& intent) {
  listed_.clear();
  for (std::string_view rest = intent.signed_headers; !rest.empty();)
    listed_.push_back(take_until(rest, ';'));
}

bool AwsSigner::is_listed(std::string_view name) const {
  return std::ranges::any_of(listed_, [name](std::string_view one) { return wire::same_name(one, name); });
}

void AwsSigner::begin_canonical(const RequestToSign& request, const AwsIntent& intent) {
  canonical_.clear();
  canonical_.reserve(2048);
  canonical_.append(request.method).append(1, '\n');
  append_canonical_path(wire::path_of(request.target), intent.path_rule, canonical_);
  canonical_ += '\n';
}

/// Behind the query: the fields that were gathered, their names, and what stands for the body.
void AwsSigner::end_canonical(std::string_view payload) {
  canonical_ += '\n';
  append_canonical_fields(fields_, canonical_);
  names_.clear();
  append_field_names(fields_, names_);
  canonical_.append(1, '\n').append(names_).append(1, '\n').append(payload);
}

std::string AwsSigner::sign_canonical(const Stamp& stamp) {
  message_.assign(sigv4_algorithm).append(1, '\n').append(stamp.amz_date).append(1, '\n');
  message_.append(stamp.scope).append(1, '\n');
  append_hex(hash_.update(canonical_).finish(), message_);
  return hex(stamp.key->sign(message_));
}

Result<Signature> AwsSigner::sign_head(const RequestToSign& request, const AwsIntent& intent,
                                       std::string_view payload, WallTime now) {
  Stamp stamp;
  stamp.amz_date = amz_date(now);
  stamp.scope = fmt::format("{}/{}/{}/{}", std::string_view(stamp.amz_date).substr(0, date_digits),
                            intent.region, intent.service, scope_end);
  stamp.key = key_for(std::string_view(stamp.amz_date).substr(0, date_digits), intent);
  const std::string_view token = credentials_->session_token.unwrap();
  const bool adds_hash = !intent.payload_said && is_s3_family(intent.service);
  const bool listed_nothing = listed_.empty();
  const std::string length = request.content_length ? std::to_string(*request.content_length) : std::string();

  // All that AWS insists on (its own fields), and what the client cared to sign, as far as it goes out.
  fields_.push_back({"host", request.authority});
  fields_.push_back({date_name, stamp.amz_date});
  if (!token.empty()) fields_.push_back({token_name, token});
  if (adds_hash) fields_.push_back({hash_name, payload});
  if (request.content_length && is_listed("content-length")) fields_.push_back({"content-length", length});
  for (const HeaderField& field : request.fields) {
    if (drops(field.name) || wire::same_name(field.name, "host") ||
        wire::same_name(field.name, "content-length"))
      continue;
    if (is_amz(field.name) || (listed_nothing && wire::same_name(field.name, "content-type")) ||
        is_listed(field.name))
      fields_.push_back(field);
  }

  begin_canonical(request, intent);
  append_canonical_query(wire::query_of(request.target), canonical_);
  end_canonical(payload);
  const std::string signature = sign_canonical(stamp);

  Signature made;
  made.headers.reserve(4);
  const auto add = [&made](std::string_view name, std::string_view value) -> Result<void> {
    auto header = make_header(name, "aws", value);
    if (!header) return fail(Reason::credential_unavailable, std::move(header.error()));
    made.headers.push_back(std::move(*header));
    return {};
  };
  WipedString line(sigv4_algorithm.size() + credentials_->access_key_id.size() + stamp.scope.size() +
                   names_.size() + signature.size() + 64);
  line.bytes()
      .append(sigv4_algorithm)
      .append(" Credential=")
      .append(credentials_->access_key_id)
      .append(1, '/');
  line.bytes()
      .append(stamp.scope)
      .append(", SignedHeaders=")
      .append(names_)
      .append(", Signature=")
      .append(signature);
  if (auto added = add("Authorization", line.view()); !added) return std::unexpected(added.error());
  if (auto added = add("X-Amz-Date", stamp.amz_date); !added) return std::unexpected(added.error());
  if (!token.empty()) {
    if (auto added = add("X-Amz-Security-Token", token); !added) return std::unexpected(added.error());
  }
  if (adds_hash) {
    if (auto added = add("X-Amz-Content-Sha256", payload); !added) return std::unexpected(added.error());
  }
  if (intent.payload == AwsPayload::chunks)
    made.body = std::make_unique<AwsChunkResigner>(
        intent.chunk_form,
        AwsChunkSeed{stamp.key, stamp.amz_date, stamp.scope, signature, intent.decoded_length});
  made.place = "Authorization";
  return made;
}

Result<Signature> AwsSigner::sign_query(const RequestToSign& request, const AwsIntent& intent,
                                        std::string_view payload, WallTime now) {
  // The client's date decides when the URL expires; one of tomorrow would be a signature to keep.
  if (intent.amz_date > amz_date(now + aws_clock_skew_max))
    return refuse("the pre-signed URL is dated in the future");
  Stamp stamp;
  stamp.amz_date = intent.amz_date;
  const std::string_view date = std::string_view(stamp.amz_date).substr(0, date_digits);
  stamp.scope = fmt::format("{}/{}/{}/{}", date, intent.region, intent.service, scope_end);
  stamp.key = key_for(date, intent);
  const std::string length = request.content_length ? std::to_string(*request.content_length) : std::string();

  for (const std::string_view name : listed_) {
    const std::size_t before = fields_.size();
    if (wire::same_name(name, "host")) {
      fields_.push_back({"host", request.authority});
    } else if (wire::same_name(name, "content-length")) {
      if (request.content_length) fields_.push_back({"content-length", length});
    } else if (!drops(name)) {
      for (const HeaderField& field : request.fields)
        if (wire::same_name(field.name, name)) fields_.push_back(field);
    }
    if (fields_.size() == before)
      return refuse(fmt::format("the pre-signed URL signs the header {}, which the request does not have",
                                name.substr(0, 64)));
  }

  std::string credential;
  append_uri_encoded(fmt::format("{}/{}", credentials_->access_key_id, stamp.scope), credential);
  WipedString token(3 * credentials_->session_token.unwrap().size());
  append_uri_encoded(credentials_->session_token.unwrap(), token.bytes());

  // The client's parameters in their order, and ours in the place of its own.
  constexpr std::string_view signature_name = "&X-Amz-Signature=";
  WipedString target(request.target.size() + credential.size() + token.view().size() + 256);
  std::string& text = target.bytes();
  text.append(wire::path_of(request.target)).append("?X-Amz-Credential=").append(credential);
  if (!token.view().empty()) text.append("&X-Amz-Security-Token=").append(token.view());
  for (std::string_view rest = wire::query_of(request.target); !rest.empty();) {
    const std::string_view parameter = take_until(rest, '&');
    const QueryPart part = part_of(parameter.substr(0, parameter.find('=')));
    if (parameter.empty() || part == QueryPart::credential || part == QueryPart::token ||
        part == QueryPart::signature)
      continue;
    text.append(1, '&').append(parameter);
  }

  begin_canonical(request, intent);
  append_canonical_query(wire::query_of(text), canonical_);
  end_canonical(payload);
  text.append(signature_name).append(sign_canonical(stamp));

  Signature made;
  made.set_target(text);
  made.place = "X-Amz-Signature";
  return made;
}

}  // namespace postern::credential
