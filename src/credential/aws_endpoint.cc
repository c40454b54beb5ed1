#include "credential/aws_endpoint.h"

#include <algorithm>
#include <array>
#include <fmt/format.h>

namespace postern::credential {

namespace {

struct Partition {
  std::string_view suffix;
  std::string_view global_region;
};

// The longer one first where one ends in the other.
constexpr Partition partitions[] = {
    {".api.amazonwebservices.com.cn", "cn-northwest-1"},
    {".amazonaws.com.cn", "cn-north-1"},
    {".amazonaws.com", "us-east-1"},
    {".api.aws", "us-east-1"},
    {".on.aws", "us-east-1"},
    {".api.amazonwebservices.eu", "eusc-de-east-1"},
    {".amazonaws.eu", "eusc-de-east-1"},
};

struct SigningName {
  std::string_view host;  ///< The label before the region, with the one before it where that decides.
  std::string_view service;
};

constexpr SigningName signing_names[] = {
    {"a2i-runtime.sagemaker", "sagemaker"},
    {"agreement-marketplace", "aws-marketplace"},
    {"aos", "es"},
    {"api.tunneling.iot", "IoTSecuredTunneling"},
    {"appconfigdata", "appconfig"},
    {"appstream2", "appstream"},
    {"appsync-api", "appsync"},
    {"aps-workspaces", "aps"},
    {"bedrock-agent", "bedrock"},
    {"bedrock-agent-runtime", "bedrock"},
    {"bedrock-agentcore-control", "bedrock-agentcore"},
    {"bedrock-data-automation", "bedrock"},
    {"bedrock-data-automation-runtime", "bedrock"},
    {"bedrock-mantle", "bedrock"},
    {"bedrock-runtime", "bedrock"},
    {"cassandra-streams", "cassandra"},
    {"cloudfront-kvs", "cloudfront-keyvaluestore"},
    {"cloudhsmv2", "cloudhsm"},
    {"contact-lens", "connect"},
    {"data-ats.iot", "iotdata"},
    {"data-signer", "signer"},
    {"data.iot", "iotdata"},
    {"data.iotevents", "ioteventsdata"},
    {"data.jobs.iot", "iot-jobs-data"},
    {"ddb", "dynamodb"},
    {"deployment-marketplace", "aws-marketplace"},
    {"discovery-marketplace", "aws-marketplace"},
    {"email", "ses"},
    {"entitlement-marketplace", "aws-marketplace"},
    {"forecastquery", "forecast"},
    {"identity-chime", "chime"},
    {"importexport", "IngestionService"},
    {"iot-tunneling", "IoTSecuredTunneling"},
    {"ivsrealtime", "ivs"},
    {"lambda-url", "lambda"},
    {"mail-manager", "ses"},
    {"maps.geo", "geo-maps"},
    {"marketplace", "aws-marketplace"},
    {"media-pipelines-chime", "chime"},
    {"meetings-chime", "chime"},
    {"memory-db", "memorydb"},
    {"messaging-chime", "chime"},
    {"metering-marketplace", "aws-marketplace"},
    {"migrationhub-config", "mgh"},
    {"models-v2-lex", "lex"},
    {"oidc", "sso-oauth"},
    {"participant.connect", "execute-api"},
    {"personalize-events", "personalize"},
    {"personalize-runtime", "personalize"},
    {"pinpoint", "mobiletargeting"},
    {"places.geo", "geo-places"},
    {"portal.sso", "awsssoportal"},
    {"queue", "sqs"},
    {"reporting-marketplace", "aws-marketplace"},
    {"routes.geo", "geo-routes"},
    {"runtime-v2-lex", "lex"},
    {"s3-accesspoint", "s3"},
    {"s3-control", "s3"},
    {"servicecatalog-appregistry", "servicecatalog"},
    {"sms-voice.pinpoint", "sms-voice"},
    {"timestream-ingest", "timestream"},
    {"timestream-query", "timestream"},
    {"voice-chime", "chime"},
};

/// Services whose hosts carry more labels in front: a bucket, an account, a part of the service. Others with
/// something in front are somebody's load balancer, broker or registry.
constexpr std::string_view with_sub_hosts[] = {
    "appsync-api",
    "bedrock-agentcore",
    "cloudfront-kvs",
    "connect",
    "ddb",
    "detective",
    "dynamodb",
    "execute-api",
    "geo",
    "iot",
    "iot-tunneling",
    "iotdeviceadvisor",
    "iotevents",
    "iotmanagedintegrations",
    "iotwireless",
    "lambda-url",
    "lex",
    "marketplace",
    "mediaconvert",
    "mediastore",
    "mediatailor",
    "payment-cryptography",
    "pinpoint",
    "pricing",
    "qapps",
    "sagemaker",
    "sso",
    "timestream",
    "transcribe",
    "wickr",
};

/// No SigV4 there: Basic or Bearer tokens, other protocols, or nothing at all.
constexpr std::string_view unsigned_services[] = {
    "cognito-idp-auth", "compute", "compute-1", "efs", "elb", "git-codecommit", "kafka", "mq", "vpce",
};

/// Scopes that only their own hosts may have signed. For the rest the client knows best: AWS adds services
/// and names faster than this table learns them.
constexpr std::string_view guarded[] = {
    "cloudtrail",  "dynamodb",    "ec2",
    "ecr",         "execute-api", "iam",
    "kms",         "lambda",      "organizations",
    "rds",         "s3",          "s3-object-lambda",
    "s3-outposts", "s3express",   "secretsmanager",
    "sns",         "sqs",         "ssm",
    "sso",         "sts",
};

bool is_one_of(std::string_view text, std::span<const std::string_view> list) {
  return std::ranges::find(list, text) != list.end();
}

bool is_letter(char c) { return c >= 'a' && c <= 'z'; }
bool is_digit(char c) { return c >= '0' && c <= '9'; }

/// "us-east-1", "us-gov-west-1", "eusc-de-east-1".
bool is_region(std::string_view label) {
  std::size_t parts = 0;
  for (;; ++parts) {
    const auto dash = label.find('-');
    const std::string_view part = label.substr(0, dash);
    if (dash == std::string_view::npos)
      return parts >= 2 && !part.empty() && part.size() <= 2 && std::ranges::all_of(part, is_digit);
    if (part.size() < 2 || part.size() > 12 || !std::ranges::all_of(part, is_letter)) return false;
    if (parts == 0 && part.size() > 4) return false;
    label.remove_prefix(dash + 1);
  }
}

/// Labels are taken from the right, where AWS's part of the name is.
class Labels {
 public:
  explicit Labels(std::string_view name) : rest_(name) {}
  bool empty() const { return rest_.empty(); }
  std::string_view rest() const { return rest_; }
  std::string_view last() const { return rest_.substr(rest_.rfind('.') + 1); }  // npos + 1 is 0
  std::string_view take() {
    const std::string_view label = last();
    rest_.remove_suffix(std::min(label.size() + 1, rest_.size()));
    return label;
  }

