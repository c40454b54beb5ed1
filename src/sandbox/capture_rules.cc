#include "sandbox/capture_rules.h"

#include <arpa/inet.h>
#include <array>
#include <cerrno>
#include <cstring>
#include <fmt/format.h>
#include <libmnl/libmnl.h>
#include <linux/netfilter.h>
#include <linux/netfilter/nf_tables.h>
#include <linux/netfilter/nfnetlink.h>
#include <netinet/in.h>
#include <string_view>
#include <sys/socket.h>

#include "base/units.h"
#include "sandbox/capture.h"

// What nft(8) would be told as text, said to the kernel in its own words: libnftables takes 2 ms to load its
// tables and to read a text that never changes, which is most of what a sandbox's network takes.
//
//   table inet postern {
//     chain capture {
//       type filter hook prerouting priority mangle; policy accept;
//       ip daddr 127.0.0.0/8 accept
//       ip6 daddr ::1 accept
//       tcp dport 53 accept
//       tcp sport 53 accept
//       meta nfproto ipv4 meta l4proto tcp tproxy ip to ADDRESS4:PORT accept
//       meta nfproto ipv6 meta l4proto tcp tproxy ip6 to [ADDRESS6]:PORT accept
//     }
//     chain refuse {
//       type filter hook input priority filter; policy drop;
//       meta l4proto tcp accept
//       ip daddr 127.0.0.0/8 accept
//       ip6 daddr ::1 accept
//       udp dport 53 accept
//       udp sport 53 accept
//       icmp type { destination-unreachable, time-exceeded, parameter-problem } accept
//       icmpv6 type { destination-unreachable, packet-too-big, time-exceeded, parameter-problem } accept
//       reject with icmpx port-unreachable
//     }
//   }
//
// prerouting: TCP goes to the transparent listener, whatever its port. Replies pass here too: tproxy finds
// the established connection first. Port 53 is served by ordinary sockets, which AnyIP reaches by itself.
// input, not output: a refusal there answers with an ICMP error like a real host, while output gives EPERM.

namespace postern::sandbox {

namespace {

constexpr const char* table = "postern";

/// Messages of one transaction: all of them hold, or none.
class Batch {
 public:
  Batch() {
    nfgenmsg* begin = start(NFNL_MSG_BATCH_BEGIN, 0);
    begin->nfgen_family = AF_UNSPEC;
    begin->res_id = htons(NFNL_SUBSYS_NFTABLES);
    mnl_nlmsg_batch_next(batch_);
  }
  ~Batch() { mnl_nlmsg_batch_stop(batch_); }
  Batch(const Batch&) = delete;

  void add_table() {
    start_table_message(NFT_MSG_NEWTABLE, NLM_F_CREATE);
    mnl_attr_put_strz(message_, NFTA_TABLE_NAME, table);
    mnl_nlmsg_batch_next(batch_);
  }
  void add_chain(const char* name, std::uint32_t hook, std::int32_t priority, std::uint32_t policy) {
    start_table_message(NFT_MSG_NEWCHAIN, NLM_F_CREATE);
    mnl_attr_put_strz(message_, NFTA_CHAIN_TABLE, table);
    mnl_attr_put_strz(message_, NFTA_CHAIN_NAME, name);
    nlattr* where = mnl_attr_nest_start(message_, NFTA_CHAIN_HOOK);
    put(NFTA_HOOK_HOOKNUM, hook);
    put(NFTA_HOOK_PRIORITY, static_cast<std::uint32_t>(priority));
    mnl_attr_nest_end(message_, where);
    mnl_attr_put_strz(message_, NFTA_CHAIN_TYPE, "filter");
    put(NFTA_CHAIN_POLICY, policy);
    mnl_nlmsg_batch_next(batch_);
  }
  /// At the end of a chain. `expressions` appends what it is made of.
  template <class Expressions>
  void add_rule(const char* chain, Expressions expressions) {
    start_table_message(NFT_MSG_NEWRULE, NLM_F_CREATE | NLM_F_APPEND);
    mnl_attr_put_strz(message_, NFTA_RULE_TABLE, table);
    mnl_attr_put_strz(message_, NFTA_RULE_CHAIN, chain);
    nlattr* list = mnl_attr_nest_start(message_, NFTA_RULE_EXPRESSIONS);
    expressions();
    mnl_attr_nest_end(message_, list);
    mnl_nlmsg_batch_next(batch_);
  }

