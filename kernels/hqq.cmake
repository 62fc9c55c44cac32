target_sources(qs_kernels PRIVATE
  cpu/hqq_cpu.cc
  cpu/hqq_search_simd.cc
  cpu/hqq_solver_simd.cc
  cpu/hqq_steps_simd.cc
  reference/hqq_reference.cc)
