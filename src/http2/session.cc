#include "http2/session.h"

#include <algorithm>
#include <cstddef>
#include <cstdlib>
#include <cstring>
#include <nghttp2/nghttp2.h>

#include "io/frame_pool.h"
#include "wire/http1.h"

namespace postern::http2 {

namespace {

enum Pseudo : std::uint8_t { method, scheme, authority, path, protocol, status, pseudo_count };

constexpr std::string_view pseudo_names[pseudo_count] = {":method", ":scheme",   ":authority",
                                                         ":path",   ":protocol", ":status"};

// nghttp2 allocates for every frame and field: from the loop's free lists. Toward origins heads hold
// credentials, so there what it gives back is wiped.
struct alignas(std::max_align_t) Prefix {
  std::size_t bytes;  // Without this prefix.
};

template <bool wipe>
struct Memory {
  static void* allocate(std::size_t size, void*) {
    auto* prefix = static_cast<Prefix*>(io::FramePool::allocate(sizeof(Prefix) + size));
    prefix->bytes = size;
    return prefix + 1;
  }
  static void* allocate_zeroed(std::size_t count, std::size_t size, void*) {
    if (size != 0 && count > SIZE_MAX / size) return nullptr;
    void* memory = allocate(count * size, nullptr);
    std::memset(memory, 0, count * size);
    return memory;
  }
  static void release(void* memory, void*) {
    if (!memory) return;
    Prefix* prefix = static_cast<Prefix*>(memory) - 1;
    if constexpr (wipe) explicit_bzero(memory, prefix->bytes);
    io::FramePool::release(prefix, sizeof(Prefix) + prefix->bytes);
  }
  static void* resize(void* memory, std::size_t size, void*) {
    if (!memory) return allocate(size, nullptr);
    const std::size_t had = (static_cast<Prefix*>(memory) - 1)->bytes;
    if (size <= had) return memory;
    void* larger = allocate(size, nullptr);
    std::memcpy(larger, memory, had);
    release(memory, nullptr);
    return larger;
  }
  static inline nghttp2_mem functions{nullptr, allocate, release, allocate_zeroed, resize};
};
void must(int result) {
  if (result != 0) std::abort();  // Out of memory, or a setting that nghttp2 does not know.
}

template <class T, class Delete>
struct Owned {
  T* value = nullptr;
  ~Owned() { Delete{}(value); }
};
std::shared_ptr<Stream> make_stream(Session& session, io::Loop& loop, bool origin) {
  return std::allocate_shared<Stream>(io::FromFramePool<Stream>(), session, loop, origin);
}

struct DeleteCallbacks {
  void operator()(nghttp2_session_callbacks* c) const { nghttp2_session_callbacks_del(c); }
};
// Fields on their way to nghttp2, which copies them at once.
std::vector<nghttp2_nv>& field_scratch() {
  thread_local std::vector<nghttp2_nv> fields;
  fields.clear();
  return fields;
}

struct DeleteOptions {
  void operator()(nghttp2_option* o) const { nghttp2_option_del(o); }
};

}  // namespace

// What nghttp2 calls. Only notes are taken here; nobody is resumed.
struct Callbacks {
  static Session& session(void* user) { return *static_cast<Session*>(user); }
  static Stream* stream(nghttp2_session* raw, std::int32_t id) {
    return static_cast<Stream*>(nghttp2_session_get_stream_user_data(raw, id));
  }

  // What RFC 9113 has for a connection error and nghttp2 lets pass; NGHTTP2_NO_ERROR when it is neither.
  static std::uint32_t broken_rule(Session& self, nghttp2_session* raw, const nghttp2_frame_hd& header) {
    switch (header.type) {
      case NGHTTP2_CONTINUATION:  // §4.2: nghttp2 measures all but these.
        return header.length > limits::frame_bytes_max ? NGHTTP2_FRAME_SIZE_ERROR : NGHTTP2_NO_ERROR;
      case NGHTTP2_PRIORITY:  // §6.3
        return header.stream_id == 0 ? NGHTTP2_PROTOCOL_ERROR : NGHTTP2_NO_ERROR;
      case NGHTTP2_HEADERS:
        // §5.1.1: a stream that has ended, or that was skipped, does not open (again).
        if (self.role_ == Role::client || self.draining_) return NGHTTP2_NO_ERROR;
        if (header.stream_id > self.last_opened_) {
          self.last_opened_ = header.stream_id;
          return NGHTTP2_NO_ERROR;
        }
        if (nghttp2_session_find_stream(raw, header.stream_id) || self.was_given_up(header.stream_id))
          return NGHTTP2_NO_ERROR;
        return header.stream_id % 2 == 1 ? NGHTTP2_STREAM_CLOSED : NGHTTP2_PROTOCOL_ERROR;
      default: return NGHTTP2_NO_ERROR;
    }
  }

