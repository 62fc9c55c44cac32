target_sources(qs_kernels PRIVATE
  cpu/nested_simd.cc
  cpu/nf4_decode_simd.cc
  cpu/nf4_cpu.cc
  cpu/nf4_encode_simd.cc
  cpu/nf4_nested_simd.cc
  cpu/nf4_verify_simd.cc
  nested_absmax.cc
  nf4_tables.cc
  reference/nf4_nested_reference.cc
  reference/nf4_reference.cc)
