# Metrics and traces.
qs_test(metrics_test
  SOURCES service/metrics_test.cc service/trace_context_test.cc
  LIBS qs_service
  LABELS unit tsan)
qs_test(observability_test
  SOURCES service/library_logs_test.cc service/observability_test.cc
    testing/raw_http2.cc
  LIBS qs_service nlohmann_json::nlohmann_json
  LABELS service)
target_compile_definitions(observability_test PRIVATE
  QUANTD_PATH="$<TARGET_FILE:quantd>")
add_dependencies(observability_test quantd)
add_test(NAME metrics_e2e
  COMMAND python3 ${CMAKE_CURRENT_SOURCE_DIR}/e2e/metrics_test.py
    ${CMAKE_RUNTIME_OUTPUT_DIRECTORY})
set_tests_properties(metrics_e2e PROPERTIES LABELS "e2e" TIMEOUT 300)
