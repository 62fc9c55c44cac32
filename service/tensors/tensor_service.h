// The RPCs of quant.v1.TensorService, each handed to the
// class that implements it. Nothing here blocks.
#ifndef QS_SERVICE_TENSORS_TENSOR_SERVICE_H_
#define QS_SERVICE_TENSORS_TENSOR_SERVICE_H_

#include <memory>

#include "quant/v1/tensors.grpc.pb.h"
#include "service/tensors/tensor_context.h"

namespace qs {

// `context` outlives the gRPC server that the service is registered with.
std::unique_ptr<grpc::Service> NewTensorService(TensorContext& context);

}  // namespace qs

#endif  // QS_SERVICE_TENSORS_TENSOR_SERVICE_H_
