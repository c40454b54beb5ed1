#include "base/environment.h"

#include <cstdlib>
#include <cstring>

namespace postern {

void wipe_variable(const char* name) {
  if (char* value = std::getenv(name)) ::explicit_bzero(value, std::strlen(value));
  ::unsetenv(name);
}

}  // namespace postern
