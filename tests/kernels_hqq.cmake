qs_test(hqq_reference_test
  SOURCES kernels/hqq_reference_test.cc
  LIBS qs_testing
  LABELS unit)

# These use several threads, of oneTBB, or every SIMD target in turn: not for
# ThreadSanitizer.
foreach(name hqq_golden hqq_differential)
  qs_test(${name}_test
    SOURCES kernels/${name}_test.cc
    LIBS qs_testing
    LABELS unit TIMEOUT 600)
endforeach()
