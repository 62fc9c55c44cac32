# GPU workers on a device of the host emulation, with faults to order.
qs_test(cuda_device_test
  SOURCES kernels/cuda_session_test.cc kernels/cuda_workspace_test.cc
    testing/fake_device.cc
  LIBS qs_emulated_cuda
  LABELS unit)
