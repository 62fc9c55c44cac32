# gpu_bench but for where its device comes from: the CUDA runtime in
# gpu.cmake, the emulation in its test (kernels_cuda.cmake).
set(qs_gpu_bench_sources
  gpu/bench_elementwise.cc
  gpu/bench_machine.cc
  gpu/bench_problem.cc
  gpu/bench_rows.cc
  gpu/bench_solvers.cc
  gpu/bench_staged.cc
  gpu/bench_table.cc)
