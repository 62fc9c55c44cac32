add_library(qs_testing STATIC testing/golden_file.cc)
target_link_libraries(qs_testing PUBLIC qs_kernels
  PRIVATE nlohmann_json::nlohmann_json)
target_compile_definitions(qs_testing PRIVATE
  QS_TEST_DATA="${CMAKE_CURRENT_SOURCE_DIR}/data")

foreach(name base nf4_tables nf4_golden nf4_differential nf4_search
        nf4_verify)
  qs_test(${name}_test
    SOURCES kernels/${name}_test.cc
    LIBS qs_testing OpenSSL::Crypto
    LABELS unit TIMEOUT 600)
endforeach()
