#!/usr/bin/env python3
"""Writes the plan test cases: names and shapes of published models, and what
the plan must say about each tensor.

    make_headers.py [DIR]     (default: the folder of this script)

Sizes come from the models' public config.json files; layers are cut to a few
where they only repeat, `deepseek_v3` is whole. The expectations are written
here by hand from the rules, not taken from the program's output.

A case is a text file:
    config JSON
    tensor DTYPE SHAPE NAME        `{a-b}` in NAME counts; several are nested
      [SCENARIOS:] quantize SITE [GROUP]      `{1}` is the first count
      [SCENARIOS:] carry REASON
      [SCENARIOS:] tied NAME REASON
      [SCENARIOS:] split REASON
      SCENARIO+ NAME|EXPECTATION              a slice behind it
    unquantized SCENARIO NAME      ignore / llm_int8_skip_modules, in order
    finding SCENARIO SEVERITY RULE TENSOR
    engines SCENARIO NAMES
    error SCENARIO TEXT            MakePlan fails and its text holds TEXT
Scenarios: w4 (W4A16, vLLM), nf4 (NF4, transformers), nf4-any (NF4, no target).
"""
import json
import os
import sys

OUT = sys.argv[1] if len(sys.argv) > 1 else os.path.dirname(__file__)
NORM, ONE, EMB, HEAD = "carry norm", "carry 1-D", "carry embedding", "carry output head"
ROUTER = "carry router of a mixture of experts"
STACK = "carry 3-D expert stack [{}]: the format stores experts as one 2-D weight each"
NOT_WEIGHT = "carry no module's weight: the name does not end in .weight"
W4, NF4, ANY = "w4", "nf4", "nf4-any"
HEAD_ANYWHERE = r"(.*\.)?lm_head$"
MERGED = ("nf4: carry expert: transformers 5.23.0 merges the experts of a "
          "layer into one 3-D parameter and loads no packed ones")
LOADS = {W4: "vLLM 0.33.0, transformers 5.23.0",
         NF4: "transformers 5.23.0, bitsandbytes 0.50.2",
         ANY: "transformers 5.23.0, bitsandbytes 0.50.2"}


class Case:
    def __init__(self, name, config, dtype="BF16"):
        self.name, self.dtype, self.tail = name, dtype, []
        self.lines = ["config " + json.dumps(config)]
        self.loads = dict(LOADS)

    def t(self, name, shape, *expect, dtype=None):
        size = "x".join(map(str, shape)) or "-"
        self.lines.append(f"tensor {dtype or self.dtype} {size} {name}")
        self.lines += ["  " + e for e in expect]

    def q(self, block, local, shape, site=None, group=None, more=()):
        """A quantized weight; site and group are below the block."""
        name = f"{block}.{local}.weight" if block else f"{local}.weight"
        n = [0]

        def numbered(text):
            out = text
            while "{" in out and "-" in out[out.index("{"):]:
                a = out.index("{")
                b = out.index("}", a)
                n[0] += 1
                out = out[:a] + f"<{n[0]}>" + out[b + 1:]
            return out.replace("<", "{").replace(">", "}")
        block_n = numbered(block)
        local_n = numbered(local)
        where = f"{block_n}/{site or local_n}"
        fused = f" {block_n}/{group}" if group else ""
        self.t(name, shape, f"quantize {where}{fused}", *more)

    def stack(self, block, name, shape, parts, group, site=None):
        """A stack of experts, split for vLLM."""
        experts, below = name[:name.rindex(".")], []
        for e in range(shape[0]):
            for p in parts:
                where = site or f"{experts}.{e}.{p}"
                below.append(f"{W4}+ {block}.{experts}.{e}.{p}.weight|quantize {block}/{where} {block}/{group}")
        split = f"{W4}: split 3-D expert stack: split into {len(below)} 2-D weights"
        self.t(f"{block}.{name}", shape, STACK.format(", ".join(map(str, shape))), split, *below)

    def expressions(self, *texts):
        """Of names that engines know below other parents."""
        for text in texts:
            self.unquantized(W4, "re:" + text)
            self.unquantized(f"{NF4} {ANY}", text)

    def unquantized(self, scenarios, *names):
        for s in scenarios.split():
            self.tail += [f"unquantized {s} {n}" for n in names]

    def finding(self, scenario, severity, rule, tensor="-"):
        self.tail.append(f"finding {scenario} {severity} {rule} {tensor}")

    def write(self):
        tail = self.tail + [f"engines {s} {n}" for s, n in self.loads.items() if n is not None]
        with open(os.path.join(OUT, self.name + ".txt"), "w") as f:
            f.write("\n".join(self.lines + tail) + "\n")


def attention(c, b, hidden, q, kv, bias=False, qk_norm=0):
    for p, n in ("q", q), ("k", kv), ("v", kv):
        c.q(b, f"self_attn.{p}_proj", [n, hidden], "self_attn.qkv", "self_attn.qkv_proj")
        if bias:
            c.t(f"{b}.self_attn.{p}_proj.bias", [n], ONE)
    c.q(b, "self_attn.o_proj", [hidden, q])
    if qk_norm:
        c.t(f"{b}.self_attn.q_norm.weight", [qk_norm], NORM)
        c.t(f"{b}.self_attn.k_norm.weight", [qk_norm], NORM)


def mlp(c, b, hidden, inter, at="mlp", down=(), site=None):
    c.q(b, f"{at}.gate_proj", [inter, hidden], site or f"{at}.gate_up", f"{at}.gate_up_proj")
    c.q(b, f"{at}.up_proj", [inter, hidden], site or f"{at}.gate_up", f"{at}.gate_up_proj")
    c.q(b, f"{at}.down_proj", [hidden, inter], more=down)


