# What a program links to have GPUs, or to say why it has none: qs_gpus.
if(TARGET qs_cuda_kernels)
  find_package(CUDAToolkit REQUIRED)
  add_library(qs_gpus STATIC
    cuda/cuda_backend.cc
    cuda/cuda_provider.cc
    cuda/nf4_cuda.cc
    cuda/runtime_device.cc
    $<TARGET_OBJECTS:qs_cuda_kernels>)
  target_link_libraries(qs_gpus PUBLIC qs_kernels PRIVATE CUDA::cudart_static)
else()
  add_library(qs_gpus STATIC cuda/cuda_unavailable.cc)
  target_link_libraries(qs_gpus PUBLIC qs_kernels)
endif()
