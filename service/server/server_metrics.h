// What a running server is asked for at each scrape: its streams, workers,
// memory, connections and process.
#ifndef QS_SERVICE_SERVER_SERVER_METRICS_H_
#define QS_SERVICE_SERVER_SERVER_METRICS_H_

#include <list>

#include "service/base/metrics.h"
#include "service/server/acceptor.h"
#include "service/server/tls.h"
#include "service/stream/quantize_context.h"

namespace qs {

// All must outlive the sources. `tls` null: plaintext.
std::list<MetricSource> ServerMetrics(QuantizeContext& context,
                                      Acceptor& acceptor, const TlsFiles* tls);

}  // namespace qs

#endif  // QS_SERVICE_SERVER_SERVER_METRICS_H_
