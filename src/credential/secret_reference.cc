#include "credential/secret_reference.h"

#include <algorithm>
#include <fmt/format.h>

#include "credential/file_secret.h"
#include "credential/secret_store.h"
#include "policy/pattern.h"

namespace postern::credential {

namespace {

std::unexpected<Error> refuse(std::string detail) {
  return fail(Reason::invalid_configuration, std::move(detail));
}

constexpr std::string_view bad_name =
    "a secret's name has letters, digits and _, and does not begin with a digit";

std::string_view trimmed(std::string_view text) {
  const auto blank = [](char c) { return c == ' ' || c == '\t'; };
  while (!text.empty() && blank(text.front())) text.remove_prefix(1);
  while (!text.empty() && blank(text.back())) text.remove_suffix(1);
  return text;
}

/// What may follow a closing quote.
bool is_blank_or_comment(std::string_view text) {
  text = trimmed(text);
  return text.empty() || text.front() == '#';
}

/// The value of one line. The error is a sentence without the value.
std::expected<Secret, const char*> read_value(std::string_view text) {
  text = trimmed(text);
  WipedString value(text.size());
  if (text.starts_with('\'')) {
    const auto close = text.find('\'', 1);
    if (close == std::string_view::npos) return std::unexpected("the single quote is never closed");
    if (!is_blank_or_comment(text.substr(close + 1)))
      return std::unexpected("text follows the closing quote");
    value.bytes() = text.substr(1, close - 1);
    return std::move(value).seal();
  }
  if (!text.starts_with('"')) {
    // Some readers cut here and some do not; a secret must not depend on it.
    if (text.find(" #") != std::string_view::npos || text.find("\t#") != std::string_view::npos) {
      return std::unexpected("a value with ' #' in it needs quotes, and a comment its own line");
    }
    if (text.find('"') == text.size() - 1 || text.ends_with('\''))
      return std::unexpected("a quote is closed that was not opened");
    value.bytes() = text;
    return std::move(value).seal();
  }
  std::size_t i = 1;
  for (; i < text.size() && text[i] != '"'; ++i) {
    if (text[i] != '\\') {
      value.bytes() += text[i];
      continue;
    }
    switch (++i < text.size() ? text[i] : '\0') {
      case '"':
      case '\\':
      case '$': value.bytes() += text[i]; break;
      case 'n': value.bytes() += '\n'; break;
      case 'r': value.bytes() += '\r'; break;
      case 't': value.bytes() += '\t'; break;
      default:
        return std::unexpected("unknown escape in double quotes (accepted: \\\" \\\\ \\$ \\n \\r \\t)");
    }
  }
  if (i >= text.size()) return std::unexpected("the double quote is never closed");
  if (!is_blank_or_comment(text.substr(i + 1))) return std::unexpected("text follows the closing quote");
  return std::move(value).seal();
}

std::string in_folder(std::string_view path, std::string_view folder) {
  if (path.starts_with('/') || folder.empty()) return std::string(path);
  return fmt::format("{}/{}", folder, path);
}

}  // namespace

std::string_view folder_of(std::string_view path) {
  const auto slash = path.rfind('/');
  return slash == std::string_view::npos ? std::string_view()
                                         : path.substr(0, std::max<std::size_t>(slash, 1));
}

Result<SecretReference> read_reference(std::string key, std::string place, std::string_view said,
                                       std::string_view folder) {
  using Kind = SecretReference::Kind;
  SecretReference out{.key = std::move(key), .place = std::move(place)};
  const auto wrong = [&](std::string_view what) {
    return refuse(fmt::format("{}: {}: {} ({})", out.place, out.key, what, accepted_secret_forms));
  };
  const auto behind = [&](std::string_view prefix) -> std::optional<std::string_view> {
    if (!said.starts_with(prefix)) return std::nullopt;
    return said.substr(prefix.size());
  };
  const auto is_reference = [](std::string_view text) {
    return !text.empty() && text.size() <= reference_bytes_max && text.find('\0') == std::string_view::npos;
  };
  if (const auto path = behind("file:")) {
    if (!is_reference(*path)) return wrong("file: needs a path");
    out.kind = Kind::file;
    out.text = in_folder(*path, folder);
  } else if (const auto command = behind("cmd:")) {
    if (!is_reference(*command)) return wrong("cmd: needs a command");
    out.kind = Kind::command;
    out.text = *command;
  } else if (const auto vault = behind("vault:")) {
    auto parsed = parse_vault_reference(*vault);
    if (!parsed) return wrong("vault: " + parsed.error().detail);
    out.kind = Kind::vault;
    out.vault = std::move(*parsed);
  } else if (const auto text = behind("value:")) {
    out.value = copy_of(*text);
  } else {
    out.value = copy_of(said);
  }
  return out;
}

Result<SecretReference> read_secret_option(std::string_view option) {
  constexpr const char* place = "--secret";
  const auto equals = option.find('=');
  const std::string_view key = option.substr(0, equals);
  // Not quoted: a value without its key is a value all the same.
  if (!policy::is_variable_name(key))
    return refuse(fmt::format("{}: {} ({})", place, bad_name, accepted_secret_forms));
  if (equals != std::string_view::npos)
    return read_reference(std::string(key), place, option.substr(equals + 1));
  return SecretReference{.key = std::string(key), .place = place, .kind = SecretReference::Kind::environment};
}

Result<std::vector<SecretReference>> read_env_file(const std::string& path) {
  auto file = read_whole_file(path, env_file_bytes_max);
  if (!file) return std::unexpected(std::move(file.error()));

  std::vector<SecretReference> found;
  std::string_view rest = file->view();
  for (int number = 1; !rest.empty(); ++number) {
    const auto wrong = [&](std::string_view what) {
      return refuse(fmt::format("{}:{}: {}", path, number, what));
    };
    const std::size_t end = std::min(rest.find('\n'), rest.size());
    std::string_view line = rest.substr(0, end);
    rest.remove_prefix(std::min(end + 1, rest.size()));
    if (line.ends_with('\r')) line.remove_suffix(1);
    if (line.find('\0') != std::string_view::npos) return wrong("holds a NUL byte");
    line = trimmed(line);
    if (line.empty() || line.front() == '#') continue;
    if (line.starts_with("export ")) line = trimmed(line.substr(7));

    const auto equals = line.find('=');
    // The line is not quoted: a value without its key is a value all the same.
    if (equals == std::string_view::npos) return wrong("is not KEY=VALUE");
    const std::string_view key = line.substr(0, equals);
    if (!policy::is_variable_name(key))
      return wrong("what stands before = is not a secret's name (letters, digits and _)");
    auto value = read_value(line.substr(equals + 1));
    if (!value) return wrong(fmt::format("{}: {}", key, value.error()));
    if (std::ranges::any_of(found, [&](const auto& earlier) { return earlier.key == key; }))
      return wrong(fmt::format("{} is set twice in this file", key));
    auto reference = read_reference(std::string(key), fmt::format("{}:{}", path, number), value->unwrap(),
                                    folder_of(path));
    if (!reference) return std::unexpected(std::move(reference.error()));
    found.push_back(std::move(*reference));
  }
  return found;
}

}  // namespace postern::credential
