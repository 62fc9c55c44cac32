target_sources(qs_kernels PRIVATE
  cpu/awq_cpu.cc
  cpu/awq_simd.cc
  reference/awq_reference.cc)
