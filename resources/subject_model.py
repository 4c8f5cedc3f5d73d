"""The LLM under study: its tokens, its activations at hookpoints, what a direction promotes in its output."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from resources.causal_lm import CausalLM
from resources.errors import UnusableInput
from resources.forward_hooks import at
from resources.hookpoints import place_of
from resources.model_loading import DeviceMap, Quantization, fresh_language_model, load_language_model, pick_device
from resources.model_structure import Norm, NoSuchHookpoint, Structure, weight_of
from resources.readout import Readout, measured_readout
from resources.sparse_autoencoders.controls import Neurons
from resources.tokenizers import first_line


class _AllSeen(Exception):
    """Ends a forward pass: every requested hookpoint has been reached."""


@dataclass(frozen=True)
class PromotedTokens:
    """Output tokens whose logits a direction moves most; tensors [directions, n], strongest first."""

    promoted: Tensor
    promoted_logits: Tensor
    suppressed: Tensor
    suppressed_logits: Tensor


class SubjectModel:
    def __init__(
        self,
        path: str | Path,
        revision: str | None,
        dtype: str,
        device: str,
        untrained: int | None = None,
        device_map: DeviceMap | None = None,
        quantization: Quantization | None = None,
    ) -> None:
        """
        Args:
            device: where it runs; of a model that a device map spreads out, where activations are gathered.
            untrained: seed of fresh weights that stand in place of the trained ones; they are not quantised.

        Raises:
            UnusableInput: no complete causal language model that transformers can read lies there.
        """
        self.device = pick_device(device)
        self.model = (
            load_language_model(path, revision, dtype, device, device_map, quantization)
            if untrained is None
            else fresh_language_model(path, revision, dtype, device, untrained, device_map)
        )
        self.structure = Structure(self.model)
        self.modules = self.structure.modules
        "Those below the base model, by path."
        self.causal_lm = CausalLM(self.model, self.device, Path(path).name)
        self.keeps_prompts: bool | None = None
        "Whether interventions can go on from keys and values that are kept; None until it is measured."

    def check_hookpoint(self, hookpoint: str) -> None:
        """Whether there is such a place in the model; `resources/hookpoints.py` says how they are named.

        Raises:
            NoSuchHookpoint: listing the modules that stand where the path goes wrong.
            UnknownHook: it is no hookpoint.
        """
        path, side = place_of(hookpoint)
        if path in self.modules:
            if side == "normed":
                self.norm(path)
            return
        parts = path.split(".")
        depth = next(i for i in range(len(parts)) if ".".join(parts[: i + 1]) not in self.modules)
        parent = ".".join(parts[:depth])
        prefix = f"{parent}." if parent else ""
        there = [name for name in self.modules if name.startswith(prefix) and name.count(".") == depth]
        shown = ", ".join(there[:6] + (["..."] if len(there) > 7 else []) + there[max(6, len(there) - 1) :])
        raise NoSuchHookpoint(f"the subject model has no module {path!r}; at that place there are: {shown}")

    def norm(self, path: str) -> Norm:
        """
        Raises:
            NoSuchHookpoint: that module is no norm over the residual stream.
        """
        try:
            return Norm.of(self.modules[path], self.structure.width)
        except NoSuchHookpoint as error:
            raise NoSuchHookpoint(f"{path}:normed reads a norm, but {error}") from None

    def down_projection(self, layer: str) -> str:
        """The path of the MLP's last linear map in a decoder layer such as layers.10.

        Raises:
            NoSuchHookpoint: there is no one such map.
        """
        return self.structure.down_projection(layer)

    def neurons(self, layer: str, top: int) -> Neurons:
        """The MLP neurons of a decoder layer, all but the `top` largest of a token zeroed.

        Raises:
            NoSuchHookpoint: there are none of a known form.
        """
        weight = weight_of(self.modules[self.down_projection(layer)])
        return Neurons(weight.T.to(self.device), top)

    def same_place_elsewhere(self, hookpoint: str) -> list[str]:
        """The same place in other layers, 1, 2, 4 and 8 before and behind; none where it lies in no layer."""
        path, side = place_of(hookpoint)
        found = self.structure.layer_of(path)
        if found is None:
            return []
        number, rest = found
        numbers = [number + sign * step for step in (1, 2, 4, 8) for sign in (-1, 1)]
        paths = [f"{self.structure.layers_path}.{each}" + (f".{rest}" if rest else "") for each in numbers]
        return [path + ("" if side == "out" else f":{side}") for path in paths if path in self.modules]

    def unreadable(self, tokens: Tensor, hookpoints: Sequence[str]) -> dict[str, str]:
        """Of some hookpoints those at which no vector stands for each token, with what stands there, in words.

        Args:
            tokens: ids [batch, length], two contexts at least, so that what is shared by all of them is told apart.

        Raises:
            UnusableInput: the model does not run on token ids alone.
        """
        try:
            seen, found = self.activations(tokens, hookpoints), {}
        except (ValueError, TypeError, LookupError, AttributeError) as error:
            kind = type(self.model).__name__
            raise UnusableInput(
                f"{kind} does not run on text alone ({first_line(error)}); name a decoder-only model"
            ) from None
        for hookpoint in hookpoints:
            value = seen.get(hookpoint)
            if value is None:
                found[hookpoint] = f"{hookpoint}: the model does not run that module on text, or it puts out no tensor"
            elif value.ndim != 3 or value.shape[:2] != tokens.shape:
                found[hookpoint] = (
                    f"{hookpoint}: not a vector for each token: for {tokens.shape[0]} contexts of {tokens.shape[1]} tokens "
                    f"a tensor of shape {tuple(value.shape)} stands there"
                )
        return found

    @torch.inference_mode()
    def activations(self, tokens: Tensor, hookpoints: Sequence[str]) -> dict[str, Tensor]:
        """What stands at each hookpoint for token ids [batch, length]: float [batch, length, d].

        The forward pass ends as soon as the last of them is reached. Rows may be padded on the right: nothing that
        comes later is seen by what comes before. A hookpoint that is `unreadable` may be missing, or have another shape.
        """
        seen: dict[str, Tensor] = {}
        wanted = list(dict.fromkeys(hookpoints))

        def keep(hookpoint: str, value: Tensor) -> None:
            seen[hookpoint] = value.to(self.device)
            if len(seen) == len(wanted):
                raise _AllSeen

        handles = []
        try:
            for hookpoint in wanted:
                handles.append(at(self, hookpoint, partial(keep, hookpoint)))
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

        The final norm's gain, its centring where it centres, and what the model multiplies its logits with are folded
        into the directions; the norm's scale depends on the token and moves no ranking, and neither does a soft-capping
        of logits, which is monotonic.
        """
        unembedding = weight_of(self.model.get_output_embeddings()).to(self.device)
        norm, scale = self.readout or Readout(None, 1.0)
        # One buffer for all blocks: getting fresh memory of this size takes as long as the product itself.
        logits = torch.empty(min(256, len(directions)), len(unembedding), device=self.device)
        best: list[list[Tensor]] = [[], [], [], []]
        for block in directions.to(self.device).float().split(256):
            behind = block if norm is None else norm.folded(block)
            torch.mm(behind, unembedding.T, out=logits[: len(block)])
            for place, largest in ((0, True), (2, False)):
                values, indices = top_of_many(logits[: len(block)], n, largest if scale > 0 else not largest)
                best[place].append(indices.cpu())
                best[place + 1].append(values.cpu() if scale == 1 else values.cpu() * scale)
        return PromotedTokens(*(torch.cat(parts) for parts in best))

    @cached_property
    def readout(self) -> Readout | None:
        """How logits follow from the residual stream; None where they are something else."""
        return measured_readout(self)

    def writes_to_residual_stream(self, hookpoint: str, width: int) -> bool:
        """Whether directions of `width` dimensions at a hookpoint lie in the residual stream, so that they promote tokens."""
        # Of a model that projects the stream before its unembedding, tokens cannot be read off directions in it.
        unembedding = weight_of(self.model.get_output_embeddings())
        plain = width == self.structure.width == unembedding.shape[1]
        return plain and self.structure.in_residual_stream(*place_of(hookpoint)) and self.readout is not None


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
