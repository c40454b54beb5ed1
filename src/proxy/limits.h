#pragma once
// How long anything may take and how much may be held, each with its reason.

#include <chrono>
#include <cstddef>

#include "base/units.h"
#include "http2/connection.h"

namespace postern::proxy::limits {

using namespace std::chrono_literals;

inline constexpr auto first_bytes_time = 20s;  // a ClientHello or the first request: slowloris ends here
inline constexpr auto handshake_time = 20s;    // the sandbox's side of TLS
inline constexpr auto head_time = 30s;         // from a head's first byte to its last
inline constexpr auto keep_alive_time = 120s;  // idle between two requests; no buffer is held meanwhile
inline constexpr auto answer_time = 15min;     // to the first byte of an answer: models think for minutes
inline constexpr auto body_idle_time = 5min;   // between two pieces of a body, either way
inline constexpr auto tunnel_idle_time = 12h;  // WebSocket and raw TCP: databases idle for hours
inline constexpr auto linger_time = 30s;       // reading off a body whose answer was given before its end
inline constexpr auto linger_idle_time = 5s;   // between two pieces of such a body
inline constexpr auto announcing_time = 5s;    // for a record that must be on disk first; 503 above
inline constexpr auto process_look_time = 1s;  // between two looks at memory and descriptors
inline constexpr auto drain_time = 2s;         // reading off what the sandbox still sends after a refusal
inline constexpr std::size_t drain_bytes_max = 256 * KiB;
inline constexpr std::size_t refused_body_bytes_max =
    64 * KiB;  // read off to keep the connection; else close
inline constexpr std::size_t recorded_path_bytes_max =
    2 * KiB;  // a record stays small, whatever is asked for
inline constexpr std::size_t recorded_operation_bytes_max = 256;
inline constexpr auto shown_body_time =
    5s;  // for a body that a callback wants to see; one that trickles on is shown as far as it came
// Of a body that is hashed before its request is signed: services other than S3 take 16 MiB at most (Lambda
// 6, DynamoDB 16), but for a few (413 above).
inline constexpr std::size_t hashed_body_bytes_max = 16 * MiB;
// Of a body that is looked into on its way out: what is no longer than this goes on with its exact length,
// whatever was replaced; a longer one in chunks. Also the most that a form or a body under a schema may have.
inline constexpr std::size_t treated_body_bytes_max = 1 * MiB;
inline constexpr auto treated_body_time = 1s;  // for such a body of which nobody said how long it is
inline constexpr std::size_t held_bodies_bytes_max = 64 * MiB;  // of one sandbox on one loop; 503 above
inline constexpr int informational_max = 16;                    // 1xx answers to one request; 502 above
inline constexpr std::size_t connections_max = 16384;           // per loop; beyond it a connection is reset
inline constexpr std::size_t exchanges_max = 16384;             // per loop, under way at once; 503 above
inline constexpr std::size_t pool_idle_when_shedding = 32;      // connections to origins that are kept then
// Exchanges of one HTTP/2 connection, with those whose stream was reset but whose end is still under way.
inline constexpr std::size_t http2_exchanges_max = 2 * http2::limits::streams_max;
inline constexpr http2::Timing http2_timing{.first_bytes = first_bytes_time,
                                            .idle = keep_alive_time,
                                            .head = head_time,
                                            .write = body_idle_time,
                                            .farewell = drain_time,
                                            .ping_after = {},
                                            .ping_answer = {}};
inline constexpr std::size_t exchange_slice = 16 * KiB;  // of what one event may do: a request, an answer
// Of a body, read and written at once: four records of TLS, few enough for a processor's cache.
inline constexpr std::size_t piece_bytes = 64 * KiB;
inline constexpr std::size_t gather_bytes = 16 * KiB;  // small pieces that are ready go out in one write

}  // namespace postern::proxy::limits
