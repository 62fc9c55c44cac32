# GPU workers on a device of the host emulation, with faults to order.
qs_test(cuda_device_test
  SOURCES kernels/cuda_backend_test.cc kernels/cuda_session_test.cc
    kernels/cuda_workspace_test.cc
  LIBS qs_emulated_gpu
  LABELS unit)
qs_test(cuda_provider_test
  SOURCES kernels/cuda_provider_test.cc
  LIBS qs_gpus
  LABELS unit)
qs_test(service_gpu_test
  SOURCES service/gpu_workers_test.cc
  LIBS qs_service qs_emulated_gpu nlohmann_json::nlohmann_json
  LABELS unit service)
# What tasks take of its memory.
qs_test(device_estimate_test
  SOURCES quant/device_estimate_test.cc
  LIBS qs_quant qs_emulated_gpu
  LABELS unit TIMEOUT 600)
