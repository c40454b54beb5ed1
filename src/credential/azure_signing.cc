#include "credential/azure_signing.h"

#include <algorithm>
#include <array>
#include <fmt/format.h>
#include <vector>

#include "credential/aws_canonical.h"
#include "credential/base64.h"
#include "credential/digest.h"
#include "credential/field_order.h"
#include "credential/wiped_string.h"
#include "wire/http1.h"
#include "wire/target.h"

namespace postern::credential {

namespace {

constexpr std::string_view date_name = "x-ms-date";

std::unexpected<Error> refuse(std::string detail) {
  return fail(Reason::unsignable_request, std::move(detail), Side::sandbox);
}

bool is_authorization(std::string_view name) { return wire::same_name(name, "authorization"); }

bool is_ms(std::string_view name) { return name.size() > 5 && wire::same_name(name.substr(0, 5), "x-ms-"); }

/// RFC 9110 §5.6.7: "Fri, 26 Jun 2015 23:39:12 GMT".
std::string http_date(WallTime time) {
  constexpr std::array days{"Sun", "Mon", "Tue", "Wed", "Thu", "Fri", "Sat"};
  constexpr std::array months{"Jan", "Feb", "Mar", "Apr", "May", "Jun",
                              "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"};
  const auto day = std::chrono::floor<std::chrono::days>(time);
  const std::chrono::year_month_day date(day);
  const std::chrono::hh_mm_ss clock(std::chrono::floor<std::chrono::seconds>(time - day));
  return fmt::format("{}, {:02} {} {:04} {:02}:{:02}:{:02} GMT", days[std::chrono::weekday(day).c_encoding()],
                     static_cast<unsigned>(date.day()), months[static_cast<unsigned>(date.month()) - 1],
                     static_cast<int>(date.year()), clock.hours().count(), clock.minutes().count(),
                     clock.seconds().count());
}

struct Parameter {
  std::string name;  ///< Lower case, decoded.
  std::string value;
  auto operator<=>(const Parameter&) const = default;
};

std::vector<Parameter> parameters_of(std::string_view target) {
  std::vector<Parameter> out;
  std::string_view query = wire::query_of(target);
  while (!query.empty()) {
    const std::string_view part = query.substr(0, query.find('&'));
    query.remove_prefix(std::min(part.size() + 1, query.size()));
    if (part.empty()) continue;
    const std::size_t equals = std::min(part.find('='), part.size());
    out.push_back({wire::lower(uri_decoded(part.substr(0, equals))),
                   uri_decoded(part.substr(std::min(equals + 1, part.size())))});
  }
  std::ranges::sort(out);
  return out;
}

/// Signed already, by a SAS of somebody's: one way of proving is enough.
bool has_sas(const RequestToSign& request) {
  return std::ranges::any_of(parameters_of(request.target),
                             [](const Parameter& one) { return one.name == "sig"; });
}

/// "/account/path", and each parameter in a line of its own, the values of one name joined.
void append_resource(std::string_view account, const RequestToSign& request, std::string& out) {
  out.append(1, '/').append(account).append(wire::path_of(request.target));
  const auto parameters = parameters_of(request.target);
  for (std::size_t i = 0; i < parameters.size(); ++i) {
    if (i > 0 && parameters[i].name == parameters[i - 1].name)
      out.append(1, ',').append(parameters[i].value);
    else
      out.append(1, '\n').append(parameters[i].name).append(1, ':').append(parameters[i].value);
  }
}

/// The Table service has a shorter form: of the parameters only `comp`.
void append_table_resource(std::string_view account, const RequestToSign& request, std::string& out) {
  out.append(1, '/').append(account).append(wire::path_of(request.target));
  for (const Parameter& parameter : parameters_of(request.target))
    if (parameter.name == "comp") out.append("?comp=").append(parameter.value);
}

class SharedKeySigner final : public Signer {
 public:
  SharedKeySigner(std::string account, std::string_view key) : account_(std::move(account)), key_(key) {}

  Result<std::unique_ptr<RequestSigner>> read(const RequestToSign& request) override {
    if (has_sas(request)) return nullptr;
    return std::make_unique<Request>(*this);
  }

 private:
  struct Request final : RequestSigner {
    explicit Request(SharedKeySigner& signer_in) : signer(signer_in) {}
    bool drops(std::string_view name) const override {
      return is_authorization(name) || wire::same_name(name, date_name);
    }
    Result<Signature> sign(const RequestToSign& request, std::string_view, const Grant*,
                           WallTime now) override {
      return signer.sign(request, http_date(now));
    }
    SharedKeySigner& signer;
  };

  Result<Signature> sign(const RequestToSign& request, const std::string& date) {
    const std::string_view below =
        request.host.substr(std::min(request.host.find('.') + 1, request.host.size()));
    auto made = below.starts_with("table.") ? table_text(request, date) : text(request, date);
    if (!made) return std::unexpected(std::move(made.error()));
    const Digest digest = key_.sign(text_);
    WipedString value(account_.size() + 64);
    value.bytes().append("SharedKey ").append(account_).append(1, ':');
    append_base64({reinterpret_cast<const char*>(digest.data()), digest.size()}, value.bytes());
    Signature signature;
    signature.place = "Authorization";
    for (const auto& [name, content] :
         {std::pair<std::string_view, std::string_view>("Authorization", value.view()),
          std::pair<std::string_view, std::string_view>("x-ms-date", date)}) {
      auto header = make_header(name, "azure", content);
      if (!header) return fail(Reason::credential_unavailable, std::move(header.error()));
      signature.headers.push_back(std::move(*header));
    }
    return signature;
  }

