qs_test(awq_golden_test
  SOURCES kernels/awq_golden_test.cc
  LIBS qs_testing nlohmann_json::nlohmann_json
  LABELS unit)

# Several threads, of oneTBB.
qs_test(awq_differential_test
  SOURCES kernels/awq_differential_test.cc
  LIBS qs_testing
  LABELS unit TIMEOUT 600)
