// The definition of the two orders of codes that one file format each has.
// Used by affine_reference.cc only, which checks the arguments.
#ifndef QS_KERNELS_REFERENCE_PACK_REFERENCE_H_
#define QS_KERNELS_REFERENCE_PACK_REFERENCE_H_

#include "kernels/affine_ops.h"

namespace qs::reference {

void PackAwq(const PackAwqArgs& args);
void UnpackAwq(const UnpackAwqArgs& args);
void PackParts(const PackPartsArgs& args);
void UnpackParts(const UnpackPartsArgs& args);

}  // namespace qs::reference

#endif  // QS_KERNELS_REFERENCE_PACK_REFERENCE_H_
