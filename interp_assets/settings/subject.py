"""Which model is explained, by which SAEs, on which text."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import StringConstraints

from interp_assets.settings.base import Dtype, Settings, device, identity, operational

DeviceMap = Literal["auto", "balanced", "balanced_low_0", "sequential"]


class SubjectModel(Settings):
    """The LLM whose activations are explained."""

    path: str = operational()
    "A folder in Hugging Face layout, or the name of a model on the Hugging Face hub."
    revision: str | None = identity(None)
    "For a hub name: the commit, tag or branch."
    dtype: Dtype = identity("bfloat16")
    "Of the weights and what they compute. Some models leave float16's range, which ends at 65,504; bfloat16's they do not."
    quantization: Literal["8bit", "4bit"] | None = identity(None, where_set=True)
    "Weights rounded while they are loaded, by bitsandbytes; `dtype` is then that of all that is computed."
    device: str = device()
    "Where it runs; of a model that `device_map` spreads out, where activations are gathered and the SAEs are."
    device_map: DeviceMap | dict[str, str | int] | None = operational(None)
    """For a model too large for one device: spread over GPUs and CPU. balanced_low_0 leaves room on the first GPU for the
    SAEs. Or for each module path of the model its device: a GPU's number, cpu or disk."""
    batch_tokens: int = operational(4096, ge=1)
    "Tokens in one forward pass."


class SaeSource(Settings):
    """A folder of sparse autoencoders, or a single one."""

    path: str = operational(min_length=1)
    "A folder, or a name on the Hugging Face hub: owner/name, or owner/name/folder/in/it."
    revision: str | None = operational(None)
    "For a hub name: the commit, tag or branch."
    format: Literal[
        "auto",
        "sparsify",
        "saelens",
        "gemma_scope",
        "gemma_scope_2",
        "llama_scope",
        "llamascopium",
        "dictionary_learning",
        "qwen_scope",
        "circuit_tracer",
    ] = operational("auto")
    "Found by content where it is left at auto."
    hookpoints: tuple[str, ...] | None = identity(None, min_length=1)
    """Module paths under the base model, such as layers.10, layers.3.mlp or layers.3.self_attn.o_proj:in, or names that
    TransformerLens gives them; `resources/hookpoints.py` has the grammar. All that the folder holds when left out."""
    label: str | None = identity(
        None,
        allowed="letters, digits and any of _ . -, without three dots in a row",  # which Dagster reads as a range
        pattern=r"^[A-Za-z0-9_-]+(\.{1,2}[A-Za-z0-9_-]+)*\.?$",
    )
    "Tells apart two SAEs at one hookpoint: the layer key becomes layers.10@label."


class Corpus(Settings):
    """The text on which activations are collected."""

    path: str = operational()
    """A file of text or a folder of such files, read in the order of their names: `corpus/files.py` has the kinds. Or a
    Hugging Face data set as name or name:configuration."""
    split: str = identity("train")
    "For a Hugging Face data set."
    column: str = identity("text")
    "For all but plain text: the column that holds the text."
    tokens: int = identity(10_000_000, ge=1)
    "How many tokens are used, BOS included; rounded down to whole contexts."
    context_length: int = identity(256, ge=8, le=65_535)
    bos: bool | Annotated[str, StringConstraints(pattern=r"[^\w\s]")] = identity(
        True, allowed="true, false, or a token such as <|endoftext|>"
    )
    """Begin every context with the tokenizer's BOS token, or with a token that is named, for models that were trained with
    one which their tokenizers do not call BOS. What latents do on it is dropped."""
    skip_first: int = identity(0, where_set=True, ge=0)
    """Tokens at the beginning of each context, counted behind BOS where there is one, on which what latents do is dropped
    too. Without BOS the first token is an attention sink in most models: its activations are far from all others."""
    separator: str = identity("\n\n")
    "Stands after every document; documents are packed into contexts without padding."

    @property
    def left_out(self) -> int:
        """Positions at the beginning of each context on which no latent's activation counts."""
        return bool(self.bos) + self.skip_first

    def text_read(self) -> dict[str, Any]:
        """The settings that decide what the contexts hold."""
        return {name: value for name, value in self.identity().items() if name != "skip_first"}

    def positions_read(self) -> dict[str, Any]:
        """The settings that decide which positions count, for the fingerprints of whoever reads that."""
        return {"bos": self.bos} | ({"skip_first": self.skip_first} if self.skip_first else {})


class ProofOfLoad(Settings):
    """What an SAE must show on a few thousand tokens before the long pass begins.

    Limits are no part of what is stored: a layer is judged by them from its stored figures, whenever it is looked at.
    """

    tokens: int = identity(4096, ge=64)
    max_fvu: float = operational(0.5, gt=0)
    "Largest fraction of variance unexplained (FVU). A forgotten b_dec or a transposed decoder lies above 0.7."
    max_dimension_fvu: float | None = operational(None, gt=0)
    """Largest mean over dimensions of each one's FVU, so that a dimension with a massive variance counts as any other. Where
    left out: 0.8, or 1.6 times max_fvu where that is more. SAEs of SmolLM2-135M that are read rightly lie at 0.3, and with a
    quarter of their latents a token at 0.5 to 0.64; what reproduces massive dimensions alone lies at 1."""
    compare_layers: bool = identity(True)
    "Refuse an SAE that explains the same module of another layer better than the one it is said to read."
    l0_factor: float = operational(2.0, gt=1)
    "Mean L0 must lie within this factor of the published one, where there is one."

    @property
    def dimension_limit(self) -> float:
        """The largest mean FVU of dimensions that is allowed."""
        return self.max_dimension_fvu or max(0.8, 1.6 * self.max_fvu)
