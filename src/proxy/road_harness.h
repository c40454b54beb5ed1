#pragma once
// The whole road in one thread, for tests: a real Worker on its loop, and both of its ends in the test's
// hand. The sandbox's end is a loopback connection that is served as if it had been dialled to any name;
// origins are found by overrides. Time stands still unless a test moves it; nothing here sleeps, and every
// wait has a bound.

#include <arpa/inet.h>
#include <csignal>
#include <cstdlib>
#include <deque>
#include <fcntl.h>
#include <filesystem>
#include <fstream>
#include <functional>
#include <gtest/gtest.h>
#include <memory>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <openssl/err.h>
#include <openssl/rand.h>
#include <openssl/ssl.h>
#include <openssl/x509v3.h>
#include <string>
#include <sys/mman.h>
#include <sys/socket.h>
#include <vector>

#include "credential/secret_store.h"
#include "credential/workload_identity.h"
#include "dns/name_table.h"
#include "http2/test_kit.h"
#include "policy/document.h"
#include "proxy/connection.h"
#include "proxy/worker.h"

namespace postern::proxy::road {

inline constexpr const char* canary = "canary-5ecret";  ///< The value of API_KEY: must never reach a sandbox.

struct SslFree {
  void operator()(SSL* connection) const { SSL_free(connection); }
  void operator()(SSL_CTX* context) const { SSL_CTX_free(context); }
};
using SslPtr = std::unique_ptr<SSL, SslFree>;
using SslContextPtr = std::unique_ptr<SSL_CTX, SslFree>;

/// What a program offers by ALPN.
enum class Offer : std::uint8_t { http1, both, http2 };

/// The certificates of all tests: one CA for the workspace, another for the origins.
class Certificates {
 public:
  static Certificates& shared() {
    static Certificates all;
    return all;
  }
  const tls::WorkspaceCa& workspace() const { return workspace_; }
  const tls::TrustStore& trust() const { return trust_; }
  const tls::WorkspaceCa& origins() const { return origins_; }

  SslPtr client(const std::string& server_name, Offer offer = Offer::http1) {
    SslPtr connection(SSL_new(client_.get()));
    static constexpr unsigned char both[] = "\x02h2\x08http/1.1";
    if (offer == Offer::both) SSL_set_alpn_protos(connection.get(), both, sizeof both - 1);
    if (offer == Offer::http2) SSL_set_alpn_protos(connection.get(), both, 3);
    SSL_set_tlsext_host_name(connection.get(), server_name.c_str());
    SSL_set1_host(connection.get(), server_name.c_str());
    SSL_set_connect_state(connection.get());
    return connection;
  }
  /// Tickets that origins gave out so far are worth nothing from now on.
  void forget_ticket_keys() {
    unsigned char keys[80] = {};
    RAND_bytes(keys, sizeof keys);
    SSL_CTX_set_tlsext_ticket_keys(server_.get(), keys, sizeof keys);
  }
  SslPtr server(const std::string& name, bool http2 = false) {
    SslPtr connection(SSL_new(server_.get()));
    if (http2) SSL_set_app_data(connection.get(), this);
    const auto leaf = origin_leaves_.leaf_for(name, std::chrono::system_clock::now()).value();
    SSL_use_certificate(connection.get(), leaf.certificate.get());
    SSL_use_PrivateKey(connection.get(), leaf.key.get());
    SSL_set_accept_state(connection.get());
    return connection;
  }

