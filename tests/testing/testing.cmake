find_package(Catch2 CONFIG REQUIRED)

# Catch2's main takes 18 s to compile, so it is compiled once.
add_library(qs_catch_main STATIC testing/catch_main.cc)
target_link_libraries(qs_catch_main PUBLIC Catch2::Catch2)
target_compile_definitions(qs_catch_main PUBLIC
  QS_TEST_DATA="${CMAKE_CURRENT_SOURCE_DIR}/data"
  QS_SOURCE_DIR="${CMAKE_SOURCE_DIR}")
include(testing/tsan_absl_mutex.cmake)

# The tests worth a run under ThreadSanitizer: those labelled tsan.
add_custom_target(tsan_tests)

# qs_test(name SOURCES... LIBS... LABELS... [TIMEOUT seconds] [SEPARATE]): a
# Catch2 binary, one ctest entry. SEPARATE: its files use the same names for
# different things, so QS_UNITY does not join them.
function(qs_test name)
  cmake_parse_arguments(T "SEPARATE" "TIMEOUT" "SOURCES;LIBS;LABELS" ${ARGN})
  add_executable(${name} ${T_SOURCES})
  if(T_SEPARATE)
    set_target_properties(${name} PROPERTIES UNITY_BUILD OFF)
  endif()
  target_link_libraries(${name} PRIVATE qs_options qs_catch_main ${T_LIBS})
  # -Og compiles as fast as -O0. GCC 12 (bug 105651) takes "text" +
  # std::string for an overlapping copy.
  target_compile_options(${name} PRIVATE $<$<CONFIG:Release>:-Og>
    $<$<CXX_COMPILER_ID:GNU>:-Wno-restrict>)
  add_test(NAME ${name} COMMAND ${name})
  if("tsan" IN_LIST T_LABELS)
    add_dependencies(tsan_tests ${name})
  endif()
  if(NOT T_TIMEOUT)
    set(T_TIMEOUT 300)
  endif()
  set_tests_properties(${name} PROPERTIES LABELS "${T_LABELS}"
    TIMEOUT ${T_TIMEOUT})
endfunction()