  static int begin_frame(nghttp2_session* raw, const nghttp2_frame_hd* header, void* user) {
    Session& self = session(user);
    if (const std::uint32_t code = broken_rule(self, raw, *header); code != NGHTTP2_NO_ERROR) {
      nghttp2_session_terminate_session(raw, code);
      return NGHTTP2_ERR_CALLBACK_FAILURE;
    }
    const auto is = [&](std::uint8_t flag) { return (header->flags & flag) != 0; };
    switch (header->type) {
      case NGHTTP2_HEADERS: return 0;
      case NGHTTP2_DATA:
        if (header->length > 0 || is(NGHTTP2_FLAG_END_STREAM)) return 0;
        break;
      case NGHTTP2_SETTINGS:
      case NGHTTP2_PING:
        if (is(NGHTTP2_FLAG_ACK)) return 0;
        break;
      default: break;
    }
    self.pay(1);
    return 0;
  }

  static int begin_headers(nghttp2_session* raw, const nghttp2_frame* frame, void* user) {
    Session& self = session(user);
    Stream* found = stream(raw, frame->hd.stream_id);
    if (!found && self.role_ == Role::server && frame->headers.cat == NGHTTP2_HCAT_REQUEST) {
      auto made = make_stream(self, self.loop_, false);
      made->id_ = frame->hd.stream_id;
      made->self_ = made;
      found = made.get();
      self.link(*found);
      nghttp2_session_set_stream_user_data(raw, frame->hd.stream_id, found);
    }
    if (found) self.begin_head(*found);
    return 0;
  }

  static int header(nghttp2_session* raw, const nghttp2_frame* frame, const std::uint8_t* name,
                    std::size_t name_size, const std::uint8_t* value, std::size_t value_size, std::uint8_t,
                    void* user) {
    Stream* found = stream(raw, frame->hd.stream_id);
    if (!found || !found->arriving_) return 0;
    const bool kept = session(user).add_field(*found, {reinterpret_cast<const char*>(name), name_size},
                                              {reinterpret_cast<const char*>(value), value_size});
    return kept ? 0 : NGHTTP2_ERR_TEMPORAL_CALLBACK_FAILURE;
  }

  static int frame_received(nghttp2_session* raw, const nghttp2_frame* frame, void* user) {
    Session& self = session(user);
    const bool ends = (frame->hd.flags & NGHTTP2_FLAG_END_STREAM) != 0;
    switch (frame->hd.type) {
      case NGHTTP2_HEADERS:
        if (Stream* found = stream(raw, frame->hd.stream_id); found && found->arriving_)
          if (!self.finish_head(*found, ends))
            nghttp2_submit_rst_stream(raw, NGHTTP2_FLAG_NONE, frame->hd.stream_id, NGHTTP2_PROTOCOL_ERROR);
        break;
      case NGHTTP2_DATA:
        // A frame of padding alone moves nothing.
        if (frame->hd.length > 0 && frame->hd.length <= frame->data.padlen && !ends) self.pay(1);
        if (Stream* found = stream(raw, frame->hd.stream_id); found && ends) {
          found->ended_ = true;
          self.mark_ready(*found);
        }
        break;
      case NGHTTP2_RST_STREAM:
        if (Stream* found = stream(raw, frame->hd.stream_id))
          found->peer_reset_ = frame->rst_stream.error_code;
        break;
      case NGHTTP2_GOAWAY: self.going_away_ = true; break;
      case NGHTTP2_PING:
        if (frame->hd.flags & NGHTTP2_FLAG_ACK) self.ping_answered_ = true;
        break;
      default: break;
    }
    return 0;
  }

  static int frame_sent(nghttp2_session* raw, const nghttp2_frame* frame, void* user) {
    if (frame->hd.type == NGHTTP2_GOAWAY && frame->goaway.error_code != NGHTTP2_NO_ERROR)
      session(user).broken_ = true;
    if (frame->hd.type != NGHTTP2_HEADERS && frame->hd.type != NGHTTP2_DATA) return 0;
    Stream* found = stream(raw, frame->hd.stream_id);
    if (!found || (frame->hd.flags & NGHTTP2_FLAG_END_STREAM) == 0) return 0;
    found->end_sent_ = true;
    if (found->reset_after_end_ && !found->ended_)
      nghttp2_submit_rst_stream(raw, NGHTTP2_FLAG_NONE, frame->hd.stream_id, NGHTTP2_NO_ERROR);
    return 0;
  }

