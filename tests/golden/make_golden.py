"""Makes the golden SAEs beside this file: tiny random SAEs written, read back and run by their makers' own classes.

Every case is a folder with what the maker's save function wrote (settings and weights) and `expected.safetensors`,
which holds what the maker's class computes in float32 from those files:

- `x` [32 tokens, d_in], the input, and `target` [32, d_out]: the input again, or what a transcoder is to reconstruct;
- `encoding` [32, n_latents], the dense activations of the latents;
- `reconstruction` [32, d_out], and `fvu` [1], the share of the target's variance that it leaves.

`tests/test_sae_readers.py` compares our readers with them. Two makers have no package:
`scope_cases.py` and `qwen_scope_cases.py` say whose classes stand in for it. The makers' packages are needed only to make the files anew, in an environment of their own:

    python3 -m venv golden-venv
    golden-venv/bin/pip install torch==2.13.0
    golden-venv/bin/pip install torch==2.13.0 eai-sparsify==1.3.3 sae-lens==6.54.12
    golden-venv/bin/pip install torch==2.13.0 llamascopium==2.0.0b34 transformer-lens==3.9.0
    golden-venv/bin/pip install --no-deps dictionary-learning==0.1.0 eai-delphi==0.1.3 circuit-tracer==0.5.0
    golden-venv/bin/python tests/golden/make_golden.py --gemma-scope-2 NOTEBOOK

NOTEBOOK is the tutorial of Gemma Scope 2, https://colab.research.google.com/drive/1NhWjg7n0nhfW--CjtsOdw5A5J_-Bzn4r, saved as
.ipynb or .py; without it, the files of that release stay as they are.

The files in the repository were made with Python 3.11, torch 2.13.0 (CPU), eai-sparsify 1.3.3, sae-lens 6.54.12,
llamascopium 2.0.0b34, dictionary-learning 0.1.0, eai-delphi 0.1.3, circuit-tracer 0.5.0, safetensors 0.8.0 and transformers 5.23.0 (Llama Scope: 5.24.0). The
seeds are fixed: a second run with these writes the same bytes.
"""

from __future__ import annotations

from argparse import ArgumentParser
from pathlib import Path

import circuit_tracer_cases
import llama_scope_cases
import qwen_scope_cases
import saelens_cases
import scope_cases
import sparsify_cases
import torch

import dictionary_learning_cases  # isort: skip  last: it puts empty modules in place of some that the others use


@torch.no_grad()
def main() -> None:
    parser = ArgumentParser(description="Make the golden SAEs anew.")
    parser.add_argument("--gemma-scope-2", type=Path, metavar="NOTEBOOK", help="the tutorial of Gemma Scope 2")
    notebook = parser.parse_args().gemma_scope_2
    sparsify_cases.make()
    saelens_cases.make()
    scope_cases.make(notebook)
    llama_scope_cases.make()
    qwen_scope_cases.make()
    circuit_tracer_cases.make()
    dictionary_learning_cases.make()


if __name__ == "__main__":
    main()