def norms(c, b, hidden, names=("input_layernorm", "post_attention_layernorm")):
    for n in names:
        c.t(f"{b}.{n}.weight", [hidden], NORM)


def dense(name, model_type, hidden, inter, q, kv, vocab, layers, tie=False, bias=False,
          qk_norm=0, norm_names=("input_layernorm", "post_attention_layernorm"), head=128, **config):
    c = Case(name, {"model_type": model_type, "vocab_size": vocab, "tie_word_embeddings": tie,
                    "hidden_size": hidden, "num_attention_heads": q // head, "num_key_value_heads": kv // head,
                    "head_dim": head, "torch_dtype": "bfloat16", **config})
    c.t("model.embed_tokens.weight", [vocab, hidden], EMB)
    b = f"model.layers.{{0-{layers - 1}}}"
    norms(c, b, hidden, norm_names)
    attention(c, b, hidden, q, kv, bias, qk_norm)
    mlp(c, b, hidden, inter)
    c.t("model.norm.weight", [hidden], NORM)
    if not tie:
        c.t("lm_head.weight", [vocab, hidden], HEAD)
    c.unquantized("w4 nf4 nf4-any", "lm_head")
    c.write()


dense("llama3_8b", "llama", 4096, 14336, 4096, 1024, 128256, 32)
dense("mistral_7b", "mistral", 4096, 14336, 4096, 1024, 32768, 2)
dense("qwen2_7b", "qwen2", 3584, 18944, 3584, 512, 152064, 2, bias=True)
dense("qwen3_0_6b", "qwen3", 1024, 3072, 2048, 1024, 151936, 28, tie=True, qk_norm=128)
FOUR = ("input_layernorm", "post_attention_layernorm", "pre_feedforward_layernorm", "post_feedforward_layernorm")
dense("gemma2_2b", "gemma2", 2304, 9216, 2048, 1024, 256000, 2, tie=True, norm_names=FOUR, head=256)
dense("gemma3_1b", "gemma3_text", 1152, 6912, 1024, 256, 262144, 2, tie=True, qk_norm=256, norm_names=FOUR, head=256)


def gemma3():
    c = Case("gemma3_4b", {"model_type": "gemma3", "torch_dtype": "bfloat16", "tie_word_embeddings": True,
                           "text_config": {"model_type": "gemma3_text", "vocab_size": 262208},
                           "vision_config": {"model_type": "siglip_vision_model"}})
    tower = "carry vision or audio part of a multimodal model"
    c.t("language_model.model.embed_tokens.weight", [262208, 2560], EMB)
    b = "language_model.model.layers.{0-1}"
    norms(c, b, 2560, FOUR)
    attention(c, b, 2560, 2048, 1024, qk_norm=256)
    mlp(c, b, 2560, 10240)
    c.t("language_model.model.norm.weight", [2560], NORM)
    c.t("multi_modal_projector.mm_input_projection_weight", [1152, 2560], NOT_WEIGHT)
    c.t("vision_tower.vision_model.embeddings.patch_embedding.weight", [1152, 3, 14, 14], EMB)
    c.t("vision_tower.vision_model.embeddings.position_embedding.weight", [4096, 1152], tower)
    c.t("vision_tower.vision_model.encoder.layers.0.self_attn.q_proj.weight", [1152, 1152], tower)
    c.t("vision_tower.vision_model.encoder.layers.0.mlp.fc2.weight", [1152, 4304], tower)
    for n in "self_attn.q_proj", "mlp.fc2":
        for p in "", "model.":
            c.unquantized("w4 nf4 nf4-any", f"{p}vision_tower.vision_model.encoder.layers.0.{n}")
    c.unquantized("w4 nf4 nf4-any", "lm_head")
    c.expressions(r"(.*\.)?vision_tower(\.|$)", HEAD_ANYWHERE)
    c.write()


gemma3()


def moe_tail(c, first_expert):
    c.loads.update({ANY: "bitsandbytes 0.50.2"})
    c.finding(ANY, "warning", "EXPERTS", first_expert)


def qwen3_moe():
    c = Case("qwen3_30b_a3b", {"model_type": "qwen3_moe", "vocab_size": 151936, "tie_word_embeddings": False,
                               "torch_dtype": "bfloat16"})
    c.t("model.embed_tokens.weight", [151936, 2048], EMB)
    b = "model.layers.{0-1}"
    norms(c, b, 2048)
    attention(c, b, 2048, 4096, 512, qk_norm=128)
    c.t(f"{b}.mlp.gate.weight", [128, 2048], ROUTER)
    c.q(b, "mlp.experts.{0-127}.gate_proj", [768, 2048], "mlp.experts.gate_up", "mlp.experts", [MERGED])
    c.q(b, "mlp.experts.{0-127}.up_proj", [768, 2048], "mlp.experts.gate_up", "mlp.experts", [MERGED])
    c.q(b, "mlp.experts.{0-127}.down_proj", [2048, 768], None, "mlp.experts", [MERGED])
    c.t("model.norm.weight", [2048], NORM)
    c.t("lm_head.weight", [151936, 2048], HEAD)
    for layer in 0, 1:
        c.unquantized("w4 nf4 nf4-any", f"model.layers.{layer}.mlp.gate")
    for p in "gate_proj", "up_proj", "down_proj":
        for layer in 0, 1:
            c.unquantized("nf4", *[f"model.layers.{layer}.mlp.experts.{e}.{p}" for e in range(128)])
    c.unquantized("w4 nf4 nf4-any", "lm_head")
    moe_tail(c, "model.layers.0.mlp.experts.0.gate_proj.weight")
    c.write()


