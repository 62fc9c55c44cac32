// Where to listen: parsing, the loopback rule, and the sockets.
#ifndef QS_SERVICE_SERVER_LISTEN_ADDRESS_H_
#define QS_SERVICE_SERVER_LISTEN_ADDRESS_H_

#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"

namespace qs {

struct ListenAddress {
  std::string host;  // without brackets
  int port = 0;

  // "localhost", 127.0.0.0/8 or ::1, as text: names are not looked up here.
  bool loopback() const;
};

// "HOST:PORT" or "[HOST]:PORT". Errors: INVALID_ARGUMENT.
absl::StatusOr<ListenAddress> ParseListenAddress(std::string_view text);

struct Listener {
  std::vector<int> fds;  // non-blocking; the caller closes them
  int port = 0;
};

// Binds every address of the host, all on one port. Errors: UNAVAILABLE —
// unknown host, port in use, no permission.
absl::StatusOr<Listener> Listen(const ListenAddress& address);

}  // namespace qs

#endif  // QS_SERVICE_SERVER_LISTEN_ADDRESS_H_
