# Races of the CUDA kernels, which ThreadSanitizer finds on the host emulation:
# that it does, and what it finds in every family (gpu_small_test too, labelled
# tsan in kernels_cuda.cmake).
if(NOT QS_SANITIZE STREQUAL "thread")
  return()
endif()
add_executable(racy_kernels kernels/racy_kernels.cc)
target_link_libraries(racy_kernels PRIVATE qs_options qs_emulated_cuda)
qs_test(emulation_race_test
  SOURCES kernels/emulation_race_test.cc
  LIBS qs_testing
  LABELS unit tsan)
add_dependencies(emulation_race_test racy_kernels)
target_compile_definitions(emulation_race_test PRIVATE
  QS_RACY_KERNELS="$<TARGET_FILE:racy_kernels>")

# The cases of few blocks, in which every kernel that gpu_small_test does not
# run is.
foreach(family affine awq gptq gptq_factor gptq_refine gram hqq nf4 nf4_nested
    nf4_tiles pack stats)
  add_test(NAME ${family}_cuda_race_test COMMAND ${family}_cuda_test "[race]")
  set_tests_properties(${family}_cuda_race_test PROPERTIES
    LABELS "unit;tsan" TIMEOUT 600)
  add_dependencies(tsan_tests ${family}_cuda_test)
endforeach()