qwen3_moe()


def mixtral():
    c = Case("mixtral_8x7b", {"model_type": "mixtral", "vocab_size": 32000, "tie_word_embeddings": False,
                              "torch_dtype": "bfloat16"})
    c.t("model.embed_tokens.weight", [32000, 4096], EMB)
    b, m = "model.layers.0", "block_sparse_moe"
    norms(c, b, 4096)
    attention(c, b, 4096, 4096, 1024)
    c.t(f"{b}.{m}.gate.weight", [8, 4096], ROUTER)
    for w, shape in ("w1", [14336, 4096]), ("w3", [14336, 4096]):
        c.q(b, m + ".experts.{0-7}." + w, shape, m + ".experts.gate_up", m + ".experts", [MERGED])
    c.q(b, m + ".experts.{0-7}.w2", [4096, 14336], None, m + ".experts", [MERGED])
    c.t("model.norm.weight", [4096], NORM)
    c.t("lm_head.weight", [32000, 4096], HEAD)
    c.unquantized("w4 nf4 nf4-any", f"{b}.{m}.gate", f"{b}.mlp.gate")
    for w in "w1", "w3", "w2":
        for e in range(8):
            c.unquantized("nf4", f"{b}.{m}.experts.{e}.{w}", f"{b}.mlp.experts.{e}.{w}")
    c.unquantized("w4 nf4 nf4-any", "lm_head")
    moe_tail(c, f"{b}.{m}.experts.0.w1.weight")
    c.write()


mixtral()


def deepseek(name, model_type, hidden, layers, first_moe, experts, inter, moe_inter, shared, heads, q_lora, vocab, mtp):
    c = Case(name, {"model_type": model_type, "vocab_size": vocab, "tie_word_embeddings": False,
                    "torch_dtype": "bfloat16"})
    total = layers + mtp
    c.t("model.embed_tokens.weight", [vocab, hidden], EMB)
    b = f"model.layers.{{0-{total - 1}}}"
    norms(c, b, hidden)
    if q_lora:
        fused = "self_attn.fused_qkv_a_proj"
        c.q(b, "self_attn.q_a_proj", [q_lora, hidden], "self_attn.qkv_a", fused)
        c.t(f"{b}.self_attn.q_a_layernorm.weight", [q_lora], NORM)
        c.q(b, "self_attn.q_b_proj", [heads * 192, q_lora])
    else:
        fused = None
        c.q(b, "self_attn.q_proj", [heads * 192, hidden], "self_attn.qkv_a")
    c.q(b, "self_attn.kv_a_proj_with_mqa", [576, hidden], "self_attn.qkv_a", fused)
    c.t(f"{b}.self_attn.kv_a_layernorm.weight", [512], NORM)
    c.q(b, "self_attn.kv_b_proj", [heads * 256, 512])
    c.q(b, "self_attn.o_proj", [hidden, heads * 128])
    odd = inter % 128 != 0
    mlp(c, f"model.layers.{{0-{first_moe - 1}}}" if first_moe > 1 else "model.layers.0", hidden, inter,
        down=[f"w4: carry group_size: got 128, allowed -1 or a divisor of {inter} columns"] if odd else [])
    if odd:
        c.unquantized("w4", "model.layers.0.mlp.down_proj")
        c.finding(W4, "warning", "GROUP_SIZE", "model.layers.0.mlp.down_proj.weight")
    b = f"model.layers.{{{first_moe}-{total - 1}}}"
    c.t(f"{b}.mlp.gate.weight", [experts, hidden], ROUTER)
    c.t(f"{b}.mlp.gate.e_score_correction_bias", [experts], ONE, dtype="F32")
    e = f"mlp.experts.{{0-{experts - 1}}}"
    c.q(b, f"{e}.gate_proj", [moe_inter, hidden], "mlp.experts.gate_up", "mlp.experts", [MERGED])
    c.q(b, f"{e}.up_proj", [moe_inter, hidden], "mlp.experts.gate_up", "mlp.experts", [MERGED])
    c.q(b, f"{e}.down_proj", [hidden, moe_inter], None, "mlp.experts", [MERGED])
    # The shared experts read what the routed ones read.
    mlp(c, b, hidden, shared * moe_inter, "mlp.shared_experts", site="mlp.experts.gate_up")
    if mtp:
        m = f"model.layers.{layers}"
        c.t(f"{m}.embed_tokens.weight", [vocab, hidden], EMB)
        c.t(f"{m}.enorm.weight", [hidden], NORM)
        c.t(f"{m}.hnorm.weight", [hidden], NORM)
        c.t(f"{m}.eh_proj.weight", [hidden, 2 * hidden],
            "carry a plain linear in the engines, without a quantized form")
        c.t(f"{m}.shared_head.norm.weight", [hidden], NORM)
        c.t(f"{m}.shared_head.head.weight", [vocab, hidden], HEAD)
    c.t("model.norm.weight", [hidden], NORM)
    c.t("lm_head.weight", [vocab, hidden], HEAD)
    for layer in range(first_moe, total):
        c.unquantized("w4 nf4 nf4-any", f"model.layers.{layer}.mlp.gate")
    for p in "gate_proj", "up_proj", "down_proj":
        c.unquantized("nf4", f"{b}.{e}.{p}")
    if mtp:
        c.unquantized("w4 nf4 nf4-any", f"{m}.eh_proj", f"{m}.shared_head.head")
    c.unquantized("w4 nf4 nf4-any", "lm_head")
    moe_tail(c, f"model.layers.{first_moe}.mlp.experts.0.gate_proj.weight")
    return c


