foreach(name quant_spec tensor_report faults quality)
  qs_test(quant_${name}_test
    SOURCES quant/${name}_test.cc
    LIBS qs_quant
    LABELS unit)
endforeach()

# Tiles on several threads.
qs_test(quant_tensor_quantizer_test
  SOURCES quant/tensor_quantizer_test.cc
  LIBS qs_quant
  LABELS unit tsan)
