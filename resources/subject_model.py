"""The LLM under study: its tokens, its activations at hookpoints, what a direction promotes in its output."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM

from resources.errors import NotNow, UnusableInput
from resources.sparse_autoencoders.controls import Neurons
from resources.tokenizers import not_usable

DOWN_PROJECTIONS = ("mlp.down_proj", "mlp.c_proj", "mlp.dense_4h_to_h")
"The MLP's last linear map below a decoder layer: Llama and its kin, GPT-2, GPT-NeoX."


class NoSuchHookpoint(UnusableInput):
    """The subject model has no module of that path; the message lists those it has."""


class _AllSeen(Exception):
    """Ends a forward pass: every requested hookpoint has been reached."""


def pick_device(device: str) -> str:
    """
    Raises:
        NotNow: this machine has no such device.
    """
    there = ["cpu", *(f"cuda:{i}" for i in range(torch.cuda.device_count()))]
    if device == "auto":
        return "cuda" if len(there) > 1 else "cpu"
    if device.startswith("cuda") and (device if ":" in device else "cuda:0") not in there:
        raise NotNow(f"device {device}: this machine has none; there are: {', '.join(there)}")
    return device


def load_language_model(path: str | Path, revision: str | None, dtype: str, device: str) -> Any:
    """
    Raises:
        UnusableInput: no complete causal language model that transformers can read lies there.
    """
    place = pick_device(device)
    try:
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            path, revision=revision, dtype=getattr(torch, dtype), output_loading_info=True
        )
        model, report = loaded
        # transformers fills what is missing with random numbers.
        if missing := sorted(report["missing_keys"]):
            raise UnusableInput(f"{path}: the model's files lack {len(missing)} of its tensors, such as {missing[0]}")
    except Exception as error:
        raise not_usable(path, "causal language model", error) from None
    return model.to(place).eval()


def fresh_language_model(path: str | Path, revision: str | None, dtype: str, device: str, seed: int) -> Any:
    """The model as its makers' code initialises it, from its settings alone; the same for a seed on every device.

    Raises:
        UnusableInput: no settings of a causal language model that transformers knows lie there.
    """
    place = pick_device(device)
    try:
        config = AutoConfig.from_pretrained(path, revision=revision)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            model: Any = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    except Exception as error:
        raise not_usable(path, "causal language model", error) from None
    return model.to(place, getattr(torch, dtype)).eval()


@dataclass(frozen=True)
class PromotedTokens:
    """Output tokens whose logits a direction moves most; tensors [directions, n], strongest first."""

    promoted: Tensor
    promoted_logits: Tensor
    suppressed: Tensor
    suppressed_logits: Tensor


class SubjectModel:
    def __init__(
        self, path: str | Path, revision: str | None, dtype: str, device: str, untrained: int | None = None
    ) -> None:
        """
        Args:
            untrained: seed of fresh weights that stand in place of the trained ones.

        Raises:
            UnusableInput: no complete causal language model that transformers can read lies there.
        """
        self.device = pick_device(device)
        self.model = (
            load_language_model(path, revision, dtype, device)
            if untrained is None
            else fresh_language_model(path, revision, dtype, device, untrained)
        )
        self.modules = {name: module for name, module in self.model.base_model.named_modules() if name}

    def check_hookpoint(self, hookpoint: str) -> None:
        """A hookpoint is `<module path>` for what the module puts out, `<module path>:in` for what goes into it.

        Raises:
            NoSuchHookpoint: listing the modules that stand where the path goes wrong.
        """
        path = hookpoint.removesuffix(":in")
        if path in self.modules:
            return
        parts = path.split(".")
        depth = next(i for i in range(len(parts)) if ".".join(parts[: i + 1]) not in self.modules)
        parent = ".".join(parts[:depth])
        prefix = f"{parent}." if parent else ""
        there = [name for name in self.modules if name.startswith(prefix) and name.count(".") == depth]
        shown = ", ".join(there[:6] + (["..."] if len(there) > 7 else []) + there[max(6, len(there) - 1) :])
        raise NoSuchHookpoint(f"the subject model has no module {path!r}; at that place there are: {shown}")

    def down_projection(self, layer: str) -> str:
        """The path of the MLP's last linear map in a decoder layer such as layers.10.

        Raises:
            NoSuchHookpoint: there is none of a known name.
        """
        for name in DOWN_PROJECTIONS:
            if f"{layer}.{name}" in self.modules:
                return f"{layer}.{name}"
        known = ", ".join(DOWN_PROJECTIONS)
        raise NoSuchHookpoint(f"the subject model has no MLP of a known form in {layer}; known are: {known}")

    def neurons(self, layer: str, top: int) -> Neurons:
        """The MLP neurons of a decoder layer, all but the `top` largest of a token zeroed.

        Raises:
            NoSuchHookpoint: there are none of a known form.
        """
        module = self.modules[self.down_projection(layer)]
        weight = module.weight.detach().float()
        # torch's Linear holds [out, in], the Conv1D of GPT-2 [in, out].
        return Neurons(weight.T if isinstance(module, torch.nn.Linear) else weight, top)

    def same_place_elsewhere(self, hookpoint: str) -> list[str]:
        """The same module of other layers, 1, 2, 4 and 8 before and behind; none where the path has no layer number."""
        found = re.fullmatch(r"(.*?\.)(\d+)((?:\..*)?(?::in)?)", hookpoint)
        if found is None:
            return []
        numbers = [int(found[2]) + sign * step for step in (1, 2, 4, 8) for sign in (-1, 1)]
        names = [f"{found[1]}{number}{found[3]}" for number in numbers]
        return [name for name in names if name.removesuffix(":in") in self.modules]

    @torch.inference_mode()
    def activations(self, tokens: Tensor, hookpoints: Sequence[str]) -> dict[str, Tensor]:
        """What stands at each hookpoint for token ids [batch, length]: float [batch, length, d].

        The forward pass ends as soon as the last of them is reached.
        """
        seen: dict[str, Tensor] = {}
        wanted = list(dict.fromkeys(hookpoints))

        def keep(hookpoint: str, value: Any) -> None:
            seen[hookpoint] = value[0] if isinstance(value, tuple) else value
            if len(seen) == len(wanted):
                raise _AllSeen

        handles = []
        for hookpoint in wanted:
            module = self.modules[hookpoint.removesuffix(":in")]
            if hookpoint.endswith(":in"):
                hook = module.register_forward_pre_hook(lambda _m, value, name=hookpoint: keep(name, value))
            else:
                hook = module.register_forward_hook(lambda _m, _i, value, name=hookpoint: keep(name, value))
            handles.append(hook)
        try:
            self.model.base_model(tokens.to(self.device), use_cache=False)
        except _AllSeen:
            pass
        finally:
            for handle in handles:
                handle.remove()
        return seen

    @torch.inference_mode()
    def promoted_tokens(self, directions: Tensor, n: int = 10) -> PromotedTokens:
        """The tokens whose logits rise and fall most along directions [count, d_model] of the residual stream.

        The final norm's gain is folded into the unembedding (its scale depends on the token and moves no ranking).
        """
        weight, norm = self.model.get_output_embeddings().weight, self.final_norm()
        unembedding = weight.float() if norm is None else weight * norm.float()
        # One buffer for all blocks: getting fresh memory of this size takes as long as the product itself.
        logits = torch.empty(min(256, len(directions)), len(unembedding), device=self.device)
        best: list[list[Tensor]] = [[], [], [], []]
        for block in directions.to(self.device).float().split(256):
            torch.mm(block, unembedding.T, out=logits[: len(block)])
            for place, largest in ((0, True), (2, False)):
                values, indices = top_of_many(logits[: len(block)], n, largest)
                best[place].append(indices.cpu())
                best[place + 1].append(values.cpu())
        return PromotedTokens(*(torch.cat(parts) for parts in best))

    def final_norm(self) -> Tensor | None:
        """Gain of the norm before the unembedding, [d_model]; None where the model has none of a known name."""
        for name in ("norm", "ln_f", "final_layer_norm", "final_layernorm"):
            if name in self.modules and getattr(self.modules[name], "weight", None) is not None:
                return self.modules[name].weight
        return None


def top_of_many(values: Tensor, n: int, largest: bool, group: int = 64) -> tuple[Tensor, Tensor]:
    """As `values.topk(n, dim=1, largest=largest)`, faster for long rows: only the n best groups of columns are sorted.

    Args:
        values: float [rows, columns]; column c belongs to group c % (columns // group).
    """
    groups = values.shape[1] // group
    if groups < 8 * n:
        return values.topk(n, dim=1, largest=largest)
    grouped = values[:, : groups * group].unflatten(1, (group, groups))
    extremes = grouped.amax(1) if largest else grouped.amin(1)
    kept = extremes.topk(n, dim=1, largest=largest).indices
    members = torch.arange(group, device=values.device) * groups
    rest = torch.arange(groups * group, values.shape[1], device=values.device).expand(len(values), -1)
    candidates = torch.cat([(kept[:, :, None] + members).flatten(1), rest], dim=1)
    best, places = values.gather(1, candidates).topk(n, dim=1, largest=largest)
    return best, candidates.gather(1, places)


def context_batches(tokens: np.ndarray, batch_tokens: int) -> Sequence[slice]:
    """Slices of whole contexts with about `batch_tokens` tokens each."""
    step = max(1, batch_tokens // tokens.shape[1])
    return [slice(start, start + step) for start in range(0, len(tokens), step)]
