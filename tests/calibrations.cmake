# Calibrations that the server keeps, with failpoints.
qs_test(calibration_store_test
  SOURCES service/store/calibration_records_test.cc
    service/store/calibration_store_test.cc
  LIBS qs_store_faulty
  LABELS unit)
qs_test(calibration_service_test
  SOURCES service/calibrations/calibration_kill_test.cc
    service/calibrations/calibration_service_test.cc
    service/calibrations/large_calls_test.cc
  LIBS qs_service
  LABELS service)
target_compile_definitions(calibration_service_test PRIVATE
  QUANTD_PATH="$<TARGET_FILE:quantd>")
add_dependencies(calibration_service_test quantd)
