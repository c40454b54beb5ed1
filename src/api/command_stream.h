#pragma once
// execute/stream/start and execute/stream/resume: a command as server-sent events. Output is base64, since
// the stream is text and the output any bytes.

#include "api/door.h"

namespace postern::api {

void start_stream(const std::shared_ptr<control::Call>& call, BoxDoor& door,
                  const control::Principal& caller);
void resume_stream(const std::shared_ptr<control::Call>& call, BoxDoor& door,
                   const control::Principal& caller);

}  // namespace postern::api
