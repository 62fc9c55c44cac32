# quantd with failpoints: in its stores, where names of outputs change, and in
# the operations of its "gpu:0".
add_executable(quantd_faulty ${CMAKE_SOURCE_DIR}/service/server/main.cc
  service/faulty/faulty_gpus.cc service/faulty/faulty_rename.cc)
target_link_libraries(quantd_faulty PRIVATE qs_service)
set_target_properties(quantd_faulty PROPERTIES QS_FAULTY ON)
# Jobs over its failpoints.
qs_test(job_faults_test
  SOURCES service/jobs/job_faults_test.cc
  LIBS qs_service
  LABELS service
  TIMEOUT 600)
target_compile_definitions(job_faults_test PRIVATE
  QUANTD_PATH="$<TARGET_FILE:quantd_faulty>")
add_dependencies(job_faults_test quantd_faulty)
set_tests_properties(job_faults_test PROPERTIES COST 100)
# A server whose GPU is lost.
qs_test(lost_device_test
  SOURCES service/lost_device_test.cc
  LIBS qs_service
  LABELS service)
target_compile_definitions(lost_device_test PRIVATE
  QUANTD_PATH="$<TARGET_FILE:quantd_faulty>")
add_dependencies(lost_device_test quantd_faulty)
# What judges the answers of a server that is killed all the time.
add_library(qs_history_checker STATIC service/history/check_calibrations.cc
  service/history/check_jobs.cc service/history/check_uploads.cc
  service/history/history_checker.cc)
# Each of its files has facts of its own kind.
set_target_properties(qs_history_checker PROPERTIES UNITY_BUILD OFF)
target_link_libraries(qs_history_checker PRIVATE qs_options
  PUBLIC absl::strings absl::str_format)
qs_test(history_checker_test
  SOURCES service/history/history_checker_test.cc
  LIBS qs_history_checker
  LABELS unit)
# Random clients against it; the header of history_run.cc says how to run it
# for longer.
add_executable(history_run service/history/calibration_actions.cc
  service/history/history_run.cc service/history/history_server.cc
  service/history/job_actions.cc service/history/upload_actions.cc
  service/history/workload.cc)
target_link_libraries(history_run PRIVATE qs_options qs_history_checker
  qs_service)
target_compile_definitions(history_run PRIVATE
  QS_TEST_DATA="${CMAKE_CURRENT_SOURCE_DIR}/data"
  QUANTD_FAULTY_PATH="$<TARGET_FILE:quantd_faulty>")
target_compile_options(history_run PRIVATE
  $<$<CXX_COMPILER_ID:GNU>:-Wno-restrict>)
add_dependencies(history_run quantd_faulty)
add_test(NAME history_run COMMAND history_run --seconds 20 --seed 1)
set_tests_properties(history_run PROPERTIES LABELS service TIMEOUT 300)
