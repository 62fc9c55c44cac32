qs_test(checkpoint_run_test
  SOURCES service/checkpoint_run_test.cc
  LIBS qs_service
  LABELS unit tsan service)
qs_test(open_sites_run_test
  SOURCES service/open_sites_run_test.cc
  LIBS qs_service
  LABELS unit tsan service)