 private:
  std::string_view rest_;
};

/// Without what names a variant of the same service.
std::string_view without_fips(std::string_view label) {
  if (label.ends_with("-fips")) label.remove_suffix(5);
  if (label.starts_with("fips-")) label.remove_prefix(5);
  return label;
}

void skip_variants(Labels& labels) {
  while (labels.last() == "dualstack" || labels.last() == "fips") labels.take();
}

/// The signing name of `label`, behind `before` ("runtime" of runtime.sagemaker).
std::string_view signing_name(std::string_view before, std::string_view label) {
  std::string_view found = label;
  for (const auto& [host, service] : signing_names) {
    if (host == label) found = service;
    // Compound names end in the label that stands for the whole: they win.
    if (host.size() > label.size() && host.ends_with(label) && host[host.size() - label.size() - 1] == '.') {
      const std::string_view sub = host.substr(0, host.size() - label.size() - 1);
      if (before == sub || (before.ends_with(sub) && before[before.size() - sub.size() - 1] == '.'))
        return service;
    }
  }
  return found;
}

std::optional<std::string_view> s3_service(std::string_view label) {
  if (label == "s3" || label == "s3-accesspoint" || label == "s3-control") return "s3";
  if (label == "s3-object-lambda" || label == "s3-outposts") return label;
  // s3express-use1-az4, s3express-control
  if (label == "s3express" || label.starts_with("s3express-")) return "s3express";
  return std::nullopt;
}

std::optional<AwsEndpoint> regional(Labels labels, std::string_view region, bool in_host, bool on_aws) {
  skip_variants(labels);
  const std::string_view label = without_fips(labels.take());
  if (label.empty() || is_one_of(label, unsigned_services) || label.starts_with("vpce-svc-") ||
      label.starts_with("s3-website"))
    return std::nullopt;
  AwsEndpoint endpoint{label, region, in_host, false};
  if (const auto s3 = s3_service(label)) {
    endpoint.service = *s3;
    return on_aws ? std::nullopt : std::optional(endpoint);
  }
  if (on_aws && label != "lambda-url" && label != "neptune-graph" && label != "aos") return std::nullopt;
  skip_variants(labels);
  if (label.ends_with("-kinesis") && !labels.empty()) {  // ACCOUNT.control-kinesis
    endpoint.service = "kinesis";
    return endpoint;
  }
  const std::string_view before = without_fips(labels.rest());
  const bool private_endpoint = before.starts_with("vpce-") && before.find('.') == before.npos;
  // The registry of a container image: Basic authentication by a token of ecr's own.
  const bool api_only = label == "ecr" || label == "ecr-public";
  if (!before.empty() && !private_endpoint && !on_aws && !is_one_of(label, with_sub_hosts) &&
      !(api_only && before == "api"))
    return std::nullopt;
  endpoint.service = signing_name(before, label);
  endpoint.customer_code =
      label == "execute-api" || label == "lambda-url" || label == "appsync-api" || label == "aos";
  return endpoint;
}

std::optional<AwsEndpoint> without_region_behind(Labels labels, std::string_view global_region) {
  const std::string_view label = without_fips(labels.take());
  AwsEndpoint endpoint{label, global_region, false, false};
  if (label == "dualstack") {  // BUCKET.s3-accelerate.dualstack
    if (labels.last() != "s3-accelerate") return std::nullopt;
    endpoint.service = "s3";
    return endpoint;
  }
  if (label == "s3" || label == "s3-accelerate" || label == "s3-external-1") {
    endpoint.service = "s3";
    return endpoint;
  }
  if (label.starts_with("s3-") && is_region(label.substr(3))) {  // s3-us-west-2, the older form
    endpoint.service = "s3";
    endpoint.region = label.substr(3);
    endpoint.region_in_host = true;
    return endpoint;
  }
  // The region before the service: search-NAME.us-east-1.es, ID.us-east-1.aoss, us-east-1.queue.
  if (label == "es" || label == "aoss" || label == "queue") {
    if (is_region(labels.last())) {
      endpoint.region = labels.take();
      endpoint.region_in_host = true;
    } else if (label != "queue" || !labels.empty()) {
      return std::nullopt;
    }
    endpoint.service = signing_name("", label);
    endpoint.customer_code = label == "es";
    return endpoint;
  }
  // Directly below the suffix there are AWS's own names only.
  if (label.empty() || is_one_of(label, unsigned_services) || label.starts_with("s3-website"))
    return std::nullopt;
  if (!labels.empty() && !(label == "health" && labels.rest() == "global")) return std::nullopt;
  endpoint.service = signing_name("", label);
  return endpoint;
}

bool is_name(std::string_view text) {
  return !text.empty() && text.size() <= 64 && std::ranges::all_of(text, [](char c) {
    return is_letter(c) || is_digit(c) || c == '-' || (c >= 'A' && c <= 'Z');
  });
}

}  // namespace

std::optional<AwsEndpoint> aws_endpoint(std::string_view host) {
  const auto* partition =
      std::ranges::find_if(partitions, [host](const Partition& one) { return host.ends_with(one.suffix); });
  if (partition == std::end(partitions)) return std::nullopt;
  host.remove_suffix(partition->suffix.size());
  const bool on_aws = partition->suffix == ".on.aws";
  Labels labels(host);
  if (labels.last() == "vpce") labels.take();
  if (is_region(labels.last())) {
    const std::string_view region = labels.take();
    return regional(labels, region, true, on_aws);
  }
  if (labels.last() == "global" || labels.last() == "us-gov") {
    const bool government = labels.take() == "us-gov";
    return regional(labels, government ? "us-gov-west-1" : partition->global_region, false, on_aws);
  }
  if (on_aws) return std::nullopt;
  return without_region_behind(labels, partition->global_region);
}

Result<AwsScope> aws_scope(const AwsEndpoint& endpoint, const AwsScope& client) {
  if (client.region.empty() && client.service.empty()) return AwsScope{endpoint.region, endpoint.service};
  if (!is_name(client.region) || !is_name(client.service)) {
    return fail(Reason::unsignable_request,
                "the scope of the AWS signature is not DATE/REGION/SERVICE/aws4_request", Side::sandbox);
  }
  if (endpoint.region_in_host && client.region != endpoint.region) {
    return fail(
        Reason::unsignable_request,
        fmt::format(
            "the request was signed for the region {}, but its host is of {}: set the client's region",
            client.region, endpoint.region),
        Side::sandbox);
  }
  if (client.service != endpoint.service &&
      (is_one_of(client.service, guarded) || is_one_of(endpoint.service, guarded))) {
    return fail(Reason::unsignable_request,
                fmt::format("the request was signed for the service {}, but its host is one of {}",
                            client.service, endpoint.service),
                Side::sandbox);
  }
  return client;
}

bool is_s3_family(std::string_view service) { return s3_service(service).has_value(); }

}  // namespace postern::credential