 private:
  Certificates()
      : directory_(make_directory()),
        workspace_(tls::WorkspaceCa::load_or_create(directory_ + "/workspace").value()),
        origins_(tls::WorkspaceCa::load_or_create(directory_ + "/origins").value()),
        origin_leaves_(tls::LeafMinter::create(origins_).value()),
        trust_(load_trust()),
        client_(SSL_CTX_new(TLS_client_method())),
        server_(SSL_CTX_new(TLS_server_method())) {
    X509_STORE* store = SSL_CTX_get_cert_store(client_.get());
    X509_STORE_add_cert(store, workspace_.certificate());
    X509_STORE_add_cert(store, origins_.certificate());
    SSL_CTX_set_verify(client_.get(), SSL_VERIFY_PEER, nullptr);
    static constexpr unsigned char protocols[] = "\x08http/1.1";
    SSL_CTX_set_alpn_protos(client_.get(), protocols, sizeof protocols - 1);
    SSL_CTX_set_alpn_select_cb(server_.get(), select_http2, nullptr);
    std::filesystem::remove_all(directory_);
  }
  static int select_http2(SSL* connection, const unsigned char** out, unsigned char* size,
                          const unsigned char*, unsigned, void*) {
    if (!SSL_get_app_data(connection)) return SSL_TLSEXT_ERR_NOACK;
    *out = reinterpret_cast<const unsigned char*>("h2");
    *size = 2;
    return SSL_TLSEXT_ERR_OK;
  }
  static std::string make_directory() {
    std::string pattern = (std::filesystem::temp_directory_path() / "postern-road-XXXXXX").string();
    return ::mkdtemp(pattern.data());
  }
  tls::TrustStore load_trust() {
    const std::string file = directory_ + "/origins.pem";
    std::ofstream(file) << origins_.certificate_pem();
    return tls::TrustStore::load({file}).value();
  }

  std::string directory_;
  tls::WorkspaceCa workspace_;
  tls::WorkspaceCa origins_;
  tls::LeafMinter origin_leaves_;
  tls::TrustStore trust_;
  SslContextPtr client_, server_;
};

/// One end of a connection in the test's hand.
class Peer {
 public:
  Peer(Fd socket, SslPtr secure) : socket_(std::move(socket)), secure_(std::move(secure)) {
    if (secure_) SSL_set_fd(secure_.get(), socket_.get());
  }

