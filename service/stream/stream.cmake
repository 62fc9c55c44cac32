target_sources(qs_service PRIVATE
  stream/byte_budget.cc
  stream/group_input.cc
  stream/group_job.cc
  stream/group_progress.cc
  stream/input_errors.cc
  stream/poller_rest.cc
  stream/quantize_context.cc
  stream/quantize_reactor.cc
  stream/quantize_session.cc
  stream/site_job.cc
  stream/stream_input.cc
  stream/stream_output.cc
  stream/tensor_job.cc
  stream/wire.cc
  stream/worker_pool.cc)
