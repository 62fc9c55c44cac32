foreach(name calibration_file calibration_index site_moments)
  qs_test(quant_${name}_test
    SOURCES quant/${name}_test.cc
    LIBS qs_quant
    LABELS unit)
endforeach()