c = deepseek("deepseek_v3", "deepseek_v3", 7168, 61, 3, 256, 18432, 2048, 1, 128, 1536, 129280, 1)
c.write()
c = deepseek("deepseek_v2_lite", "deepseek_v2", 2048, 3, 1, 64, 10944, 1408, 2, 16, 0, 102400, 0)
c.write()


def phi3():
    c = Case("phi3_mini", {"model_type": "phi3", "vocab_size": 32064, "torch_dtype": "bfloat16"})
    c.t("model.embed_tokens.weight", [32064, 3072], EMB)
    b = "model.layers.{0-1}"
    norms(c, b, 3072)
    c.q(b, "self_attn.qkv_proj", [9216, 3072])
    c.q(b, "self_attn.o_proj", [3072, 3072])
    c.q(b, "mlp.gate_up_proj", [16384, 3072])
    c.q(b, "mlp.down_proj", [3072, 8192])
    c.t("model.norm.weight", [3072], NORM)
    c.t("lm_head.weight", [32064, 3072], HEAD)
    c.unquantized("w4 nf4 nf4-any", "lm_head")
    c.write()


def neox():
    c = Case("pythia_1b", {"model_type": "gpt_neox", "vocab_size": 50304, "torch_dtype": "float16"}, "F16")
    c.t("gpt_neox.embed_in.weight", [50304, 2048], EMB)
    b = "gpt_neox.layers.{0-1}"
    for n in "input_layernorm", "post_attention_layernorm":
        c.t(f"{b}.{n}.weight", [2048], NORM)
        c.t(f"{b}.{n}.bias", [2048], ONE)
    c.t(f"{b}.attention.bias", [1, 1, 2048, 2048], NOT_WEIGHT, dtype="BOOL")
    c.t(f"{b}.attention.masked_bias", [], "carry a scalar")
    c.t(f"{b}.attention.rotary_emb.inv_freq", [32], ONE)
    for n, shape in (("attention.query_key_value", [6144, 2048]), ("attention.dense", [2048, 2048]),
                     ("mlp.dense_h_to_4h", [8192, 2048]), ("mlp.dense_4h_to_h", [2048, 8192])):
        c.q(b, n, shape)
        c.t(f"{b}.{n}.bias", [shape[0]], ONE)
    c.t("gpt_neox.final_layer_norm.weight", [2048], NORM)
    c.t("embed_out.weight", [50304, 2048], HEAD)
    c.unquantized("w4 nf4 nf4-any", "embed_out", "lm_head")
    c.write()


def falcon():
    c = Case("falcon_7b", {"model_type": "falcon", "vocab_size": 65024, "torch_dtype": "bfloat16"})
    plain = ("nf4: carry FalconLinear: transformers replaces only modules whose class is nn.Linear itself")
    c.t("transformer.word_embeddings.weight", [65024, 4544], EMB)
    b = "transformer.h.{0-1}"
    # 4544 is no multiple of 128.
    odd = "w4: carry group_size: got 128, allowed -1 or a divisor of 4544 columns"
    c.q(b, "self_attention.query_key_value", [4672, 4544], more=[plain, odd])
    c.q(b, "self_attention.dense", [4544, 4544], more=[plain, odd])
    # Attention and MLP side by side: one norm, one input.
    c.q(b, "mlp.dense_h_to_4h", [18176, 4544], "self_attention.query_key_value", more=[plain, odd])
    c.q(b, "mlp.dense_4h_to_h", [4544, 18176], more=[plain])
    c.t(f"{b}.input_layernorm.weight", [4544], NORM)
    c.t("lm_head.weight", [65024, 4544], HEAD)
    for n in "self_attention.query_key_value", "self_attention.dense", "mlp.dense_h_to_4h":
        c.unquantized("w4", f"transformer.h.0.{n}", f"transformer.h.1.{n}")
    c.unquantized("w4 nf4-any", "lm_head")
    c.finding(W4, "warning", "GROUP_SIZE", "transformer.h.0.self_attention.query_key_value.weight")
    c.finding(NF4, "error", "NOTHING_TO_QUANTIZE")
    c.finding(ANY, "warning", "MODULE_CLASS", "transformer.h.0.self_attention.query_key_value.weight")
    c.loads.update({NF4: "", ANY: "bitsandbytes 0.50.2"})
    c.write()


phi3()
neox()
falcon()


