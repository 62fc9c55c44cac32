foreach(name quant_spec tensor_quantizer tensor_report faults quality)
  qs_test(quant_${name}_test
    SOURCES quant/${name}_test.cc
    LIBS qs_quant
    LABELS unit)
endforeach()
