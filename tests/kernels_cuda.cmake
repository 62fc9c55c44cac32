# The CUDA kernels on the host emulation: the same sources, as C++. Source
# properties hold in this folder alone; kernels/ compiles them with nvcc.
set(qs_emulated_kernels
  affine
  affine_pack
  affine_search
  hqq
  hqq_search
  hqq_solve
  hqq_steps
  nested_absmax
  nf4
  nf4_encode
  nf4_nested
  nf4_tiles
  pack_awq
  pack_parts
  stats)
list(TRANSFORM qs_emulated_kernels
  REPLACE "(.+)" "${CMAKE_SOURCE_DIR}/kernels/cuda/\\1.cu")
set_source_files_properties(${qs_emulated_kernels} PROPERTIES LANGUAGE CXX)
add_library(qs_emulated_cuda STATIC
  ${CMAKE_SOURCE_DIR}/kernels/cuda/affine_cuda.cc
  ${CMAKE_SOURCE_DIR}/kernels/cuda/emulation.cc
  ${CMAKE_SOURCE_DIR}/kernels/cuda/fiber.cc
  ${CMAKE_SOURCE_DIR}/kernels/cuda/hqq_cuda.cc
  ${CMAKE_SOURCE_DIR}/kernels/cuda/nf4_cuda.cc
  ${CMAKE_SOURCE_DIR}/kernels/cuda/stats_cuda.cc
  ${qs_emulated_kernels})
set_target_properties(qs_emulated_cuda PROPERTIES UNITY_BUILD OFF)
target_compile_definitions(qs_emulated_cuda PUBLIC QS_CUDA_EMULATION=1)
target_link_libraries(qs_emulated_cuda PUBLIC qs_kernels Boost::context
  PRIVATE qs_hot)
add_library(qs_fake_gpu STATIC testing/fake_device.cc)
target_link_libraries(qs_fake_gpu PUBLIC qs_emulated_cuda Catch2::Catch2)

foreach(name
    affine_cuda
    emulation
    hqq_cuda
    nf4_cuda
    nf4_nested_cuda
    nf4_steps
    nf4_tiles_cuda
    pack_cuda
    stats_cuda)
  qs_test(${name}_test
    SOURCES kernels/${name}_test.cc
    LIBS qs_emulated_cuda
    LABELS unit TIMEOUT 600)
endforeach()

# What needs matrix products, on a whole emulated device with OpenBLAS.
set(qs_emulated_solver_kernels
  awq
  awq_clip
  gptq_error
  gptq_factor
  gptq_factor_block
  gptq_range
  gptq_refine
  gptq_refine_scales
  gptq_solve
  gram)
list(TRANSFORM qs_emulated_solver_kernels
  REPLACE "(.+)" "${CMAKE_SOURCE_DIR}/kernels/cuda/\\1.cu")
set_source_files_properties(${qs_emulated_solver_kernels} PROPERTIES
  LANGUAGE CXX)
add_library(qs_emulated_solvers STATIC
  ${CMAKE_SOURCE_DIR}/kernels/cuda/awq_cuda.cc
  ${CMAKE_SOURCE_DIR}/kernels/cuda/blas_cuda.cc
  ${CMAKE_SOURCE_DIR}/kernels/cuda/blas_emulated.cc
  ${CMAKE_SOURCE_DIR}/kernels/cuda/cholesky_cuda.cc
  ${CMAKE_SOURCE_DIR}/kernels/cuda/gptq_cuda.cc
  ${CMAKE_SOURCE_DIR}/kernels/cuda/gptq_factor_cuda.cc
  ${CMAKE_SOURCE_DIR}/kernels/cuda/gptq_refine_cuda.cc
  ${CMAKE_SOURCE_DIR}/kernels/cuda/gptq_solve_cuda.cc
  ${CMAKE_SOURCE_DIR}/kernels/cuda/gram_cuda.cc
  ${CMAKE_SOURCE_DIR}/kernels/cuda/library.cc
  ${qs_emulated_solver_kernels})
set_target_properties(qs_emulated_solvers PROPERTIES UNITY_BUILD OFF)
target_link_libraries(qs_emulated_solvers PUBLIC qs_fake_gpu
  PRIVATE qs_hot PkgConfig::openblas ${CMAKE_DL_LIBS})

