add_executable(quant_bench
  bench/affine_bench.cc
  bench/bench.cc
  bench/nf4_bench.cc
  bench/quant_bench.cc
  bench/stats_bench.cc)
target_link_libraries(quant_bench PRIVATE qs_options qs_kernels)

add_executable(service_bench
  bench/discard_server.cc
  bench/service_bench.cc
  bench/stream_load.cc)
target_link_libraries(service_bench PRIVATE qs_options qs_service)
add_dependencies(service_bench quantd)
