# What tests/gpu/run.sh builds and runs: only what needs no gRPC, and no test
# of its own in ctest, since a GPU is needed.
include(gpu/gpu_bench_sources.cmake)
add_executable(gpu_device_test
  gpu/device_factor_test.cc
  gpu/device_large_test.cc
  gpu/device_small_test.cc
  gpu/device_solver_tiles_test.cc
  gpu/device_sums_test.cc
  gpu/device_test.cc
  gpu/device_tiles_test.cc)
target_link_libraries(gpu_device_test PRIVATE qs_options qs_catch_main qs_gpus)
target_compile_options(gpu_device_test PRIVATE
  $<$<CXX_COMPILER_ID:GNU>:-Wno-restrict>)
add_executable(gpu_bench gpu/gpu_bench.cc ${qs_gpu_bench_sources})
target_link_libraries(gpu_bench PRIVATE qs_options qs_gpus qs_quant
  qs_cuda_runtime qs_cuda_sources)
