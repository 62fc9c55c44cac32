# These use several threads, of oneTBB: ThreadSanitizer cannot see how its
# packaged library synchronizes, so they are not for it.
foreach(name gptq_golden gptq_reference gptq_differential gram)
  qs_test(${name}_test
    SOURCES kernels/${name}_test.cc
    LIBS qs_testing
    LABELS unit TIMEOUT 600)
endforeach()
