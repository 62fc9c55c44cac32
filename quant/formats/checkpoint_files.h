// The files of a checkpoint directory.
#ifndef QS_QUANT_FORMATS_CHECKPOINT_FILES_H_
#define QS_QUANT_FORMATS_CHECKPOINT_FILES_H_

#include <set>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "quant/formats/checkpoint.h"

namespace qs {

// That a file's name can be in a plan, an index and a report, which are UTF-8.
// `what` begins the error. Errors: INVALID_ARGUMENT.
absl::Status CheckFileName(const std::string& name, const std::string& what);

// Names of the regular files that end in ".safetensors", in `directory` itself,
// sorted. Errors: as VisitFolder, also of links; CheckFileName's.
absl::StatusOr<std::vector<std::string>> ListSafetensors(
    const std::string& directory, const FileOpener* opener = nullptr);

// Every regular file below `directory` that `taken` does not name, as
// Checkpoint::side_files. Symbolic links to files count as files, those to
// directories are not followed. `left_out`: as Checkpoint::left_out. Errors: as
// VisitFolder, also of links; CheckFileName's; INVALID_ARGUMENT — more than
// 10000 of both.
absl::StatusOr<std::vector<CheckpointSideFile>> ListSideFiles(
    const std::string& directory, const std::set<std::string>& taken,
    const FileOpener* opener, std::vector<CheckpointLeftOut>* left_out);

}  // namespace qs

#endif  // QS_QUANT_FORMATS_CHECKPOINT_FILES_H_
