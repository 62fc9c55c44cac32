target_sources(qs_service PRIVATE
  run/batch_queue.cc
  run/batch_run.cc
  run/blob_input.cc
  run/checkpoint_run.cc
  run/run_input.cc
  run/run_plan.cc
  run/run_work.cc
  run/unwritten_shards.cc)
# A program with QS_FAULTY has the stores with failpoints.
target_link_libraries(qs_service PUBLIC qs_checkpoint
  $<IF:$<BOOL:$<TARGET_PROPERTY:QS_FAULTY>>,qs_store_faulty,qs_store>)
