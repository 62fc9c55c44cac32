// Makes Abseil's locks visible to ThreadSanitizer.
//
// The packaged Abseil is not instrumented, so that everything a Mutex guards
// would be reported as a race. The linker's --wrap sends our calls here; see
// tsan_absl_mutex.cmake. Conditions are evaluated inside Unlock and Await, by
// whoever holds the lock: their reads are left out.
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

// The graph of its deadlock detection, which is on in the packaged library, has
// a lock of its own that nothing shows: every nested lock might be reported.
[[maybe_unused]] const bool no_detection = [] {
  absl::SetMutexDeadlockDetectionMode(absl::OnDeadlockCycle::kIgnore);
  return true;
}();

}  // namespace

extern "C" {

void AnnotateIgnoreReadsBegin(const char* file, int line);
void AnnotateIgnoreReadsEnd(const char* file, int line);

void QS_REAL(5Mutex4LockEv)(absl::Mutex* mutex);
void QS_WRAP(5Mutex4LockEv)(absl::Mutex* mutex) {
  QS_REAL(5Mutex4LockEv)(mutex);
  __tsan_acquire(mutex);
}

void QS_REAL(5Mutex6UnlockEv)(absl::Mutex* mutex);
void QS_WRAP(5Mutex6UnlockEv)(absl::Mutex* mutex) {
  __tsan_release(mutex);
  AnnotateIgnoreReadsBegin(__FILE__, __LINE__);
  QS_REAL(5Mutex6UnlockEv)(mutex);
  AnnotateIgnoreReadsEnd(__FILE__, __LINE__);
}

void QS_REAL(5Mutex5AwaitERKNS0_9ConditionE)(absl::Mutex* mutex,
                                             const absl::Condition& condition);
void QS_WRAP(5Mutex5AwaitERKNS0_9ConditionE)(absl::Mutex* mutex,
                                             const absl::Condition& condition) {
  __tsan_release(mutex);
  AnnotateIgnoreReadsBegin(__FILE__, __LINE__);
  QS_REAL(5Mutex5AwaitERKNS0_9ConditionE)(mutex, condition);
  AnnotateIgnoreReadsEnd(__FILE__, __LINE__);
  __tsan_acquire(mutex);
}

bool QS_REAL(5Mutex16AwaitWithTimeoutERKNS0_9ConditionENS0_8DurationE)(
    absl::Mutex* mutex, const absl::Condition& condition,
    absl::Duration timeout);
bool QS_WRAP(5Mutex16AwaitWithTimeoutERKNS0_9ConditionENS0_8DurationE)(
    absl::Mutex* mutex, const absl::Condition& condition,
    absl::Duration timeout) {
  __tsan_release(mutex);
  AnnotateIgnoreReadsBegin(__FILE__, __LINE__);
  const bool met =
      QS_REAL(5Mutex16AwaitWithTimeoutERKNS0_9ConditionENS0_8DurationE)(
          mutex, condition, timeout);
  AnnotateIgnoreReadsEnd(__FILE__, __LINE__);
  __tsan_acquire(mutex);
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