  static int invalid_frame(nghttp2_session*, const nghttp2_frame* frame, int, void* user) {
    if (frame->hd.type == NGHTTP2_HEADERS) session(user).give_up(frame->hd.stream_id);
    return 0;
  }

  static int data_received(nghttp2_session* raw, std::uint8_t, std::int32_t id, const std::uint8_t* data,
                           std::size_t size, void* user) {
    Session& self = session(user);
    // One slow stream must not hold up the others: the connection's window is given back at once, the
    // stream's own when its reader is done with the bytes.
    nghttp2_session_consume_connection(raw, size);
    Stream* found = stream(raw, id);
    if (!found || found->reset_by_us_) {
      nghttp2_session_consume_stream(raw, id, size);
      return 0;
    }
    if (found->arrived_.waiting()) {
      if (found->awaited_bytes_ == 0) found->awaited_since_ = self.loop_.now();
      found->awaited_bytes_ += size;
    }
    found->anything_received_ = true;
    found->incoming_.append(reinterpret_cast<const char*>(data), size);
    self.mark_ready(*found);
    return 0;
  }

  static int stream_closed(nghttp2_session* raw, std::int32_t id, std::uint32_t code, void* user) {
    if (Stream* found = stream(raw, id)) session(user).close(*found, code);
    return 0;
  }

  static ssize_t read_length(nghttp2_session*, std::uint8_t, std::int32_t, std::int32_t, std::int32_t,
                             std::uint32_t frame_size_max, void*) {
    return static_cast<ssize_t>(std::min<std::size_t>(frame_size_max, limits::data_frame_bytes_max));
  }

  // Says how much the next DATA frame holds; send_data() copies it.
  static ssize_t read_data(nghttp2_session* raw, std::int32_t id, std::uint8_t*, std::size_t room,
                           std::uint32_t* flags, nghttp2_data_source* source, void* user) {
    auto& self = *static_cast<Stream*>(source->ptr);
    if (!self.sending_) {
      self.deferred_ = true;
      return NGHTTP2_ERR_DEFERRED;
    }
    const std::size_t count = std::min(room, self.piece_.size());
    if (count > 0) *flags |= NGHTTP2_DATA_FLAG_NO_COPY;
    if (self.piece_last_ && count == self.piece_.size()) {
      *flags |= NGHTTP2_DATA_FLAG_EOF;
      self.last_framed_ = true;
      if (!self.piece_trailers_.empty()) {
        *flags |= NGHTTP2_DATA_FLAG_NO_END_STREAM;
        auto& fields = field_scratch();
        for (const HeaderField& field : self.piece_trailers_)
          fields.push_back({bytes(field.name), bytes(field.value), field.name.size(), field.value.size(),
                            NGHTTP2_NV_FLAG_NONE});
        if (nghttp2_submit_trailer(raw, id, fields.data(), fields.size()) != 0)
          return NGHTTP2_ERR_TEMPORAL_CALLBACK_FAILURE;
      }
    }
    if (count == 0) {
      self.sending_ = false;
      session(user).mark_ready(self);
    }
    return static_cast<ssize_t>(count);
  }

  static int send_data(nghttp2_session*, nghttp2_frame*, const std::uint8_t* frame_header, std::size_t length,
                       nghttp2_data_source* source, void* user) {
    Session& self = session(user);
    auto& sender = *static_cast<Stream*>(source->ptr);
    // Given up between read_data() and now.
    if (sender.piece_.size() < length) return NGHTTP2_ERR_TEMPORAL_CALLBACK_FAILURE;
    constexpr std::size_t header_bytes = 9;
    if (!self.out_->empty() && self.out_->size() + header_bytes + length > limits::write_bytes)
      return NGHTTP2_ERR_WOULDBLOCK;
    self.out_->append({reinterpret_cast<const char*>(frame_header), header_bytes});
    self.out_->append(sender.piece_.substr(0, length));
    sender.piece_.remove_prefix(length);
    self.tokens_ = std::min(self.tokens_ + limits::tokens_per_data_frame, limits::tokens_max);
    if (sender.piece_.empty()) {
      sender.sending_ = false;
      self.mark_ready(sender);
    }
    return 0;
  }

