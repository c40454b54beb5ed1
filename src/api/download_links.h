#pragma once
// Links to one file of one box, for whoever holds them:
//
//   POST /boxes/{name}/download-url     makes one
//   GET, HEAD /downloads?token=         answers as the data plane's download does, and wakes the box
//
// A link is bound to the box's id and not to its name, to the path, to what it shows and to its end, if it
// has one: else it ends with its box. The token is in the query, which no log of this server holds. What a
// box serves is shown in a sandbox of the browser, without an origin: it can do nothing in the API's name.

#include <memory>
#include <vector>

#include "api/body.h"
#include "api/boxes.h"
#include "api/door.h"
#include "base/clock.h"
#include "credential/link_key.h"

namespace postern::api {

class DownloadLinks {
 public:
  /// All outlive the routes. `key`: nullptr in a sealed server, which makes and knows no links.
  DownloadLinks(platform::Boxes& boxes, BoxDoor& door, std::shared_ptr<const credential::LinkKey> key,
                const Clock& clock)
      : boxes_(boxes), door_(door), key_(std::move(key)), clock_(clock) {}

  /// Below "/v2/sandboxes" and "/api/v2/sandboxes".
  std::vector<control::Route> making_routes(Identify identify, Origin origin) const;
  /// At the root.
  std::vector<control::Route> serving_routes() const;

 private:
  void make(const std::shared_ptr<control::Call>& call, const control::Principal& caller,
            const std::string& origin, BodyFields& fields) const;
  void serve(const std::shared_ptr<control::Call>& call) const;

  platform::Boxes& boxes_;
  BoxDoor& door_;
  const std::shared_ptr<const credential::LinkKey> key_;
  const Clock& clock_;
};

}  // namespace postern::api
