#!/usr/bin/env bash
# tokenizers 0.23.3: the decoder of vocabularies with byte fallback (Llama 2, Mistral, Gemma) gives up a whole run of byte
# tokens where the last character of the run is cut: the two characters before it, complete, become replacement signs too.
# A byte-level decoder (GPT-2, Llama 3, Qwen) keeps them. So a window that is cut within a character loses more than that one.
#
# Seen: byte level: 日本\ufffd / byte fallback: eight replacement signs
set -euo pipefail
cd "$(mktemp -d)"
python3 -m venv env
env/bin/pip install -q tokenizers==0.23.3
cat > look.py <<'PY'
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

cut = "日本川".encode()[:-1]
level = Tokenizer(models.BPE({s: i for i, s in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}, []))
level.pre_tokenizer, level.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
fallback = Tokenizer(models.BPE({f"<0x{b:02X}>": b for b in range(256)}, [], byte_fallback=True))
fallback.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Fuse()])
kept = level.decode(level.encode("日本川").ids[:-1])
lost = fallback.decode(list(cut))
print("byte level:", ascii(kept))
print("byte fallback:", ascii(lost))
assert kept.startswith("日本") and lost == "\ufffd" * len(cut), "it has changed"
PY
env/bin/python look.py
