#include <iterator>
#include <nlohmann/json.hpp>

#include "policy/tree.h"

namespace postern::policy {

namespace {

/// Where the reading stands. The parser tells what a token is, this tells where it began: the JSON library
/// reports neither line nor column with its events. It reads at most one byte past a token, and that byte is
/// never the beginning of another (RFC 8259 §2 puts structure or white space between two tokens).
struct Cursor {
  Position next{1, 1};
  Position token{1, 1};
  bool in_string = false, escaped = false, in_word = false;

  void step(char c) {
    const auto byte = static_cast<unsigned char>(c);
    if (in_string) {
      if (escaped) {
        escaped = false;
      } else if (c == '\\') {
        escaped = true;
      } else if (c == '"') {
        in_string = false;
      }
    } else if (c == '"' || c == '{' || c == '[') {
      token = next;
      in_string = c == '"';
      in_word = false;
    } else if (c == ' ' || c == '\t' || c == '\n' || c == '\r' || c == ',' || c == ':' || c == '}' ||
               c == ']') {
      in_word = false;
    } else if (!in_word) {
      token = next;
      in_word = true;
    }
    if (c == '\n') {
      next = {next.line + 1, 1};
    } else if ((byte & 0xc0) != 0x80) {
      ++next.column;
    }
  }
};

class CountingIterator {
 public:
  using iterator_category = std::input_iterator_tag;
  using value_type = char;
  using difference_type = std::ptrdiff_t;
  using pointer = const char*;
  using reference = const char&;

  CountingIterator(const char* at, Cursor* cursor) : at_(at), cursor_(cursor) {}
  reference operator*() const { return *at_; }
  CountingIterator& operator++() {
    cursor_->step(*at_++);
    return *this;
  }
  CountingIterator operator++(int) {
    CountingIterator before = *this;
    ++*this;
    return before;
  }
  bool operator==(const CountingIterator& other) const { return at_ == other.at_; }

 private:
  const char* at_;
  Cursor* cursor_;
};

/// The library's message quotes what it last read, which may be a credential: keep only the grammar.
std::string without_quotation(std::string message) {
  if (const auto start = message.find("syntax error"); start != std::string::npos) message.erase(0, start);
  if (const auto quote = message.find("; last read: '"); quote != std::string::npos) {
    const auto expected = message.rfind("; expected ");
    message = message.substr(0, quote) +
              (expected != std::string::npos && expected > quote ? message.substr(expected) : "");
  }
  return message;
}

class Handler : public nlohmann::json_sax<nlohmann::json> {
 public:
  Handler(TreeBuilder& builder, const Cursor& cursor) : builder_(builder), cursor_(cursor) {}

  bool null() override { return builder_.scalar(Node(Node::Kind::null, cursor_.token)); }
  bool boolean(bool value) override {
    Node node(Node::Kind::boolean, cursor_.token);
    node.truth = value;
    return builder_.scalar(std::move(node));
  }
  bool number_integer(number_integer_t value) override { return number(std::to_string(value)); }
  bool number_unsigned(number_unsigned_t value) override { return number(std::to_string(value)); }
  bool number_float(number_float_t, const string_t& text) override { return number(text); }
  bool string(string_t& value) override {
    return builder_.scalar(Node(Node::Kind::string, cursor_.token, std::move(value)));
  }
  bool binary(binary_t&) override { return false; }  // never in text
  bool start_object(std::size_t) override { return builder_.open(Node::Kind::mapping, cursor_.token); }
  bool key(string_t& value) override { return builder_.key(std::move(value), cursor_.token); }
  bool end_object() override { return builder_.close(); }
  bool start_array(std::size_t) override { return builder_.open(Node::Kind::sequence, cursor_.token); }
  bool end_array() override { return builder_.close(); }
  bool parse_error(std::size_t, const std::string&, const nlohmann::json::exception& error) override {
    return builder_.fail(cursor_.token, "not valid JSON: " + without_quotation(error.what()));
  }

 private:
  bool number(std::string text) {
    return builder_.scalar(Node(Node::Kind::number, cursor_.token, std::move(text)));
  }

  TreeBuilder& builder_;
  const Cursor& cursor_;
};

}  // namespace

void read_json(std::string_view text, TreeBuilder& builder) {
  Cursor cursor;
  Handler handler(builder, cursor);
  // NOLINTNEXTLINE(bugprone-suspicious-stringview-data-usage): both ends are given.
  CountingIterator begin(text.data(), &cursor), end(text.data() + text.size(), &cursor);
  // strict: anything but white space behind the value is an error.
  nlohmann::json::sax_parse(begin, end, &handler, nlohmann::json::input_format_t::json, /*strict=*/true);
}

}  // namespace postern::policy
