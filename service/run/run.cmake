target_sources(qs_service PRIVATE
  run/batch_run.cc
  run/checkpoint_run.cc
  run/run_input.cc
  run/run_plan.cc)
target_link_libraries(qs_service PUBLIC qs_checkpoint qs_store)
