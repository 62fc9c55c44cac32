// Tested by tests/e2e/quantctl_upload_test.py.
#include <algorithm>
#include <atomic>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "absl/strings/str_cat.h"
#include "kernels/base/status_macros.h"
#include "quant/formats/checkpoint.h"
#include "quant/formats/utf8.h"
#include "quant/plan/plan.h"
#include "service/checkpoint/fault.h"
#include "service/cli/commands.h"
#include "service/cli/exit_code.h"
#include "service/cli/progress.h"
#include "service/cli/run_control.h"
#include "service/cli/signal_watcher.h"
#include "service/cli/tensor_uploader.h"
#include "service/cli/text_table.h"

namespace qs::cli {
namespace {

bool MatchesAny(const std::vector<std::string>& globs,
                const std::string& name) {
  return std::any_of(
      globs.begin(), globs.end(),
      [&name](const std::string& glob) { return GlobMatch(glob, name); });
}

std::vector<const CheckpointTensor*> Select(const Checkpoint& checkpoint,
                                            const ConfigArguments& config) {
  std::vector<const CheckpointTensor*> selected;
  for (const CheckpointTensor& tensor : checkpoint.tensors()) {
    const std::string& name = tensor.entry.name;
    if (!config.include.empty() && !MatchesAny(config.include, name)) continue;
    if (!MatchesAny(config.exclude, name)) selected.push_back(&tensor);
  }
  return selected;
}

int64_t BytesOf(const std::vector<const CheckpointTensor*>& tensors) {
  int64_t bytes = 0;
  for (const CheckpointTensor* tensor : tensors) {
    bytes += tensor->entry.end - tensor->entry.begin;
  }
  return bytes;
}

// Tensors are taken in the checkpoint's order by whichever stream is free.
class UploadRun {
 public:
  UploadRun(const Arguments& arguments, const Console& console,
            const Checkpoint& checkpoint,
            std::vector<const CheckpointTensor*> tensors, RunControl& control)
      : arguments_(arguments),
        console_(console),
        checkpoint_(checkpoint),
        tensors_(std::move(tensors)),
        control_(control),
        done_(tensors_.size()) {}

  absl::Status Run() {
    const int streams = std::min<int>(arguments_.run.streams,
                                      static_cast<int>(tensors_.size()));
    console_.error << absl::StrCat(
        "uploading ", Counted(static_cast<int64_t>(tensors_.size()), "tensor"),
        ", ", FormatBytes(BytesOf(tensors_)), ", ", streams, " streams to ",
        arguments_.server.address, "\n");
    Progress progress(console_.error, console_.columns, BytesOf(tensors_),
                      static_cast<int64_t>(tensors_.size()));
    {
      std::vector<std::jthread> threads;
      for (int i = 0; i < streams; ++i) {
        threads.emplace_back([this, &progress] { RunStream(progress); });
      }
    }
    progress.Finish();
    if (control_.failed()) {
      return WithText(control_.status(),
                      "; the same command goes on where it ended");
    }
    Report();
    return absl::OkStatus();
  }

 private:
  void RunStream(Progress& progress) {
    const auto uploader = TensorUploader::Make(arguments_.server, checkpoint_,
                                               control_, progress);
    if (!uploader.ok()) return control_.Fail(uploader.status());
    while (!control_.failed()) {
      const size_t index = next_++;
      if (index >= tensors_.size()) return;
      absl::StatusOr<UploadedTensor> tensor =
          (*uploader)->Upload(*tensors_[index]);
      if (!tensor.ok()) {
        return control_.Fail(
            WithText(tensor.status(),
                     absl::StrCat(" (", tensors_[index]->entry.name, ")")));
      }
      done_[index] = *std::move(tensor);
      progress.AddTensor();
    }
  }

  void Report() const {
    int64_t sent = 0;
    int64_t sent_bytes = 0;
    for (const UploadedTensor& tensor : done_) {
      console_.out << EscapeControls(tensor.tensor.name()) << " "
                   << EscapeControls(tensor.tensor.tensor_name()) << "\n";
      if (tensor.sent_bytes > 0) ++sent;
      sent_bytes += tensor.sent_bytes;
    }
    console_.error << absl::StrCat(
        "sent ", Counted(sent, "tensor"), ", ", FormatBytes(sent_bytes), "; ",
        static_cast<int64_t>(done_.size()) - sent, " were there\n");
  }

  const Arguments& arguments_;
  const Console& console_;
  const Checkpoint& checkpoint_;
  const std::vector<const CheckpointTensor*> tensors_;
  RunControl& control_;
  std::atomic<size_t> next_{0};
  std::vector<UploadedTensor> done_;  // each written by one thread
};

}  // namespace

absl::Status RunUpload(const Arguments& arguments, const Console& console) {
  RunControl control;
  const SignalWatcher signals(control);
  const absl::StatusOr<Checkpoint> checkpoint =
      Checkpoint::Open(arguments.input);
  if (!checkpoint.ok()) return InputFault(checkpoint.status());
  std::vector<const CheckpointTensor*> tensors =
      Select(*checkpoint, arguments.config);
  if (tensors.empty()) {
    return UsageError(absl::StrCat("--include, --exclude: got none of ",
                                   checkpoint->tensors().size(),
                                   " tensors, allowed at least one"));
  }
  return UploadRun(arguments, console, *checkpoint, std::move(tensors), control)
      .Run();
}

}  // namespace qs::cli
