# With ThreadSanitizer: Abseil's locks as tsan_absl_mutex.cc shows them.
if(QS_SANITIZE STREQUAL "thread")
  find_path(QS_ABSL_INCLUDE absl/base/options.h REQUIRED)
  file(STRINGS ${QS_ABSL_INCLUDE}/absl/base/options.h namespace
    REGEX "define ABSL_OPTION_INLINE_NAMESPACE_NAME ")
  string(REGEX REPLACE ".* " "" namespace "${namespace}")
  string(LENGTH "${namespace}" length)
  set(absl ${length}${namespace})

  target_sources(qs_catch_main INTERFACE
    ${CMAKE_CURRENT_LIST_DIR}/tsan_absl_mutex.cc)
  target_compile_definitions(qs_catch_main INTERFACE QS_ABSL=${absl})
  foreach(symbol
      _ZN4absl${absl}5MutexD1Ev
      _ZN4absl${absl}5Mutex4LockEv
      _ZN4absl${absl}5Mutex6UnlockEv
      _ZN4absl${absl}5Mutex10ReaderLockEv
      _ZN4absl${absl}5Mutex12ReaderUnlockEv
      _ZN4absl${absl}5Mutex5AwaitERKNS0_9ConditionE
      _ZN4absl${absl}5Mutex16AwaitWithTimeoutERKNS0_9ConditionENS0_8DurationE
      _ZN4absl${absl}12Notification6NotifyEv
      _ZNK4absl${absl}12Notification19WaitForNotificationEv)
    target_link_options(qs_catch_main INTERFACE -Wl,--wrap=${symbol})
  endforeach()
endif()