def gpt_oss():
    c = Case("gpt_oss_20b", {"model_type": "gpt_oss", "vocab_size": 201088})
    b = "model.layers.0"
    c.t(f"{b}.mlp.experts.gate_up_proj_blocks", [32, 5760, 90, 16], dtype="U8")
    c.t(f"{b}.mlp.experts.gate_up_proj_scales", [32, 5760, 90], dtype="U8")
    c.t(f"{b}.self_attn.q_proj.weight", [4096, 2880])
    c.loads = {}
    for s in LOADS:
        c.tail.append(f"error {s} source is quantized already: tensor \"{b}.mlp.experts.gate_up_proj_blocks\" with its _scales (MXFP4)")
    c.write()
    c = Case("gpt_oss_20b_bf16", {"model_type": "gpt_oss", "vocab_size": 201088, "torch_dtype": "bfloat16"})
    c.t("model.embed_tokens.weight", [201088, 2880], EMB)
    odd = "w4: carry group_size: got 128, allowed -1 or a divisor of 2880 columns"
    for p, n in ("q", 4096), ("k", 512), ("v", 512):
        c.q(b, f"self_attn.{p}_proj", [n, 2880], "self_attn.qkv", "self_attn.qkv_proj", [odd])
        c.t(f"{b}.self_attn.{p}_proj.bias", [n], ONE)
    c.q(b, "self_attn.o_proj", [2880, 4096])
    c.t(f"{b}.self_attn.o_proj.bias", [2880], ONE)
    c.t(f"{b}.self_attn.sinks", [64], ONE)
    c.t(f"{b}.mlp.router.weight", [32, 2880], ROUTER)
    c.t(f"{b}.mlp.router.bias", [32], ONE)
    biases = ("vLLM 0.33.0 does not load the experts of gpt_oss as one 2-D weight each; their biases, which stay in one "
              "stack, would have to be renamed: vLLM 0.33.0 reads experts.N.w13_bias, GPTQModel 7.7.0 "
              "experts.N.gate_proj.bias")
    for n, shape in ("gate_up_proj", [32, 2880, 5760]), ("down_proj", [32, 2880, 2880]):
        size = ", ".join(map(str, shape))
        c.t(f"{b}.mlp.experts.{n}", shape, STACK.format(size), f"{W4}: carry 3-D expert stack [{size}]: {biases}")
        c.t(f"{b}.mlp.experts.{n}_bias", [32, shape[2]], NOT_WEIGHT)
    c.t("model.norm.weight", [2880], NORM)
    c.t("lm_head.weight", [201088, 2880], HEAD)
    for p in "qkv":
        c.unquantized("w4", f"{b}.self_attn.{p}_proj")
    c.unquantized("w4 nf4 nf4-any", f"{b}.mlp.router", "lm_head")
    c.unquantized("w4", r"re:^model\.layers\.0\.mlp\.experts(\.|$)")
    c.finding(W4, "warning", "GROUP_SIZE", f"{b}.self_attn.q_proj.weight")
    for s in LOADS:
        c.finding(s, "warning", "EXPERT_STACK", f"{b}.mlp.experts.gate_up_proj")
        c.finding(s, "warning", "EXPERT_STACK", f"{b}.mlp.experts.down_proj")
    c.write()


gpt_oss()


def llama4():
    c = Case("llama4_scout", {"model_type": "llama4", "torch_dtype": "bfloat16",
                              "text_config": {"model_type": "llama4_text", "vocab_size": 202048},
                              "vision_config": {"model_type": "llama4_vision_model"}})
    b = "language_model.model.layers.0"
    c.t("language_model.model.embed_tokens.weight", [202048, 5120], EMB)
    norms(c, b, 5120)
    attention(c, b, 5120, 5120, 1024)
    c.t(f"{b}.feed_forward.router.weight", [16, 5120], ROUTER)
    m = "feed_forward.experts"
    c.stack(b, f"{m}.gate_up_proj", [16, 5120, 16384], ["gate_proj", "up_proj"], m, f"{m}.gate_up")
    c.stack(b, f"{m}.down_proj", [16, 8192, 5120], ["down_proj"], m)
    mlp(c, b, 5120, 8192, "feed_forward.shared_expert", site=f"{m}.gate_up")
    c.t("language_model.model.norm.weight", [5120], NORM)
    c.t("language_model.lm_head.weight", [202048, 5120], HEAD)
    c.t("multi_modal_projector.linear_1.weight", [5120, 4096], "carry vision or audio part of a multimodal model")
    c.t("vision_model.class_embedding", [1408], ONE)
    c.t("vision_model.model.layers.0.self_attn.q_proj.weight", [1408, 1408],
        "carry vision or audio part of a multimodal model")
    c.unquantized("w4 nf4 nf4-any", f"{b}.feed_forward.router", "language_model.lm_head",
                  "multi_modal_projector.linear_1", "vision_model.model.layers.0.self_attn.q_proj", "lm_head")
    c.expressions(r"(.*\.)?layers\.\d+\.feed_forward\.router$", HEAD_ANYWHERE,
                  r"(.*\.)?multi_modal_projector(\.|$)", r"(.*\.)?vision_model(\.|$)")
    for s in NF4, ANY:
        c.finding(s, "warning", "EXPERT_STACK", f"{b}.feed_forward.experts.gate_up_proj")
        c.finding(s, "warning", "EXPERT_STACK", f"{b}.feed_forward.experts.down_proj")
    c.finding(NF4, "error", "EXPERT_STACK", f"{b}.feed_forward.experts.gate_up_proj")
    c.finding(ANY, "warning", "EXPERT_STACK", f"{b}.feed_forward.experts.gate_up_proj")
    c.loads.update({NF4: "bitsandbytes 0.50.2", ANY: "bitsandbytes 0.50.2"})
    c.write()


llama4()


def stacked_tail(c, b):
    for s in NF4, ANY:
        c.finding(s, "warning", "EXPERT_STACK", f"{b}.mlp.experts.gate_up_proj")
        c.finding(s, "warning", "EXPERT_STACK", f"{b}.mlp.experts.down_proj")


