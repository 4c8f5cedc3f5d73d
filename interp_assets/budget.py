"""What a study may still spend on its engines: over its whole life, whichever process spends it."""

from __future__ import annotations

from typing import NamedTuple

from interp_assets.study import Study
from resources.reply_log import ReplyLog


class Bill(NamedTuple):
    tokens: int
    "Prompt and completion tokens."
    money: float
    "At the prices of now; engines that the study no longer has cost nothing."


class Purse:
    def __init__(self, study: Study, log: ReplyLog) -> None:
        self.study, self.log = study, log

    def bill(self) -> Bill:
        """What the study has spent so far, as the reply log has it."""
        tokens, money = 0, 0.0
        for name, spent in (self.log.spent(self.study.name) if self.log.file.exists() else {}).items():
            tokens += spent.prompt_tokens + spent.completion_tokens
            price = self.study.engines[name].price if name in self.study.engines else None
            if price is not None:
                money += price.of(spent.prompt_tokens, spent.cached_tokens, spent.completion_tokens)
        return Bill(tokens, money)

    def empty(self) -> str | None:
        """Why nothing more may be asked, or None."""
        budget = self.study.budget
        if budget is None:
            return None
        bill = self.bill()
        if budget.tokens is not None and bill.tokens >= budget.tokens:
            return f"the budget of {budget.tokens:,} tokens is reached ({bill.tokens:,} spent)"
        if budget.money is not None and bill.money >= budget.money:
            return f"the budget of {budget.money:,.2f} is reached ({bill.money:,.2f} spent)"
        return None
