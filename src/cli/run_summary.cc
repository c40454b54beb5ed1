#include "cli/run_summary.h"

#include <algorithm>
#include <cstdlib>
#include <fmt/format.h>
#include <unistd.h>
#include <vector>

namespace postern::cli {

namespace {

constexpr std::size_t hosts_shown = 12;

std::string human_bytes(std::uint64_t bytes) {
  constexpr const char* units[] = {"B", "kB", "MB", "GB", "TB"};
  double value = static_cast<double>(bytes);
  std::size_t unit = 0;
  for (; value >= 1000 && unit + 1 < std::size(units); ++unit) value /= 1000;
  return fmt::format("{:.{}f} {}", value, unit == 0 ? 0 : 1, units[unit]);
}

std::uint64_t calls(const audit::Summary::PerHost& host) { return host.allowed + host.denied + host.failed; }

}  // namespace

void print_summary(const audit::Summary& summary, bool every_host, std::FILE* out) {
  if (summary.records == 0) return;
  std::vector<std::pair<std::string, audit::Summary::PerHost>> hosts(summary.hosts.begin(),
                                                                     summary.hosts.end());
  std::ranges::stable_sort(hosts,
                           [](const auto& a, const auto& b) { return calls(a.second) > calls(b.second); });

  const bool colours = ::isatty(::fileno(out)) == 1 && std::getenv("NO_COLOR") == nullptr;
  const auto paint = [&](const char* code, const std::string& text) {
    return colours ? fmt::format("\033[{}m{}\033[0m", code, text) : text;
  };
  audit::Summary::PerHost total;
  for (const auto& [name, host] : hosts) {
    total.allowed += host.allowed;
    total.denied += host.denied;
    total.failed += host.failed;
  }
  fmt::print(out, "postern: {} allowed, {} denied, {} failed\n", total.allowed,
             total.denied ? paint("33", std::to_string(total.denied)) : "0",
             total.failed ? paint("31", std::to_string(total.failed)) : "0");
  std::size_t shown = 0;
  for (const auto& [name, host] : hosts) {
    if (!every_host && shown >= hosts_shown) {
      fmt::print(out, "  … and {} more hosts (-v shows all)\n", hosts.size() - shown);
      break;
    }
    ++shown;
    std::string line = fmt::format("  {:<40} {:>5} call{}", name, calls(host), calls(host) == 1 ? "" : "s");
    if (host.with_credentials) line += fmt::format(", {} with credentials", host.with_credentials);
    if (host.denied) line += paint("33", fmt::format(", {} denied", host.denied));
    if (host.failed) line += paint("31", fmt::format(", {} failed", host.failed));
    if (host.request_bytes + host.response_bytes > 0)
      line +=
          fmt::format(", {} up, {} down", human_bytes(host.request_bytes), human_bytes(host.response_bytes));
    fmt::print(out, "{}\n", line);
  }
  if (summary.lost)
    fmt::print(out, "  {}\n", paint("31", fmt::format("{} records could not be written", summary.lost)));
}

}  // namespace postern::cli