  /// One write, and one record of TLS.
  void send(std::string_view bytes) {
    if (!bytes.empty()) pending_.emplace_back(bytes);
  }
  bool sent() const { return pending_.empty(); }
  /// A small write does not wait until the other end has acknowledged an earlier one.
  void send_at_once() {
    const int on = 1;
    ::setsockopt(socket_.get(), IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
  }
  /// The orderly end of our direction (close_notify and FIN), once everything is sent.
  void half_close() { half_close_ = true; }
  /// FIN without close_notify.
  void cut() { ::shutdown(socket_.get(), SHUT_WR); }
  void close() {
    half_close();
    pump();
    drop();
  }
  void reset() {
    const linger now{.l_onoff = 1, .l_linger = 0};
    ::setsockopt(socket_.get(), SOL_SOCKET, SO_LINGER, &now, sizeof now);
    drop();
  }
  /// Reads nothing any more, so that the other side's sending comes to a stop.
  void pause(bool on) { paused_ = on; }

  /// What came since the last take(), with [end], [cut] or [reset] where the other side ended.
  const std::string& received() const { return received_; }
  std::string take() { return std::exchange(received_, {}); }
  bool over() const { return over_ || !socket_; }
  /// The TLS handshake took up an earlier session.
  bool resumed() const { return secure_ && SSL_session_reused(secure_.get()) == 1; }

  /// Moves what can be moved. True when something was.
  bool pump() {
    if (!socket_) return false;
    if (secure_ && !shaken_ && !over_) {
      ERR_clear_error();
      const int result = SSL_do_handshake(secure_.get());
      if (result != 1) {
        const int kind = SSL_get_error(secure_.get(), result);
        if (kind == SSL_ERROR_WANT_READ || kind == SSL_ERROR_WANT_WRITE) return false;
        return note("[no handshake]\n");
      }
      shaken_ = true;
    }
    bool moved = read_some();
    while (!pending_.empty()) {
      const ssize_t count = write_some();
      if (count <= 0) break;
      pending_.front().erase(0, static_cast<std::size_t>(count));
      if (pending_.front().empty()) pending_.pop_front();
      moved = true;
    }
    if (half_close_ && pending_.empty() && !closed_) {
      closed_ = moved = true;
      if (secure_ && shaken_) SSL_shutdown(secure_.get());
      ::shutdown(socket_.get(), SHUT_WR);
    }
    return moved;
  }

 private:
  void drop() {
    secure_.reset();
    socket_.reset();
    over_ = true;
  }
  bool note(const char* what) {
    if (over_) return false;
    over_ = true;
    received_ += what;
    return true;
  }
  ssize_t write_some() {
    if (!secure_)
      return ::send(socket_.get(), pending_.front().data(), pending_.front().size(), MSG_NOSIGNAL);
    ERR_clear_error();
    return SSL_write(secure_.get(), pending_.front().data(), static_cast<int>(pending_.front().size()));
  }
  bool read_some() {
    if (over_ || paused_) return false;
    bool moved = false;
    char buffer[16384];
    while (true) {
      ERR_clear_error();
      errno = 0;
      const ssize_t count = secure_ ? SSL_read(secure_.get(), buffer, sizeof buffer)
                                    : ::recv(socket_.get(), buffer, sizeof buffer, 0);
      if (count > 0) {
        received_.append(buffer, static_cast<std::size_t>(count));
        moved = true;
        continue;
      }
      return moved | ended(static_cast<int>(count));
    }
  }
  bool ended(int count) {
    const int number = errno;
    if (secure_) {
      switch (SSL_get_error(secure_.get(), count)) {
        case SSL_ERROR_WANT_READ:
        case SSL_ERROR_WANT_WRITE: return false;
        case SSL_ERROR_ZERO_RETURN: return note("[end]\n");
        case SSL_ERROR_SSL: return note("[cut]\n");
        default: return note(number == ECONNRESET ? "[reset]\n" : "[cut]\n");
      }
    }
    if (count == 0) return note("[end]\n");
    return number == EAGAIN ? false : note("[reset]\n");
  }

  Fd socket_;
  SslPtr secure_;
  std::deque<std::string> pending_;
  std::string received_;
  bool shaken_ = false, half_close_ = false, closed_ = false, over_ = false, paused_ = false;
};

/// Made once: keys cost more than tests should.
inline std::shared_ptr<const credential::CallbackSigner> callback_signer() {
  static const std::shared_ptr<const credential::CallbackSigner> signer =
      std::make_shared<const credential::CallbackSigner>(
          credential::JwtKey::generate(credential::JwtAlgorithm::eddsa), "https://postern.example.net");
  return signer;
}

inline std::shared_ptr<const credential::WorkloadIdentity> workload_identity() {
  static const std::shared_ptr<const credential::WorkloadIdentity> identity =
      std::make_shared<const credential::WorkloadIdentity>(
          credential::JwtKey::generate(credential::JwtAlgorithm::rs256), "https://postern.example.net");
  return identity;
}

inline Fd listen_on_loopback(std::uint16_t& port) {
  Fd listening(::socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0));
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  socklen_t size = sizeof address;
  if (::bind(listening.get(), reinterpret_cast<sockaddr*>(&address), size) != 0 ||
      ::listen(listening.get(), 64) != 0)
    std::abort();
  ::getsockname(listening.get(), reinterpret_cast<sockaddr*>(&address), &size);
  port = ntohs(address.sin_port);
  return listening;
}

inline constexpr std::string_view default_policy = R"(
access_control: {allow_list: [api.example.com, plain.example.com, tls.example.com, "db.example.com:5432", gone.example.com]}
rules:
  - name: api
    match_hosts: [api.example.com]
    headers: [{name: Authorization, type: workspace_secret, value: "Bearer {API_KEY}"}]
)";

