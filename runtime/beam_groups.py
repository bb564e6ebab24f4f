"""Diverse beam search (Vijayakumar et al. 2016): groups of beams, each kept away from the tokens of those before it.

The search is that of Hugging Face transformers 4.50, which later releases moved out: each group is a beam search of
its own, and a token's score falls by `diversity_penalty` for every beam of earlier groups that chose it in this step.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from .beams import UNREACHABLE, Beams, Ends, Hypothesis, attainable, penalized
from .candidates import Candidates, best_candidates
from .config import GenerationConfig
from .logits import Logits, Pipeline, Rows


def search_groups(
    beams: Beams, config: GenerationConfig, pipeline: Pipeline, ends: Ends, padding: int
) -> list[Hypothesis]:
    """Search with `num_beam_groups` groups: as many hypotheses as beams, the best first.

    Args:
        padding: the token that a group which is done goes on with; later groups are kept away from it, too.
    """
    size = beams.count // config.num_beam_groups
    groups = [_Group(slice(start, start + size), config) for start in range(0, beams.count, size)]
    beams.scores[:] = UNREACHABLE
    beams.scores[::size] = 0  # the beams of a group are the same still, so one of them stands for all
    while True:
        logprobs, rows = beams.next_logprobs, beams.rows
        steps: list[Candidates] = []
        for group in groups:
            if group.is_done:
                steps.append(group.idle(padding))
                continue
            part = group.beams
            scores = _diverse(logprobs[part], steps, config.diversity_penalty)
            scores = pipeline(Rows(rows.token_ids[part], rows.prompt_lengths[part], rows.sequences[part]), scores)
            count = min(ends.candidates_per_beam * size, scores.size)
            steps.append(group.choose(beams, best_candidates(scores, beams.scores[part], count), ends))
        step = Candidates(
            np.concatenate([part.beams for part in steps]),
            np.concatenate([part.tokens for part in steps]),
            np.concatenate([part.scores for part in steps]),
        )
        if forced := ends.forced(beams.length + 1):
            for group in groups:
                group.finish(beams, step, forced)
        if all(group.is_done for group in groups):
            found = [hypothesis for group in groups for hypothesis in group.finished]
            return sorted(found, key=lambda hypothesis: -hypothesis.score)
        beams.follow(step)


def _diverse(scores: Logits, steps: list[Candidates], penalty: float) -> Logits:
    """Scores less the penalty for each time that a beam of the groups before chose the token in this step."""
    if not steps:
        return scores
    chosen = np.concatenate([step.tokens for step in steps])
    times = np.bincount(chosen, minlength=scores.shape[1]).astype(np.float32)
    return scores - np.float32(penalty) * times


class _Group:
    """One group: its beams, and its finished texts in the order in which they were found."""

    def __init__(self, beams: slice, config: GenerationConfig):
        self.beams = beams
        self.size = beams.stop - beams.start
        self.finished: list[Hypothesis] = []
        self.is_done = False
        self._config = config

    def choose(self, beams: Beams, candidates: Candidates, ends: Ends) -> Candidates:
        """Keep the candidates that end, and give those that go on, as many as the group has beams.

        Args:
            candidates: of this group alone, its beams numbered from 0.
        """
        candidates = replace(candidates, beams=candidates.beams + self.beams.start)
        ended = ends.found(beams, candidates)
        running = np.flatnonzero(~ended)[: self.size]
        reach = running[-1] if len(running) == self.size else len(ended)  # what comes behind is not looked at
        for index in np.flatnonzero(
            ended[: min(self.size, reach)]
        ).tolist():  # those behind are only there to go on with
            self._add(beams, candidates, index)
        scores = candidates.scores[running]
        if missing := self.size - len(running):  # stop strings may end more candidates than end tokens can
            running = np.concatenate([running, np.zeros(missing, np.int64)])
            scores = np.concatenate([scores, np.full(missing, UNREACHABLE)])
        if len(self.finished) == self.size:
            best = attainable(candidates.scores.max(), beams.length + 1, ends.limit, self._config)
            self.is_done = self._config.early_stopping is True or self._worst.score >= best
        return Candidates(candidates.beams[running], candidates.tokens[running], scores)

    def finish(self, beams: Beams, last: Candidates, forced: str) -> None:
        """At the end the running beams are texts, too, unless the group was done before."""
        if not self.is_done:
            for beam in range(self.beams.start, self.beams.stop):
                self._add(beams, last, beam, forced)
        self.is_done = True

    def idle(self, padding: int) -> Candidates:
        """What a group that is done goes on with."""
        beams = np.arange(self.beams.start, self.beams.stop)
        return Candidates(beams, np.full(self.size, padding), np.zeros(self.size, np.float32))

    @property
    def _worst(self) -> Hypothesis:
        return min(self.finished, key=lambda hypothesis: hypothesis.score)

    def _add(self, beams: Beams, candidates: Candidates, index: int, forced: str | None = None) -> None:
        score = penalized(candidates.scores[index], beams.length + 1, self._config)
        if len(self.finished) == self.size:
            if score <= self._worst.score:
                return
            self.finished.remove(self._worst)
        self.finished.append(beams.hypothesis(candidates, index, score, forced))
