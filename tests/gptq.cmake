qs_test(gptq_quantizer_test
  SOURCES quant/gptq_quantizer_test.cc
  LIBS qs_quant
  LABELS unit)
qs_test(quant_gptq_scaling_test
  SOURCES quant/gptq_scaling_test.cc
  LIBS qs_quant
  LABELS unit)
