#pragma once
// The connections of sandboxes that a loop can ask to end: when it drains (all of them, each in its own
// protocol's words), and when it is overloaded (those at rest, the oldest first). Nodes of lists: nothing is
// allocated, and whoever goes leaves them. One per Worker; its loop's thread only.

#include <cstddef>

namespace postern::proxy {

class OpenConnections;

namespace detail {
/// A ring through its members; alone when `next` is itself.
struct Ring {
  Ring* previous = this;
  Ring* next = this;

  Ring() = default;
  Ring(const Ring&) = delete;
  Ring& operator=(const Ring&) = delete;
  ~Ring() { leave(); }
  bool alone() const { return next == this; }
  void leave() {
    previous->next = next;
    next->previous = previous;
    previous = next = this;
  }
  /// Becomes the last of a ring that is held by its head.
  void join(Ring& head) {
    leave();
    previous = head.previous;
    next = &head;
    previous->next = head.previous = this;
  }
};
}  // namespace detail

/// Those who want to be told when something happens to their tenant. Outlives them.
class TenantWatchers {
 public:
  /// Tells each that is there now. Whoever is told may go, and take others along.
  void tell();
  bool any() const { return !ring_.alone(); }

 private:
  friend class TenantWatcher;
  detail::Ring ring_;
};

class TenantWatcher {
 public:
  TenantWatcher(const TenantWatcher&) = delete;
  TenantWatcher& operator=(const TenantWatcher&) = delete;

 protected:
  explicit TenantWatcher(TenantWatchers& all) {
    hook_.owner = this;
    hook_.join(all.ring_);
  }
  ~TenantWatcher() = default;

  virtual void on_tenant_changed() = 0;

 private:
  friend class TenantWatchers;
  struct Hook : detail::Ring {
    TenantWatcher* owner = nullptr;
  };
  Hook hook_;
};

/// Connections at rest of one tenant, the oldest first. Outlives them.
class Resting {
 public:
  bool any() const { return !ring_.alone(); }

 private:
  friend class OpenConnection;
  friend class OpenConnections;
  detail::Ring ring_;
};

class OpenConnection {
 public:
  OpenConnection(const OpenConnection&) = delete;
  OpenConnection& operator=(const OpenConnection&) = delete;

 protected:
  OpenConnection(OpenConnections& all, Resting& of_tenant);
  ~OpenConnection();

  /// Between requests, nothing under way: until stir() it may be asked to go for want of room.
  void rest();
  void stir();
  bool at_rest() const { return !resting_.alone(); }

  /// The worker drains. What is under way may end in its time; nothing new is welcome. A connection that is
  /// made while the worker drains already (Worker::parting()) is not told again.
  virtual void on_drain() = 0;
  /// At rest, and its place is wanted: close. Called at most once per rest().
  virtual void on_shed() = 0;

 private:
  friend class OpenConnections;
  struct Hook : detail::Ring {
    OpenConnection* owner = nullptr;
  };
  OpenConnections& all_;
  Resting& of_tenant_;
  Hook open_;
  Hook resting_;            ///< Among all of the worker.
  Hook resting_of_tenant_;  ///< Among those of its tenant.
};

class OpenConnections {
 public:
  OpenConnections() = default;
  OpenConnections(const OpenConnections&) = delete;

  std::size_t resting() const { return resting_count_; }
  /// Tells each that is open now.
  void drain();
  /// Closes the one that has rested longest, of this tenant or of all. False: none rests.
  bool shed_oldest(Resting& of_tenant) { return shed_first(of_tenant.ring_); }
  bool shed_oldest() { return shed_first(resting_); }

 private:
  friend class OpenConnection;
  bool shed_first(detail::Ring& head);

  detail::Ring open_;
  detail::Ring to_tell_;  ///< Empty but during drain().
  detail::Ring resting_;
  std::size_t resting_count_ = 0;
};

}  // namespace postern::proxy
