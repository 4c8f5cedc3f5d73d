"""Small vocabularies of every kind that real models have, made here: what each does to white space, bytes and spaces."""

from __future__ import annotations

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers
from tokenizers.trainers import BpeTrainer
from transformers import PreTrainedTokenizerFast

TEXT = [
    "The river ran on, and the boats came home.\n\nChapter 2: 1234 days at sea 🌊 and 日本の川, naïve café.\n",
    "def f(x):\n    return x + 1  # the river\n\tend of the sea\n\n\n",
] * 3
LATIN = sorted({sign for text in TEXT for sign in text if sign.isascii() and sign not in " \n\t"})


def byte_level() -> Tokenizer:
    """As GPT-2 and Llama 3: BPE over bytes, trained on a few lines."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = BpeTrainer(
        vocab_size=360,
        special_tokens=["<|endoftext|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(TEXT, trainer)
    return tokenizer


def byte_fallback(dummy_prefix: bool = True) -> Tokenizer:
    """As Llama 2 and Gemma: SentencePiece BPE; what no token spells, bytes do. Llama 2 puts a space before each text."""
    vocabulary = {token: place for place, token in enumerate(["<unk>", "<s>", "</s>"])}
    words = ["▁", *LATIN, "é", "の", "th", "▁th", "▁the", "▁s", "ea", "▁sea", "▁a", "▁r", "er", "▁▁", "\n"]
    for token in [*(f"<0x{byte:02X}>" for byte in range(256)), *words]:
        vocabulary.setdefault(token, len(vocabulary))
    merges = [("t", "h"), ("▁", "th"), ("▁th", "e"), ("▁", "s"), ("e", "a"), ("▁s", "ea"), ("▁", "a"), ("▁", "r")]
    merges += [("e", "r"), ("▁", "▁")]
    tokenizer = Tokenizer(models.BPE(vocabulary, merges, byte_fallback=True, fuse_unk=True, unk_token="<unk>"))
    spaces = normalizers.Replace(" ", "▁")
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), spaces]) if dummy_prefix else spaces
    steps = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    tokenizer.decoder = decoders.Sequence([*steps, decoders.Strip(" ", 1, 0)] if dummy_prefix else steps)
    return tokenizer


def unigram() -> Tokenizer:
    """As T5 and XLNet: SentencePiece without bytes, one space before each text; what it does not know is <unk>."""
    words = ["▁the", "▁sea", "▁", "the", "s", *LATIN, "é", "日", "本", "▁river", "\n"]
    scores = [
        ("<unk>", 0.0),
        ("<s>", 0.0),
        *((word, -1.0 - place / 10) for place, word in enumerate(dict.fromkeys(words))),
    ]
    tokenizer = Tokenizer(models.Unigram(scores, unk_id=0, byte_fallback=False))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    return tokenizer


def word_pieces() -> Tokenizer:
    """As BERT: lower case, parts of words behind ##, white space not kept."""
    words = [
        "[UNK]",
        "[CLS]",
        *LATIN,
        *(f"##{sign}" for sign in LATIN if sign.isalnum()),
        "the",
        "sea",
        "river",
        "##er",
    ]
    vocabulary = {word: place for place, word in enumerate(dict.fromkeys([*words, "日", "本", "川", "ﬁ"]))}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    return tokenizer


def whole_words() -> Tokenizer:
    words = ["<unk>", "<s>", "the", "sea", "river", "ran", "on", "."]
    tokenizer = Tokenizer(models.WordLevel({word: place for place, word in enumerate(words)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return tokenizer


KINDS = {
    "byte_level": byte_level,
    "byte_fallback": byte_fallback,
    "byte_fallback_no_prefix": lambda: byte_fallback(dummy_prefix=False),
    "unigram": unigram,
    "word_pieces": word_pieces,
    "whole_words": whole_words,
}
BOS = {"byte_level": "<|endoftext|>", "word_pieces": "[CLS]"}


def loaded(kind: str) -> PreTrainedTokenizerFast:
    unknown = {"byte_level": None, "word_pieces": "[UNK]"}.get(kind, "<unk>")
    return PreTrainedTokenizerFast(tokenizer_object=KINDS[kind](), bos_token=BOS.get(kind, "<s>"), unk_token=unknown)
