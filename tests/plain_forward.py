"""The arithmetic of each family of models, written out: what stands at every place that TransformerLens has a name for.

One sequence, no cache, no batch, float32; weights are taken from the model by their names, nothing else of it is used.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import gelu, silu

GPT_LIKE = ("gpt2", "gpt_neo", "gptj", "gpt_neox", "phi")
SANDWICHED = ("gemma2", "gemma3_text")
Weights = dict[str, Tensor]


def tanh_gelu(x: Tensor) -> Tensor:
    return gelu(x, approximate="tanh")


class PlainModel:
    def __init__(self, model: Any) -> None:
        config = model.config.get_text_config()
        self.kind: str = config.model_type
        self.config = config
        prefix = "language_model." if model.config.model_type == "gemma3" else ""
        state = {name: tensor.float() for name, tensor in model.base_model.state_dict().items()}
        self.w: Weights = {n.removeprefix(prefix): tensor for n, tensor in state.items() if n.startswith(prefix)}
        self.head = model.get_output_embeddings().weight.float()
        self.heads = config.num_attention_heads
        self.head_width = getattr(config, "head_dim", None) or config.hidden_size // self.heads

    def linear(self, x: Tensor, name: str) -> Tensor:
        weight = self.w[f"{name}.weight"]
        made = x @ (weight if self.kind == "gpt2" else weight.T)
        return made + self.w[f"{name}.bias"] if f"{name}.bias" in self.w else made

    def scaled(self, x: Tensor) -> Tensor:
        """A norm without gain and bias."""
        if self.kind in GPT_LIKE:
            x = x - x.mean(-1, keepdim=True)
            return x / (x.pow(2).mean(-1, keepdim=True) + 1e-5).sqrt()
        return x / (x.pow(2).mean(-1, keepdim=True) + self.config.rms_norm_eps).sqrt()

    def norm(self, x: Tensor, name: str) -> Tensor:
        weight = self.w[f"{name}.weight"]
        if self.kind in GPT_LIKE:
            return self.scaled(x) * weight + self.w[f"{name}.bias"]
        return self.scaled(x) * (1 + weight if self.kind.startswith("gemma") else weight)

    def embed(self, ids: Tensor) -> Tensor:
        table = {"gpt2": "wte", "gpt_neo": "wte", "gptj": "wte", "gpt_neox": "embed_in"}.get(self.kind, "embed_tokens")
        x = self.w[f"{table}.weight"][ids]
        if self.kind in ("gpt2", "gpt_neo"):
            x = x + self.w["wpe.weight"][: len(ids)]
        return x * self.config.hidden_size**0.5 if self.kind.startswith("gemma") else x

    def queries_keys_values(self, x: Tensor, layer: str) -> list[Tensor]:
        """Each [heads or groups, length, width of a head]."""
        width = self.head_width
        if self.kind == "gpt2":
            parts = self.linear(x, f"{layer}.attn.c_attn").chunk(3, dim=-1)
        elif self.kind == "gpt_neox":
            by_head = self.linear(x, f"{layer}.attention.query_key_value").unflatten(-1, (self.heads, 3, width))
            parts = tuple(by_head[:, :, i].flatten(1) for i in range(3))
        elif self.kind == "phi3":
            groups = self.config.num_key_value_heads * width
            parts = self.linear(x, f"{layer}.self_attn.qkv_proj").split([self.heads * width, groups, groups], dim=-1)
        else:
            place = {"gpt_neo": "attn.attention", "gptj": "attn"}.get(self.kind, "self_attn")
            parts = tuple(self.linear(x, f"{layer}.{place}.{each}_proj") for each in "qkv")
        found = [part.unflatten(-1, (-1, width)).transpose(0, 1) for part in parts]
        if self.kind in ("qwen3", "gemma3_text"):
            found[:2] = [
                self.norm(each, f"{layer}.self_attn.{name}_norm") for each, name in zip(found[:2], "qk", strict=True)
            ]
        return found

    def rotated(self, x: Tensor, number: int) -> Tensor:
        """x [heads, length, width] with its positions turned in; the first dimensions alone in some families."""
        if self.kind in ("gpt2", "gpt_neo") or (self.kind == "smollm3" and not self.config.no_rope_layers[number]):
            return x
        rotary = {"gpt_neox": self.head_width // 4, "phi": self.head_width // 2, "gptj": 4}.get(
            self.kind, self.head_width
        )
        theta = 10_000.0
        if self.kind == "gemma3_text" and self.config.layer_types[number] == "full_attention":
            theta = 1_000_000.0
        elif self.kind not in ("gptj", "gemma3_text"):
            theta = self.config.rope_parameters["rope_theta"]
        speeds = theta ** -(torch.arange(0, rotary, 2).float() / rotary)
        angles = torch.arange(x.shape[1]).float()[:, None] * speeds
        turned, rest = x[..., :rotary], x[..., rotary:]
        first, second = (turned[..., ::2], turned[..., 1::2]) if self.kind == "gptj" else turned.chunk(2, dim=-1)
        pair = (first * angles.cos() - second * angles.sin(), second * angles.cos() + first * angles.sin())
        turned = torch.stack(pair, dim=-1).flatten(-2) if self.kind == "gptj" else torch.cat(pair, dim=-1)
        return torch.cat([turned, rest], dim=-1)

    def attended(self, x: Tensor, layer: str, number: int) -> Tensor:
        """What the heads put out, side by side [length, heads * width]."""
        q, k, v = self.queries_keys_values(x, layer)
        q, k = self.rotated(q, number), self.rotated(k, number)
        k, v = (each.repeat_interleave(self.heads // len(each), dim=0) for each in (k, v))
        scale = {"gpt_neo": 1.0}.get(self.kind, self.head_width**-0.5)
        if self.kind in SANDWICHED:
            scale = self.config.query_pre_attn_scalar**-0.5
        scores = q @ k.transpose(1, 2) * scale
        if self.kind == "gemma2":
            scores = 2.0 * (scores / 2.0).tanh()
        back = torch.arange(len(x))[:, None] - torch.arange(len(x))
        seen = back >= 0
        kinds = getattr(self.config, "layer_types", None)
        if self.kind == "mistral" or (kinds is not None and kinds[number] == "sliding_attention"):
            seen &= back < 4
        return (scores.masked_fill(~seen, -torch.inf).softmax(-1) @ v).transpose(0, 1).flatten(1)

    def mlp_hidden(self, x: Tensor, mlp: str) -> Tensor:
        up = {"gpt2": "c_fc", "gpt_neo": "c_fc", "gptj": "fc_in", "gpt_neox": "dense_h_to_4h", "phi": "fc1"}
        if self.kind in GPT_LIKE:
            return (gelu if self.kind == "gpt_neox" else tanh_gelu)(self.linear(x, f"{mlp}.{up[self.kind]}"))
        if self.kind == "phi3":
            gate, value = self.linear(x, f"{mlp}.gate_up_proj").chunk(2, dim=-1)
        else:
            gate, value = self.linear(x, f"{mlp}.gate_proj"), self.linear(x, f"{mlp}.up_proj")
        return (tanh_gelu if self.kind.startswith("gemma") else silu)(gate) * value

    def names(self) -> tuple[str, str, str, str, str]:
        """Norm before the attention, its output map, norm before the MLP, its last map, final norm."""
        return {
            "gpt2": ("ln_1", "attn.c_proj", "ln_2", "mlp.c_proj", "ln_f"),
            "gpt_neo": ("ln_1", "attn.attention.out_proj", "ln_2", "mlp.c_proj", "ln_f"),
            "gptj": ("ln_1", "attn.out_proj", "ln_1", "mlp.fc_out", "ln_f"),
            "gpt_neox": (
                "input_layernorm",
                "attention.dense",
                "post_attention_layernorm",
                "mlp.dense_4h_to_h",
                "final_layer_norm",
            ),
            "phi": ("input_layernorm", "self_attn.dense", "input_layernorm", "mlp.fc2", "final_layernorm"),
        }.get(
            self.kind,
            (
                "input_layernorm",
                "self_attn.o_proj",
                "pre_feedforward_layernorm" if self.kind in SANDWICHED else "post_attention_layernorm",
                "mlp.down_proj",
                "norm",
            ),
        )

    def run(self, ids: Tensor) -> dict[str, Tensor]:
        """By TransformerLens name, for token ids [length]; under `logits` what the unembedding makes of the end."""
        seen: dict[str, Tensor] = {}
        before_attention, attention_out, before_mlp, mlp_out, final = self.names()
        layers = "h" if self.kind in ("gpt2", "gpt_neo", "gptj") else "layers"
        parallel = self.kind in ("gptj", "phi") or (self.kind == "gpt_neox" and self.config.use_parallel_residual)
        x = self.embed(ids)
        for number in range(self.config.num_hidden_layers):
            layer, block = f"{layers}.{number}", f"blocks.{number}"
            seen[f"{block}.hook_resid_pre"] = x
            first = self.norm(x, f"{layer}.{before_attention}")
            seen[f"{block}.ln1.hook_normalized"] = first if self.kind in GPT_LIKE else self.scaled(x)
            seen[f"{block}.attn.hook_z"] = z = self.attended(first, layer, number)
            attention = self.linear(z, f"{layer}.{attention_out}")
            if self.kind in SANDWICHED:
                attention = self.norm(attention, f"{layer}.post_attention_layernorm")
            seen[f"{block}.hook_attn_out"] = attention
            if not parallel:
                seen[f"{block}.hook_resid_mid"] = x + attention
            seen[f"{block}.hook_mlp_in"] = read = x if parallel else x + attention
            second = self.norm(read, f"{layer}.{before_mlp}")
            seen[f"{block}.ln2.hook_normalized"] = second if self.kind in GPT_LIKE else self.scaled(read)
            seen[f"{block}.mlp.hook_in"] = second
            seen[f"{block}.mlp.hook_post"] = hidden = self.mlp_hidden(second, f"{layer}.mlp")
            seen[f"{block}.mlp.hook_out"] = made = self.linear(hidden, f"{layer}.{mlp_out}")
            if self.kind in SANDWICHED:
                made = self.norm(made, f"{layer}.post_feedforward_layernorm")
            seen[f"{block}.hook_mlp_out"] = made
            seen[f"{block}.hook_resid_post"] = x = x + attention + made
        seen["ln_final.hook_normalized"] = self.norm(x, final) if self.kind in GPT_LIKE else self.scaled(x)
        seen["logits"] = self.norm(x, final) @ self.head.T
        return seen

    def moved_logits(self, direction: Tensor) -> Tensor:
        """How logits move along a direction of the residual stream, the final norm's scale held at 1."""
        final = self.w[f"{self.names()[4]}.weight"]
        if self.kind in GPT_LIKE:
            direction = direction - direction.mean()
        return self.head @ (direction * (1 + final if self.kind.startswith("gemma") else final))
