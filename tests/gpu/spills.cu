// A kernel that holds QS_VALUES floats at once: few fit into registers, many do
// not. For spill_test.sh.
__global__ void __launch_bounds__(256) HoldValues(float* x) {
  float values[QS_VALUES];
#pragma unroll
  for (int i = 0; i < QS_VALUES; ++i) {
    values[i] = x[i * 256 + threadIdx.x];
  }
#pragma unroll
  for (int i = 0; i < QS_VALUES; ++i) {
    x[i * 256 + threadIdx.x] = values[QS_VALUES - 1 - i] * values[i / 2];
  }
}
