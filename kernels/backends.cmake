target_sources(qs_kernels PRIVATE
  backends.cc
  cpu/parallel.cc
  cpu/simd_targets.cc)
