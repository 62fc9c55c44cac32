// Pieces of weights that one input reads, as a device has them: runs of pieces
// of one type are one matrix there, so that a product has many rows.
#ifndef QS_KERNELS_AWQ_PIECES_H_
#define QS_KERNELS_AWQ_PIECES_H_

#include <cstddef>
#include <cstdint>
#include <span>

#include "kernels/base/tensor_view.h"

namespace qs {

// Calls body(pieces of the run, their rows together) for every run, in order.
// `join`: else a run is one piece. REQUIRES: pieces have the same columns.
template <class Body>
void ForAwqRuns(std::span<const TensorView> pieces, bool join,
                const Body& body) {
  for (size_t begin = 0, end = 0; begin < pieces.size(); begin = end) {
    int64_t rows = 0;
    do {
      rows += pieces[end++].rows;
    } while (join && end < pieces.size() &&
             pieces[end].dtype == pieces[begin].dtype);
    body(pieces.subspan(begin, end - begin), rows);
  }
}

}  // namespace qs

#endif  // QS_KERNELS_AWQ_PIECES_H_