def qwen3_vl_moe():
    """Stored [experts, in, out], gate before up. Its 128 experts are cut to 4."""
    c = Case("qwen3_vl_30b_a3b", {"model_type": "qwen3_vl_moe", "torch_dtype": "bfloat16", "tie_word_embeddings": False,
                                  "text_config": {"model_type": "qwen3_vl_moe_text", "vocab_size": 151936},
                                  "vision_config": {"model_type": "qwen3_vl_moe"}})
    b, m = "model.language_model.layers.0", "mlp.experts"
    c.t("model.language_model.embed_tokens.weight", [151936, 2048], EMB)
    norms(c, b, 2048)
    attention(c, b, 2048, 4096, 512, qk_norm=128)
    c.t(f"{b}.mlp.gate.weight", [4, 2048], ROUTER)
    c.stack(b, f"{m}.gate_up_proj", [4, 2048, 1536], ["gate_proj", "up_proj"], m, f"{m}.gate_up")
    c.stack(b, f"{m}.down_proj", [4, 768, 2048], ["down_proj"], m)
    c.t("model.visual.blocks.0.attn.qkv.weight", [3456, 1152], "carry vision or audio part of a multimodal model")
    c.t("lm_head.weight", [151936, 2048], HEAD)
    c.unquantized("w4 nf4 nf4-any", f"{b}.mlp.gate", "model.visual.blocks.0.attn.qkv", "lm_head")
    c.expressions(r"(.*\.)?layers\.\d+\.mlp\.gate$", r"(.*\.)?visual(\.|$)", HEAD_ANYWHERE)
    stacked_tail(c, b)
    c.loads.update({W4: "vLLM 0.33.0"})
    c.write()


qwen3_vl_moe()


def qwen3_5_moe():
    """Stored [experts, out, in], gate before up. Its 256 experts are cut to 4."""
    c = Case("qwen3_5_35b_a3b", {"model_type": "qwen3_5_moe", "torch_dtype": "bfloat16", "tie_word_embeddings": False,
                                 "text_config": {"model_type": "qwen3_5_moe_text", "vocab_size": 248320},
                                 "vision_config": {"model_type": "qwen3_5_moe"}})
    b, a, m = "model.language_model.layers.0", "linear_attn", "mlp.experts"
    c.t("model.language_model.embed_tokens.weight", [248320, 2048], EMB)
    norms(c, b, 2048)
    c.t(f"{b}.{a}.A_log", [32], ONE)
    c.t(f"{b}.{a}.conv1d.weight", [8192, 1, 4], "carry convolution [8192, 1, 4]: compressed-tensors packs 2-D weights",
        "nf4: carry convolution [8192, 1, 4]: transformers loads 4-bit weights into nn.Linear only",
        f"nf4-any: quantize {b}.{a}.conv1d")
    other = "carry no linear of a block of qwen3_5_moe"
    for p in "a", "b":
        c.t(f"{b}.{a}.in_proj_{p}.weight", [32, 2048], other)
    c.q(b, f"{a}.in_proj_qkv", [8192, 2048], f"{a}.in_proj", f"{a}.in_proj_qkvz")
    c.q(b, f"{a}.in_proj_z", [4096, 2048], f"{a}.in_proj", f"{a}.in_proj_qkvz")
    c.q(b, f"{a}.out_proj", [2048, 4096])
    c.t(f"{b}.mlp.gate.weight", [4, 2048], ROUTER)
    c.stack(b, f"{m}.gate_up_proj", [4, 1024, 2048], ["gate_proj", "up_proj"], m, f"{m}.gate_up")
    c.stack(b, f"{m}.down_proj", [4, 2048, 512], ["down_proj"], m)
    mlp(c, b, 2048, 512, "mlp.shared_expert", site=f"{m}.gate_up")
    c.t(f"{b}.mlp.shared_expert_gate.weight", [1, 2048], ROUTER)
    c.t("lm_head.weight", [248320, 2048], HEAD)
    c.unquantized("w4 nf4 nf4-any", *[f"{b}.{a}.in_proj_{p}" for p in "ab"], f"{b}.mlp.gate",
                  f"{b}.mlp.shared_expert_gate", "lm_head")
    c.expressions(*[rf"(.*\.)?layers\.\d+\.{n}$" for n in
                    (r"linear_attn\.in_proj_a", r"linear_attn\.in_proj_b", r"mlp\.gate", r"mlp\.shared_expert_gate")],
                  HEAD_ANYWHERE)
    stacked_tail(c, b)
    for _ in "transformers", "bitsandbytes":
        c.finding(ANY, "warning", "CONVOLUTION", f"{b}.{a}.conv1d.weight")
    c.loads.update({ANY: ""})
    c.write()


qwen3_5_moe()


def bert():
    c = Case("bert_base", {"model_type": "bert", "vocab_size": 30522, "tie_word_embeddings": True}, "F32")
    e = "bert.embeddings"
    for n, rows in ("word", 30522), ("position", 512), ("token_type", 2):
        c.t(f"{e}.{n}_embeddings.weight", [rows, 768], EMB)
    c.t(f"{e}.LayerNorm.weight", [768], ONE)
    c.t(f"{e}.position_ids", [1, 512], NOT_WEIGHT, dtype="I64")
    b = "bert.encoder.layer.{0-11}"
    for n in "query", "key", "value":
        c.q(b, f"attention.self.{n}", [768, 768], "attention.self.qkv", "attention.self.qkv_proj")
        c.t(f"{b}.attention.self.{n}.bias", [768], ONE)
    c.q(b, "attention.output.dense", [768, 768])
    c.q(b, "intermediate.dense", [3072, 768])
    c.q(b, "output.dense", [768, 3072])
    c.t("bert.pooler.dense.weight", [768, 768], "carry no linear of a block of bert")
    c.t("cls.predictions.transform.dense.weight", [768, 768], "carry no linear of a block of bert")
    c.t("cls.predictions.decoder.weight", [30522, 768],
        f"tied {e}.word_embeddings.weight tie_word_embeddings: {e}.word_embeddings.weight is the head")
    c.t("cls.seq_relationship.weight", [2, 768], HEAD)
    c.unquantized("w4 nf4 nf4-any", "bert.pooler.dense", "cls.predictions.transform.dense",
                  "cls.predictions.decoder", "cls.seq_relationship")
    for s in LOADS:
        c.finding(s, "warning", "TIED_HEAD_STORED", "cls.predictions.decoder.weight")
    c.write()


