"""Which functions a problem is offered: those written for problems like it, and of many those that fit it best.

Functions that are right each by itself take problems from one another when an agent has them all: a 1.5B model with
three functions for three kinds of reasoning_gym solved 27 of 48 problems with all of them, and 40 with the one for the
problem's kind alone. And a single function misled problems of other kinds, so that a good edit was undone. Where
problems have a form, the questions that a function was written for say which ones it is for; elsewhere questions are
seldom as like, and all functions are offered.

Of many functions, those that fit best are offered, by three texts that say what a function is for: its docstring, its
name and those questions. Its score is the sum of their likenesses to the problem's question, where of its questions the
nearest one counts. A function without such questions lacks one term and is not ruled out.

CRAFT (Yuan et al., ICLR 2024, arXiv 2309.17428) combines such texts by votes. Sums of reciprocal ranks, which need no
scale, were tried instead of sums of likenesses, on reasoning_gym: 105 kinds of problems with a function each, of which
3 are offered. With three source questions a function, 72 % of the problems were offered the function of their kind,
with sums of likenesses 99 %; without source questions both offered it to 57 %. A rank does not say that a question is
almost the same.
"""

from __future__ import annotations

from contextlib import suppress
from typing import Any, NamedTuple

from agentopt_local.functions import FunctionSet
from agentopt_local.likeness import weighing
from agentopt_local.record import fingerprint
from agentopt_local.source import unbound_names

ALIKE = 0.5
"""Likeness, 0 to 1, from which two questions are alike; and the share of the nearest function's likeness from which
other functions are for a question too."""
KEPT = 32
"""Sets whose weighed words are kept: a step rolls out several at once, and all problems ask the same ones."""


class View(NamedTuple):
    """What an attempt sees of a function set. Two attempts that see the same are the same attempt."""

    offered: FunctionSet
    """What the model is told of and may call."""
    beside: FunctionSet
    """With the functions that these call: what calls and code run with."""

    @staticmethod
    def of(functions: FunctionSet, names: frozenset[str]) -> View:
        """The view of ``functions`` that is offered those called ``names``; the set itself if these are all."""
        if len(names) == len(functions):
            return View(functions, functions)
        needed, new = names, names
        while new:
            read = {name for each in new for name in unbound_names(functions.get(each).source)}
            new = frozenset(read & set(functions.names)) - needed
            needed |= new
        offered = functions.keeping(names)
        return View(offered, offered if needed == names else functions.keeping(needed))

    def left_of(self, functions: FunctionSet) -> tuple[str, ...] | None:
        """The names that are offered; None if they are all of ``functions``."""
        return None if len(self.offered) == len(functions) else self.offered.names

    @property
    def key(self) -> str:
        """Its fingerprint: that of a set of which a problem sees everything is the set's own."""
        whole = self.beside.fingerprint
        return whole if self.offered is self.beside else fingerprint([whole, *self.offered.names])


def all_alike(rows: Any) -> bool:
    """Whether a function's source questions, with these weights, are all alike, so that it is for such questions only.

    One question alone does not tell.
    """
    return rows.shape[0] > 1 and bool((rows @ rows.T).toarray().min() >= ALIKE)


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
        self._asked = np.bincount(self._owners, minlength=len(functions)) > 0
        texts = [each.description for each in functions.each()]
        texts += [*functions.names, *(question for _, question in asked)]
        self._views: dict[frozenset[str], View] = {}
        self._weighing = weighing()
        self._by_word: Any = None
        self._narrow = np.zeros(len(functions), dtype=bool)
        with suppress(ValueError):  # there is not one word in all these texts
            rows = self._weighing.fit_transform(texts)
            self._by_word = rows.T.tocsr()
            questions = rows[2 * len(functions) :]
            for index in self._asked.nonzero()[0]:
                self._narrow[index] = all_alike(questions[self._owners == index])

    def view(self, question: str, most: int | None, *, alike: bool, strict: bool = True) -> View:
        """What the problem with this question sees, in the set's order.

        ``alike``: leave out functions that were written for other questions. ``strict``: also for a question that is
        unlike all of theirs. ``most``: of what is left, at most so
        many. Of functions that fit equally well, such as all if no word is in common, the first ones are taken.
        """
        import numpy as np

        told, nearest = self._likeness(question)
        left = self._fits(nearest, strict) if alike else np.ones(len(self.functions), dtype=bool)
        # rounded, so that no order of additions decides between equal functions
        order = np.argsort(-np.round(told + nearest, 9), kind="stable")
        kept = frozenset([self.functions.names[index] for index in order if left[index]][:most])
        if kept not in self._views:
            self._views[kept] = View.of(self.functions, kept)
        return self._views[kept]

    def _fits(self, nearest: Any, strict: bool) -> Any:
        """Which functions are for a question whose likeness to their nearest source questions is ``nearest``."""
        if nearest.max(initial=0.0) < ALIKE:
            return ~self._narrow | (not strict)
        return ~self._asked | (nearest >= ALIKE * nearest.max())

    def _likeness(self, question: str) -> tuple[Any, Any]:
        """How well docstring and name of each function fit, 0 (no word in common) to 2, and how well the nearest of its
        source questions does, 0 to 1."""
        import numpy as np

        n = len(self.functions)
        nearest = np.zeros(n)
        if self._by_word is None:
            return np.zeros(n), nearest
        likeness = (self._weighing.transform([question]) @ self._by_word).toarray()[0]
        np.maximum.at(nearest, self._owners, likeness[2 * n :])
        return likeness[:n] + likeness[n : 2 * n], nearest


class Retrieval:
    """Makes the offer of each problem: a function of set and question alone, so training and test offer the same."""

    def __init__(self, most: int | None = None, *, alike: bool = True) -> None:
        """``most``: functions that a problem is offered at most. ``alike``: see :meth:`Retriever.view`."""
        self.most = most
        self.alike = alike
        self.strict = True
        """See there. People ask in other words than a data set, so where they do it is False."""
        self._retrievers: dict[str, Retriever] = {}
        """By the sets' fingerprints, the latest one last."""

    def view(self, functions: FunctionSet, question: str) -> View:
        """What the problem with this question sees of ``functions``."""
        few = self.most is None or self.most >= len(functions)
        alike = self.alike and any(each.questions for each in functions.each())
        if few and not alike:
            return View(functions, functions)
        retriever = self._retrievers.pop(functions.fingerprint, None) or Retriever(functions)
        self._retrievers[functions.fingerprint] = retriever
        if len(self._retrievers) > KEPT:
            del self._retrievers[next(iter(self._retrievers))]
        return retriever.view(question, self.most, alike=alike, strict=self.strict)