  // What rules are made of. Each looks at the packet's value in the first register, or ends the rule.

  void family_is(std::uint8_t family) { meta_is(NFT_META_NFPROTO, family); }
  void protocol_is(std::uint8_t protocol) { meta_is(NFT_META_L4PROTO, protocol); }
  void bytes_are(nft_payload_bases base, std::uint32_t offset, std::string_view bytes) {
    load_bytes(base, offset, bytes.size());
    compare(NFT_CMP_EQ, bytes);
  }
  void port_is(std::uint32_t offset, std::uint16_t port) {
    const std::uint16_t raw = htons(port);
    bytes_are(NFT_PAYLOAD_TRANSPORT_HEADER, offset, {reinterpret_cast<const char*>(&raw), sizeof raw});
  }
  void byte_within(nft_payload_bases base, std::uint32_t offset, char lowest, char highest) {
    load_bytes(base, offset, 1);
    compare(NFT_CMP_GTE, {&lowest, 1});
    compare(NFT_CMP_LTE, {&highest, 1});
  }
  void tproxy_to(std::uint32_t family, std::string_view address, std::uint16_t port) {
    const std::uint16_t raw = htons(port);
    set_register(NFT_REG_1, address);
    set_register(NFT_REG_2, {reinterpret_cast<const char*>(&raw), sizeof raw});
    expression("tproxy", [&] {
      put(NFTA_TPROXY_FAMILY, family);
      put(NFTA_TPROXY_REG_ADDR, NFT_REG_1);
      put(NFTA_TPROXY_REG_PORT, NFT_REG_2);
    });
  }
  void accept() {
    expression("immediate", [&] {
      put(NFTA_IMMEDIATE_DREG, NFT_REG_VERDICT);
      nlattr* data = mnl_attr_nest_start(message_, NFTA_IMMEDIATE_DATA);
      nlattr* verdict = mnl_attr_nest_start(message_, NFTA_DATA_VERDICT);
      put(NFTA_VERDICT_CODE, NF_ACCEPT);
      mnl_attr_nest_end(message_, verdict);
      mnl_attr_nest_end(message_, data);
    });
  }
  void reject() {
    expression("reject", [&] {
      put(NFTA_REJECT_TYPE, NFT_REJECT_ICMPX_UNREACH);
      mnl_attr_put_u8(message_, NFTA_REJECT_ICMP_CODE, NFT_REJECT_ICMPX_PORT_UNREACH);
    });
  }

  /// Returns 0 or an errno.
  int commit() {
    message_->nlmsg_flags |= NLM_F_ACK;  // Of the last rule: there is an answer also when all went well.
    nfgenmsg* end = start(NFNL_MSG_BATCH_END, 0);
    end->nfgen_family = AF_UNSPEC;
    end->res_id = htons(NFNL_SUBSYS_NFTABLES);
    mnl_nlmsg_batch_next(batch_);

    mnl_socket* socket = mnl_socket_open2(NETLINK_NETFILTER, SOCK_CLOEXEC | SOCK_NONBLOCK);
    if (socket == nullptr) return errno;
    const int result = mnl_socket_bind(socket, 0, MNL_SOCKET_AUTOPID) == 0 ? exchange(socket) : errno;
    mnl_socket_close(socket);
    return result;
  }

 private:
  static constexpr std::size_t bytes_max = 16 * KiB;  // 5 KiB are used

