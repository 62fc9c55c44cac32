# The CUDA kernels on the host emulation: the same sources, as C++. Source
# properties hold in this folder alone; kernels/ compiles them with nvcc.
set(qs_emulated_kernels nested_absmax nf4 nf4_encode)
list(TRANSFORM qs_emulated_kernels
  REPLACE "(.+)" "${CMAKE_SOURCE_DIR}/kernels/cuda/\\1.cu")
set_source_files_properties(${qs_emulated_kernels} PROPERTIES LANGUAGE CXX)
add_library(qs_emulated_cuda STATIC
  ${CMAKE_SOURCE_DIR}/kernels/cuda/emulation.cc
  ${CMAKE_SOURCE_DIR}/kernels/cuda/nf4_cuda.cc
  ${qs_emulated_kernels})
target_compile_definitions(qs_emulated_cuda PUBLIC QS_CUDA_EMULATION=1)
target_link_libraries(qs_emulated_cuda PUBLIC qs_kernels)

foreach(name emulation nf4_cuda)
  qs_test(${name}_test
    SOURCES kernels/${name}_test.cc
    LIBS qs_emulated_cuda
    LABELS unit TIMEOUT 600)
endforeach()
