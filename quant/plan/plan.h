// Plan: what happens to every tensor and file of a checkpoint, derived from
// headers and config.json alone; no weight is read.
//
// The rules are data: quant/plan/catalogue.json (architectures: which modules
// are linears, which read the same input, which the engines fuse, what is
// skipped) and quant/plan/engines.json (what each engine loads, with the date
// when its code was read). Both are compiled in; an architecture that the
// catalogue does not know is planned by names and shapes.
//
// Never quantized: embeddings, output heads, norms, routers, 1-D and small
// tensors, towers of multimodal models, Conv1D modules.
// Convolutions are, flattened to [out, rest], with NF4 or in hqq's own format
// and without a target;
// transformers and bitsandbytes put 4-bit weights into nn.Linear only, so for
// these targets they are carried. So are, for transformers, the experts of a
// mixture in most formats: it merges them into one parameter.
//
// Stacks: a 3-D tensor that holds a linear, or two, of every expert is split
// into one 2-D weight for each, under the names by which engines load single
// ones. Which tensors these are, which way round they are stored and how two
// linears share one is the catalogue's to say; shapes are only checked against
// it. A stack is split whole, when all of it is quantized, or carried with a
// finding EXPERT_STACK that says why: the format or the target does not take
// single experts, or the architecture is not known.
//
// Fused groups (q, k, v; gate, up; the experts of a layer) get one scheme. In
// the formats but bitsandbytes' and hqq's a group is quantized whole or not at
// all: when one member
// cannot be, the others are carried with it and a finding GROUP_SPLIT says so.
// When a glob splits a group the same happens with a warning, except for
// Engine::kVllm, where it is an error: the caller named the target, so the
// globs are to be mended and not silently widened. bitsandbytes and hqq files
// are loaded module by module, so there globs are taken as they are.
//
// Overrides: rules of the request, the first that matches a name holds. They
// give tensors another configuration of the same format, or carry them. A fused
// group that they would split is an error whatever the target (GROUP_SPLIT;
// skipping in bitsandbytes' and hqq's formats splits nothing).
// compressed-tensors alone can say different grids of different tensors, so in
// other formats the grid is the request's.
//
// Sites: inputs that one or more linears read, with the operation before that
// can absorb their scales. A fold is stated only where the catalogue knows
// every reader of the producer's output and the checkpoint has no other
// candidate; else it is kNone with the reason, and for AWQ a finding NO_FOLD
// says so. It is none, too, where the site's readers, or its producer, are
// quantized in different ways: they could not be solved together.
//
// Findings: those of the target as its rules say; without a target those of
// every engine that knows the format, as warnings. Equal ones are merged: the
// first tensor is named, the text counts the others. Whatever the target, two
// output tensors of one name are an error, OUTPUT_NAME; a checkpoint without
// config.json is a warning, NO_CONFIG, where the target reads one.
#ifndef QS_QUANT_PLAN_PLAN_H_
#define QS_QUANT_PLAN_PLAN_H_

#include <atomic>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "kernels/base/dtype.h"
#include "quant/fold.h"
#include "quant/quant_spec.h"

