// The catalogue of architectures: catalogue.json as structures.
//
// Its fields: `names` (kind of a module by its last one or two components),
// `name_parts` (kind by a part of the last component), `heads` and
// `tied_embeddings` (globs on modules that are in no block), `heads_in_blocks`
// (ends of modules that are heads in a block, too), `towers` (parts of a
// multimodal model that stay as they are), `sets` (linears by their path below
// a block; `#` stands for a number), `folds` (by a site's path below a block:
// which tensor before it can absorb the inverse of its scales), `stacks` (by a
// tensor's path below a block: how it holds the linears of all experts) and
// `architectures` (which model types use which sets, folds and stacks, and what
// engines do to them: single experts, renamed modules).
#ifndef QS_QUANT_PLAN_CATALOGUE_H_
#define QS_QUANT_PLAN_CATALOGUE_H_

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <unordered_set>
#include <utility>
#include <vector>

#include "quant/plan/config_facts.h"
#include "quant/plan/plan.h"

namespace qs {

// How a tensor-parallel engine splits a linear: rows of the weight (column
// parallel), columns (row parallel), or not at all.
enum class Parallel { kColumn, kRow, kReplicated };

struct LinearRule {
  std::string site;   // below the block; empty: the module itself
  std::string group;  // fused group below the block; empty: alone
  Parallel parallel = Parallel::kColumn;
  bool expert = false;
};

// Where the values of a site come from. Stated only when nothing between there
// and the site depends on their scale and when every reader is named: the
// linears of the site, and `readers`.
struct FoldRule {
  // Norms by their module below the block; the first that a checkpoint has.
  std::vector<std::string> norms;
  // Without any of them the site's linears read what this site reads (attention
  // and MLP side by side).
  std::string else_site;
  std::vector<std::string> readers;  // modules that are never quantized
  std::string linear;                // instead of a norm: a linear
  bool last_rows = false;            // its last rows, of a fused one
  bool heads = false;                // through attention, maybe grouped
};

// A tensor [experts, A, B] with one or more linears of each expert.
struct StackRule {
  // The linears' modules below "experts.N", in the order of their rows.
  std::vector<std::string> parts;
  bool transposed = false;   // [experts, in, out]
  bool interleaved = false;  // rows alternate between the parts
};

struct Architecture {
  std::string name;
  std::vector<std::string> model_types;
  std::vector<std::string> class_names;
  // Linears may stand anywhere, and shape decides where no rule does.
  bool by_shape = false;
  std::unordered_map<std::string, LinearRule> linears;
  std::unordered_map<std::string, FoldRule> folds;  // by site, with # in it
  std::unordered_set<std::string> readers;          // of all folds
  bool norm_plus_one = false;  // its norms multiply by 1 + weight
  std::optional<std::vector<std::string>> towers;  // none: the common ones
  std::string head = "lm_head";  // module of the output head; "" without
  std::unordered_map<std::string, StackRule> stacks;
  // Engines that load the experts of a stack as one linear each; none: all.
  std::optional<std::vector<Engine>> single_experts;
  std::string stacked_because;  // when that is an empty list
  // What transformers does with experts: "" keeps them, "merged" makes one 3-D
  // parameter of single ones, "stacked" loads only the parameter, "unpacked"
  // makes linears of the parameter when the model is quantized.
  std::string transformers_experts;
  std::string transformers_bitsandbytes;  // why it replaces no linear
  // Why it loads no packed linears (other formats than bitsandbytes').
  std::string transformers_packed;
  // With towers, too, transformers names modules as the checkpoint does.
  bool keeps_tree = false;
  // Checkpoint names to module names, in order; a leading ^ anchors.
  std::vector<std::pair<std::string, std::string>> transformers_renames;
};

struct Catalogue {
  int64_t min_elements = 0;
  std::map<std::string, std::string> kinds;  // kind -> reason
  std::unordered_map<std::string, std::string> names;
  std::vector<std::pair<std::string, std::string>> name_parts;
  std::vector<std::string> heads;
  std::vector<std::string> heads_in_blocks;
  std::vector<std::string> tied_embeddings;
  std::vector<std::string> towers;  // parts of a module's name and a dot
  // Ends of modules that are stacks and do not have "experts" in their names.
  std::vector<std::string> stacks;
  std::vector<Architecture> architectures;  // the last one is the unknown
};

const Catalogue& TheCatalogue();

// By _class_name, model_type, then the model_type of the text part.
const Architecture& FindArchitecture(const ConfigFacts& facts);

// The longest end of a module path for which `architecture` has a rule.
// `module` is split at a dot: `block` before it (maybe empty), `local` behind.
struct RuleMatch {
  const LinearRule* rule = nullptr;  // null: no linear of this architecture
  std::string_view block;
  std::string_view local;
};
RuleMatch MatchRule(const Architecture& architecture, std::string_view module);

// The same for a tensor that is a stack of experts.
struct StackMatch {
  const StackRule* rule = nullptr;
  std::string_view block;
  std::string_view local;
};
StackMatch MatchStack(const Architecture& architecture, std::string_view name);

// Of a module's path a component that counts blocks, experts, ...: digits
// alone.
bool IsNumber(std::string_view part);

// A component before the last one is a number: "layers.3.mlp.up_proj".
bool InNumberedBlock(std::string_view module);

// "mlp.experts.#.w1" of "mlp.experts.3.w1".
std::string WithoutNumbers(std::string_view path);

// The rule for a site by its path below the block; null: none.
const FoldRule* FindFold(const Architecture& architecture,
                         std::string_view local);

// "embedding", "norm", "head", "router", ...; empty: none of these. In a
// numbered block a head is what `heads_in_blocks` has alone: the "output" of
// its attention is a linear as others are.
std::string_view KindOfModule(std::string_view module);

// The same by its whole last component, or last two, alone, wherever it stands.
std::string_view KindOfName(std::string_view module);

// For a linear of one expert, "...experts.3.up_proj": the module of all experts
// of its layer, "...experts", below which stacks are named. Empty for others.
std::string_view ExpertsModule(std::string_view module);

// As transformers' module tree names it.
std::string TransformersName(const Architecture& architecture,
                             std::string_view module);

}  // namespace qs

#endif  // QS_QUANT_PLAN_CATALOGUE_H_