  nfgenmsg* start(std::uint16_t type, std::uint16_t flags) {
    message_ = mnl_nlmsg_put_header(mnl_nlmsg_batch_current(batch_));
    message_->nlmsg_type = type;
    message_->nlmsg_flags = static_cast<std::uint16_t>(NLM_F_REQUEST | flags);
    message_->nlmsg_seq = ++sequence_;
    auto* general = static_cast<nfgenmsg*>(mnl_nlmsg_put_extra_header(message_, sizeof(nfgenmsg)));
    general->version = NFNETLINK_V0;
    return general;
  }
  void start_table_message(int type, std::uint16_t flags) {
    start(static_cast<std::uint16_t>(NFNL_SUBSYS_NFTABLES << 8 | type), flags)->nfgen_family = NFPROTO_INET;
  }
  void put(std::uint16_t attribute, std::uint32_t value) {
    mnl_attr_put_u32(message_, attribute, htonl(value));
  }
  template <class Data>
  void expression(const char* name, Data data) {
    nlattr* element = mnl_attr_nest_start(message_, NFTA_LIST_ELEM);
    mnl_attr_put_strz(message_, NFTA_EXPR_NAME, name);
    nlattr* body = mnl_attr_nest_start(message_, NFTA_EXPR_DATA);
    data();
    mnl_attr_nest_end(message_, body);
    mnl_attr_nest_end(message_, element);
  }
  void put_value(std::uint16_t attribute, std::string_view bytes) {
    nlattr* data = mnl_attr_nest_start(message_, attribute);
    mnl_attr_put(message_, NFTA_DATA_VALUE, bytes.size(), bytes.data());
    mnl_attr_nest_end(message_, data);
  }
  void meta_is(nft_meta_keys key, std::uint8_t value) {
    expression("meta", [&] {
      put(NFTA_META_KEY, key);
      put(NFTA_META_DREG, NFT_REG_1);
    });
    compare(NFT_CMP_EQ, {reinterpret_cast<const char*>(&value), 1});
  }
  void load_bytes(nft_payload_bases base, std::uint32_t offset, std::size_t size) {
    expression("payload", [&] {
      put(NFTA_PAYLOAD_DREG, NFT_REG_1);
      put(NFTA_PAYLOAD_BASE, base);
      put(NFTA_PAYLOAD_OFFSET, offset);
      put(NFTA_PAYLOAD_LEN, static_cast<std::uint32_t>(size));
    });
  }
  void compare(nft_cmp_ops how, std::string_view bytes) {
    expression("cmp", [&] {
      put(NFTA_CMP_SREG, NFT_REG_1);
      put(NFTA_CMP_OP, how);
      put_value(NFTA_CMP_DATA, bytes);
    });
  }
  void set_register(nft_registers which, std::string_view bytes) {
    expression("immediate", [&] {
      put(NFTA_IMMEDIATE_DREG, which);
      put_value(NFTA_IMMEDIATE_DATA, bytes);
    });
  }

  // The kernel has answered when the sending returns: one message for each that it refused, and ours.
  int exchange(mnl_socket* socket) {
    if (mnl_socket_sendto(socket, mnl_nlmsg_batch_head(batch_), mnl_nlmsg_batch_size(batch_)) < 0)
      return errno;
    bool answered = false;
    alignas(nlmsghdr) std::array<char, 8 * KiB> answer;
    while (true) {
      const ssize_t size = mnl_socket_recvfrom(socket, answer.data(), answer.size());
      if (size < 0 && errno == EAGAIN) return answered ? 0 : EPROTO;
      if (size < 0) return errno;
      int left = static_cast<int>(size);
      for (auto* said = reinterpret_cast<nlmsghdr*>(answer.data()); mnl_nlmsg_ok(said, left);
           said = mnl_nlmsg_next(said, &left)) {
        if (said->nlmsg_type != NLMSG_ERROR) continue;
        const int error = static_cast<nlmsgerr*>(mnl_nlmsg_get_payload(said))->error;
        if (error != 0) return -error;
        answered = true;
      }
    }
  }

