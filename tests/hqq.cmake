qs_test(quant_hqq_quantizer_test
  SOURCES quant/hqq_optimum_test.cc quant/hqq_quantizer_test.cc
  LIBS qs_quant qs_testing
  LABELS unit tsan)
