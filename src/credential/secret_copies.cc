#include "credential/secret_copies.h"

#include "credential/wiped_string.h"

namespace postern::credential {

Result<void> copy_secret(const SecretStore& from, const std::string& key, const std::string& as,
                         SecretStore& into) {
  const Secret* found = from.find(key);
  if (!found) return fail(Reason::invalid_configuration, "what its 'from' names was not read");
  return keep_secret(*found, as, into);
}

Result<void> keep_secret(const Secret& value, const std::string& as, SecretStore& into) {
  SecretReference reference;
  reference.key = as;
  reference.place = "a policy of the operator's";
  reference.value = copy_of(value.unwrap());
  return into.add(reference);
}

}  // namespace postern::credential