  alignas(nlmsghdr) std::array<char, 2 * bytes_max> bytes_{};
  mnl_nlmsg_batch* batch_ = mnl_nlmsg_batch_start(bytes_.data(), bytes_max);
  nlmsghdr* message_ = nullptr;
  unsigned sequence_ = 0;
};

using namespace std::string_view_literals;

constexpr std::uint32_t daddr4 = 16, daddr6 = 24;  // in their headers
constexpr std::uint32_t source_port = 0, destination_port = 2;
constexpr std::uint16_t dns_port = 53;

void accept_own_services(Batch& batch, const char* chain) {
  batch.add_rule(chain, [&] {
    batch.family_is(NFPROTO_IPV4);
    batch.bytes_are(NFT_PAYLOAD_NETWORK_HEADER, daddr4, "\x7f"sv);
    batch.accept();
  });
  batch.add_rule(chain, [&] {
    batch.family_is(NFPROTO_IPV6);
    batch.bytes_are(NFT_PAYLOAD_NETWORK_HEADER, daddr6, "\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\1"sv);
    batch.accept();
  });
}

void accept_dns(Batch& batch, const char* chain, std::uint8_t protocol) {
  for (const std::uint32_t offset : {destination_port, source_port})
    batch.add_rule(chain, [&] {
      batch.protocol_is(protocol);
      batch.port_is(offset, dns_port);
      batch.accept();
    });
}

void tproxy(Batch& batch, const char* chain, std::uint8_t family) {
  std::array<char, 16> address{};
  const bool four = family == NFPROTO_IPV4;
  inet_pton(four ? AF_INET : AF_INET6, four ? capture_address4 : capture_address6, address.data());
  batch.add_rule(chain, [&] {
    batch.family_is(family);
    batch.protocol_is(IPPROTO_TCP);
    batch.tproxy_to(family, {address.data(), four ? 4u : 16u}, capture_port);
    batch.accept();
  });
}

void accept_icmp_errors(Batch& batch, const char* chain, std::uint8_t family, std::uint8_t protocol,
                        char lowest, char highest) {
  batch.add_rule(chain, [&] {
    batch.family_is(family);
    batch.protocol_is(protocol);
    batch.byte_within(NFT_PAYLOAD_TRANSPORT_HEADER, 0, lowest, highest);
    batch.accept();
  });
}

}  // namespace

Result<void> make_capture_rules(bool has_ipv6) {
  Batch batch;
  batch.add_table();

  constexpr const char* capture = "capture";
  batch.add_chain(capture, NF_INET_PRE_ROUTING, -150, NF_ACCEPT);  // priority mangle
  accept_own_services(batch, capture);
  accept_dns(batch, capture, IPPROTO_TCP);
  tproxy(batch, capture, NFPROTO_IPV4);
  if (has_ipv6) tproxy(batch, capture, NFPROTO_IPV6);

  constexpr const char* refuse = "refuse";
  batch.add_chain(refuse, NF_INET_LOCAL_IN, 0, NF_DROP);  // priority filter
  batch.add_rule(refuse, [&] {
    batch.protocol_is(IPPROTO_TCP);
    batch.accept();
  });
  accept_own_services(batch, refuse);
  accept_dns(batch, refuse, IPPROTO_UDP);
  accept_icmp_errors(batch, refuse, NFPROTO_IPV4, IPPROTO_ICMP, 3, 3);    // destination-unreachable
  accept_icmp_errors(batch, refuse, NFPROTO_IPV4, IPPROTO_ICMP, 11, 12);  // time-exceeded, parameter-problem
  accept_icmp_errors(batch, refuse, NFPROTO_IPV6, IPPROTO_ICMPV6, 1, 4);  // all of its kinds
  batch.add_rule(refuse, [&] { batch.reject(); });

  if (const int error = batch.commit(); error != 0)
    return fail(Reason::internal,
                fmt::format("the kernel refused the capture's nftables rules (nft_tproxy and "
                            "nft_reject_inet are needed): {}",
                            std::strerror(error)));
  return {};
}

}  // namespace postern::sandbox
