// Tested by tests/kernels/emulation_test.cc and emulation_race_test.cc.
#include "kernels/cuda/fiber.h"

#if defined(QS_FIBERS_UNDER_ASAN)
#include <sanitizer/common_interface_defs.h>
#elif defined(QS_FIBERS_UNDER_TSAN)
#include <sanitizer/tsan_interface.h>
#endif

namespace qs::cuda {
namespace {

// ThreadSanitizer writes its report on the stack that raced.
constexpr size_t kStackBytes = kFibersAreTraced ? 256 << 10 : 128 << 10;

#if defined(QS_FIBERS_UNDER_TSAN)
void* NewTrace() { return __tsan_create_fiber(0); }
QS_NOT_TRACED void* CurrentTrace() { return __tsan_get_current_fiber(); }
QS_NOT_TRACED void SwitchTrace(void* trace) {
  __tsan_switch_to_fiber(trace, __tsan_switch_to_fiber_no_sync);
}
#else
void* NewTrace() { return nullptr; }
void* CurrentTrace() { return nullptr; }
void SwitchTrace(void*) {}
#endif

#if defined(QS_FIBERS_UNDER_ASAN)
void StartSwitch(void** fake, const void* stack, size_t bytes) {
  __sanitizer_start_switch_fiber(fake, stack, bytes);
}
void EndSwitch(void* fake, const void** stack, size_t* bytes) {
  __sanitizer_finish_switch_fiber(fake, stack, bytes);
}
#else
QS_NOT_TRACED void StartSwitch(void**, const void*, size_t) {}
QS_NOT_TRACED void EndSwitch(void*, const void**, size_t*) {}
#endif

}  // namespace

#if defined(QS_FIBERS_UNDER_TSAN)
QS_NOT_TRACED void Release(void* at) { __tsan_release(at); }
QS_NOT_TRACED void Acquire(void* at) { __tsan_acquire(at); }
#else
void Release(void*) {}
void Acquire(void*) {}
#endif

// Boost.Context's bare switch: ucontext's makes two system calls each time and
// was most of an emulated kernel's time. Its classes above this are templates
// that one fiber enters and another leaves, which ThreadSanitizer must not see.
Fiber::Fiber()
    : stack_(std::make_unique_for_overwrite<uint8_t[]>(kStackBytes)),
      own_(boost::context::detail::make_fcontext(stack_.get() + kStackBytes,
                                                 kStackBytes, Enter)),
      trace_(NewTrace()) {}

QS_NOT_TRACED void Fiber::Enter(boost::context::detail::transfer_t from) {
  auto* const fiber = static_cast<Fiber*>(from.data);
  fiber->resumer_ = from.fctx;
  fiber->FinishSwitch(nullptr);
  for (;;) {
    fiber->function_(fiber->context_, fiber->index_);
    fiber->Yield();
  }
}

void Fiber::Start(void (*function)(void*, size_t), void* context,
                  size_t index) {
  function_ = function;
  context_ = context;
  index_ = index;
}

QS_NOT_TRACED void Fiber::Resume() {
  void* fake = nullptr;
  resumer_trace_ = CurrentTrace();
  StartSwitch(&fake, stack_.get(), kStackBytes);
  SwitchTrace(trace_);
  own_ = boost::context::detail::jump_fcontext(own_, this).fctx;
  EndSwitch(fake, nullptr, nullptr);
}

QS_NOT_TRACED void Fiber::Yield() {
  void* fake = nullptr;
  StartSwitch(&fake, resumer_stack_, resumer_stack_bytes_);
  SwitchTrace(resumer_trace_);
  resumer_ = boost::context::detail::jump_fcontext(resumer_, nullptr).fctx;
  FinishSwitch(fake);
}

QS_NOT_TRACED void Fiber::FinishSwitch(void* fake_stack) {
  EndSwitch(fake_stack, &resumer_stack_, &resumer_stack_bytes_);
}

}  // namespace qs::cuda
