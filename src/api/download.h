#pragma once
// GET and HEAD download: a file of the box, whole or in part, streamed with back-pressure.

#include "api/door.h"

namespace postern::api {

/// How a file is shown besides its content.
struct FileLook {
  std::string content_type = "application/octet-stream";
  control::Fields fields;  ///< Of every answer about a file.
};

/// `path`: as path_in() takes it.
void download_file(const std::shared_ptr<control::Call>& call, BoxDoor& door,
                   const control::Principal& caller, const std::string& box, std::string path, FileLook look);
/// The same by the request's sandbox_id and path.
void download(const std::shared_ptr<control::Call>& call, BoxDoor& door, const control::Principal& caller);

}  // namespace postern::api
