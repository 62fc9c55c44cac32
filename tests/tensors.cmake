# The I/O pool, alone.
qs_test(io_pool_test
  SOURCES service/io_pool_test.cc
  LIBS qs_service_base
  LABELS unit tsan)
# The store of tensors, without RPCs and with failpoints.
qs_test(tensor_store_test
  SOURCES service/tensors/tensor_faults_test.cc
    service/tensors/tensor_store_test.cc
  LIBS qs_service
  LABELS unit tsan SEPARATE)
set_target_properties(tensor_store_test PROPERTIES QS_FAULTY ON)
# TensorService over real connections.
qs_test(tensor_service_test
  SOURCES service/tensors/tensor_kill_test.cc
    service/tensors/tensor_service_test.cc
  LIBS qs_service
  LABELS service)
target_compile_definitions(tensor_service_test PRIVATE
  QUANTD_PATH="$<TARGET_FILE:quantd>")
add_dependencies(tensor_service_test quantd)
# A server with a data directory: roles, metrics, full disks, drains.
qs_test(kept_data_test
  SOURCES service/kept_data_test.cc
  LIBS qs_service
  LABELS service)
target_compile_definitions(kept_data_test PRIVATE
  QUANTD_PATH="$<TARGET_FILE:quantd>")
add_dependencies(kept_data_test quantd)
# Stopped clients, kills at any byte, files that may not grow, damaged files.
qs_test(kept_faults_test
  SOURCES service/kept_faults_test.cc testing/raw_http2.cc
  LIBS qs_service
  LABELS service)
target_compile_definitions(kept_faults_test PRIVATE
  QUANTD_PATH="$<TARGET_FILE:quantd>")
add_dependencies(kept_faults_test quantd)
