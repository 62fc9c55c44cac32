# Who calls and what they may name.
qs_test(uri_roots_test
  SOURCES service/uri_roots_test.cc
  LIBS qs_service
  LABELS unit)
