"""corpus: the text as contexts of token ids."""

from __future__ import annotations

from interp_assets.corpus.contexts import documents, pack
from interp_assets.corpus.positions import beyond_positions
from interp_assets.job import Job, Metadata, computes
from interp_assets.progress import Progress
from interp_assets.tables import CORPUS, conform
from resources.tokenizers import load_tokenizer, text_config, vocabulary_size


@computes("corpus")
def corpus(job: Job) -> Metadata:
    study = job.study
    subject = study.model_at(study.subject_model.path, study.subject_model.revision)
    tokenizer = load_tokenizer(*subject)
    warning = beyond_positions(text_config(*subject), study.corpus.context_length)
    texts = documents(study.corpus, study.path(study.corpus.path))
    with Progress(job.label, study.corpus.tokens, "tokens") as progress:
        table = pack(texts, tokenizer, study.corpus, vocabulary_size(*subject), progress)
    job.draft.write("corpus", conform(table, CORPUS))
    return ({"warning": warning} if warning else {}) | {
        "contexts": len(table),
        "tokens": len(table) * study.corpus.context_length,
        "documents": int(table["documents"].list.len().sum()),
        "beginning": {"markdown": quoted(str(tokenizer.decode(table["tokens"][0].to_list()[:64])))},
    }


def quoted(text: str) -> str:
    """Text of unknown origin, shown in Markdown as it is."""
    return "\n".join("    " + line for line in text.splitlines())
