# What every kernel is compiled with by nvcc CMAKE_CUDA_COMPILER_VERSION, in
# qs_cuda_flags. Tested by tests/gpu/nvcc_flags_test.cmake.
#
# No contraction of a*b+c: the bytes are those of the CPU. A kernel that spills
# registers, or has a stack, for any architecture, is warned of, and with
# QS_CUDA_WERROR does not compile (tests/gpu/spill_test.sh): by default with the
# nvcc that deploy/install-cuda.sh brings, which no kernel spills with. Another
# that spills four bytes is no reason to have no build.
set(qs_cuda_werror OFF)
if(CMAKE_CUDA_COMPILER_VERSION VERSION_GREATER_EQUAL 13.0 AND
    CMAKE_CUDA_COMPILER_VERSION VERSION_LESS 13.1)
  set(qs_cuda_werror ON)
endif()
option(QS_CUDA_WERROR "nvcc's warnings are errors" ${qs_cuda_werror})
set(qs_cuda_flags --fmad=false -Xptxas=--warn-on-spills
  -Xptxas=--warn-on-local-memory-usage)
if(QS_CUDA_WERROR)
  list(APPEND qs_cuda_flags -Werror=all-warnings)
endif()
