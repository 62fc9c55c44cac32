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

Fiber::Fiber()
    : stack_(std::make_unique_for_overwrite<uint8_t[]>(kStackBytes)),
      trace_(NewTrace()) {
  getcontext(&own_);
  own_.uc_stack.ss_sp = stack_.get();
  own_.uc_stack.ss_size = kStackBytes;
  own_.uc_link = nullptr;
  const auto self = reinterpret_cast<uintptr_t>(this);
  makecontext(&own_, reinterpret_cast<void (*)()>(Enter), 2,
              static_cast<unsigned>(self >> 32), static_cast<unsigned>(self));
}

QS_NOT_TRACED void Fiber::Enter(unsigned high, unsigned low) {
  auto* const fiber =
      reinterpret_cast<Fiber*>((static_cast<uintptr_t>(high) << 32) | low);
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
  StartSwitch(&fake, own_.uc_stack.ss_sp, kStackBytes);
  SwitchTrace(trace_);
  swapcontext(&resumer_, &own_);
  EndSwitch(fake, nullptr, nullptr);
}

QS_NOT_TRACED void Fiber::Yield() {
  void* fake = nullptr;
  StartSwitch(&fake, resumer_stack_, resumer_stack_bytes_);
  SwitchTrace(resumer_trace_);
  swapcontext(&own_, &resumer_);
  FinishSwitch(fake);
}

QS_NOT_TRACED void Fiber::FinishSwitch(void* fake_stack) {
  EndSwitch(fake_stack, &resumer_stack_, &resumer_stack_bytes_);
}

}  // namespace qs::cuda
