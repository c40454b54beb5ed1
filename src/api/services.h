#pragma once
// Services: HTTP to a port on which a program in a box listens, for whoever holds a token.
//
//   POST   /boxes/{name}/service-url     grants access to a port and makes a token
//   GET    /boxes/{name}/service-urls    what is granted
//   DELETE /boxes/{name}/service-urls    takes grants back, and ends what they had let in
//
//   ORIGIN/services/ID/PORT/...          for programs, with the token in a field
//   http(s)://PORT--ID.DOMAIN/...        for browsers too: what a box serves has an origin of its own there,
//                                        where nothing of the API is
//
// A token is bound to the box's id, the port, the grant and its end. The grant is kept with the box: a token
// without it is good for nothing, whoever signed it. Browsers hand the token in once, below /_postern on the
// service's own host, and get a cookie for it.

#include <memory>
#include <string>
#include <vector>

#include "api/body.h"
#include "api/boxes.h"
#include "api/door.h"
#include "api/service_head.h"
#include "api/service_use.h"
#include "base/clock.h"
#include "control/auth.h"
#include "credential/link_key.h"

namespace postern::api {

class Services {
 public:
  struct Around {
    platform::Boxes& boxes;
    BoxDoor& door;
    const control::PageGuard& guard;
    std::shared_ptr<const credential::LinkKey> key;  ///< nullptr in a sealed server.
    const Clock& clock;
    Origin origin;
    std::string domain;  ///< Canonical.
  };
  /// All that is referred to outlives it and its routes.
  explicit Services(Around around) : around_(std::move(around)) {}

  /// Below "/v2/sandboxes" and "/api/v2/sandboxes".
  std::vector<control::Route> granting_routes(const Identify& identify) const;

  /// Before any route: answers what is for a service, by host or by path, and only that. Nothing of the API
  /// may be served when it returns true.
  bool serve(const std::shared_ptr<control::Call>& call) const;

 private:
  struct Claims;
  using CallPointer = std::shared_ptr<control::Call>;

  void grant(const CallPointer& call, const control::Principal& caller, BodyFields& fields) const;
  void list(const CallPointer& call, const control::Principal& caller) const;
  void take_back(const CallPointer& call, const control::Principal& caller) const;
  control::Response revoked(const store::Resource& box, std::uint16_t port,
                            const control::Request& request) const;
  std::string url_of(const ServicePlace& place, const control::Request& request) const;
  bool by_tls(const control::Request& request) const;

  void serve_path(const CallPointer& call, ServiceTarget target) const;
  void serve_host(const CallPointer& call, const ServicePlace& place) const;
  void begin_session(const CallPointer& call, const ServicePlace& place) const;
  void forward(const CallPointer& call, ServiceWay way, std::string_view token) const;
  std::optional<Claims> read_token(std::string_view token, const ServicePlace& place) const;
  std::expected<std::shared_ptr<ServiceUse::Seat>, control::Response> admit_holder(
      const Claims& claims, const ServicePlace& place) const;

  const Around around_;
  const std::shared_ptr<ServiceUse> use_ = std::make_shared<ServiceUse>();
};

}  // namespace postern::api
