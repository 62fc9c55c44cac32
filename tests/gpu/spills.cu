// A kernel that holds QS_VALUES floats at once: few fit into registers, many do
// not; and with QS_STACK one that has a stack. For spill_test.sh.
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

#ifdef QS_STACK
// An array whose index is not known: no register, a stack.
__global__ void KeepStack(int* x, int n) {
  int values[64];
  for (int i = 0; i < 64; ++i) values[i] = x[i];
  int sum = 0;
  for (int i = 0; i < n; ++i) sum += values[x[i] & 63];
  *x = sum;
}
#endif
