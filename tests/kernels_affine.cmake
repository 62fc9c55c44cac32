foreach(name affine_reference affine_golden affine_pack)
  qs_test(${name}_test
    SOURCES kernels/${name}_test.cc
    LIBS qs_testing
    LABELS unit)
endforeach()

# These use several threads, of oneTBB: ThreadSanitizer cannot see how its
# packaged library synchronizes, so they are not for it.
foreach(name affine_differential pack_layouts stats)
  qs_test(${name}_test
    SOURCES kernels/${name}_test.cc
    LIBS qs_testing
    LABELS unit TIMEOUT 600)
endforeach()
