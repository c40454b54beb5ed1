#pragma once
// Records as OpenTelemetry's logs (OTLP/HTTP with JSON, opentelemetry-proto 1.x: ExportLogsServiceRequest).
// Pure; who sends it is elsewhere.

#include <cstdint>
#include <span>
#include <string>
#include <string_view>

namespace postern::audit {

/// Who says it.
struct OtlpResource {
  std::string service_version;
  std::string host_name;
};

/// One request for these lines of the log, without their ends. A line that is no record is left out.
/// Attributes are the names of OpenTelemetry's conventions where there are some, and `postern.NAME` for every
/// other field of a record (docs/log.md).
std::string otlp_request(std::span<const std::string> lines, const OtlpResource& resource);

/// How many records an answer of 2xx says were not taken; 0 when it does not say.
std::uint64_t otlp_rejected(std::string_view answer);

}  // namespace postern::audit
