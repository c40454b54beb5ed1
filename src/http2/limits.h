#pragma once
// How much one HTTP/2 connection may hold or ask for, each with its reason. Times are the caller's (Timing in
// http2/connection.h).

#include <chrono>
#include <cstddef>
#include <cstdint>

#include "base/units.h"

namespace postern::http2::limits {

inline constexpr std::uint32_t streams_max = 128;               // at once, either role; REFUSED_STREAM above
inline constexpr std::size_t header_list_bytes_max = 64 * KiB;  // as in HTTP/1.1; 431 above
inline constexpr std::size_t header_fields_max = 256;           // likewise
inline constexpr std::size_t header_bomb_bytes =
    256 * KiB;  // what HPACK may unfold before the block is given up
inline constexpr std::size_t frame_bytes_max = 16 * KiB;  // RFC 9113 §4.2: what we never allowed more of
inline constexpr std::size_t continuations_max = 16;      // 64 KiB need four of 16 KiB
inline constexpr std::size_t informational_max = 18;      // heads that wait for a reader
inline constexpr std::int32_t window_bytes = 65535;       // per stream: what a reader that stops costs
inline constexpr std::int32_t window_bytes_max = 4 * 1024 * 1024;  // for a reader that keeps up
// A window is what slows a stream down only when it is used up within a round trip; hardly one takes longer.
inline constexpr std::chrono::milliseconds round_trip{500};
inline constexpr std::size_t extra_window_bytes_max =
    32 * MiB;  // beyond window_bytes, all streams of a connection
inline constexpr std::int32_t connection_window_bytes =
    1024 * 1024;                                      // always given back at once: streams hold back
inline constexpr std::size_t write_bytes = 16 * KiB;  // gathered into one TLS record
inline constexpr int frames_few = 32;                 // what is taken in before others' turn,
inline constexpr std::size_t frame_slice = 1 * KiB;   // what one counts for Loop::slice_spent()
inline constexpr int heads_few = 4;                   // as many requests as Loop::slice_spent() lets start
inline constexpr std::size_t data_frame_bytes_max = 16 * KiB - 64;  // fits such a record with its header

// Frames that cost us more than they cost their sender (threats 65–68) are paid for with tokens. A peer earns
// them by time and by what it lets us send; without any it is told ENHANCE_YOUR_CALM.
inline constexpr std::int64_t tokens_max = 2000;
inline constexpr std::int64_t tokens_per_second = 200;
inline constexpr std::int64_t tokens_per_data_frame = 4;  // WINDOW_UPDATEs that answer what was sent
inline constexpr std::int64_t reset_tokens = 8;           // a stream that is opened to be reset
inline constexpr std::int64_t bomb_tokens = 500;          // a header block that had to be given up

}  // namespace postern::http2::limits
