# A checkpoint between its plan and its files; no gRPC.
add_library(qs_checkpoint STATIC
  checkpoint/checkpoint_writer.cc
  checkpoint/fault.cc
  checkpoint/header_check.cc
  checkpoint/plan_answer.cc
  checkpoint/plan_schemes.cc
  checkpoint/planned_checkpoint.cc
  checkpoint/shard_source.cc
  checkpoint/slice_reader.cc
  checkpoint/spill_file.cc
  checkpoint/text_file.cc
  checkpoint/work_batch.cc)
target_link_libraries(qs_checkpoint PUBLIC qs_quant qs_proto PRIVATE nlohmann_json::nlohmann_json)