namespace qs {

enum class Engine {
  kNone,
  kVllm,
  kTransformers,
  kBitsandbytes,
  kGptqModel,
  kHqq,
};

struct PlanTensor {
  std::string name;
  DType dtype = DType::kF32;
  std::vector<int64_t> shape;
  std::string file;
  // Byte range in the file's data section; equal ranges of a file are ties.
  // Both 0: unknown.
  int64_t begin = 0;
  int64_t end = 0;
};

struct PlanInputFile {
  std::string path;
  int64_t size_bytes = 0;
};

// A rule for tensors whose names match the glob.
struct PlanOverride {
  std::string tensors;
  std::optional<QuantSpec> spec;  // none: they are carried
};

struct PlanRequest {
  std::vector<PlanTensor> tensors;
  std::vector<PlanInputFile> files;  // every file of the checkpoint
  std::string config_json;           // may be empty
  QuantSpec spec;
  Engine engine = Engine::kNone;
  int tensor_parallel = 1;
  std::vector<std::string> include;  // globs (* ? [..]) on tensor names
  std::vector<std::string> exclude;  // wins over include
  std::vector<PlanOverride> overrides;
  bool list_sites = false;        // as for a method that needs a calibration
  int64_t max_entries = 1 << 20;  // with the slices of stacks
  // Set by another thread: nobody wants the plan any more. Null: nobody will.
  const std::atomic<bool>* cancelled = nullptr;
};

enum class TensorAction { kQuantize, kCarry, kTied, kSplit };
enum class FileAction { kCopy, kRewrite, kSkip };
enum class Severity { kWarning, kError };

// Which part of a tensor [experts, A, B] an entry is: its row r is row
// `first_row` + r * `row_step` of the expert's matrix [A, B], or the column of
// that number when `transposed`.
struct PlanSlice {
  std::string tensor;  // of the checkpoint
  int64_t expert = 0;
  bool transposed = false;
  int64_t first_row = 0;
  int64_t row_step = 1;
};

struct PlanEntry {
  std::string name;
  TensorAction action = TensorAction::kCarry;
  std::string reason;  // why not quantized; empty when it is
  // Tensors that read the same input: "model.layers.0/self_attn.qkv", block and
  // place in it. Empty when carried.
  std::string site;
  std::string group;  // fused group; empty when alone
  std::string tied_to;
  // Of an entry that is no tensor of the checkpoint, but a part of one.
  std::optional<PlanSlice> slice;
  int rule = 0;           // of the overrides, the first is 1; 0: none
  int64_t bytes_in = 0;   // 0 when split: the slices have them
  int64_t bytes_out = 0;  // 0 when tied or split; with double_quant at most
  int64_t rows = 0;       // AsMatrix of the shape
  int64_t cols = 0;
};

struct PlanFold {
  FoldKind kind = FoldKind::kNone;
  std::string reason;         // of kNone
  std::string producer;       // tensor name
  std::string producer_bias;  // tensor name, divided alike; empty: none
  // kLinear: input i of the site is row `row_offset` + i of the producer, or,
  // through grouped attention (head_dim > 0), input h * head_dim + d is row
  // `row_offset` + (h / repeat) * head_dim + d: inputs that share a row need
  // one scale.
  int64_t row_offset = 0;
  int64_t head_dim = 0;
  int64_t repeat = 0;
  // Tensors that read the site and are not quantized (a router, a linear that a
  // glob leaves out): their columns must be multiplied, too.
  std::vector<std::string> scaled_only;
};

// An input that one or more linears read.
struct PlanSite {
  std::string name;  // as PlanEntry::site
  int64_t inputs = 0;
  std::vector<std::string> consumers;  // the quantized ones, in plan order
  PlanFold fold;
  // Sites to be solved together when they are scaled: a producer of one reads
  // another.
  std::string group;
  // Read by the experts of a mixture: one calibration of all tokens that reach
  // any of them.
  bool pooled = false;
  // Sites with the same pool are the same place in the experts of one layer:
  // their sum helps out one that saw few tokens. Empty: none.
  std::string pool;
};

struct PlanFile {
  std::string path;
  FileAction action = FileAction::kCopy;
  std::string reason;
};

struct Finding {
  Severity severity = Severity::kWarning;
  std::string tensor;  // empty: the whole checkpoint
  std::string rule;    // UPPER_SNAKE
  std::string text;    // got and allowed
};

struct Plan {
  std::string architecture;
  std::vector<PlanEntry> entries;  // input order; slices behind their stack
  // In order of their first consumer. Filled in when the method needs a
  // calibration or the request asks.
  std::vector<PlanSite> sites;
  std::vector<PlanFile> files;
  std::vector<Finding> findings;
  bool refused = false;  // a finding of severity kError
  int64_t tensors_quantized = 0;
  int64_t bytes_in = 0;
  int64_t bytes_out = 0;
  // The linears that are not quantized are named in it (`ignore`,
  // `llm_int8_skip_modules`), the output head always, also as transformers
  // renames them. Empty when nothing is quantized.
  std::string quantization_config_json;
  // Whose rules the result breaks none of: "vLLM 0.33.0". Engines that read
  // config.json are not named without it, nor for an architecture that the
  // catalogue does not have.
  std::vector<std::string> engines;
};

// Time is linear in the tensors, times the length of the globs. A plan that
// quantizes nothing is refused by a finding. Thread-safe.
//
// Errors: RESOURCE_EXHAUSTED — more than max_entries. INVALID_ARGUMENT — spec;
// duplicate tensor; a byte range that does not fit shape and dtype; config.json
// no object (text begins with "config.json"); include, or an override, matches
// no name; an override that the format cannot hold.
// FAILED_PRECONDITION — the source is quantized already (text says by what).
// CANCELLED — PlanRequest::cancelled, which is looked at for each tensor.
absl::StatusOr<Plan> MakePlan(const PlanRequest& request);

struct EngineFacts {
  Engine engine = Engine::kNone;
  std::string name;
  std::string version;
  std::string read_on;
  std::vector<std::string> accepts;
};
const std::vector<EngineFacts>& EngineMatrix();

// Shell-like glob: * (also across dots), ?, [abc], [a-z], [!a].
bool GlobMatch(std::string_view pattern, std::string_view text);

}  // namespace qs

#endif  // QS_QUANT_PLAN_PLAN_H_
