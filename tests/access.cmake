# Projects, roles and credentials.
qs_test(access_test
  SOURCES service/access_file_test.cc service/access_test.cc
    service/file_watch_test.cc
  LIBS qs_service
  LABELS unit tsan)
add_test(NAME access_e2e
  COMMAND python3 ${CMAKE_CURRENT_SOURCE_DIR}/e2e/access_test.py
    ${CMAKE_RUNTIME_OUTPUT_DIRECTORY})
set_tests_properties(access_e2e PROPERTIES LABELS "e2e" TIMEOUT 600)
# Over real connections.
qs_test(access_e2e_test
  SOURCES service/access_e2e_test.cc service/tls_test.cc
  LIBS qs_service
  LABELS service)
