// Names of modules that hold in the module tree of every engine.
//
// Of a multimodal model each engine builds a tree of its own, whose beginnings
// are not those of the checkpoint: "visual.blocks.0.attn.qkv" of a file is
// "model.visual.blocks.0.attn.qkv" in transformers 5, and
// "model.language_model.layers.0.mlp.gate" of another is
// "language_model.model.layers.0.mlp.gate" in vLLM. vLLM translates exact
// names, transformers does not, and neither does it with expressions. So beside
// the exact names stand regular expressions that leave out what differs. Models
// of text alone need none: their trees are the checkpoint's.
#ifndef QS_QUANT_PLAN_ANY_TREE_H_
#define QS_QUANT_PLAN_ANY_TREE_H_

#include <string>
#include <string_view>
#include <vector>

#include "quant/plan/draft.h"

namespace qs {

// Whether engines may build a tree that begins otherwise than the checkpoint.
bool HasOtherTrees(const Draft& draft);

// The end of a module's name that all trees share: from its list of layers on
// ("layers.3.mlp.down_proj"); without a number in it, what is below "model" and
// "language_model".
std::string_view SharedEnd(std::string_view module);

// As transformers 5 calls a module of the language model below most models with
// towers: "model.language_model.layers.3.mlp.down_proj".
std::string LanguageModelName(std::string_view module);

// "(.*\.)?layers\.\d+\.mlp\.down_proj$" of "layers.3.mlp.down_proj", for
// re.match; `any_number` false keeps the 3.
std::string ExpressionOfEnd(std::string_view end, bool any_number);

// Expressions that match every module of `names`, wherever it stands, and none
// that is quantized: one for a whole tower, and one for the layers of a list
// that agree. Each once, in order of the names. Where no such expression is, a
// name gets none. Empty when HasOtherTrees is false.
std::vector<std::string> ExpressionsOf(const Draft& draft,
                                       const std::vector<std::string>& names);

// The same for the modules "...experts" of stacks that are carried, with all
// that is below them.
std::vector<std::string> StackExpressions(
    const Draft& draft, const std::vector<std::string>& names);

}  // namespace qs

#endif  // QS_QUANT_PLAN_ANY_TREE_H_
