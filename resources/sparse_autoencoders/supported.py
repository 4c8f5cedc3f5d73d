"""The page on supported SAEs, made from the registry of formats.

python -m resources.sparse_autoencoders.supported    writes docs/sae_formats.md anew
"""

from __future__ import annotations

from pathlib import Path

from .formats import FORMATS
from .saelens import NORMS_TOLD

PAGE = Path(__file__).parents[2] / "docs" / "sae_formats.md"
HEAD = """\
# SAEs that can be read

<!-- Made by `python -m resources.sparse_autoencoders.supported`; a test fails where it is not up to date. -->

`saes: [{path: ...}]` in a study names a folder, a single SAE in it or many below it, or a hub name. The format is found by
the files' content. `interp inspect PATH` shows what is there, and what each SAE reads and writes. All weights are read
as float32, whatever they are stored in (float32, float16, bfloat16, mixed).

A `*` in a file's name below is the number of a layer: such a folder holds an SAE for each. Of SAEs on the hub only those of
the study's `hookpoints` are fetched.

For every line below, encodings, reconstruction and the fraction of variance unexplained equal those of the maker's own
class to 1e-5 (`tests/test_sae_readers.py`; `tests/golden/` says how the numbers were made). The classes of Gemma Scope and
Gemma Scope 2 stand in their tutorials; Qwen Scope has none, SAELens reads its files. That settings of SAEs as they are
published mean the right places is tested too (`tests/published_saes.py`).

pre = x W_enc + b_enc, where b_dec is subtracted from x first unless it says otherwise.
"""
TAIL = """\
## Where they read and write

An SAE reads and reconstructs one hookpoint. A transcoder reads one and reconstructs another: its activations are
collected at the first, the proof of load compares with the second, and an intervention changes the second. Names of
TransformerLens and paths in Hugging Face's models are both understood, by the subject model's settings. Where the files
name no place, the study does, under `hookpoints`; of a transcoder that is the module whose input and output are meant.

Early SAEs of SAELens for GPT-2 were trained on a residual stream that TransformerLens had centred, and their own files do
not say so: add `"model_from_pretrained_kwargs": {"center_writing_weights": true}` to `cfg.json` where the proof of load says
that the SAE leaves less of the variance where the input's mean is taken away.

## What is refused

- Architectures other than those above (temporal, matching pursuit, AbsTopK, crosscoders, cross-layer transcoders), by name.
- Settings that change the meaning and are not understood, misspelt ones among them, and tensors that nothing here reads: what the maker's class
  does with them is not guessed.
- SAELens' `expected_average_only_in` without its factor, which SAELens keeps outside the files: add `norm_scaling_factor`
  to `cfg.json`. (Releases since 6.0 fold it into the weights and say `none`.)
- Pickled objects of any kind, archives that would unpack to far more than weights can, shapes that the file does not
  hold, NaN, and settings in which a key stands twice.

Where an SAE is read in a way that does not fit it all the same, the proof of load fails: it leaves more of the variance
than `proof_of_load.max_fvu`, more than `proof_of_load.max_dimension_fvu` where dimensions count alike (one massive dimension can
hold most of the variance, as in Gemma 3), or its L0 is not the published one. The message names the hookpoint, and the cause where one
of the known ones explains it: b_dec subtracted or not, decoder transposed, a missing norm, TopK read as ReLU, activations
not rescaled, a threshold that is not strict, BOS kept.
"""


def page() -> str:
    parts = [HEAD]
    for name, module in FORMATS.items():
        files = " + ".join(f"`{each}`" for each in (module.CONFIG, module.WEIGHTS) if each)
        parts.append(f"## {module.MAKER}\n\nFormat `{name}`: {files}\n")
        rows = [f"| `{kind}` | {computed} |" for kind, computed in module.ARCHITECTURES.items()]
        parts.append("\n".join(["| architecture | what a latent's activation is |", "|---|---|", *rows]) + "\n")
    norms = "\n".join(f"- `{name}`: {told}" for name, told in NORMS_TOLD.items())
    parts.append(f"## Norms of the input (SAELens)\n\nUndone at the output, but for transcoders:\n\n{norms}\n")
    return "\n".join([*parts, TAIL])


if __name__ == "__main__":
    PAGE.parent.mkdir(exist_ok=True)
    PAGE.write_text(page(), encoding="utf-8")
