# Jobs without a server, on real records.
qs_test(jobs_test
  SOURCES service/jobs/job_hub_test.cc service/jobs/job_output_test.cc
    service/jobs/job_pace_test.cc service/jobs/job_results_test.cc
    service/jobs/job_scheduler_test.cc service/jobs/job_test.cc
    service/jobs/watch_backlog_test.cc
  LIBS qs_service
  LABELS unit tsan service)
# Reflection of messages with maps: with ThreadSanitizer these have another
# layout than in protobuf's library.
qs_test(job_request_test
  SOURCES service/jobs/job_request_test.cc
  LIBS qs_service
  LABELS unit service)
# JobService over real connections.
qs_test(job_service_test
  SOURCES service/jobs/job_cancel_test.cc service/jobs/job_code_test.cc
    service/jobs/job_service_test.cc
  LIBS qs_service
  LABELS service)
# The real quantd, killed while jobs run.
qs_test(job_kill_test
  SOURCES service/jobs/job_kill_test.cc
  LIBS qs_service
  LABELS service)
target_compile_definitions(job_kill_test PRIVATE
  QUANTD_PATH="$<TARGET_FILE:quantd>")
add_dependencies(job_kill_test quantd)
# Results that the server keeps.
qs_test(read_result_test
  SOURCES service/jobs/read_result_test.cc
  LIBS qs_service
  LABELS service
  TIMEOUT 600)
# Jobs with calibrations of the server's.
qs_test(job_calibration_test
  SOURCES service/jobs/job_calibration_test.cc
  LIBS qs_service
  LABELS service
  TIMEOUT 600)
# Jobs over uploaded tensors.
qs_test(job_tensors_test
  SOURCES service/jobs/job_tensors_test.cc
  LIBS qs_service
  LABELS service)
# Checkpoints of links, as in a download cache.
qs_test(job_links_test
  SOURCES service/jobs/job_links_test.cc
  LIBS qs_service
  LABELS service)
# Jobs whose tensors are quantized in several ways.
qs_test(job_overrides_test
  SOURCES service/jobs/job_overrides_test.cc
  LIBS qs_service nlohmann_json::nlohmann_json
  LABELS service
  TIMEOUT 600)
# Calibrations that come with the job's message.
qs_test(job_inline_test
  SOURCES service/jobs/inline_calibration_test.cc
    service/jobs/job_inline_test.cc
  LIBS qs_service
  LABELS service)
