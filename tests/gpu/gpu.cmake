# What tests/gpu/run.sh builds: only what needs no gRPC, and no test of its own
# in ctest, since a GPU is needed.
add_executable(gpu_device_test gpu/device_test.cc)
target_link_libraries(gpu_device_test PRIVATE qs_options qs_catch_main qs_gpus)
target_compile_options(gpu_device_test PRIVATE
  $<$<CXX_COMPILER_ID:GNU>:-Wno-restrict>)
