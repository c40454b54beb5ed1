#include "transform/operations.h"

namespace postern::transform {

std::optional<std::vector<Operation>> read_operations(const OperationsQuestion&) { return std::nullopt; }

}  // namespace postern::transform
