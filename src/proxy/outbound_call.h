#pragma once
// The road's own HTTP calls: to callbacks and token endpoints. Resolved, checked, dialled and verified as
// every origin is, on connections of their own: no byte of a sandbox was ever on them.

#include "credential/caller.h"
#include "origin/pool.h"
#include "proxy/head_rooms.h"

namespace postern::proxy {

class OutboundCaller final : public credential::Caller {
 public:
  OutboundCaller(const Clock& clock, io::Loop& loop, io::BufferPool& buffers, HeadRooms& rooms,
                 origin::Dialler& dialler, tls::OriginContext& tls)
      : clock_(clock), loop_(loop), rooms_(rooms), pool_(loop, buffers, dialler, tls) {}

  io::Task<Result<credential::CallAnswer>> call(const credential::Call& call) override;
  io::Loop& loop() override { return loop_; }
  const Clock& clock() override { return clock_; }

 private:
  struct Attempt;
  io::Task<Result<credential::CallAnswer>> attempt(const credential::Call& call, Attempt& attempt);

  const Clock& clock_;
  io::Loop& loop_;
  HeadRooms& rooms_;
  origin::Pool pool_;
};

}  // namespace postern::proxy
