# The stores, with failpoints.
qs_test(store_test
  SOURCES service/store/blob_store_test.cc service/store/job_records_test.cc
    service/store/sqlite_database_test.cc
    service/store/tensor_records_test.cc
  LIBS qs_store_faulty
  LABELS unit)
