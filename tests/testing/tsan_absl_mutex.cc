// Makes Abseil's locks visible to ThreadSanitizer.
//
// The packaged Abseil is not instrumented, so that everything a Mutex guards
// would be reported as a race. The linker's --wrap sends our calls here; see
// tsan_absl_mutex.cmake. What happens between a pre and a post mark, Abseil's
// own graph of lock orders and the conditions that it evaluates for whoever
// waits, is left out; the order in which we take locks is checked.
#include <sanitizer/tsan_interface.h>

#include "absl/synchronization/mutex.h"
#include "absl/synchronization/notification.h"

// QS_ABSL is Abseil's inline namespace with its length, as in a mangled name.
#define QS_PASTE(a, b, c) a##b##c
#define QS_NAME(a, b, c) QS_PASTE(a, b, c)
#define QS_REAL(name) QS_NAME(__real__ZN4absl, QS_ABSL, name)
#define QS_WRAP(name) QS_NAME(__wrap__ZN4absl, QS_ABSL, name)
#define QS_REAL_CONST(name) QS_NAME(__real__ZNK4absl, QS_ABSL, name)
#define QS_WRAP_CONST(name) QS_NAME(__wrap__ZNK4absl, QS_ABSL, name)

namespace {

// As the constructor in Abseil's header has it.
constexpr unsigned kFlags = __tsan_mutex_not_static;

void Release(absl::Mutex* mutex) {
  __tsan_mutex_pre_unlock(mutex, kFlags);
  __tsan_mutex_post_unlock(mutex, kFlags);
}

}  // namespace

extern "C" {

void QS_REAL(5MutexD1Ev)(absl::Mutex* mutex);
void QS_WRAP(5MutexD1Ev)(absl::Mutex* mutex) {
  __tsan_mutex_destroy(mutex, kFlags);
  QS_REAL(5MutexD1Ev)(mutex);
}

void QS_REAL(5Mutex4LockEv)(absl::Mutex* mutex);
void QS_WRAP(5Mutex4LockEv)(absl::Mutex* mutex) {
  __tsan_mutex_pre_lock(mutex, kFlags);
  QS_REAL(5Mutex4LockEv)(mutex);
  __tsan_mutex_post_lock(mutex, kFlags, 0);
}

void QS_REAL(5Mutex6UnlockEv)(absl::Mutex* mutex);
void QS_WRAP(5Mutex6UnlockEv)(absl::Mutex* mutex) {
  __tsan_mutex_pre_unlock(mutex, kFlags);
  QS_REAL(5Mutex6UnlockEv)(mutex);
  __tsan_mutex_post_unlock(mutex, kFlags);
}

void QS_REAL(5Mutex10ReaderLockEv)(absl::Mutex* mutex);
void QS_WRAP(5Mutex10ReaderLockEv)(absl::Mutex* mutex) {
  __tsan_mutex_pre_lock(mutex, kFlags | __tsan_mutex_read_lock);
  QS_REAL(5Mutex10ReaderLockEv)(mutex);
  __tsan_mutex_post_lock(mutex, kFlags | __tsan_mutex_read_lock, 0);
}

void QS_REAL(5Mutex12ReaderUnlockEv)(absl::Mutex* mutex);
void QS_WRAP(5Mutex12ReaderUnlockEv)(absl::Mutex* mutex) {
  __tsan_mutex_pre_unlock(mutex, kFlags | __tsan_mutex_read_lock);
  QS_REAL(5Mutex12ReaderUnlockEv)(mutex);
  __tsan_mutex_post_unlock(mutex, kFlags | __tsan_mutex_read_lock);
}

void QS_REAL(5Mutex5AwaitERKNS0_9ConditionE)(absl::Mutex* mutex,
                                             const absl::Condition& condition);
void QS_WRAP(5Mutex5AwaitERKNS0_9ConditionE)(absl::Mutex* mutex,
                                             const absl::Condition& condition) {
  Release(mutex);
  __tsan_mutex_pre_lock(mutex, kFlags);
  QS_REAL(5Mutex5AwaitERKNS0_9ConditionE)(mutex, condition);
  __tsan_mutex_post_lock(mutex, kFlags, 0);
}

bool QS_REAL(5Mutex16AwaitWithTimeoutERKNS0_9ConditionENS0_8DurationE)(
    absl::Mutex* mutex, const absl::Condition& condition,
    absl::Duration timeout);
bool QS_WRAP(5Mutex16AwaitWithTimeoutERKNS0_9ConditionENS0_8DurationE)(
    absl::Mutex* mutex, const absl::Condition& condition,
    absl::Duration timeout) {
  Release(mutex);
  __tsan_mutex_pre_lock(mutex, kFlags);
  const bool met =
      QS_REAL(5Mutex16AwaitWithTimeoutERKNS0_9ConditionENS0_8DurationE)(
          mutex, condition, timeout);
  __tsan_mutex_post_lock(mutex, kFlags, 0);
  return met;
}

void QS_REAL(12Notification6NotifyEv)(absl::Notification* notification);
void QS_WRAP(12Notification6NotifyEv)(absl::Notification* notification) {
  __tsan_release(notification);
  QS_REAL(12Notification6NotifyEv)(notification);
}

void QS_REAL_CONST(12Notification19WaitForNotificationEv)(
    const absl::Notification* notification);
void QS_WRAP_CONST(12Notification19WaitForNotificationEv)(
    const absl::Notification* notification) {
  QS_REAL_CONST(12Notification19WaitForNotificationEv)(notification);
  __tsan_acquire(const_cast<absl::Notification*>(notification));
}

}  // extern "C"
