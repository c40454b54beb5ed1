#pragma once
// One request to a service in a box and its answer: on a connection of its own, which the box's agent makes
// from inside, and which nothing else is ever said on. Whatever the box answers is read strictly; a WebSocket
// is handed over once the box has granted it.

#include <memory>
#include <string>

#include "api/service_head.h"
#include "api/service_use.h"
#include "box/box_loop.h"
#include "control/call.h"

namespace postern::api {

struct ServiceRequest {
  std::shared_ptr<control::Call> call;
  ServiceWay way;
  std::string head;  ///< Of head_for_box().
  std::shared_ptr<ServiceUse::Seat> seat;
};

/// On the box loop. Answers the call, also when the box ends or the seat is cut.
void exchange_with_service(box::OpenBox& box, ServiceRequest request);

}  // namespace postern::api
