qs_test(quant_awq_golden_test
  SOURCES quant/awq_golden_test.cc
  LIBS qs_quant qs_testing nlohmann_json::nlohmann_json
  LABELS unit)
foreach(name fold quality scales)
  qs_test(quant_awq_${name}_test
    SOURCES quant/awq_${name}_test.cc
    LIBS qs_quant
    LABELS unit)
endforeach()

# Several threads, of oneTBB.
qs_test(quant_awq_group_test
  SOURCES quant/awq_group_test.cc quant/coded_group_test.cc
  LIBS qs_quant
  LABELS unit)
