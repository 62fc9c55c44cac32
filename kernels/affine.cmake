target_sources(qs_kernels PRIVATE
  cpu/affine_cpu.cc
  cpu/affine_simd.cc
  cpu/pack_awq_simd.cc
  cpu/pack_codes.cc
  cpu/pack_parts_simd.cc
  cpu/stats_cpu.cc
  cpu/stats_simd.cc
  reference/affine_reference.cc
  reference/pack_reference.cc
  reference/stats_reference.cc
  stats_ops.cc)
