#include "policy/snapshot.h"

#include <fmt/format.h>

namespace postern::policy {

namespace {
constexpr std::size_t hint_entries_max = 12;  // an agent reads it in an error message
}

class Compiler {
 public:
  Compiler(Document document, const CompileOptions& options)
      : document_(std::move(document)), options_(options), snapshot_(new Snapshot) {}

  std::expected<std::shared_ptr<const Snapshot>, std::vector<Problem>> run() {
    compile_access();
    index_rules();
    index_callbacks();
    merge_env_vars();
    snapshot_->version_ = options_.version;
    snapshot_->allow_private_ = options_.allow_private;
    snapshot_->plaintext_credentials_ = options_.plaintext_credentials;
    snapshot_->description_ = std::move(document_.description);
    snapshot_->rules_ = std::move(document_.rules);  // They stay where the index found them.
    snapshot_->callbacks_ = std::move(document_.callbacks);
    snapshot_->limits_ = document_.limits;
    if (!problems_.empty()) return std::unexpected(std::move(problems_));
    return std::shared_ptr<const Snapshot>(std::move(snapshot_));
  }

 private:
  void fail(std::string where, Position at, std::string message) {
    if (problems_.size() < problems_max) problems_.push_back({std::move(where), at, std::move(message)});
  }

  void compile_access() {
    const auto& access = document_.access_control;
    const bool listed = access && access->kind == AccessControl::Kind::allow_list;
    const bool from_rules = !access && options_.default_egress == DefaultEgress::hosts_of_rules;
    if (listed || from_rules) snapshot_->allowed_.emplace(Destinations::Side::allow);

    if (listed) add_entries(*access, *snapshot_->allowed_);
    if (access && !listed) add_entries(*access, snapshot_->denied_);
    if (from_rules) add_hosts_of_rules();
    // --allow beside "everything" or a deny list adds nothing, yet a typo in it must be told.
    add_options(options_.allow, "--allow", snapshot_->allowed_ ? &*snapshot_->allowed_ : nullptr, true);
    add_options(options_.deny, "--deny", &snapshot_->denied_, false);

    const bool compiled =
        (!snapshot_->allowed_ || snapshot_->allowed_->compile()) && snapshot_->denied_.compile();
    if (!compiled)
      fail("access_control", {}, "the regular expressions are too large together: write shorter ones");
    finish_hint();
  }

  void add_entries(const AccessControl& access, Destinations& out) {
    const bool allow = access.kind == AccessControl::Kind::allow_list;
    for (std::size_t i = 0; i < access.entries.size(); ++i) {
      const auto& entry = access.entries[i];
      const std::string where = fmt::format("access_control.{}[{}]", allow ? "allow_list" : "deny_list", i);
      add(entry.pattern, where, entry.at, out);
      if (allow) hint(entry.text);
    }
  }

  void add_options(const std::vector<std::string>& texts, std::string_view option, Destinations* out,
                   bool hints) {
    for (std::size_t i = 0; i < texts.size(); ++i) {
      const std::string where = fmt::format("{}[{}]", option, i);
      const auto pattern = parse_destination_pattern(texts[i]);
      if (!pattern) {
        fail(where, {}, pattern.error());
      } else if (out != nullptr) {
        add(*pattern, where, {}, *out);
        if (hints) hint(texts[i]);
      }
    }
  }

  void add(const DestinationPattern& pattern, const std::string& where, Position at, Destinations& out) {
    if (pattern.form == DestinationPattern::Form::network && ++networks_ > networks_max) {
      return fail(where, at, fmt::format("more than {} networks", networks_max));
    }
    if (!out.add(pattern)) fail(where, at, fmt::format("more than {} regular expressions", host_regexes_max));
  }

  /// Only rules that allow: a rule that closes something must not open its host for everything else.
  void add_hosts_of_rules() {
    const auto add = [this](const std::vector<Rule::MatchHost>& hosts) {
      for (const Rule::MatchHost& host : hosts) {
        using Form = DestinationPattern::Form;
        snapshot_->allowed_->add(
            {.form = host.pattern.subdomains ? Form::subdomains : Form::host, .text = host.pattern.host});
        hint(host.text);
      }
    };
    for (const Rule& rule : document_.rules)
      if (rule.enabled && rule.action == Action::allow) add(rule.match_hosts);
    for (const Callback& callback : document_.callbacks) add(callback.match_hosts);
  }

