# The stores, without gRPC. qs_store_faulty is the same with failpoints, for
# tests.
find_package(SQLite3 REQUIRED)
set(qs_store_sources
  store/blob_folder.cc
  store/blob_keeper.cc
  store/blob_sums.cc
  store/calibration_sealing.cc
  store/calibration_shard.cc
  store/calibration_store.cc
  store/dir_blob_reader.cc
  store/dir_blob_store.cc
  store/dir_blob_writer.cc
  store/failpoint.cc
  store/sqlite_blob_refs.cc
  store/sqlite_calibration_records.cc
  store/sqlite_calibration_rows.cc
  store/sqlite_database.cc
  store/sqlite_job_inputs.cc
  store/sqlite_job_outputs.cc
  store/sqlite_job_queue.cc
  store/sqlite_job_records.cc
  store/sqlite_job_rows.cc
  store/sqlite_job_schema.cc
  store/sqlite_statement.cc
  store/sqlite_tensor_records.cc
  store/stored_calibration.cc)
add_library(qs_store STATIC ${qs_store_sources})
target_link_libraries(qs_store PUBLIC qs_quant qs_service_base SQLite::SQLite3)
add_library(qs_store_faulty STATIC EXCLUDE_FROM_ALL ${qs_store_sources})
target_compile_definitions(qs_store_faulty PUBLIC QS_FAILPOINTS=1)
target_link_libraries(qs_store_faulty PUBLIC qs_quant qs_service_base SQLite::SQLite3)