def vit():
    c = Case("vit_base", {"model_type": "vit"}, "F32")
    c.t("vit.embeddings.cls_token", [1, 1, 768], NOT_WEIGHT)
    c.t("vit.embeddings.patch_embeddings.projection.weight", [768, 3, 16, 16],
        "w4: carry convolution [768, 3, 16, 16]: compressed-tensors packs 2-D weights",
        "nf4: carry convolution [768, 3, 16, 16]: transformers loads 4-bit weights into nn.Linear only",
        "nf4-any: quantize vit.embeddings.patch_embeddings.projection")
    b, a = "vit.encoder.layer.{0-11}", "attention.attention"
    for n in "query", "key", "value":
        c.q(b, f"{a}.{n}", [768, 768], f"{a}.qkv", f"{a}.qkv_proj")
    c.q(b, "attention.output.dense", [768, 768])
    c.q(b, "intermediate.dense", [3072, 768])
    c.q(b, "output.dense", [768, 3072])
    c.t("vit.layernorm.weight", [768], NORM)
    c.t("classifier.weight", [1000, 768], HEAD)
    c.unquantized("w4 nf4 nf4-any", "classifier")
    c.finding(ANY, "warning", "CONVOLUTION", "vit.embeddings.patch_embeddings.projection.weight")
    c.finding(ANY, "warning", "CONVOLUTION", "vit.embeddings.patch_embeddings.projection.weight")
    c.loads.update({ANY: ""})
    c.write()


def clip():
    c = Case("clip_vit_b32", {"model_type": "clip", "text_config": {"model_type": "clip_text_model"},
                              "vision_config": {"model_type": "clip_vision_model"}, "tie_word_embeddings": True}, "F32")
    c.t("logit_scale", [], "carry a scalar")
    c.t("text_model.embeddings.token_embedding.weight", [49408, 512], EMB)
    c.t("text_model.embeddings.position_embedding.weight", [77, 512], EMB)
    for part, d, inter in ("text_model", 512, 2048), ("vision_model", 768, 3072):
        b = part + ".encoder.layers.{0-11}"
        for p in "k", "v", "q":
            c.q(b, f"self_attn.{p}_proj", [d, d], "self_attn.qkv", "self_attn.qkv_proj")
        c.q(b, "self_attn.out_proj", [d, d])
        c.q(b, "mlp.fc1", [inter, d])
        c.q(b, "mlp.fc2", [d, inter])
        c.t(f"{b}.layer_norm1.weight", [d], NORM)
    c.t("vision_model.embeddings.patch_embedding.weight", [768, 3, 32, 32], EMB)
    c.t("vision_model.pre_layrnorm.weight", [768], NORM)
    c.t("text_projection.weight", [512, 512], "carry no linear of a block of clip")
    c.t("visual_projection.weight", [512, 768], "carry no linear of a block of clip")
    c.unquantized("w4 nf4 nf4-any", "text_projection", "visual_projection")
    c.write()


def whisper():
    c = Case("whisper_small", {"model_type": "whisper", "vocab_size": 51865, "tie_word_embeddings": True}, "F32")
    for n, k in ("conv1", 80), ("conv2", 768):
        c.t(f"model.encoder.{n}.weight", [768, k, 3],
            f"w4: carry convolution [768, {k}, 3]: compressed-tensors packs 2-D weights",
            f"nf4: carry convolution [768, {k}, 3]: transformers loads 4-bit weights into nn.Linear only",
            f"nf4-any: quantize model.encoder.{n}")
        c.t(f"model.encoder.{n}.bias", [768], ONE)
    c.t("model.encoder.embed_positions.weight", [1500, 768], EMB)
    c.t("model.decoder.embed_tokens.weight", [51865, 768], EMB)
    c.t("model.decoder.embed_positions.weight", [448, 768], EMB)
    for part in "encoder", "decoder":
        b = f"model.{part}.layers.{{0-11}}"
        for p in "k", "v", "q":
            c.q(b, f"self_attn.{p}_proj", [768, 768], "self_attn.qkv", "self_attn.qkv_proj")
        c.q(b, "self_attn.out_proj", [768, 768])
        if part == "decoder":
            c.q(b, "encoder_attn.k_proj", [768, 768], "encoder_attn.kv", "encoder_attn.kv_proj")
            c.q(b, "encoder_attn.v_proj", [768, 768], "encoder_attn.kv", "encoder_attn.kv_proj")
            c.q(b, "encoder_attn.q_proj", [768, 768])
            c.q(b, "encoder_attn.out_proj", [768, 768])
        c.q(b, "fc1", [3072, 768])
        c.q(b, "fc2", [768, 3072])
        c.t(f"{b}.final_layer_norm.weight", [768], NORM)
    c.unquantized("w4 nf4 nf4-any", "proj_out")
    for _ in range(2):
        c.finding(ANY, "warning", "CONVOLUTION", "model.encoder.conv1.weight")
    c.loads.update({ANY: ""})
    c.write()


