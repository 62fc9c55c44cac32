// A stack of its own that runs one function after another, in turns with who
// resumes it: what a thread of an emulated block is. For emulation.cc alone.
//
// The sanitizers are told of every switch. To ThreadSanitizer a fiber is a
// thread, and a switch orders nothing: what one does before Release(x) is seen
// after Acquire(x) by another, and by nothing else. Making a fiber costs it
// much, so they are used again.
// Thread: one thread at a time resumes a fiber, not always the same.
#ifndef QS_KERNELS_CUDA_FIBER_H_
#define QS_KERNELS_CUDA_FIBER_H_

#include <boost/context/detail/fcontext.hpp>
#include <cstddef>
#include <cstdint>
#include <memory>

// GCC defines the ones, clang has the others.
#if defined(__SANITIZE_ADDRESS__)
#define QS_FIBERS_UNDER_ASAN 1
#elif defined(__SANITIZE_THREAD__)
#define QS_FIBERS_UNDER_TSAN 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define QS_FIBERS_UNDER_ASAN 1
#elif __has_feature(thread_sanitizer)
#define QS_FIBERS_UNDER_TSAN 1
#endif
#endif

// For what fibers and who resumes them tell each other, which is not what they
// run, and for functions that one fiber enters and another leaves.
#if defined(QS_FIBERS_UNDER_TSAN)
#define QS_NOT_TRACED __attribute__((no_sanitize("thread")))
#else
#define QS_NOT_TRACED
#endif

namespace qs::cuda {

// True where ThreadSanitizer looks for races between fibers.
#if defined(QS_FIBERS_UNDER_TSAN)
inline constexpr bool kFibersAreTraced = true;
#else
inline constexpr bool kFibersAreTraced = false;
#endif

// Nothing without ThreadSanitizer.
void Release(void* at);
void Acquire(void* at);

class Fiber {
 public:
  Fiber();
  Fiber(const Fiber&) = delete;
  Fiber& operator=(const Fiber&) = delete;
  // No destructor that frees: a fiber is never given up, and so lives as long
  // as the process.
  ~Fiber() = delete;

  // The next Resume calls `function(context, index)`, which must not throw.
  // REQUIRES: what it ran before has returned.
  void Start(void (*function)(void* context, size_t index), void* context,
             size_t index);
  // Runs it until it yields or returns.
  void Resume();
  // By what runs on it: back to who resumed it.
  void Yield();

 private:
  static void Enter(boost::context::detail::transfer_t from);
  void FinishSwitch(void* fake_stack);

  void (*function_)(void*, size_t) = nullptr;
  void* context_ = nullptr;
  size_t index_ = 0;

  const std::unique_ptr<uint8_t[]> stack_;
  boost::context::detail::fcontext_t own_;
  boost::context::detail::fcontext_t resumer_ = nullptr;
  // What the sanitizers know of both.
  void* trace_ = nullptr;
  void* resumer_trace_ = nullptr;
  const void* resumer_stack_ = nullptr;
  size_t resumer_stack_bytes_ = 0;
};

}  // namespace qs::cuda

#endif  // QS_KERNELS_CUDA_FIBER_H_
