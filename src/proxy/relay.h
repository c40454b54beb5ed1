#pragma once
// Bytes both ways, untouched: raw TCP, TLS that is passed through, and what follows a 101. Half-closes and
// resets of one side reach the other as what they were. Nobody judges what passes, so the policy's changes
// reach it here.

#include <cstdint>
#include <functional>
#include <optional>

#include "audit/journal.h"
#include "io/buffer.h"
#include "io/stream.h"
#include "proxy/egress.h"

namespace postern::proxy {

struct RelayOutcome {
  std::uint64_t to_origin = 0;
  std::uint64_t to_sandbox = 0;
  std::optional<Error> error;  ///< Unset after an orderly end of both directions.
};

/// `from_sandbox` and `from_origin` hold bytes that were read already and go first. Ends when both directions
/// have ended, one broke, or nothing moved either way for `idle`.
io::Task<RelayOutcome> relay(io::Stream& sandbox, io::Buffer& from_sandbox, io::Stream& origin,
                             io::Buffer& from_origin, Duration idle);

/// While it lives, a tunnel is judged again by every policy that comes into force, and ended when it is no
/// longer allowed; the record says why. It outlives the policy that allowed it.
class OpenTunnel final : TenantWatcher {
 public:
  using Judge = std::function<Reason()>;  ///< By the policy of the moment; shutting_down of a removed tenant.
  using End = std::function<void()>;      ///< Must not resume whoever carries the tunnel.
  OpenTunnel(const Tenant& tenant, audit::Recording& recording, Judge judge, End end)
      : TenantWatcher(tenant.tunnels),
        tenant_(tenant),
        recording_(recording),
        judge_(std::move(judge)),
        end_(std::move(end)) {}
  ~OpenTunnel() = default;

 private:
  void on_tenant_changed() override;

  const Tenant& tenant_;
  audit::Recording& recording_;
  const Judge judge_;
  const End end_;
};

}  // namespace postern::proxy