# A worker's backend with every family.
add_library(qs_emulated_gpu STATIC
  ${CMAKE_SOURCE_DIR}/kernels/cuda/cuda_backend.cc)
target_link_libraries(qs_emulated_gpu PUBLIC qs_emulated_solvers)

foreach(name
    awq_cuda
    cuda_blas
    gptq_cuda
    gptq_factor_cuda
    gptq_refine_cuda
    gram_cuda)
  qs_test(${name}_test
    SOURCES kernels/${name}_test.cc
    LIBS qs_emulated_solvers
    LABELS unit TIMEOUT 600)
endforeach()
# cuBLAS's and cuSOLVER's names, for their loader.
foreach(library cublas cusolver)
  add_library(qs_fake_${library} MODULE testing/fake_${library}.cc)
  target_link_libraries(qs_fake_${library} PRIVATE qs_options)
  add_dependencies(cuda_blas_test qs_fake_${library})
  string(TOUPPER ${library} upper)
  target_compile_definitions(cuda_blas_test PRIVATE
    QS_FAKE_${upper}="$<TARGET_FILE:qs_fake_${library}>")
endforeach()

# Every row of gpu_bench, which a device is measured with.
include(gpu/gpu_bench_sources.cmake)
qs_test(gpu_bench_test
  SOURCES gpu/gpu_bench_test.cc ${qs_gpu_bench_sources}
  LIBS qs_emulated_gpu qs_quant nlohmann_json::nlohmann_json
  LABELS unit)
# What compute-sanitizer is given on a device.
qs_test(gpu_small_test
  SOURCES gpu/device_small_test.cc gpu/emulated_gpus.cc
    gpu/small_kernels_test.cc
  LIBS qs_emulated_gpu
  LABELS unit tsan TIMEOUT 600)
target_compile_definitions(gpu_small_test PRIVATE
  QS_KERNELS="${CMAKE_SOURCE_DIR}/kernels/cuda")
# Scripts for a machine with a GPU, as far as they go without.
foreach(name bundle install_cuda run)
  add_test(NAME gpu_${name}_test
    COMMAND ${CMAKE_CURRENT_SOURCE_DIR}/gpu/${name}_test.sh)
  set_tests_properties(gpu_${name}_test PROPERTIES LABELS "unit" TIMEOUT 120)
endforeach()
add_test(NAME cuda_nvcc_flags_test
  COMMAND ${CMAKE_COMMAND} -P
    ${CMAKE_CURRENT_SOURCE_DIR}/gpu/nvcc_flags_test.cmake)
set_tests_properties(cuda_nvcc_flags_test PROPERTIES LABELS "unit" TIMEOUT 60)
# That a kernel which spills does not compile, and for which GPUs all of them
# do; where nvcc is present.
if(TARGET qs_cuda_kernels)
  if(NOT QS_CUDA_ARCHITECTURES)
    add_test(NAME cuda_architectures_test
      COMMAND ${CMAKE_CURRENT_SOURCE_DIR}/gpu/architectures_test.sh
        ${CMAKE_CUDA_COMPILER} ${CMAKE_BINARY_DIR}/compile_commands.json)
    set_tests_properties(cuda_architectures_test PROPERTIES
      LABELS "unit" TIMEOUT 60)
  endif()
  if(QS_CUDA_WERROR)
    add_test(NAME cuda_spill_test
      COMMAND ${CMAKE_CURRENT_SOURCE_DIR}/gpu/spill_test.sh
        ${CMAKE_CUDA_COMPILER} ${qs_cuda_flags})
    set_tests_properties(cuda_spill_test PROPERTIES LABELS "unit" TIMEOUT 120)
  endif()
  add_test(NAME cuda_toolkit_root_test
    COMMAND ${CMAKE_CURRENT_SOURCE_DIR}/gpu/toolkit_root_test.sh
      ${CMAKE_CUDA_COMPILER})
  set_tests_properties(cuda_toolkit_root_test PROPERTIES
    LABELS "unit" TIMEOUT 300)
endif()
