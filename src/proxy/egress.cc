#include "proxy/egress.h"

namespace postern::proxy {

std::shared_ptr<const Egress> make_egress(std::shared_ptr<const policy::Snapshot> snapshot,
                                          credential::Injections injections,
                                          const std::shared_ptr<const credential::CallbackSigner>& signer,
                                          std::shared_ptr<quota::Ledger> ledger) {
  auto egress = std::make_shared<Egress>();
  egress->snapshot = std::move(snapshot);
  egress->injections = std::move(injections);
  std::vector<std::unique_ptr<const credential::Source>> callbacks;
  for (std::uint32_t i = 0; i < egress->snapshot->callbacks().size(); ++i)
    callbacks.push_back(std::make_unique<credential::CallbackSource>(
        egress->snapshot, i, egress->injections.of_callback(i), signer));
  egress->grants =
      std::make_shared<credential::Grants>(std::move(callbacks), egress->injections.take_sources());
  egress->ledger = ledger ? std::move(ledger) : std::make_shared<quota::Ledger>();
  egress->gates = quota::Gates(*egress->snapshot, *egress->ledger);
  return egress;
}

}  // namespace postern::proxy
