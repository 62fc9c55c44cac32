# GPU workers on a device of the host emulation, with faults to order.
qs_test(cuda_device_test
  SOURCES kernels/cuda_backend_test.cc kernels/cuda_session_test.cc
    kernels/cuda_workspace_test.cc
  LIBS qs_emulated_gpu
  LABELS unit tsan TIMEOUT 600 SEPARATE)
qs_test(cuda_provider_test
  SOURCES kernels/cuda_provider_test.cc
  LIBS qs_gpus
  LABELS unit)
# What it says of a driver that is older than the runtime.
if(TARGET qs_cuda_kernels)
  add_library(qs_fake_driver MODULE testing/fake_driver.cc)
  target_link_libraries(qs_fake_driver PRIVATE qs_options)
  set_target_properties(qs_fake_driver PROPERTIES
    PREFIX "" OUTPUT_NAME libcuda SUFFIX ".so.1"
    LIBRARY_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR}/fake_driver)
  add_dependencies(cuda_provider_test qs_fake_driver)
  add_test(NAME cuda_old_driver_test
    COMMAND cuda_provider_test "[.old_driver]")
  set_tests_properties(cuda_old_driver_test PROPERTIES
    ENVIRONMENT "LD_LIBRARY_PATH=${CMAKE_BINARY_DIR}/fake_driver"
    LABELS unit TIMEOUT 60)
endif()
# What is made of the CUDA runtime, by one that needs no toolkit.
qs_test(runtime_device_test
  SOURCES kernels/runtime_device_test.cc
    ${CMAKE_SOURCE_DIR}/kernels/cuda/cuda_provider.cc
    ${CMAKE_SOURCE_DIR}/kernels/cuda/runtime_device.cc
  LIBS qs_emulated_gpu qs_cuda_sources
  LABELS unit)
target_include_directories(runtime_device_test BEFORE PRIVATE
  ${CMAKE_CURRENT_SOURCE_DIR}/testing/fake_cudart)
qs_test(service_gpu_test
  SOURCES service/gpu_methods_test.cc service/gpu_workers_test.cc
    service/no_gpu_test.cc
  LIBS qs_service qs_emulated_gpu nlohmann_json::nlohmann_json
  LABELS unit service TIMEOUT 900)
# What tasks take of its memory.
qs_test(device_estimate_test
  SOURCES quant/device_estimate_test.cc
  LIBS qs_quant qs_emulated_gpu
  LABELS unit TIMEOUT 1500)
# How much they copy, in how many operations.
qs_test(device_work_test
  SOURCES quant/device_work_test.cc quant/gptq_layout_test.cc
  LIBS qs_quant qs_emulated_gpu
  LABELS unit TIMEOUT 1500)
# The longest start first.
set_tests_properties(service_gpu_test device_estimate_test device_work_test
  PROPERTIES COST 100)
