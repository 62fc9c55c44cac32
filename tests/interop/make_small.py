"""Makes small multimodal models, and encoders, with random weights, as they are
published.

    make_small.py OUT       OUT/FAMILY-made for each of FAMILIES

transformers 5 names the modules of most of them otherwise than the checkpoint.
A folder gets, beside the model, calibration.safetensors for the inputs of the
language model's linears, where the model has one. Weights are float32, so that
scales are, too, and what an engine decodes can be compared closely.
"""
import json
import pathlib
import sys

import torch
from safetensors.torch import load_file, save_file
import transformers as t

SIZES = {"hidden_size": 128, "intermediate_size": 256, "num_hidden_layers": 2,
         "num_attention_heads": 4, "vocab_size": 512,
         "max_position_embeddings": 256}
TEXT = SIZES | {"num_key_value_heads": 2, "head_dim": 32, "pad_token_id": 0,
                "bos_token_id": 1, "eos_token_id": 2}
VISION = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2,
          "num_attention_heads": 4, "image_size": 56, "patch_size": 14}


def text(model_type):
    return TEXT | {"model_type": model_type}


def vision(model_type, **more):
    return VISION | {"model_type": model_type} | more


# The class of the model, and its configuration.
FAMILIES = {
    "qwen2_5_vl": lambda: (
        t.Qwen2_5_VLForConditionalGeneration, t.Qwen2_5_VLConfig(
            text_config=TEXT | {"rope_scaling": {
                "type": "mrope", "mrope_section": [4, 6, 6]}},
            vision_config={"depth": 2, "hidden_size": 64, "num_heads": 4,
                           "intermediate_size": 128, "out_hidden_size": 128},
            tie_word_embeddings=False)),
    "llava": lambda: (t.LlavaForConditionalGeneration, t.LlavaConfig(
        text_config=text("llama"),
        vision_config=vision("clip_vision_model", projection_dim=64))),
    "mistral3": lambda: (t.Mistral3ForConditionalGeneration, t.Mistral3Config(
        text_config=text("mistral"),
        vision_config=vision("pixtral", head_dim=16))),
    "internvl": lambda: (t.InternVLForConditionalGeneration, t.InternVLConfig(
        text_config=text("qwen2"),
        vision_config=VISION | {"image_size": [56, 56],
                                "patch_size": [14, 14]})),
    "qwen2_audio": lambda: (
        t.Qwen2AudioForConditionalGeneration, t.Qwen2AudioConfig(
            text_config=text("qwen2"),
            audio_config={"d_model": 64, "encoder_layers": 2,
                          "encoder_attention_heads": 4,
                          "encoder_ffn_dim": 128})),
    "gemma3": lambda: (t.Gemma3ForConditionalGeneration, t.Gemma3Config(
        text_config=TEXT, vision_config=VISION)),
    "idefics3": lambda: (t.Idefics3ForConditionalGeneration, t.Idefics3Config(
        text_config=text("llama"), vision_config=VISION)),
    "electra": lambda: (t.ElectraForSequenceClassification, t.ElectraConfig(
        **SIZES, embedding_size=64)),
    "albert": lambda: (t.AlbertForSequenceClassification, t.AlbertConfig(
        **SIZES, embedding_size=64)),
}
# Whose published files have a module that transformers 5 leaves out.
WITH_VISION_MODEL = ("llava", "gemma3")


def rename_as_published(family, file):
    if family not in WITH_VISION_MODEL:
        return
    tensors = {name.replace("vision_tower.", "vision_tower.vision_model."): value
               for name, value in load_file(file).items()}
    save_file(tensors, file, metadata={"format": "pt"})


def write_calibration(out):
    """Inputs of the language model's linears, by their names in the file."""
    generator = torch.Generator().manual_seed(2)
    weights = load_file(out / "model.safetensors")
    tensors, inputs = {}, {}

    def add(block, linears):
        names = [block + linear for linear in linears]
        values = torch.randn(200, weights[names[0] + ".weight"].shape[1],
                             generator=generator)
        values[:, ::9] *= 10
        tensors[names[0]], inputs[names[0]] = values, names

    last = ".mlp.gate_proj.weight"
    for name in weights:
        if name.endswith(last) and "visual" not in name:
            block = name[:-len(last)]
            add(block, [f".self_attn.{p}_proj" for p in "qkv"])
            add(block, [".self_attn.o_proj"])
            add(block, [".mlp.gate_proj", ".mlp.up_proj"])
            add(block, [".mlp.down_proj"])
    if tensors:
        save_file(tensors, out / "calibration.safetensors",
                  metadata={"inputs": json.dumps(inputs)})


def make(family, out):
    torch.manual_seed(1)
    model_class, config = FAMILIES[family]()
    model = model_class(config)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.normal_(0, 0.08)
    model.save_pretrained(out)
    rename_as_published(family, out / "model.safetensors")
    write_calibration(out)


if __name__ == "__main__":
    for name in FAMILIES:
        make(name, pathlib.Path(sys.argv[1]) / f"{name}-made")