/// A new RSA key costs a moment: made once.
inline std::string rsa_pem() {
  static const std::string pem = [] {
    EVP_PKEY* key = EVP_RSA_gen(2048);
    BIO* bio = BIO_new(BIO_s_mem());
    PEM_write_bio_PrivateKey(bio, key, nullptr, nullptr, 0, nullptr, nullptr);
    char* text = nullptr;
    const long size = BIO_get_mem_data(bio, &text);
    std::string out(text, static_cast<std::size_t>(size));
    BIO_free(bio);
    EVP_PKEY_free(key);
    return out;
  }();
  return pem;
}

struct RoadOptions {
  std::string policy{default_policy};
  bool origin_tls = true;
  bool origin_http2 = false;
  std::chrono::milliseconds patience{1};  ///< settle() has seen nothing move for several times this.
  std::string
      origin_name;  ///< In the origin's certificate; empty: the name that its SNI asks for, or the host.
  LoadLimits load;
  bool prompt_peers = false;                                 ///< See Peer::send_at_once.
  std::vector<std::pair<std::string, std::string>> secrets;  ///< Besides API_KEY.
  std::shared_ptr<credential::RefreshTokens> refresh_tokens;
  std::shared_ptr<const credential::WorkloadIdentity> identity;
  std::vector<std::string> origin_hosts;  ///< Besides those of the default policy and its like.
  bool endpoint_tls = true;
  std::string endpoint_name = "creds.example.net";  ///< In its certificate.
};

class Road {
 public:
  explicit Road(RoadOptions options) : options_(std::move(options)) {
    std::signal(SIGPIPE, SIG_IGN);  // OpenSSL's own sockets in Peer write without MSG_NOSIGNAL.
    sink_ = Fd(::memfd_create("journal", MFD_CLOEXEC));
    journal_ = std::make_unique<audit::Journal>(Fd(::dup(sink_.get())));
    listening_ = listen_on_loopback(origin_port_);

    auto document = policy::parse_document(options_.policy, policy::Format::yaml);
    if (!document) throw std::runtime_error("policy: " + document.error().front().message);
    policy::CompileOptions compile;
    compile.default_egress = policy::DefaultEgress::hosts_of_rules;
    compile.version = 7;
    auto snapshot = policy::compile(std::move(*document), compile);
    if (!snapshot) throw std::runtime_error("policy: " + snapshot.error().front().message);
    credential::SecretStore secrets;
    (void)secrets.set("API_KEY", Secret(canary));
    for (const auto& [key, value] : options_.secrets) (void)secrets.set(key, Secret(std::string(value)));
    auto injections = credential::resolve(
        **snapshot, secrets,
        {.kept = options_.refresh_tokens, .identity = options_.identity, .tag_values = {}});
    if (!injections) throw std::runtime_error("policy: " + injections.error().front().message);
    tenant_.egress = make_egress(std::move(*snapshot), std::move(*injections), callback_signer());
    tenant_.identity.name = std::make_shared<const std::string>("box");
    tenant_.identity.workspace = std::make_shared<const std::string>("home");
    tenant_.identity.names = &names_;

    auto overrides = std::make_shared<origin::Overrides>();
    const origin::Override here{IpAddress::v4(INADDR_LOOPBACK), origin_port_};
    for (const char* host : {"api.example.com", "plain.example.com", "tls.example.com", "db.example.com",
                             "other.example.com", "storage.googleapis.com", "github.com"})
      (*overrides)[host].push_back(here);
    for (const std::string& host : options_.origin_hosts) (*overrides)[host].push_back(here);
    std::uint16_t endpoint_port = 0;
    endpoint_listening_ = listen_on_loopback(endpoint_port);
    for (const char* host :
         {"creds.example.net", "api.github.com", "oauth2.googleapis.com", "sts.amazonaws.com",
          "sts.googleapis.com", "iamcredentials.googleapis.com", "login.microsoftonline.com"})
      (*overrides)[host].push_back({IpAddress::v4(INADDR_LOOPBACK), endpoint_port});
    std::uint16_t closed_port = 0;
    listen_on_loopback(closed_port);  // closed again at once
    (*overrides)["gone.example.com"].push_back({IpAddress::v4(INADDR_LOOPBACK), closed_port});
    const Operator settings{overrides, {}, Certificates::shared().trust(), options_.load};
    worker_ = std::make_unique<Worker>(
        clock_, settings, tls::LeafMinter::create(Certificates::shared().workspace()).value(), *journal_);
  }

