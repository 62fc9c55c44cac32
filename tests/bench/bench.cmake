add_executable(quant_bench
  bench/affine_bench.cc
  bench/bench.cc
  bench/formats_bench.cc
  bench/hqq_bench.cc
  bench/nf4_bench.cc
  bench/quant_bench.cc
  bench/stats_bench.cc)
target_link_libraries(quant_bench PRIVATE qs_options qs_quant)

add_executable(awq_bench bench/awq_bench.cc bench/awq_layer.cc)
target_link_libraries(awq_bench PRIVATE qs_options qs_quant
  PkgConfig::openblas)

add_executable(gptq_bench bench/gptq_bench.cc bench/fma_peak.cc)
target_link_libraries(gptq_bench PRIVATE qs_options qs_kernels hwy::hwy
  PkgConfig::openblas)

add_executable(quality_bench bench/quality_bench.cc)
target_link_libraries(quality_bench PRIVATE qs_options qs_quant)

add_executable(service_bench
  bench/discard_server.cc
  bench/service_bench.cc
  bench/stream_load.cc)
target_link_libraries(service_bench PRIVATE qs_options qs_service)
add_dependencies(service_bench quantd)

add_executable(run_bench bench/run_bench.cc)
target_link_libraries(run_bench PRIVATE qs_options qs_service)

add_executable(upload_bench bench/stream_load.cc bench/upload_bench.cc)
target_link_libraries(upload_bench PRIVATE qs_options qs_service)
add_dependencies(upload_bench quantd)

add_executable(jobs_bench bench/jobs_bench.cc)
target_link_libraries(jobs_bench PRIVATE qs_options qs_service)

add_executable(many_tensors_bench bench/many_tensors_bench.cc quant/plan_cases.cc)
target_link_libraries(many_tensors_bench PRIVATE qs_options qs_service)
target_include_directories(many_tensors_bench PRIVATE ${PROJECT_SOURCE_DIR})
target_compile_definitions(many_tensors_bench PRIVATE
  QS_TEST_DATA="${CMAKE_CURRENT_SOURCE_DIR}/data")

add_executable(seal_bench bench/seal_bench.cc)
target_link_libraries(seal_bench PRIVATE qs_options qs_service)

add_executable(read_bench bench/read_bench.cc bench/stream_load.cc)
target_link_libraries(read_bench PRIVATE qs_options qs_service)
add_dependencies(read_bench quantd)
