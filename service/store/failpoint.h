// Failpoints: named places where a test makes a system call fail or kills the
// process. Only in builds with QS_FAILPOINTS; elsewhere they are the number 0.
//
//   if (const int error = QS_FAILPOINT("blob.sync")) return Fail(error);
//
// The environment variable QS_FAILPOINTS says what happens, as
// NAME=ACTION@N[,...]: at the N-th hit (from 1) the process kills itself
// (ACTION kill), crashes (segv), or the call fails with that errno (ENOSPC,
// EIO).
#ifndef QS_SERVICE_STORE_FAILPOINT_H_
#define QS_SERVICE_STORE_FAILPOINT_H_

#if defined(QS_FAILPOINTS)

#include <string>

namespace qs {

// 0, or the errno to fail with. Thread-safe.
int HitFailpoint(const char* name);
// In place of the environment variable; counts from now on.
void SetFailpointsForTest(const std::string& text);

}  // namespace qs

#define QS_FAILPOINT(name) ::qs::HitFailpoint(name)

#else
#define QS_FAILPOINT(name) 0
#endif

#endif  // QS_SERVICE_STORE_FAILPOINT_H_
