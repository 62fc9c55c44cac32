# Jobs without a server, on real records.
qs_test(jobs_test
  SOURCES service/jobs/job_scheduler_test.cc
  LIBS qs_service
  LABELS unit service)
