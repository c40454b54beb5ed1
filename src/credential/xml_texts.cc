#include "credential/xml_texts.h"

#include <cstdlib>
#include <expat.h>
#include <memory>
#include <string.h>
#include <string>

namespace postern::credential {

namespace {

// Expat's memory holds the document's text: it is wiped when it is given back. Each block begins with its
// size, in a room that keeps what follows aligned.
constexpr std::size_t header = alignof(std::max_align_t);

void* allocate(std::size_t size) {
  if (size > SIZE_MAX - header) return nullptr;
  auto* block = static_cast<char*>(std::malloc(size + header));
  if (block == nullptr) return nullptr;
  memcpy(block, &size, sizeof size);
  return block + header;
}

std::size_t size_of(const void* room) {
  std::size_t size = 0;
  memcpy(&size, static_cast<const char*>(room) - header, sizeof size);
  return size;
}

void give_back(void* room) {
  if (room == nullptr) return;
  explicit_bzero(room, size_of(room));
  std::free(static_cast<char*>(room) - header);
}

void* reallocate(void* room, std::size_t size) {
  void* larger = allocate(size);
  if (larger == nullptr || room == nullptr) return larger;
  memcpy(larger, room, std::min(size, size_of(room)));
  give_back(room);
  return larger;
}

struct FreeParser {
  void operator()(XML_Parser parser) const { XML_ParserFree(parser); }
};

class Reader {
 public:
  Reader(std::size_t size, std::span<const std::string_view> paths) : paths_(paths), seen_(paths.size()) {
    texts_.reserve(paths.size());
    for (std::size_t i = 0; i < paths.size(); ++i) texts_.emplace_back(size);
  }

  bool read(std::string_view document) {
    const XML_Memory_Handling_Suite memory{allocate, reallocate, give_back};
    const std::unique_ptr<std::remove_pointer_t<XML_Parser>, FreeParser> parser(
        XML_ParserCreate_MM("UTF-8", &memory, nullptr));
    if (!parser) return false;
    parser_ = parser.get();
    XML_SetUserData(parser_, this);
    XML_SetElementHandler(
        parser_, [](void* self, const char* name, const char**) { static_cast<Reader*>(self)->enter(name); },
        [](void* self, const char*) { static_cast<Reader*>(self)->leave(); });
    XML_SetCharacterDataHandler(parser_, [](void* self, const char* text, int size) {
      static_cast<Reader*>(self)->add({text, static_cast<std::size_t>(size)});
    });
    XML_SetStartDoctypeDeclHandler(parser_, [](void* self, const char*, const char*, const char*, int) {
      static_cast<Reader*>(self)->stop();
    });
    return XML_Parse(parser_, document.data(), static_cast<int>(document.size()), XML_TRUE) == XML_STATUS_OK;
  }

  std::vector<WipedString> take() && { return std::move(texts_); }

 private:
  void stop() { XML_StopParser(parser_, XML_FALSE); }

  void enter(std::string_view name) {
    if (ends_.size() == xml_depth_max) return stop();
    ends_.push_back(path_.size());
    path_.append("/").append(name.substr(name.rfind(':') + 1));
    current_ = npos;
    for (std::size_t i = 0; i < paths_.size(); ++i) {
      if (path_ != paths_[i]) continue;
      if (seen_[i]) return stop();
      seen_[i] = true;
      current_ = i;
    }
  }

  void leave() {
    path_.resize(ends_.back());
    ends_.pop_back();
    current_ = npos;
  }

  void add(std::string_view text) {
    if (current_ != npos) texts_[current_].bytes() += text;  // never more than the document
  }

  static constexpr std::size_t npos = SIZE_MAX;
  const std::span<const std::string_view> paths_;
  std::vector<bool> seen_;
  std::vector<WipedString> texts_;
  XML_Parser parser_ = nullptr;
  std::string path_;
  std::vector<std::size_t> ends_;  ///< Where the path ended before each open element.
  std::size_t current_ = npos;
};

}  // namespace

std::optional<std::vector<WipedString>> read_xml_texts(std::string_view document,
                                                       std::span<const std::string_view> paths) {
  if (document.size() > INT_MAX) return std::nullopt;
  Reader reader(document.size(), paths);
  if (!reader.read(document)) return std::nullopt;
  return std::move(reader).take();
}

}  // namespace postern::credential