  /// A program in the sandbox connects to host:port; `server_name` makes it speak TLS, and `offer` ALPN.
  /// Literal addresses stay what they are, names get their synthetic address.
  Peer& connect(const std::string& host, std::uint16_t port, const std::string& server_name = {},
                Offer offer = Offer::http1, Tenant* tenant = nullptr) {
    std::uint16_t own_port = 0;
    const Fd doorstep = listen_on_loopback(own_port);
    Fd ours(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    address.sin_port = htons(own_port);
    if (::connect(ours.get(), reinterpret_cast<sockaddr*>(&address), sizeof address) != 0) std::abort();
    ::fcntl(ours.get(), F_SETFL, O_NONBLOCK);
    Fd accepted(::accept4(doorstep.get(), nullptr, nullptr, SOCK_NONBLOCK | SOCK_CLOEXEC));
    const int on = 1;  // As an io::Listener has it.
    ::setsockopt(accepted.get(), IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    const auto literal = IpAddress::parse(host);
    const Endpoint dialled{literal ? *literal : names_.address_for(host, dns::NameUse::allowed).value(),
                           port};
    host_ = host;
    SslPtr secure;
    if (!server_name.empty()) secure = Certificates::shared().client(server_name, offer);
    sandboxes_.push_back(std::make_unique<Peer>(std::move(ours), std::move(secure)));
    if (options_.prompt_peers) sandboxes_.back()->send_at_once();
    inside_(true);
    worker_->admit(tenant ? *tenant : tenant_, dialled, std::move(accepted));
    inside_(false);
    return *sandboxes_.back();
  }

  Tenant& tenant() { return tenant_; }
  /// Another sandbox with the same policy.
  Tenant& new_tenant() {
    Tenant& tenant = tenants_.emplace_back();
    tenant.identity.name = tenant_.identity.name;
    tenant.identity.workspace = tenant_.identity.workspace;
    tenant.identity.names = &names_;
    tenant.egress = tenant_.egress;
    return tenant;
  }

  /// The newest of each.
  Peer& sandbox() { return *sandboxes_.back(); }
  bool has_sandbox() const { return !sandboxes_.empty(); }
  Peer* origin() { return origins_.empty() ? nullptr : origins_.back().get(); }
  std::size_t origins() const { return origins_.size(); }
  /// Connections to creds.example.net, where callbacks are asked.
  Peer* endpoint() { return endpoints_.empty() ? nullptr : endpoints_.back().get(); }
  std::size_t endpoints() const { return endpoints_.size(); }
  /// In the certificate of those that connect from now on.
  void name_endpoint(std::string name) { options_.endpoint_name = std::move(name); }
  Worker& worker() { return *worker_; }
  ManualClock& clock() { return clock_; }
  std::uint16_t origin_port() const { return origin_port_; }

  /// One turn of everybody. True when a peer moved.
  bool turn(Duration longest = Duration::zero()) {
    inside_(true);
    worker_->loop.run_once(longest);
    inside_(false);
    bool moved = false;
    Fd accepted(::accept4(listening_.get(), nullptr, nullptr, SOCK_NONBLOCK | SOCK_CLOEXEC));
    if (accepted) {
      moved = true;
      SslPtr secure;
      if (options_.origin_tls)
        secure = Certificates::shared().server(options_.origin_name.empty() ? host_ : options_.origin_name,
                                               options_.origin_http2);
      origins_.push_back(std::make_unique<Peer>(std::move(accepted), std::move(secure)));
      if (options_.prompt_peers) origins_.back()->send_at_once();
    }
    if (Fd asking(::accept4(endpoint_listening_.get(), nullptr, nullptr, SOCK_NONBLOCK | SOCK_CLOEXEC));
        asking) {
      moved = true;
      SslPtr secure;
      if (options_.endpoint_tls) secure = Certificates::shared().server(options_.endpoint_name);
      endpoints_.push_back(std::make_unique<Peer>(std::move(asking), std::move(secure)));
      endpoints_.back()->send_at_once();
    }
    for (auto& peer : sandboxes_) moved |= peer->pump();
    for (auto& peer : origins_) moved |= peer->pump();
    for (auto& peer : endpoints_) moved |= peer->pump();
    return moved;
  }
  /// Turns until nothing has moved for a while.
  void settle() {
    for (int quiet = 0; quiet < 6;)
      quiet = turn(quiet ? options_.patience : std::chrono::milliseconds(0)) ? 0 : quiet + 1;
  }
  /// Turns until `done`; false when that takes longer than any machine needs.
  bool wait_until(const std::function<bool()>& done,
                  std::chrono::seconds longest = std::chrono::seconds(10)) {
    const auto end = std::chrono::steady_clock::now() + longest;
    while (!done()) {
      if (std::chrono::steady_clock::now() > end) return false;
      turn(std::chrono::milliseconds(1));
    }
    return true;
  }

  /// Told before and after Postern's own code runs, with none of the ends.
  void watch_inside(std::function<void(bool begins)> watcher) { inside_ = std::move(watcher); }

  /// Everybody leaves; false when something of the road still runs then.
  bool leave() {
    for (auto& peer : sandboxes_) peer->close();
    for (auto& peer : origins_) peer->close();
    for (auto& peer : endpoints_) peer->close();
    return wait_until([&] { return worker_->loop.active() == 0; }, std::chrono::seconds(3));
  }
  /// Ends it all; the journal's lines.
  std::vector<std::string> records() {
    worker_->journal.flush();
    worker_.reset();
    journal_->close();
    std::string text(static_cast<std::size_t>(::lseek(sink_.get(), 0, SEEK_END)), '\0');
    if (::pread(sink_.get(), text.data(), text.size(), 0) != static_cast<ssize_t>(text.size())) std::abort();
    std::vector<std::string> lines;
    for (std::size_t at = 0; at < text.size();) {
      const std::size_t end = text.find('\n', at);
      lines.push_back(text.substr(at, end - at));
      at = end + 1;
    }
    return lines;
  }

 private:
  RoadOptions options_;
  std::function<void(bool)> inside_ = [](bool) {};
  ManualClock clock_;
  dns::NameTable names_;
  Tenant tenant_;
  std::deque<Tenant> tenants_;
  std::uint16_t origin_port_ = 0;
  Fd listening_, sink_;
  std::string host_;
  std::unique_ptr<audit::Journal> journal_;
  std::unique_ptr<Worker> worker_;
  Fd endpoint_listening_;
  std::vector<std::unique_ptr<Peer>> endpoints_;
  std::vector<std::unique_ptr<Peer>> sandboxes_, origins_;
};

namespace kit = http2::kit;

/// A peer that speaks HTTP/2. Its `loop` is never run: it may be any that lives longer.
class Http2Peer {
 public:
  Http2Peer(Peer& peer, io::Loop& loop, http2::Role role) : peer_(peer), end(loop, role) {}
  ~Http2Peer() { part(); }
  void pump() {
    std::string came = peer_.take();
    if (peer_.over() && came.ends_with("]\n")) came.resize(came.rfind('['));
    text += came;
    if (!came.empty()) (void)end.feed(came);
    peer_.send(end.take());
    if (peer_.over()) part();
  }
  void part() {
    end.session.fail({Reason::cancelled, Side::self, Retry::never, "the test's end"});
    end.session.wake();
  }
  std::optional<std::uint32_t> goaway() const {
    const auto found = kit::of_type(text, kit::goaway);
    return found.empty() ? std::nullopt : std::optional(found.back().code());
  }

 private:
  Peer& peer_;

 public:
  kit::End end;
  std::string text;  ///< Everything, as it came.
};

}  // namespace postern::proxy::road
