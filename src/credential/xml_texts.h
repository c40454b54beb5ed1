#pragma once
// The texts of a few elements of an XML document, which may be secrets. Strict where XML is dangerous: no
// document type, so no entities; nothing nested without end; no element twice.

#include <optional>
#include <span>
#include <string_view>
#include <vector>

#include "credential/wiped_string.h"

namespace postern::credential {

inline constexpr std::size_t xml_depth_max = 16;

/// By place, the text of the element at each of `paths` ("/A/B/C", names without a namespace's prefix), empty
/// where there is none. nullopt: it is not well-formed, or more than is accepted.
std::optional<std::vector<WipedString>> read_xml_texts(std::string_view document,
                                                       std::span<const std::string_view> paths);

}  // namespace postern::credential