  /// Its value, or nothing. Errors: it is there twice, and somebody might take the other one.
  static Result<std::string_view> single(const RequestToSign& request, std::string_view name) {
    std::string_view found;
    std::size_t count = 0;
    for (const HeaderField& field : request.fields)
      if (wire::same_name(field.name, name) && ++count) found = aws_trimmed(field.value);
    if (count > 1) return refuse(fmt::format("the request has several {} fields", name));
    return found;
  }

  /// Blob, Queue, File and Data Lake.
  Result<void> text(const RequestToSign& request, const std::string& date) {
    text_.assign(request.method).append(1, '\n');
    const auto version = single(request, "x-ms-version");
    if (!version) return std::unexpected(version.error());
    // An empty body has no length in this text, since 2015-02-21.
    const bool says_zero = !version->empty() && *version < "2015-02-21";
    constexpr std::string_view names[] = {"content-encoding",
                                          "content-language",
                                          "content-length",
                                          "content-md5",
                                          "content-type",
                                          "date",
                                          "if-modified-since",
                                          "if-match",
                                          "if-none-match",
                                          "if-unmodified-since",
                                          "range"};
    for (const std::string_view name : names) {
      if (name == "content-length") {
        if (request.content_length.value_or(0) > 0 || (request.content_length && says_zero))
          text_ += std::to_string(*request.content_length);
      } else if (name != "date") {  // x-ms-date stands in its place.
        const auto value = single(request, name);
        if (!value) return std::unexpected(value.error());
        text_ += *value;
      }
      text_ += '\n';
    }
    fields_.assign(1, {date_name, date});
    for (const HeaderField& field : request.fields)
      if (is_ms(field.name) && !wire::same_name(field.name, date_name)) fields_.push_back(field);
    append_fields();
    append_resource(account_, request, text_);
    return {};
  }

  /// "name:value\n", sorted, the values of one name joined. White space inside stays, as Azure's own clients
  /// have it (the documentation speaks of folded lines, which do not come here).
  void append_fields() {
    sort_by_name(fields_);
    for (std::size_t i = 0; i < fields_.size(); ++i) {
      if (i > 0 && wire::same_name(fields_[i].name, fields_[i - 1].name))
        text_.back() = ',';  // over the line end
      else
        text_.append(wire::lower(fields_[i].name)).append(1, ':');
      text_.append(aws_trimmed(fields_[i].value)).append(1, '\n');
    }
  }

  Result<void> table_text(const RequestToSign& request, const std::string& date) {
    text_.assign(request.method).append(1, '\n');
    for (const std::string_view name : {"content-md5", "content-type"}) {
      const auto value = single(request, name);
      if (!value) return std::unexpected(value.error());
      text_.append(*value).append(1, '\n');
    }
    text_.append(date).append(1, '\n');
    append_table_resource(account_, request, text_);
    return {};
  }

  const std::string account_;
  HmacSha256 key_;
  std::string text_;
  std::vector<HeaderField> fields_;
};

class SasSigner final : public Signer {
 public:
  explicit SasSigner(std::shared_ptr<const Secret> sas) : sas_(std::move(sas)) {}

  Result<std::unique_ptr<RequestSigner>> read(const RequestToSign& request) override {
    if (has_sas(request)) return nullptr;
    return std::make_unique<Request>(sas_);
  }

 private:
  struct Request final : RequestSigner {
    explicit Request(std::shared_ptr<const Secret> sas_in) : sas(std::move(sas_in)) {}
    bool drops(std::string_view name) const override { return is_authorization(name); }
    Result<Signature> sign(const RequestToSign& request, std::string_view, const Grant*, WallTime) override {
      WipedString target(request.target.size() + sas->unwrap().size() + 1);
      target.bytes() += request.target;
      if (request.target.find('?') == std::string_view::npos)
        target.bytes() += '?';
      else if (!request.target.ends_with('?') && !request.target.ends_with('&'))
        target.bytes() += '&';
      target.bytes() += sas->unwrap();
      Signature signature;
      signature.place = "sig";
      signature.set_target(target.view());
      return signature;
    }
    const std::shared_ptr<const Secret> sas;
  };

  const std::shared_ptr<const Secret> sas_;
};

}  // namespace

AzureSharedKey::AzureSharedKey(std::string account, Secret key)
    : account_(std::move(account)), key_(std::move(key)), label_("azure:" + account_) {}

std::unique_ptr<Signer> AzureSharedKey::make_signer() const {
  return std::make_unique<SharedKeySigner>(account_, key_.unwrap());
}

AzureSas::AzureSas(const std::string& account, Secret sas) : label_("azure:" + account) {
  std::string_view text = sas.unwrap();
  if (text.starts_with('?')) text.remove_prefix(1);
  sas_ = std::make_shared<const Secret>(copy_of(text));
}

bool AzureSas::is_sas(std::string_view text) {
  if (text.starts_with('?')) text.remove_prefix(1);
  const bool plain =
      std::ranges::all_of(text, [](char c) { return c > ' ' && c < 0x7f && c != '#' && c != '?'; });
  return plain && text.size() <= sas_bytes_max &&
         (text.starts_with("sig=") || text.find("&sig=") != text.npos);
}

std::unique_ptr<Signer> AzureSas::make_signer() const { return std::make_unique<SasSigner>(sas_); }

}  // namespace postern::credential
