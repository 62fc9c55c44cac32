# The server over real connections, in the test's process and as a binary.
qs_test(service_grpc_test
  SOURCES service/malformed_message_test.cc service/plan_call_test.cc
    service/quantd_test.cc
    service/quantize_stream_test.cc service/server_test.cc
    testing/raw_http2.cc
  LIBS qs_service nlohmann_json::nlohmann_json
  LABELS service)
target_compile_definitions(service_grpc_test PRIVATE
  QUANTD_PATH="$<TARGET_FILE:quantd>")
add_dependencies(service_grpc_test quantd)
# Thousands of streams that are opened and reset.
qs_test(flood_test
  SOURCES service/flood_test.cc
  LIBS qs_service
  LABELS service)
target_compile_definitions(flood_test PRIVATE
  QUANTD_PATH="$<TARGET_FILE:quantd>")
add_dependencies(flood_test quantd)
# Frames that no HTTP/2 library would send.
qs_test(http2_test
  SOURCES service/http2_flood_test.cc service/http2_test.cc
    testing/raw_http2.cc
  LIBS qs_service
  LABELS service SEPARATE)
target_compile_definitions(http2_test PRIVATE
  QUANTD_PATH="$<TARGET_FILE:quantd>")
add_dependencies(http2_test quantd)
