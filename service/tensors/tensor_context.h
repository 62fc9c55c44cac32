// TensorContext: what the calls of TensorService share. Outlives all of them.
#ifndef QS_SERVICE_TENSORS_TENSOR_CONTEXT_H_
#define QS_SERVICE_TENSORS_TENSOR_CONTEXT_H_

#include "service/access/access.h"
#include "service/base/io_pool.h"
#include "service/tensors/live_calls.h"
#include "service/tensors/tensor_store.h"

namespace qs {

struct TensorContext {
  TensorStore& store;
  const AccessControl& access;
  IoPool& pool;
  LiveCalls& calls;  // WriteTensor and ReadTensor
};

}  // namespace qs

#endif  // QS_SERVICE_TENSORS_TENSOR_CONTEXT_H_
