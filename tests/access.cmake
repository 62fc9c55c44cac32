# Projects, roles and credentials.
qs_test(access_test
  SOURCES service/access_test.cc
  LIBS qs_service
  LABELS unit tsan)
