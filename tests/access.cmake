# Projects, roles and credentials.
qs_test(access_test
  SOURCES service/access_file_test.cc service/access_test.cc
    service/file_watch_test.cc
  LIBS qs_service
  LABELS unit tsan)
