target_sources(qs_kernels PRIVATE
  cpu/blas.cc
  cpu/gptq_cpu.cc
  cpu/gptq_error_cpu.cc
  cpu/gptq_factor_cpu.cc
  cpu/gptq_range_simd.cc
  cpu/gptq_refine_cpu.cc
  cpu/gptq_simd.cc
  cpu/gptq_solve_cpu.cc
  cpu/gptq_sweep_simd.cc
  cpu/gram_cpu.cc
  cpu/gram_simd.cc
  gptq_check.cc
  reference/gptq_factor_reference.cc
  reference/gptq_reference.cc
  reference/gptq_refine_reference.cc
  reference/gptq_solve_reference.cc
  reference/gram_reference.cc)
