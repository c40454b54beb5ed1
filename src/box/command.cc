#include "box/command.h"

#include <algorithm>
#include <csignal>

namespace postern::box {

Command::Command(io::Loop& loop, AgentLink& link, CommandOptions options)
    : Timer(loop), loop_(loop), link_(link), options_(std::move(options)) {
  number_ = link_.run(options_.request, *this);
  if (number_ == 0) {
    error_number_ = link_.alive() ? EAGAIN : ECONNRESET;
    end(link_.alive() ? State::refused : State::lost);
    return;
  }
  if (options_.request.terminal) ended_[1] = true;  // A terminal has one stream.
  if (options_.timeout.count() > 0) timeout_at_ = loop_.now() + options_.timeout;
  if (options_.idle_timeout.count() >= 0) idle_at_ = loop_.now() + options_.idle_timeout;
  set_timer();
}

Command::~Command() {
  if (over()) return;
  link_.signal(number_, SIGKILL);
  link_.forget(number_);
}

void Command::attach(Viewer& viewer, std::uint64_t output_offset, std::uint64_t error_offset) {
  viewer.offset_[0] = output_offset;
  viewer.offset_[1] = error_offset;
  for (std::size_t i = 0; i < 2; ++i)
    viewer.offset_[i] = std::clamp(viewer.offset_[i], rings_[i].begin(), rings_[i].end());
  viewers_.push_back(&viewer);
  idle_at_ = TimePoint::max();
  set_timer();
}

void Command::detach(Viewer& viewer) {
  if (std::erase(viewers_, &viewer) == 0 || !viewers_.empty() || over()) return;
  for (std::size_t i = 0; i < 2; ++i) let_go_on(i);
  if (options_.kill_without_viewer) return signal(SIGKILL);
  if (options_.idle_timeout.count() >= 0) idle_at_ = loop_.now() + options_.idle_timeout;
  set_timer();
}

std::optional<Command::Chunk> Command::pull(Viewer& viewer, StreamId stream, std::size_t max) {
  const std::size_t i = index(stream);
  // The ring may have gone on without a slow viewer.
  viewer.offset_[i] = std::max(viewer.offset_[i], rings_[i].begin());
  Chunk chunk{viewer.offset_[i], rings_[i].copy(viewer.offset_[i], max)};
  if (chunk.bytes.empty()) return std::nullopt;
  viewer.offset_[i] += chunk.bytes.size();
  let_go_on(i);
  return chunk;
}

std::optional<Command::Chunk> Command::pull_text(Viewer& viewer, StreamId stream, std::size_t max) {
  const std::size_t i = index(stream);
  viewer.offset_[i] = std::max(viewer.offset_[i], rings_[i].begin());
  const std::string bytes = rings_[i].copy(viewer.offset_[i], max);
  const bool last = viewer.offset_[i] + bytes.size() == rings_[i].end();
  std::size_t used = 0;
  Chunk chunk{viewer.offset_[i], utf8_chunk(bytes, last && ended_[i], max, used)};
  if (used == 0) return std::nullopt;
  viewer.offset_[i] += used;
  let_go_on(i);
  return chunk;
}

bool Command::at_end(const Viewer& viewer) const {
  return over() && viewer.offset_[0] >= rings_[0].end() && viewer.offset_[1] >= rings_[1].end();
}

bool Command::input(std::string_view bytes) {
  if (over() || !(options_.request.has_input || options_.request.terminal)) return true;
  return link_.input(number_, bytes);
}

void Command::close_input() {
  if (!over()) link_.close_input(number_);
}

void Command::signal(int number) {
  if (!over()) link_.signal(number_, number);
}

void Command::resize(std::uint16_t rows, std::uint16_t columns) {
  if (!over()) link_.resize(number_, rows, columns);
}

void Command::started(std::int32_t process) {
  process_ = process;
  state_ = State::running;
  tell();
}

void Command::output(StreamId stream, std::string_view bytes) {
  const std::size_t i = index(stream);
  rings_[i].append(bytes);
  untaken_[i] += static_cast<std::uint32_t>(bytes.size());
  let_go_on(i);
  tell();
}

void Command::output_ended(StreamId stream) {
  ended_[index(stream)] = true;
  tell();
}

void Command::exited(int status) {
  status_ = status;
  end(State::exited);
}

void Command::refused(int error_number) {
  error_number_ = error_number;
  end(State::refused);
}

void Command::input_taken(std::uint32_t) { tell(); }

void Command::lost() { end(State::lost); }

bool Command::at_end(const Viewer& viewer, StreamId stream) const {
  const std::size_t i = index(stream);
  return ended_[i] && viewer.offset_[i] >= rings_[i].end();
}

std::size_t Command::kept_bytes() const {
  std::size_t bytes = 0;
  for (const OutputRing& ring : rings_) bytes += static_cast<std::size_t>(ring.end() - ring.begin());
  return bytes;
}

void Command::end(State state) {
  state_ = state;
  ended_at_ = loop_.now();
  ended_[0] = ended_[1] = true;
  timeout_at_ = idle_at_ = TimePoint::max();
  if (options_.keep.count() >= 0) kept_until_ = loop_.now() + options_.keep;
  clear();
  tell();
}

void Command::tell() {
  // A viewer may leave when it is told.
  for (Viewer* const viewer : std::vector(viewers_))
    if (std::ranges::find(viewers_, viewer) != viewers_.end()) viewer->changed();
}

/// Asks for as much as was sent, unless the furthest viewer would be left behind.
void Command::let_go_on(std::size_t stream) {
  if (untaken_[stream] == 0 || over()) return;
  std::uint64_t furthest = viewers_.empty() ? rings_[stream].end() : 0;
  for (const Viewer* const viewer : viewers_) furthest = std::max(furthest, viewer->offset_[stream]);
  if (rings_[stream].end() - furthest > ring_bytes - window_bytes) return;
  link_.taken(number_, static_cast<StreamId>(stream + 1), std::exchange(untaken_[stream], 0));
}

void Command::set_timer() {
  const TimePoint next = std::min(timeout_at_, idle_at_);
  if (over() || next == TimePoint::max())
    clear();
  else
    set(next);
}

void Command::on_timer() {
  if (loop_.now() >= timeout_at_) {
    timed_out_ = true;
    timeout_at_ = TimePoint::max();
    signal(SIGKILL);
  } else if (loop_.now() >= idle_at_) {
    idle_at_ = TimePoint::max();
    signal(SIGKILL);
  }
  set_timer();
}

// ---- all of a box

Command* Commands::get_or_start(const std::string& name, CommandOptions options) {
  if (Command* const found = find(name)) return found;
  drop_expired();
  make_room();
  if (commands_.size() >= commands_kept_max) return nullptr;
  auto& place = commands_[name];
  place = std::make_unique<Command>(loop_, link_, std::move(options));
  return place.get();
}

Command* Commands::find(const std::string& name) {
  const auto found = commands_.find(name);
  if (found == commands_.end()) return nullptr;
  if (!found->second->expired()) return found->second.get();
  commands_.erase(found);
  return nullptr;
}

void Commands::make_room() {
  std::size_t bytes = 0;
  std::vector<std::pair<TimePoint, std::string>> ended;
  for (const auto& [name, command] : commands_) {
    if (!command->over() || command->watched()) continue;
    bytes += command->kept_bytes();
    ended.emplace_back(command->ended_at(), name);
  }
  std::ranges::sort(ended);
  for (const auto& [at, name] : ended) {
    if (commands_.size() < commands_kept_max && bytes <= ended_bytes_max) return;
    const auto found = commands_.find(name);
    bytes -= found->second->kept_bytes();
    commands_.erase(found);
  }
}

void Commands::drop_expired() {
  std::erase_if(commands_, [](const auto& entry) { return entry.second->expired(); });
}

}  // namespace postern::box