def unet():
    c = Case("unet_sd15", {"_class_name": "UNet2DConditionModel", "cross_attention_dim": 768}, "F16")
    conv = lambda shape: (f"w4: carry convolution {shape}: compressed-tensors packs 2-D weights",
                          f"nf4: carry convolution {shape}: transformers loads 4-bit weights into nn.Linear only")
    d = "down_blocks.0"
    for n, shape in (("conv_in", [320, 4, 3, 3]), (f"{d}.resnets.0.conv1", [320, 320, 3, 3]),
                     (f"{d}.attentions.0.proj_in", [320, 320, 1, 1])):
        if n.endswith("proj_in"):
            c.t(f"{n}.weight", shape, *conv(shape), f"nf4-any: quantize {n}")
        else:
            c.t(f"{n}.weight", shape, *conv(shape), f"nf4-any: quantize {n}")
    c.t("time_embedding.linear_1.weight", [1280, 320], "carry time or class conditioning")
    c.t(f"{d}.resnets.0.time_emb_proj.weight", [320, 1280], "carry time or class conditioning")
    c.t(f"{d}.resnets.0.norm1.weight", [320], NORM)
    b = f"{d}.attentions.0.transformer_blocks.0"
    # 320 columns: no multiple of 128.
    odd = "w4: carry group_size: got 128, allowed -1 or a divisor of 320 columns"
    for p in "q", "k", "v":
        c.q(b, f"attn1.to_{p}", [320, 320], "attn1.qkv", more=[odd])
    c.q(b, "attn1.to_out.0", [320, 320], more=[odd])
    c.q(b, "attn2.to_q", [320, 320], more=[odd])
    c.q(b, "attn2.to_k", [320, 768], "attn2.kv")
    c.q(b, "attn2.to_v", [320, 768], "attn2.kv")
    c.q(b, "ff.net.0.proj", [2560, 320], more=[odd])
    c.q(b, "ff.net.2", [320, 1280])
    c.unquantized("w4 nf4 nf4-any", "time_embedding.linear_1", f"{d}.resnets.0.time_emb_proj")
    for n in "attn1.to_q", "attn1.to_k", "attn1.to_v", "attn1.to_out.0", "attn2.to_q", "ff.net.0.proj":
        c.unquantized("w4", f"{b}.{n}")
    c.finding(W4, "warning", "GROUP_SIZE", f"{b}.attn1.to_q.weight")
    for _ in range(2):
        c.finding(ANY, "warning", "CONVOLUTION", "conv_in.weight")
    c.loads.update({ANY: ""})
    c.write()


def gpt2():
    c = Case("gpt2", {"model_type": "gpt2", "vocab_size": 50257}, "F32")
    conv1d = "carry Conv1D module: stored [in, out], no nn.Linear"
    c.t("wte.weight", [50257, 768], EMB)
    c.t("wpe.weight", [1024, 768], EMB)
    b = "h.{0-1}"
    c.t(f"{b}.attn.bias", [1, 1, 1024, 1024], NOT_WEIGHT)
    for n, shape in (("attn.c_attn", [768, 2304]), ("attn.c_proj", [768, 768]),
                     ("mlp.c_fc", [768, 3072]), ("mlp.c_proj", [3072, 768])):
        c.t(f"{b}.{n}.weight", shape, conv1d)
    for s in LOADS:
        c.finding(s, "error", "NOTHING_TO_QUANTIZE")
    c.loads = {s: "" for s in LOADS}
    c.write()


def unknown():
    c = Case("unknown", {"model_type": "brandnew", "vocab_size": 5000, "torch_dtype": "bfloat16"})
    c.t("tok_embeddings.weight", [5000, 512], EMB)
    b = "decoder.stages.{0-2}"
    for p in "q", "k", "v":
        c.q(b + ".mixer", f"{p}_proj", [512, 512], "qkv", "qkv_proj")
    c.q(b + ".mixer", "o_proj", [512, 512])
    c.t(f"{b}.ssm.in_mix.weight", [1024, 512], "quantize decoder.stages.{1}.ssm.in_mix")
    c.t(f"{b}.ssm.conv1d.weight", [512, 1, 4],
        "w4: carry convolution [512, 1, 4]: compressed-tensors packs 2-D weights",
        "nf4: carry convolution [512, 1, 4]: transformers loads 4-bit weights into nn.Linear only",
        "nf4-any: quantize decoder.stages.{1}.ssm.conv1d")
    c.t(f"{b}.turned.weight", [512, 1536], "carry not stored [out, in]: shape [512, 1536], bias [1536]")
    c.t(f"{b}.turned.bias", [1536], ONE)
    c.t(f"{b}.tiny.weight", [8, 64], "carry small: 512 weights, fewer than 1024")
    c.t(f"{b}.flag.weight", [1, 2048], "carry one output row")
    c.t(f"{b}.router.weight", [16, 512], ROUTER)
    c.t(f"{b}.codes.weight", [64, 64], "carry dtype I32: allowed are F32, F16 and BF16", dtype="I32")
    c.t(f"{b}.norm.weight", [512], NORM)
    c.t("unembedding.weight", [5000, 512], EMB)
    c.t("readout.weight", [5000, 512], "carry embedding or output head: [5000, 512] with a vocabulary of 5000")
    for n in "turned", "tiny", "flag", "router", "codes":
        for i in range(3):
            c.unquantized("w4 nf4 nf4-any", f"decoder.stages.{i}.{n}")
    c.unquantized("w4 nf4 nf4-any", "unembedding", "readout", "lm_head")
    for _ in range(2):
        c.finding(ANY, "warning", "CONVOLUTION", "decoder.stages.0.ssm.conv1d.weight")
    for s in W4, NF4:
        c.finding(s, "warning", "ARCHITECTURE_UNKNOWN")
    c.loads.update({W4: "", NF4: "bitsandbytes 0.50.2", ANY: ""})
    c.write()


bert()
vit()
clip()
whisper()
unet()
gpt2()
unknown()
