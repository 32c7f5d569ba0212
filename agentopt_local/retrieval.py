"""Which functions a problem is offered: of a large set those that fit its question best.

Three texts say what a function is for: its docstring, its name, and the questions of the problems that it was written
for. Its score is the sum of their likenesses to the question, where of its questions the nearest one counts. A function
without such questions lacks one term and is not ruled out.

CRAFT (Yuan et al., ICLR 2024, arXiv 2309.17428) combines such texts by votes. Sums of reciprocal ranks, which need no
scale, were tried instead of sums of likenesses, on reasoning_gym: 105 kinds of problems with a function each, of which
3 are offered. With three source questions a function, 72 % of the problems were offered the function of their kind,
with sums of likenesses 99 %; without source questions both offered it to 57 %. A rank does not say that a question is
almost the same.
"""

from __future__ import annotations

from typing import Any

from agentopt_local.functions import FunctionSet
from agentopt_local.likeness import weighing

KEPT = 32
"""Sets whose weighed words are kept: a step rolls out several at once, and all problems ask the same ones."""


class Retriever:
    """Finds the functions of one set that fit a question."""

    def __init__(self, functions: FunctionSet) -> None:
        """Weighs the words of ``functions`` once: in seconds for 3,000 of them with 8 source questions each, whose
        offers then take 2 ms. Source questions take part where functions have them (:meth:`Function.for_questions`).
        """
        import numpy as np

        self.functions = functions
        asked = [(index, question) for index, each in enumerate(functions.each()) for question in each.questions]
        self._owners = np.array([index for index, _ in asked], dtype=int)
        texts = [each.description for each in functions.each()]
        texts += [*functions.names, *(question for _, question in asked)]
        self._weighing = weighing()
        try:
            self._by_word: Any = self._weighing.fit_transform(texts).T.tocsr()
        except ValueError:  # there is not one word in all these texts
            self._by_word = None

    def best(self, question: str, k: int) -> FunctionSet:
        """The ``k`` functions that fit ``question`` best, in the set's order; the set itself if it has no more.

        Of functions that fit equally well, such as all if no word is in common, the first ones are taken.
        """
        if k >= len(self.functions):
            return self.functions
        import numpy as np

        # rounded, so that no order of additions decides between equal functions
        order = np.argsort(-np.round(self._scores(question), 9), kind="stable")
        names = self.functions.names
        return self.functions.keeping(frozenset(names[index] for index in order[:k]))

    def _scores(self, question: str) -> Any:
        """How well each function fits, from 0 (no word in common) to 3."""
        import numpy as np

        n = len(self.functions)
        if self._by_word is None:
            return np.zeros(n)
        likeness = (self._weighing.transform([question]) @ self._by_word).toarray()[0]
        nearest = np.zeros(n)
        np.maximum.at(nearest, self._owners, likeness[2 * n :])
        return likeness[:n] + likeness[n : 2 * n] + nearest


class Retrieval:
    """Makes the offer of each problem: a function of set and question alone, so training and test offer the same."""

    def __init__(self, most: int | None) -> None:
        """``most``: functions that a problem is offered; None: all."""
        self.most = most
        self._retrievers: dict[str, Retriever] = {}
        """By the sets' fingerprints, the latest one last."""

    def offer(self, functions: FunctionSet, question: str) -> FunctionSet:
        """The functions that the problem with this question is offered; ``functions`` itself if it is small enough."""
        if self.most is None or self.most >= len(functions):
            return functions
        retriever = self._retrievers.pop(functions.fingerprint, None) or Retriever(functions)
        self._retrievers[functions.fingerprint] = retriever
        if len(self._retrievers) > KEPT:
            del self._retrievers[next(iter(self._retrievers))]
        return retriever.best(question, self.most)
