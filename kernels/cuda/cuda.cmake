# The CUDA kernels, compiled wherever nvcc is found; qs_gpus (gpus.cmake) is what
# programs link. Their logic is tested on the host emulation
# (tests/kernels_cuda.cmake). They are part of `all`, so that they compile or
# the build fails.
set(QS_CUDA_ARCHITECTURES "" CACHE STRING
  "Machine code for these alone (90-real); empty: for all that are supported")
include(CheckLanguage)
# CMake looks for nvcc in CUDACXX and PATH alone; a toolkit that is named
# (variable or environment) goes before what is on PATH.
if(QS_CUDA AND NOT CMAKE_CUDA_COMPILER AND NOT DEFINED ENV{CUDACXX})
  foreach(root IN ITEMS "${CUDAToolkit_ROOT}" "$ENV{CUDAToolkit_ROOT}")
    if(root AND NOT CMAKE_CUDA_COMPILER)
      find_program(CMAKE_CUDA_COMPILER nvcc HINTS "${root}/bin"
        NO_DEFAULT_PATH)
    endif()
  endforeach()
endif()
if(QS_CUDA)
  check_language(CUDA)
endif()
if(QS_CUDA AND CMAKE_CUDA_COMPILER)
  if(NOT DEFINED CMAKE_CUDA_ARCHITECTURES)
    set(CMAKE_CUDA_ARCHITECTURES 80)  # enable_language wants one; set below
  endif()
  enable_language(CUDA)
  if(CMAKE_CUDA_COMPILER_VERSION VERSION_LESS 12.0)
    message(STATUS "CUDA kernels: not compiled, nvcc "
      "${CMAKE_CUDA_COMPILER_VERSION} is older than 12.0 (no C++20)")
    return()
  endif()
  # The standard is that of C++; CMake 3.25.1 lacks nvcc's flag for it.
  if(NOT CMAKE_CUDA20_STANDARD_COMPILE_OPTION)
    set(CMAKE_CUDA20_STANDARD_COMPILE_OPTION -std=c++20)
    set(CMAKE_CUDA20_EXTENSION_COMPILE_OPTION -std=c++20)
  endif()
  # Machine code for these, and PTX for what comes between (10.3, 11.0) and after
  # them: a device takes the PTX of any that is older than it.
  set(qs_cuda_architectures 80-real 90)
  if(CMAKE_CUDA_COMPILER_VERSION VERSION_GREATER_EQUAL 12.8)
    set(qs_cuda_architectures 80-real 90 100-real 120)
  endif()
  if(QS_CUDA_ARCHITECTURES)
    set(qs_cuda_architectures ${QS_CUDA_ARCHITECTURES})
  endif()
  add_library(qs_cuda_kernels OBJECT
    cuda/affine.cu
    cuda/affine_pack.cu
    cuda/affine_search.cu
    cuda/awq.cu
    cuda/awq_clip.cu
    cuda/gptq_error.cu
    cuda/gptq_factor.cu
    cuda/gptq_factor_block.cu
    cuda/gptq_range.cu
    cuda/gptq_refine.cu
    cuda/gptq_refine_scales.cu
    cuda/gptq_solve.cu
    cuda/gram.cu
    cuda/hqq.cu
    cuda/hqq_search.cu
    cuda/hqq_solve.cu
    cuda/hqq_steps.cu
    cuda/nested_absmax.cu
    cuda/nf4.cu
    cuda/nf4_encode.cu
    cuda/nf4_nested.cu
    cuda/nf4_tiles.cu
    cuda/pack_awq.cu
    cuda/pack_parts.cu
    cuda/stats.cu)
  set_target_properties(qs_cuda_kernels PROPERTIES
    CUDA_ARCHITECTURES "${qs_cuda_architectures}"
    CUDA_RUNTIME_LIBRARY Static)
  include(cuda/nvcc_flags.cmake)
  set(qs_cuda_flags ${qs_cuda_flags} CACHE INTERNAL "Of every kernel")
  target_compile_options(qs_cuda_kernels PRIVATE
    "$<$<COMPILE_LANGUAGE:CUDA>:${qs_cuda_flags}>"
    $<$<COMPILE_LANGUAGE:CUDA>:-Xcompiler=-Wall,-Wextra,-Wshadow>
    $<$<COMPILE_LANGUAGE:CUDA>:-Xcompiler=-ffp-contract=off>)
  target_include_directories(qs_cuda_kernels PRIVATE ${CMAKE_SOURCE_DIR})
  target_link_libraries(qs_cuda_kernels PRIVATE absl::status absl::strings)
else()
  message(STATUS "CUDA kernels: not compiled (no nvcc, or QS_CUDA=OFF)")
endif()
