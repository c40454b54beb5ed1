#include "credential/signer.h"

#include <algorithm>
#include <string.h>

namespace postern::credential {

Signature& Signature::operator=(Signature&& other) noexcept {
  headers.swap(other.headers);
  body.swap(other.body);
  std::swap(place, other.place);
  target_storage_.swap(other.target_storage_);  // and what was here is wiped with `other`
  std::swap(target_, other.target_);
  return *this;
}

Signature::~Signature() {
  if (!target_storage_.empty()) explicit_bzero(target_storage_.data(), target_storage_.size());
}

void Signature::set_target(std::string_view target) {
  target_storage_.assign(target.begin(), target.end());
  target_ = {target_storage_.data(), target_storage_.size()};
}

std::shared_ptr<Signer> LoopSigners::of(std::uint64_t version, const Signing& signing) {
  if (version_ != version) kept_.clear();
  version_ = version;
  for (const Kept& kept : kept_)
    if (kept.signing == &signing) return kept.signer;
  if (kept_.size() >= kept_max) kept_.erase(kept_.begin());
  kept_.push_back({&signing, signing.make_signer()});
  return kept_.back().signer;
}

}  // namespace postern::credential
