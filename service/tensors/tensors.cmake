target_sources(qs_service PRIVATE
  tensors/live_calls.cc
  tensors/read_call.cc
  tensors/store_error.cc
  tensors/tensor_messages.cc
  tensors/tensor_server.cc
  tensors/tensor_service.cc
  tensors/tensor_store.cc
  tensors/unary_call.cc
  tensors/upload_writer.cc
  tensors/write_call.cc)
