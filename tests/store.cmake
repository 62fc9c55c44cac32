# The stores, with failpoints.
qs_test(store_test
  SOURCES service/store/blob_store_test.cc service/store/job_records_test.cc
    service/store/sqlite_database_test.cc
    service/store/tensor_records_test.cc
  LIBS qs_store_faulty
  LABELS unit tsan SEPARATE)
# The stores on a disk that loses power; the program has file calls of its own.
qs_test(power_cut_test
  SOURCES service/store/power_cut.cc service/store/power_cut_test.cc
    service/store/power_cut_work.cc
  LIBS qs_service
  LABELS unit SEPARATE)
set_target_properties(power_cut_test PROPERTIES ENABLE_EXPORTS ON QS_FAULTY ON)
