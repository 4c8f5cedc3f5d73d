#!/usr/bin/env bash
# tokenizers 0.23.3, transformers 5.19.0: `split_special_tokens=True` is meant to keep special tokens that a text spells as
# plain text. A BPE vocabulary does so. A Unigram vocabulary finds the very same id again, because the special token is a
# piece of its model too. And the argument of one call stays on as a switch of the Rust tokenizer that all callers share.
#
# Seen: bpe special ids: [] / unigram special ids: [1] / switch after the call: True
set -euo pipefail
cd "$(mktemp -d)"
python3 -m venv env
env/bin/pip install -q transformers==5.19.0 tokenizers==0.23.3
cat > look.py <<'PY'
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

TEXT = "one </s> two"
letters = sorted(set(TEXT))
bpe = Tokenizer(models.BPE({piece: i for i, piece in enumerate(["<unk>", "</s>", *letters])}, [], unk_token="<unk>"))
unigram = Tokenizer(models.Unigram([("<unk>", 0.0), ("</s>", 0.0), *((letter, -5.0) for letter in letters)], unk_id=0))
seen = {}
for name, raw in (("bpe", bpe), ("unigram", unigram)):
    raw.pre_tokenizer = pre_tokenizers.Split(" ", "isolated")
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=raw, eos_token="</s>", unk_token="<unk>")
    ids = tokenizer(TEXT, add_special_tokens=False, split_special_tokens=True)["input_ids"]
    seen[name] = [i for i in ids if i == tokenizer.eos_token_id]
    print(name, "special ids:", seen[name])
switch = tokenizer.backend_tokenizer.encode_special_tokens
print("switch after the call:", switch)
assert seen == {"bpe": [], "unigram": [1]} and switch is True, "it has changed"
PY
env/bin/python look.py
