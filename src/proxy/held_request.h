#pragma once
// What is kept of a request while its body is looked into, hashed or shown before anything is sent.

#include <cstddef>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "model/http.h"
#include "proxy/limits.h"
#include "proxy/overload.h"

namespace postern::proxy {

/// A sandbox's share of what is held in memory before it goes on.
class HeldBytes {
 public:
  explicit HeldBytes(TenantLoad& load) : load_(load) {}
  HeldBytes(const HeldBytes&) = delete;
  ~HeldBytes() { release(); }
  /// So many in all. False: it has had its share.
  bool hold(std::size_t bytes) {
    if (load_.held_bytes - bytes_ + bytes > limits::held_bodies_bytes_max) return false;
    load_.held_bytes = load_.held_bytes - bytes_ + bytes;
    bytes_ = bytes;
    return true;
  }
  void release() { load_.held_bytes -= std::exchange(bytes_, 0); }

 private:
  TenantLoad& load_;
  std::size_t bytes_ = 0;
};

/// A request that was read before it was sent.
struct HeldRequest {
  RequestHead head;  ///< Its views are into `bytes`.
  std::vector<HeaderField> fields;
  std::string bytes;
  std::string as_sent;    ///< What the treatment of the body was fed.
  std::string body;       ///< As it is sent on, as far as it was read.
  bool complete = false;  ///< That is all of it.

  explicit HeldRequest(const RequestHead& original)
      : head(original), fields(original.fields.begin(), original.fields.end()) {
    std::size_t size = 0;
    each_view([&size](std::string_view& view) { size += view.size(); });
    bytes.reserve(size);
    each_view([this](std::string_view& view) {
      const std::size_t at = bytes.size();
      bytes += view;
      view = std::string_view(bytes).substr(at);
    });
    head.fields = fields;
  }

 private:
  template <class Visit>
  void each_view(Visit visit) {
    for (std::string_view* view :
         {&head.method, &head.target, &head.authority, &head.upgrade, &head.protocol})
      visit(*view);
    for (HeaderField& field : fields) {
      visit(field.name);
      visit(field.value);
    }
  }
};

}  // namespace postern::proxy
