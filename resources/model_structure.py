"""Where the parts of a decoder-only model lie, found by what they are and do, not by what they are called."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any

import torch
from accelerate.utils import align_module_device
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from resources.errors import UnusableInput
from resources.hookpoints import FAMILIES, Family
from resources.mlp_neurons import experts_in, last_maps

LARGE = 1000.0
"So much larger than a norm's epsilon that it does not count."
SMALL = 1e-3


class NoSuchHookpoint(UnusableInput):
    """The subject model has no module of that path; the message lists those it has."""


class Structure:
    """The parts of a causal language model of transformers.

    Attributes:
        modules: those below the base model, by path; those of other modalities too.
        width: of the residual stream.
        layers_path: the path of the list of decoder layers.
    """

    def __init__(self, model: Any) -> None:
        """
        Raises:
            UnusableInput: it has no one list of decoder layers.
        """
        self.model = model
        self.config = model.config.get_text_config()
        if not isinstance(width := getattr(self.config, "hidden_size", None), int):
            raise UnusableInput(
                f"{type(model).__name__}: not a model of one residual stream: its settings name no hidden_size"
            )
        self.width: int = width
        self.modules: dict[str, nn.Module] = {n: module for n, module in model.base_model.named_modules() if n}
        self.family: Family | None = FAMILIES.get(model.config.model_type)
        self.layers_path = self._decoder_layers()

    def _decoder_layers(self) -> str:
        count = self.config.num_hidden_layers
        of_text = {id(module) for module in self.model.get_decoder().modules()}
        lists = [
            name
            for name, module in self.modules.items()
            if isinstance(module, nn.ModuleList) and len(module) == count and id(module) in of_text
        ]
        outermost = [name for name in lists if not any(name.startswith(f"{other}.") for other in lists)]
        if len(outermost) != 1:
            found = ", ".join(outermost) or "none"
            raise UnusableInput(
                f"{type(self.model).__name__}: not a model of one stack of {count} decoder layers (lists of that length: {found})"
            )
        return outermost[0]

    @property
    def layers(self) -> nn.ModuleList:
        found = self.modules[self.layers_path]
        assert isinstance(found, nn.ModuleList)
        return found

    def layer_of(self, module: str) -> tuple[int, str] | None:
        """The number of the decoder layer that a module lies in, and its path in there; None where it lies in none."""
        prefix = f"{self.layers_path}."
        if not module.startswith(prefix):
            return None
        number, _, rest = module.removeprefix(prefix).partition(".")
        return int(number), rest

    def down_projection(self, layer: str) -> str:
        """The path of the MLP's last linear map in a decoder layer such as layers.10.

        In a model of an unknown family it is the last map of the widest block that has the form of an MLP.

        Raises:
            NoSuchHookpoint: there is none, or the MLP is a mixture of experts.
        """
        module = self.modules.get(layer)
        if module is None:
            raise NoSuchHookpoint(f"the subject model has no layer {layer!r}")
        if experts := experts_in(module, self.width):
            raise NoSuchHookpoint(
                f"{layer} is a mixture of {experts} experts, of which each token runs others: it has no one MLP whose neurons "
                "can be read; leave out controls.neurons, or name layers with a dense MLP"
            )
        if self.family is not None and (known := f"{layer}.{self.family.mlp_out}") in self.modules:
            return known
        found = last_maps(module, self.width, self._widths_of_heads(module))
        if not found:
            raise NoSuchHookpoint(
                f"{layer} has no MLP whose neurons can be read: no block of maps from {self.width} to neurons and back"
            )
        return f"{layer}.{found[0].name}"

    def _widths_of_heads(self, layer: nn.Module) -> list[int]:
        """How many dimensions the heads of a layer have together: as its own modules say, whose sizes may differ from
        layer to layer, and as the settings say of all."""
        heads = getattr(self.config, "num_attention_heads", None)
        if not isinstance(heads, int):
            return []
        own = [size for module in layer.modules() if isinstance(size := getattr(module, "head_dim", None), int)]
        return [heads * size for size in (*own, self.width // heads)]

    def final_norms(self) -> list[Norm]:
        """The norms beside the decoder layers, the last one first: mostly the one before the unembedding."""
        above = self.layers_path.rpartition(".")[0]
        holder = self.modules[above] if above else self.model.base_model
        norms = [child for _, child in holder.named_children() if looks_like_norm(child, self.width)]
        return [Norm.of(norm, self.width) for norm in reversed(norms)]

    def in_residual_stream(self, module: str, side: str) -> bool:
        """Whether a vector at a hookpoint is one of the residual stream, or is added to it as it is.

        What goes into a module is so where that is a decoder layer, or a norm that reads the stream; what a module of
        the model's width puts out is taken to be, since nearly all of them write to it.
        """
        if side == "normed":
            return False
        if side == "out":
            return True
        place = self.layer_of(module)
        if place is None or self.family is None:
            return place is not None and not place[1]
        return place[1] in ("", self.family.attention_norm, self.family.mlp_norm)


class Norm:
    """What a norm does, found out by asking it: y = gain * (x - mean?) / sqrt(mean square + epsilon) + bias."""

    def __init__(self, gain: Tensor, centres: bool, epsilon: float) -> None:
        """
        Args:
            gain: float32 [d]; what a direction is multiplied by, whatever the module holds (Gemma: 1 + weight).
            centres: whether the mean over the dimensions is subtracted first.
        """
        self.gain, self.centres, self.epsilon = gain, centres, epsilon

    @classmethod
    def of(cls, module: nn.Module, width: int) -> Norm:
        """
        Raises:
            NoSuchHookpoint: the module is no norm over `width` dimensions.
        """
        if not looks_like_norm(module, width):
            raise NoSuchHookpoint(f"{type(module).__name__} is no norm over {width} dimensions")
        ask = asked(module)
        device = next(
            (p.device for p in module.parameters(recurse=False) if p.device.type != "meta"), torch.device("cpu")
        )
        x = torch.ones(width, device=device)
        x[1::2] = -1
        x = x - x.mean()
        asks = (LARGE * x, -LARGE * x, 2 * LARGE * x, LARGE * (x + 1), SMALL * x)
        ahead, back, double, moved, small = (ask(each[None])[0] for each in asks)
        if not torch.allclose(ahead, double, rtol=1e-4, atol=1e-6) or torch.equal(ahead, back):
            raise NoSuchHookpoint(f"{type(module).__name__} is no norm: what it puts out grows with what goes in")
        size = float(x.square().mean().sqrt())
        gain = (ahead - back) / 2 / x * size
        bias = (ahead + back) / 2
        strongest = int(gain.abs().argmax())
        # A small vector comes out smaller by what epsilon adds to its mean square.
        share = float((small - bias)[strongest] / gain[strongest] / x[strongest]) * size
        epsilon = (SMALL * size) ** 2 * max(0.0, 1 / share**2 - 1)
        return cls(gain, bool(torch.allclose(moved, ahead, rtol=1e-3, atol=1e-5)), epsilon)

    def over_scale(self, x: Tensor) -> Tensor:
        """x over its scale, before gain and bias; float32 [..., d]."""
        x = x.float()
        if self.centres:
            x = x - x.mean(-1, keepdim=True)
        return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + self.epsilon)

    def folded(self, directions: Tensor) -> Tensor:
        """What small steps along directions [..., d] do behind the norm, where its scale stays as it is."""
        directions = directions.float()
        if self.centres:
            directions = directions - directions.mean(-1, keepdim=True)
        return directions * self.gain.to(directions.device)


def looks_like_norm(module: nn.Module, width: int) -> bool:
    """Whether nothing but vectors of a width stand in a module, or its code says over which shape it normalises."""
    if next(module.children(), None) is not None:
        return False
    shapes = [tuple(parameter.shape) for parameter in module.parameters()]
    return all(shape == (width,) for shape in shapes) if shapes else hasattr(module, "normalized_shape")


def asked(module: nn.Module) -> Any:
    """A module's own arithmetic in float32, without the hooks that it carries."""
    with whole(module):
        held = {n: None if p is None else p.detach().float() for n, p in module._parameters.items()}
    bare = object.__new__(type(module))
    bare.__dict__ |= module.__dict__ | {"_parameters": held}
    return lambda x: type(module).forward(bare, x)


def whole(module: nn.Module) -> AbstractContextManager[None]:
    """Inside, a module's weights are in memory, also where they lie on disk while it does not run."""
    return align_module_device(module)


def weight_of(module: nn.Module) -> Tensor:
    """The matrix of a linear map, float32 [out, in], wherever and in whatever precision it is kept."""
    with whole(module):
        held: Any = module.weight
        if type(held).__name__ in ("Int8Params", "Params4bit"):
            from transformers.integrations.bitsandbytes import dequantize_bnb_weight

            held = dequantize_bnb_weight(held, getattr(module, "state", None))
        weight: Tensor = held.detach().float()
    # torch's Linear holds [out, in], the Conv1D of GPT-2 [in, out].
    return weight.T if isinstance(module, Conv1D) else weight
