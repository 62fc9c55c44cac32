# What both the server and its stores are made of; no gRPC.
find_library(QS_ISAL isal REQUIRED)
add_library(qs_service_base STATIC
  base/end_signals.cc
  base/file_watch.cc
  base/io_pool.cc
  base/random_id.cc
  base/metrics.cc
  base/standard_descriptors.cc
  stream/crc32c.cc
  stream/digest.cc)
target_link_libraries(qs_service_base
  PUBLIC qs_base absl::synchronization absl::time OpenSSL::Crypto ${QS_ISAL}
    prometheus-cpp::core)

# Everything of the server but main, so that tests and benchmarks run it in
# their own process.
add_library(qs_service STATIC
  access/access.cc
  access/checkpoint_tree.cc
  access/file_uri.cc
  access/open_beneath.cc
  access/rooted_opener.cc
  access/uri_roots.cc
  access/access_file.cc
  access/file_access.cc
  server/acceptor.cc
  server/capabilities.cc
  server/channel_arguments.cc
  server/config_check.cc
  server/error.cc
  server/gpu_seconds.cc
  server/grpc_status.cc
  server/library_logs.cc
  server/listen_address.cc
  server/log.cc
  server/machine.cc
  server/message_bytes.cc
  server/metrics_server.cc
  server/options.cc
  server/plan_call.cc
  server/plan_convert.cc
  server/plan_limits.cc
  server/proto_convert.cc
  server/quantize_service.cc
  server/report_sums.cc
  server/self_ping.cc
  server/served_call.cc
  server/server.cc
  server/server_metrics.cc
  server/spec_convert.cc
  server/stores.cc
  server/stream_guard.cc
  server/tls.cc
  server/trace_context.cc
  server/workers.cc)
target_link_libraries(qs_service
  PUBLIC qs_quant qs_service_base qs_proto_grpc absl::synchronization absl::time
  PRIVATE gRPC::grpc++_reflection spdlog::spdlog OpenSSL::Crypto
    nlohmann_json::nlohmann_json PkgConfig::httplib)
include(stream/stream.cmake)

add_executable(quantd server/main.cc)
target_link_libraries(quantd PRIVATE qs_service qs_gpus)
install(TARGETS quantd RUNTIME DESTINATION bin)
