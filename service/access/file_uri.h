// The path that a "file" URI names, and the other way round, by text alone.
// Thread: pure functions.
#ifndef QS_SERVICE_ACCESS_FILE_URI_H_
#define QS_SERVICE_ACCESS_FILE_URI_H_

#include <string>

#include "absl/status/statusor.h"

namespace qs {

// "/a/b" of "file:///a/b" or "file:///a/b/": percent escapes decoded, absolute,
// no empty, "." or ".." part. Errors: INVALID_ARGUMENT BAD_FIELD (`field`) —
// another scheme, a host, a query, a fragment, an escape that is none, a NUL,
// an escaped slash, an empty or "." part, a byte that a URI has escaped only,
// or above 4096 bytes; PERMISSION_DENIED URI_NOT_ALLOWED — a ".." part.
absl::StatusOr<std::string> PathOfFileUri(const std::string& field,
                                          const std::string& uri);

// The URI of an absolute path: what PathOfFileUri gives `path` for.
std::string FileUriOf(const std::string& path);

// PERMISSION_DENIED URI_NOT_ALLOWED "FIELD: got TEXT".
absl::Status UriNotAllowed(const std::string& field, const std::string& text);

// Whether `path` is `root` or lies below it, by their parts.
bool IsBeneath(const std::string& path, const std::string& root);

}  // namespace qs

#endif  // QS_SERVICE_ACCESS_FILE_URI_H_
