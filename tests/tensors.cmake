# The I/O pool, alone.
qs_test(io_pool_test
  SOURCES service/io_pool_test.cc
  LIBS qs_service_base
  LABELS unit tsan)