  void index_callbacks() {
    // From the last to the first, so that the first stays.
    for (std::size_t i = document_.callbacks.size(); i-- > 0;) {
      for (const Rule::MatchHost& host : document_.callbacks[i].match_hosts) {
        auto& index = snapshot_->callback_index_;
        (host.pattern.subdomains ? index.below(host.pattern.host) : index.exact(host.pattern.host)) =
            static_cast<std::uint32_t>(i);
      }
    }
  }

  void index_rules() {
    for (std::size_t i = 0; i < document_.rules.size(); ++i) {
      if (!document_.rules[i].enabled) continue;
      snapshot_->rule_index_.add(document_.rules[i], static_cast<std::uint32_t>(i));
      find_metadata(document_.rules[i].provider, static_cast<std::uint32_t>(i));
    }
    snapshot_->rule_index_.finish(document_.rules);
  }

  void find_metadata(const Provider& provider, std::uint32_t index) {
    MetadataRules& rules = snapshot_->metadata_rules_;
    const auto* azure = std::get_if<AzureAuth>(&provider);
    // A document has one; the operator's stands before the sandbox's (platform/operator_policies.h).
    if (std::holds_alternative<GcpAuth>(provider) && rules.google == no_rule) rules.google = index;
    if (azure && azure->federation && rules.azure == no_rule) rules.azure = index;
  }

  void merge_env_vars() {
    std::unordered_map<std::string_view, std::size_t> places;
    std::vector<EnvVar>& out = snapshot_->env_vars_;
    const auto set = [&](const EnvVar& variable) {
      const auto [place, is_new] = places.try_emplace(variable.name, out.size());
      if (is_new)
        out.push_back(variable);
      else
        out[place->second].value = variable.value;
    };
    for (const Rule& rule : document_.rules) {
      if (!rule.enabled) continue;
      for (const EnvVar& variable : rule.env_vars) set(variable);
    }
    // What a provider needs wins over what rules say.
    for (const Rule& rule : document_.rules)
      if (rule.enabled)
        for (const EnvVar& variable : rule.own_env) set(variable);
  }

  void hint(std::string_view text) {
    if (++hints_ > hint_entries_max) return;
    if (!snapshot_->allowed_hint_.empty()) snapshot_->allowed_hint_ += ", ";
    snapshot_->allowed_hint_ += text;
  }

  void finish_hint() {
    std::string& out = snapshot_->allowed_hint_;
    if (hints_ > hint_entries_max) out += fmt::format(" and {} more", hints_ - hint_entries_max);
    if (!snapshot_->allowed_) {
      out = snapshot_->denied_.empty() ? "every host name" : "every host name that is not denied";
    } else if (out.empty()) {
      out = "nothing";
    }
  }

  Document document_;
  const CompileOptions& options_;
  std::unique_ptr<Snapshot> snapshot_;
  std::vector<Problem> problems_;
  std::size_t networks_ = 0;
  std::size_t hints_ = 0;
};

std::uint32_t Snapshot::callback_for(const Host& host) const {
  std::uint32_t first = no_rule;
  if (const std::uint32_t* exact = callback_index_.find_exact(host.name)) first = *exact;
  if (!host.literal) {
    callback_index_.any_below(host.name, [&first](std::uint32_t number) {
      first = std::min(first, number);
      return false;
    });
  }
  return first;
}

bool Snapshot::may_reach_address(const IpAddress& address) const {
  return is_public(address) ||
         std::ranges::any_of(allow_private_, [&](const Cidr& network) { return network.contains(address); });
}

std::expected<std::shared_ptr<const Snapshot>, std::vector<Problem>> compile(Document document,
                                                                             const CompileOptions& options) {
  return Compiler(std::move(document), options).run();
}

}  // namespace postern::policy
