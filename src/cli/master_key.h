#pragma once
// `postern key rotate`: another master key for a store, whenever this is killed without one that opens
// nothing.

#include <string>

namespace postern::cli {

extern const char* const rotation_help;

/// `said`, `next`: --master-key and --new-master-key. Without `next` the key in `data`/master.key is
/// replaced, beside a server that runs there; else nothing may run there, since it could not know the new
/// key. Complains and throws Stop; asked again it goes on where it was cut short.
void rotate_master_key(const std::string& data, const std::string& said, const std::string& next);

}  // namespace postern::cli