  static std::uint8_t* bytes(std::string_view text) {
    return reinterpret_cast<std::uint8_t*>(const_cast<char*>(text.data()));
  }

  static const nghttp2_session_callbacks* all() {
    static const Owned<nghttp2_session_callbacks, DeleteCallbacks> made = [] {
      Owned<nghttp2_session_callbacks, DeleteCallbacks> callbacks;
      must(nghttp2_session_callbacks_new(&callbacks.value));
      auto* raw = callbacks.value;
      nghttp2_session_callbacks_set_on_begin_frame_callback(raw, begin_frame);
      nghttp2_session_callbacks_set_on_begin_headers_callback(raw, begin_headers);
      nghttp2_session_callbacks_set_on_header_callback(raw, header);
      nghttp2_session_callbacks_set_on_frame_recv_callback(raw, frame_received);
      nghttp2_session_callbacks_set_on_invalid_frame_recv_callback(raw, invalid_frame);
      nghttp2_session_callbacks_set_on_frame_send_callback(raw, frame_sent);
      nghttp2_session_callbacks_set_on_data_chunk_recv_callback(raw, data_received);
      nghttp2_session_callbacks_set_on_stream_close_callback(raw, stream_closed);
      nghttp2_session_callbacks_set_data_source_read_length_callback(raw, read_length);
      nghttp2_session_callbacks_set_send_data_callback(raw, send_data);
      return Owned<nghttp2_session_callbacks, DeleteCallbacks>{std::exchange(callbacks.value, nullptr)};
    }();
    return made.value;
  }
};

// ---- a stream's own doors to nghttp2
// -----------------------------------------------------------------------

Stream::Stream(Session& session, io::Loop& loop, bool origin)
    : session_(&session), origin_(origin), window_(limits::window_bytes), arrived_(loop), sent_(loop) {}

Stream::~Stream() {
  if (session_) session_->unlink(*this);
}

// A head is judged once more before it is written, however its values came into being.
template <class List>
bool Stream::fill(List& list, std::span<const Field> fields) {
  for (const Field& field : fields) {
    const std::string_view bare = field.name.starts_with(':') ? field.name.substr(1) : field.name;
    if (!wire::is_field_name(bare) || !wire::is_field_value(field.value)) return false;
    bytes_sent_ += field.name.size() + field.value.size() + 4;
    const std::uint8_t flags = field.sensitive ? NGHTTP2_NV_FLAG_NO_INDEX : NGHTTP2_NV_FLAG_NONE;
    list.push_back({Callbacks::bytes(field.name), Callbacks::bytes(field.value), field.name.size(),
                    field.value.size(), flags});
  }
  return true;
}

bool Stream::send_head(std::span<const Field> fields, bool ends) {
  auto& list = field_scratch();
  if (closed_ || !session_ || !fill(list, fields)) return false;
  auto& raw = *session_->session_;
  nghttp2_data_provider body{{.ptr = this}, Callbacks::read_data};
  if (session_->role_ == Role::server) {
    if (nghttp2_submit_response(&raw, id_, list.data(), list.size(), ends ? nullptr : &body) != 0)
      return false;
  } else {
    id_ = nghttp2_submit_request(&raw, nullptr, list.data(), list.size(), ends ? nullptr : &body, this);
    if (id_ < 0) return false;
    self_ = shared_from_this();
  }
  last_framed_ = ends;
  session_->owner_.wants_write();
  return true;
}

bool Stream::send_informational(std::span<const Field> fields) {
  auto& list = field_scratch();
  if (closed_ || !session_ || !fill(list, fields)) return false;
  if (nghttp2_submit_headers(session_->session_, NGHTTP2_FLAG_NONE, id_, nullptr, list.data(), list.size(),
                             nullptr) != 0)
    return false;
  session_->owner_.wants_write();
  return true;
}

void Stream::reset(ErrorCode code) {
  if (closed_ || reset_by_us_ || !session_ || id_ < 0) return;
  reset_by_us_ = true;
  abandon_piece();
  if (code == ErrorCode::no_error && last_framed_ && !end_sent_) {
    // The end of a complete answer is still to be sent, and nghttp2 would drop it.
    reset_after_end_ = true;
    return;
  }
  nghttp2_submit_rst_stream(session_->session_, NGHTTP2_FLAG_NONE, id_, static_cast<std::uint32_t>(code));
  session_->owner_.wants_write();
}

// ---- the session
// -------------------------------------------------------------------------------------------

Session::Session(io::Loop& loop, Role role, Owner& owner)
    : loop_(loop),
      role_(role),
      owner_(owner),
      earned_at_(loop.now()),
      idle_since_(loop.now()),
      frames_(role) {
  Owned<nghttp2_option, DeleteOptions> options;
  must(nghttp2_option_new(&options.value));
  nghttp2_option_set_no_auto_window_update(options.value, 1);
  nghttp2_option_set_no_closed_streams(options.value, 1);
  nghttp2_option_set_max_continuations(options.value, limits::continuations_max);
  // Resets are paid for with tokens; nghttp2's own count would end the connection as INTERNAL_ERROR first.
  nghttp2_option_set_stream_reset_rate_limit(options.value, UINT64_MAX, UINT64_MAX);
  nghttp2_option_set_peer_max_concurrent_streams(options.value, limits::streams_max);
  std::vector<nghttp2_settings_entry> settings{
      {NGHTTP2_SETTINGS_MAX_HEADER_LIST_SIZE, limits::header_list_bytes_max},
      {NGHTTP2_SETTINGS_NO_RFC7540_PRIORITIES, 1},
  };
  if (role == Role::server) {
    must(nghttp2_session_server_new3(&session_, Callbacks::all(), this, options.value,
                                     &Memory<false>::functions));
    settings.push_back({NGHTTP2_SETTINGS_MAX_CONCURRENT_STREAMS, limits::streams_max});
    settings.push_back({NGHTTP2_SETTINGS_ENABLE_CONNECT_PROTOCOL, 1});
  } else {
    must(nghttp2_session_client_new3(&session_, Callbacks::all(), this, options.value,
                                     &Memory<true>::functions));
    settings.push_back({NGHTTP2_SETTINGS_ENABLE_PUSH, 0});
  }
  must(nghttp2_submit_settings(session_, NGHTTP2_FLAG_NONE, settings.data(), settings.size()));
  must(
      nghttp2_session_set_local_window_size(session_, NGHTTP2_FLAG_NONE, 0, limits::connection_window_bytes));
}

Session::~Session() {
  fail(Error{Reason::cancelled, Side::self, Retry::never, "the connection has gone"});
  nghttp2_session_del(session_);
}

void Session::link(Stream& stream) {
  stream.next_ = streams_;
  if (streams_) streams_->previous_ = &stream;
  streams_ = &stream;
  ++open_streams_;
}

void Session::unlink(Stream& stream) {
  if (stream.previous_)
    stream.previous_->next_ = stream.next_;
  else if (streams_ == &stream)
    streams_ = stream.next_;
  else
    return;  // Never linked.
  if (stream.next_) stream.next_->previous_ = stream.previous_;
  stream.previous_ = stream.next_ = nullptr;
  if (--open_streams_ == 0) idle_since_ = loop_.now();
}

void Session::mark_ready(Stream& stream) {
  if (stream.ready_) return;
  stream.ready_ = true;
  ready_.push_back(stream.shared_from_this());
}

bool Session::pay(std::int64_t tokens) {
  const TimePoint now = loop_.now();
  const auto milliseconds = std::chrono::duration_cast<std::chrono::milliseconds>(now - earned_at_).count();
  if (milliseconds > 0) {
    tokens_ = std::min(tokens_ + milliseconds * limits::tokens_per_second / 1000, limits::tokens_max);
    if (milliseconds * limits::tokens_per_second >= 1000) earned_at_ = now;
  }
  tokens_ -= tokens;
  if (tokens_ >= 0) return true;
  say_calm();
  return false;
}

void Session::say_calm() {
  if (std::exchange(calmed_, true)) return;
  nghttp2_session_terminate_session(session_, NGHTTP2_ENHANCE_YOUR_CALM);
  owner_.wants_write();
}

Result<void> Session::receive(std::string_view bytes) {
  const ssize_t taken =
      nghttp2_session_mem_recv(session_, reinterpret_cast<const std::uint8_t*>(bytes.data()), bytes.size());
  if (const std::int64_t unknown = frames_.follow(bytes); unknown > 0) pay(unknown);
  if (taken == NGHTTP2_ERR_FLOODED) say_calm();  // Too many answers that the peer does not read.
  if (auto so_far = verdict(); !so_far) return so_far;
  if (taken < 0) return postern::fail(malformed(), nghttp2_strerror(static_cast<int>(taken)), side());
  if (nghttp2_session_want_write(session_)) owner_.wants_write();
  return {};
}

Result<void> Session::verdict() const {
  // An origin that floods us is broken; a sandbox that does so is at a limit of ours.
  const Reason flooded = role_ == Role::server ? Reason::overloaded : malformed();
  if (calmed_) return postern::fail(flooded, "too many HTTP/2 frames that do nothing", side());
  if (broken_) return postern::fail(malformed(), "the rules of HTTP/2 were broken", side());
  return {};
}

Session::Frames::Frames(Role role)
    : payload_left_(role == Role::server ? NGHTTP2_CLIENT_MAGIC_LEN : 0), preface_(role == Role::server) {}

// RFC 9113 §4.1
std::int64_t Session::Frames::follow(std::string_view bytes) {
  std::int64_t unknown = 0;
  while (!bytes.empty()) {
    const std::size_t wanted = payload_left_ > 0 ? payload_left_ : sizeof header_ - header_bytes_;
    const std::size_t count = std::min(wanted, bytes.size());
    if (payload_left_ > 0) {
      payload_left_ -= count;
      if (payload_left_ == 0 && !std::exchange(preface_, false)) ++received_;
    } else {
      std::memcpy(header_ + header_bytes_, bytes.data(), count);
      header_bytes_ += count;
    }
    bytes.remove_prefix(count);
    if (header_bytes_ < sizeof header_) continue;
    header_bytes_ = 0;
    payload_left_ = static_cast<std::size_t>(header_[0] << 16 | header_[1] << 8 | header_[2]);
    if (payload_left_ == 0) ++received_;
    const unsigned char type = header_[3];
    head_frame_ = type == NGHTTP2_HEADERS || type == NGHTTP2_CONTINUATION;
    block_open_ = head_frame_ && (header_[4] & NGHTTP2_FLAG_END_HEADERS) == 0;
    unknown += type > NGHTTP2_CONTINUATION;
  }
  return unknown;
}

std::size_t Session::Frames::length_of_few(std::string_view bytes) const {
  Frames at = *this;
  std::size_t length = 0;
  int heads = 0;
  while (length < bytes.size() && heads < limits::heads_few &&
         at.received_ - received_ < limits::frames_few) {
    const std::size_t wanted = at.payload_left_ > 0 ? at.payload_left_ : sizeof header_ - at.header_bytes_;
    const std::string_view part = bytes.substr(length, wanted);
    at.follow(part);
    length += part.size();
    heads += at.head_frame_ && at.payload_left_ == 0 && at.header_bytes_ == 0;
  }
  return length;
}

void Session::produce(io::Buffer& out) {
  if (failed_) return;
  out_ = &out;
  while (out.size() < limits::write_bytes) {
    const std::uint8_t* data = nullptr;
    const ssize_t count = nghttp2_session_mem_send(session_, &data);
    if (count <= 0) break;
    out.append({reinterpret_cast<const char*>(data), static_cast<std::size_t>(count)});
  }
  out_ = nullptr;
}

bool Session::wake() {
  if (waking_now_) return false;
  waking_now_ = true;
  bool any = false;
  bool go_on = true;
  while (!ready_.empty() || !refused_.empty() || (go_on && !requests_.empty())) {
    any = true;
    for (const Error& why : std::exchange(refused_, {})) owner_.on_refused_request(why);
    if (go_on) go_on = begin_requests();
    std::swap(ready_, waking_);
    for (const auto& stream : waking_) {
      stream->ready_ = false;
      stream->hand_over();
    }
    waking_.clear();
  }
  waking_now_ = false;
  return any;
}

/// Those that wait, or as many as there is time for. False: others have to go first.
bool Session::begin_requests() {
  std::swap(requests_, starting_);
  std::size_t begun = 0;
  while (begun < starting_.size() && (begun == 0 || !loop_.slice_spent()))
    owner_.on_request(std::move(starting_[begun++]));
  requests_.insert(requests_.begin(),
                   std::make_move_iterator(starting_.begin() + static_cast<std::ptrdiff_t>(begun)),
                   std::make_move_iterator(starting_.end()));
  starting_.clear();
  return !loop_.slice_spent();
}

void Session::fail(const Error& error) {
  failed_ = true;
  while (Stream* stream = streams_) {
    const std::shared_ptr<Stream> kept = stream->shared_from_this();
    stream->connection_error_ = error;
    close(*stream, static_cast<std::uint32_t>(ErrorCode::internal_error));
  }
}

void Session::close(Stream& stream, std::uint32_t code) {
  const std::shared_ptr<Stream> kept = stream.shared_from_this();
  unlink(stream);
  stream.closed_ = true;
  stream.close_code_ = code;
  stream.session_ = nullptr;
  extra_window_ -= static_cast<std::size_t>(stream.window_ - limits::window_bytes);
  if (!failed_) {
    // A stream that goes before its answer costs us more than the peer (rapid reset, and what makes us
    // reset).
    const bool premature = code != 0 && !stream.reset_by_us_ && !stream.last_framed_;
    if (role_ == Role::server && premature) pay(limits::reset_tokens);
    if (role_ == Role::server && !stream.ended_ && !stream.peer_reset_) give_up(stream.id_);
    nghttp2_session_set_stream_user_data(session_, stream.id_, nullptr);
  }
  if (role_ == Role::server && !stream.delivered_ && !stream.reset_by_us_) {
    stream.delivered_ = true;
    Error why = stream.connection_error_ ? *stream.connection_error_ : stream.closed_error();
    refused_.push_back(std::move(why));
  }
  mark_ready(stream);
  stream.self_.reset();
}

// The peer may have sent trailers before it heard that we had closed their stream (RFC 9113 §5.1).
void Session::give_up(std::int32_t id) {
  if (given_up_.size() < limits::streams_max)
    given_up_.push_back(id);
  else
    given_up_[given_up_next_++ % limits::streams_max] = id;
}

bool Session::was_given_up(std::int32_t id) const {
  return std::ranges::find(given_up_, id) != given_up_.end();
}

std::shared_ptr<Stream> Session::open() {
  if (capacity() == 0) return nullptr;
  auto stream = make_stream(*this, loop_, true);
  link(*stream);
  return stream;
}

bool Session::leaving() const {
  return failed_ || going_away_ || draining_ || calmed_ || broken_ ||
         !nghttp2_session_check_request_allowed(session_);
}

std::size_t Session::capacity() const {
  if (leaving()) return 0;
  const std::size_t most = std::min<std::size_t>(
      nghttp2_session_get_remote_settings(session_, NGHTTP2_SETTINGS_MAX_CONCURRENT_STREAMS),
      limits::streams_max);
  return most > open_streams_ ? most - open_streams_ : 0;
}

bool Session::takes_extended_connect() const {
  return nghttp2_session_get_remote_settings(session_, NGHTTP2_SETTINGS_ENABLE_CONNECT_PROTOCOL) == 1;
}

void Session::drain() {
  if (failed_ || draining_) return;
  draining_ = true;
  nghttp2_submit_goaway(session_, NGHTTP2_FLAG_NONE, nghttp2_session_get_last_proc_stream_id(session_),
                        NGHTTP2_NO_ERROR, nullptr, 0);
  owner_.wants_write();
}

void Session::announce_drain() {
  if (failed_ || role_ == Role::client) return;
  nghttp2_submit_shutdown_notice(session_);
  owner_.wants_write();
}

void Session::ping() {
  ping_answered_ = false;
  nghttp2_submit_ping(session_, NGHTTP2_FLAG_NONE, nullptr);
  owner_.wants_write();
}

bool Session::over() const {
  return failed_ || (!nghttp2_session_want_read(session_) && !nghttp2_session_want_write(session_));
}

void Session::resume(Stream& stream) {
  if (std::exchange(stream.deferred_, false)) nghttp2_session_resume_data(session_, stream.id_);
  owner_.wants_write();
}

// A reader that waits, although a whole window came within a round trip, may have a larger one. Neither one
// that takes its time nor one whose sender does is held back by its window.
void Session::widen(Stream& stream) {
  const auto window = static_cast<std::size_t>(stream.window_);
  if (stream.awaited_bytes_ < window) return;
  stream.awaited_bytes_ = 0;
  const std::size_t more = std::min(window, static_cast<std::size_t>(limits::window_bytes_max) - window);
  if (more == 0 || extra_window_ + more > limits::extra_window_bytes_max) return;
  if (loop_.now() - stream.awaited_since_ > limits::round_trip) return;
  extra_window_ += more;
  stream.window_ += static_cast<std::int32_t>(more);
  nghttp2_session_set_local_window_size(session_, NGHTTP2_FLAG_NONE, stream.id_, stream.window_);
}

void Session::consumed(Stream& stream, std::size_t bytes) {
  if (stream.ended_) return;
  nghttp2_session_consume_stream(session_, stream.id_, bytes);
  widen(stream);
  if (nghttp2_session_want_write(session_)) owner_.wants_write();
}

// ---- heads
// -------------------------------------------------------------------------------------------------

void Session::begin_head(Stream& stream) { stream.arriving_ = Head::take(); }

bool Session::add_field(Stream& stream, std::string_view name, std::string_view value) {
  Head& head = *stream.arriving_;
  head.list_bytes_ += name.size() + value.size() + 32;
  if (head.list_bytes_ > limits::header_list_bytes_max || head.places_.size() >= limits::header_fields_max) {
    head.too_large = true;
    if (head.list_bytes_ <= limits::header_bomb_bytes) return true;
    pay(limits::bomb_tokens);
    return false;
  }
  const auto at = static_cast<std::uint32_t>(head.text_.size());
  head.text_.append(name).append(value);
  head.places_.push_back({at, static_cast<std::uint32_t>(name.size()),
                          at + static_cast<std::uint32_t>(name.size()),
                          static_cast<std::uint32_t>(value.size())});
  return true;
}

bool Session::finish_head(Stream& stream, bool ends) {
  HeadPtr head = std::move(stream.arriving_);
  head->end_of_stream = ends;
  if (role_ == Role::server && !stream.request_) join_cookies(*head);
  const bool is_trailers = role_ == Role::server ? stream.request_ != nullptr : stream.final_head_;
  head->fields.reserve(head->places_.size());
  for (const Head::Place& place : head->places_) {
    const std::string_view name = std::string_view(head->text_).substr(place.name, place.name_bytes);
    const std::string_view value = std::string_view(head->text_).substr(place.value, place.value_bytes);
    if (name.starts_with(':')) {
      if (!take_pseudo(*head, name, value)) return false;
      continue;
    }
    if (is_trailers) {  // Heads are read strictly by wire/http2_head.h; what ends a message is read here.
      if (!wire::is_field_name(name) || !wire::is_field_value(value)) return false;
      if (wire::is_forbidden_trailer(name)) continue;
    }
    head->fields.push_back({name, value});
  }
  if (is_trailers && head->too_large) return false;
  stream.anything_received_ = true;
  if (ends) stream.ended_ = true;
  mark_ready(stream);
  if (is_trailers) {
    stream.trailers_ = std::move(head);
    return true;
  }
  if (role_ == Role::server) {
    stream.request_ = std::move(head);
    stream.body_given_ = ends;
    stream.delivered_ = true;
    requests_.push_back(stream.shared_from_this());
    return true;
  }
  stream.final_head_ = head->status >= 200;
  stream.heads_.push_back(std::move(head));
  return stream.heads_.size() <= limits::informational_max;
}

bool Session::take_pseudo(Head& head, std::string_view name, std::string_view value) {
  const auto* found = std::ranges::find(pseudo_names, name);
  switch (found - std::begin(pseudo_names)) {
    case method: head.method = value; return true;
    case scheme: head.scheme = value; return true;
    case authority:
      head.authority = value;
      head.has_authority = true;
      return true;
    case path: head.path = value; return true;
    case protocol: head.protocol = value; return true;
    case status:
      // nghttp2 has seen to it that there are three digits.
      for (const char digit : value) head.status = head.status * 10 + (digit - '0');
      return true;
    default: return false;
  }
}

// RFC 9113 §8.2.3: an HTTP/1.1 origin knows one Cookie field.
void Session::join_cookies(Head& head) {
  const auto is_cookie = [&](const Head::Place& place) {
    return std::string_view(head.text_).substr(place.name, place.name_bytes) == "cookie";
  };
  if (std::ranges::count_if(head.places_, is_cookie) < 2) return;
  std::string joined;
  for (const Head::Place& place : head.places_)
    if (is_cookie(place)) {
      if (!joined.empty()) joined += "; ";
      joined.append(head.text_, place.value, place.value_bytes);
    }
  auto first = std::ranges::find_if(head.places_, is_cookie);
  first->value = static_cast<std::uint32_t>(head.text_.size());
  first->value_bytes = static_cast<std::uint32_t>(joined.size());
  head.text_ += joined;
  const auto tail = std::remove_if(first + 1, head.places_.end(), is_cookie);
  head.places_.erase(tail, head.places_.end());
}

}  // namespace postern::http2
