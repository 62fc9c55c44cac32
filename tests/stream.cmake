# Everything of the service that needs no gRPC to be tested.
qs_test(service_unit_test
  SOURCES service/acceptor_test.cc service/byte_budget_test.cc
    service/crc32c_test.cc service/end_signals_test.cc
    service/error_test.cc service/log_test.cc
    service/options_test.cc service/poller_rest_test.cc
    service/proto_convert_test.cc
    service/quantize_session_test.cc service/report_sums_test.cc
    service/session_lifecycle_test.cc service/site_job_test.cc
    service/solve_group_stream_test.cc
    service/stream_errors_test.cc service/stream_overrides_test.cc
    service/wire_test.cc service/worker_pool_test.cc
  LIBS qs_service nlohmann_json::nlohmann_json
  LABELS unit tsan service)
