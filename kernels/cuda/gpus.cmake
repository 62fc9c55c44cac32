# cuda_sources.h: looked at by every build, as any of many files may have changed
# it.
set(qs_generated ${CMAKE_CURRENT_BINARY_DIR}/generated)
file(MAKE_DIRECTORY ${qs_generated})
add_custom_target(qs_make_cuda_sources
  COMMAND ${CMAKE_CURRENT_SOURCE_DIR}/cuda/sources_digest.sh
    ${qs_generated}/cuda_sources.h
  BYPRODUCTS ${qs_generated}/cuda_sources.h)
add_library(qs_cuda_sources INTERFACE)
target_include_directories(qs_cuda_sources INTERFACE ${qs_generated})
add_dependencies(qs_cuda_sources qs_make_cuda_sources)

# What a program links to have GPUs, or to say why it has none: qs_gpus.
if(TARGET qs_cuda_kernels)
  find_package(CUDAToolkit REQUIRED)
  add_library(qs_gpus STATIC
    cuda/affine_cuda.cc
    cuda/awq_cuda.cc
    cuda/blas_cuda.cc
    cuda/cholesky_cuda.cc
    cuda/cuda_backend.cc
    cuda/cuda_provider.cc
    cuda/gptq_cuda.cc
    cuda/gptq_factor_cuda.cc
    cuda/gptq_refine_cuda.cc
    cuda/gptq_solve_cuda.cc
    cuda/gram_cuda.cc
    cuda/hqq_cuda.cc
    cuda/library.cc
    cuda/nf4_cuda.cc
    cuda/runtime_device.cc
    cuda/stats_cuda.cc
    $<TARGET_OBJECTS:qs_cuda_kernels>)
  target_link_libraries(qs_gpus
    PUBLIC qs_kernels
    PRIVATE qs_cuda_sources CUDA::cudart_static ${CMAKE_DL_LIBS})
  # For a program that calls the CUDA runtime itself.
  add_library(qs_cuda_runtime INTERFACE)
  target_link_libraries(qs_cuda_runtime INTERFACE CUDA::cudart_static)
else()
  add_library(qs_gpus STATIC cuda/cuda_unavailable.cc)
  target_link_libraries(qs_gpus PUBLIC qs_kernels)
endif()
