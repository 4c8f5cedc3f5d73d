"""Prompts that are run whole at every step, beside every change: right in every model that reads from left to right."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from resources.forward_hooks import changed
from resources.latent_changes import Change
from resources.subject_model import SubjectModel


class WholePrompts:
    """Prompts that can be continued under any change; here each step runs all of a prompt and what was written behind it."""

    def __init__(
        self, subject: SubjectModel, reads: str, writes: str, prompts: Sequence[Sequence[int]], batch_tokens: int = 4096
    ) -> None:
        """
        Args:
            reads: the hookpoint that the SAE reads.
            writes: the hookpoint that it writes to: the same one, for a transcoder the output of its module.
            prompts: token ids.
            batch_tokens: in one forward pass, at most.
        """
        self.subject, self.reads, self.writes, self.prompts = subject, reads, writes, prompts
        self.batch_tokens = batch_tokens

    def __len__(self) -> int:
        return len(self.prompts)

    def rows(self, which: Tensor) -> WholePrompts:
        """Some of the prompts; they are copied."""
        prompts = [self.prompts[row] for row in which.tolist()]
        return WholePrompts(self.subject, self.reads, self.writes, prompts, self.batch_tokens)

    @torch.inference_mode()
    def next_token(self, change: Change) -> Tensor:
        """Logits of the token after each prompt under a change, float32 [rows, vocabulary]."""
        return self._step([], change)

    @torch.inference_mode()
    def write(self, change: Change, seeds: Sequence[int], count: int) -> Tensor:
        """What follows each prompt under a change, int64 [rows, count], drawn at temperature 1.

        The token drawn is the one with the largest log-probability + Gumbel noise. The noise is the row's own, so under
        two changes that hardly differ a prompt goes on with the same tokens nearly always (common random numbers).

        Args:
            seeds: of each row's noise.
        """
        noise = [torch.Generator().manual_seed(seed) for seed in seeds]
        written: list[Tensor] = []
        for _ in range(count):
            logits = self._step(written, change)
            drawn = torch.empty(logits.shape)
            for row, generator in zip(drawn, noise, strict=True):
                row.exponential_(generator=generator)
            written.append((logits.log_softmax(-1) - drawn.to(logits.device).log()).argmax(-1))
        return torch.stack(written, dim=1)

    def _step(self, written: Sequence[Tensor], change: Change) -> Tensor:
        """Logits behind what has been written, float32 [rows, vocabulary].

        Args:
            written: int64 [rows] for each step before.
        """
        texts = [[*prompt, *(int(tokens[row]) for tokens in written)] for row, prompt in enumerate(self.prompts)]
        by_length: dict[int, list[int]] = {}
        for row, text in enumerate(texts):
            by_length.setdefault(len(text), []).append(row)
        made: dict[int, Tensor] = {}
        for length, rows in by_length.items():
            # Without padding: not every model that needs this passes over it rightly.
            step = max(1, self.batch_tokens // length)
            for part in (rows[start : start + step] for start in range(0, len(rows), step)):
                of = change.rows(torch.tensor(part, device=self.subject.device)).of
                with changed(self.subject, self.reads, self.writes, of, len(written) + 1):
                    logits = self.subject.causal_lm.logits([texts[row] for row in part], length - 1)
                made |= dict(zip(part, logits[:, 0].to(self.subject.device), strict=True))
        return torch.stack([made[row] for row in range(len(texts))])
