#pragma once
// The data plane with real agents behind a real server: for the tests here and, as the program
// api_test_server, for real clients.

#include <csignal>
#include <fcntl.h>
#include <filesystem>
#include <fmt/format.h>
#include <map>
#include <memory>
#include <string>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "api/data_plane.h"
#include "base/clock.h"
#include "control/http_server.h"

namespace postern::api::test {

/// An agent beside us instead of in a sandbox, whose home is a folder of its own.
class AgentProcess {
 public:
  AgentProcess() {
    std::string pattern = (std::filesystem::temp_directory_path() / "postern-api-XXXXXX").string();
    home_ = ::mkdtemp(pattern.data());
    int ends[2];
    if (::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) != 0) std::abort();
    ours = Fd(ends[0]);
    const Fd theirs(ends[1]);
    ::fcntl(ours.get(), F_SETFL, O_NONBLOCK);
    process_ = ::fork();
    if (process_ == 0) {
      ::prctl(PR_SET_PDEATHSIG, SIGKILL);
      ::dup2(theirs.get(), 100);
      ::execl(POSTERN_AGENT_PATH, "postern-agent", "100", nullptr);
      ::_exit(127);
    }
    exit = Fd(static_cast<int>(::syscall(SYS_pidfd_open, process_, 0)));
  }
  ~AgentProcess() {
    kill();
    ::waitpid(process_, nullptr, 0);
    std::filesystem::remove_all(home_);
  }
  AgentProcess(const AgentProcess&) = delete;
  void kill() const { ::kill(process_, SIGKILL); }
  const std::string& home() const { return home_; }

  Fd ours, exit;

 private:
  pid_t process_ = -1;
  std::string home_;
};

/// Boxes by name. The name is the id, and all are awake.
class Plane final : public BoxDoor {
 public:
  explicit Plane(const control::ServerLimits& limits = {}) {
    control::ServerOptions options;
    options.listen = {IpAddress::v4(0x7F000001), 0};
    options.limits = limits;
    options.workers = 4;
    auto listening = control::HttpServer::listen(options, clock_);
    if (!listening) std::abort();
    server_ = std::move(*listening);
    const auto routes = data_plane_routes(*this, identify);
    router_.mount("/v2/sandboxes", routes);
    router_.mount("/api/v2/sandboxes", routes);
    server_->start([this](const std::shared_ptr<control::Call>& call) { router_.serve(call); }, nullptr);
  }
  ~Plane() override { server_->stop(std::chrono::seconds(2)); }

  AgentProcess& add(const std::string& name) {
    auto& agent = agents_[name];
    agent = std::make_unique<AgentProcess>();
    box::BoxDefaults defaults;
    defaults.environment = {"PATH=/usr/local/bin:/usr/bin:/bin", "LANG=C.UTF-8", "HOME=" + agent->home()};
    defaults.home = agent->home();
    boxes_.open(name, std::move(agent->ours), std::move(agent->exit), std::move(defaults), [] {});
    return *agent;
  }
  box::BoxLoop& boxes() { return boxes_; }
  const Endpoint& at() const { return server_->local(); }

  void with_box(const control::Principal&, const std::string& name, Then then) override {
    boxes_.with(name, [then = std::move(then)](box::OpenBox* box) mutable {
      if (box) return then(box);
      then(std::unexpected(control::not_found("There is no such sandbox.")));
    });
  }

 private:
  static std::expected<control::Principal, control::ApiError> identify(control::Request& request) {
    const std::string* const key = request.field("X-Api-Key");
    if (key && *key == "key") return control::Principal{"acme", control::Scope::workspace, "1"};
    if (key && *key == "reader") return control::Principal{"acme", control::Scope::read_only, "2"};
    return std::unexpected(control::unauthorized());
  }

  SystemClock clock_;
  std::map<std::string, std::unique_ptr<AgentProcess>> agents_;
  box::BoxLoop boxes_{clock_};
  control::Router router_;
  std::unique_ptr<control::HttpServer> server_;
};

}  // namespace postern::api::test
