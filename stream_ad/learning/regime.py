"""Regime change: a lasting new operating point told from faults, and what becomes of the rows it flagged."""

from __future__ import annotations

import logging
from collections import OrderedDict, deque
from collections.abc import Mapping, Sequence
from enum import IntEnum

import numpy as np
from numpy.typing import NDArray

from stream_ad.learning.evidence import Evidence, Spell
from stream_ad.learning.fading import Rows
from stream_ad.learning.isolation import COHERENT, are_alike, isolation
from stream_ad.learning.window import InlierWindow

log = logging.getLogger("stream_ad.learning")

Float64 = NDArray[np.float64]
Int64 = NDArray[np.int64]
Bool = NDArray[np.bool_]

EXTREME = 3.0
"""Isolation above which a row stays out."""
FEWEST = 500
"""Rows that make a change of regime in a young window, unless a tenth of its capacity are fewer."""
FORMER = 4
"""Rows of the former operating points that stay for each new one. Among many more, the new ones would be rare and
strange, and calibration would let most of the budget fall on them; with fewer, what comes back would be forgotten."""
TIMES = 5
"""Spells that are like each other, at least, to be an operating point that comes again."""
MOST_SPELLS = 64
MOST_KEYS = 1024
"""Of which evidence is kept: those with flagged rows that came last."""


class Phase(IntEnum):
    """Where the watch stands."""

    ORDINARY = 0
    ADAPTING = 1
    """The rows of the new operating point are in the window; no model that learned them is live yet."""
    HELD = 2
    """The operating point has changed, and alarms go on as `hold` wants it."""


class RegimeWatch:
    """Sees when the flagged rows of a window are a new operating point, and lets them in.

    Two things together make a regime change. It lasts: evidence gathers by one for each flagged row and falls by half
    of one for each other (the cumulative sum of Page 1954), and must reach `rows`, a tenth of the window's capacity.
    So a burst shorter than that never enters, all of the rows flagged it takes just so many, with half of them flagged
    four times as many. In a young window half of it will do: little has been seen, so most of what is new is normal,
    and the more seldom something new comes the longer it is doubted. And it is coherent: most of the quarantined rows
    have their like at other times, as near as inliers have theirs; faults of many kinds and a value that runs away do
    not. Evidence gathers over all rows and over those of each key: one machine of many may change alone.

    What comes for a while again and again lasts, too: of five spells or more, each with a sixteenth of the evidence
    at its height, whose rows have their like in each of the others, the heights count together.

    The rows let in take their places in the window. If all has changed, four times as many of earlier ones stay, evenly
    spread over their time, so that the next model knows both.

    Call `observe` after the window took the same rows, and `settled` when a model that learned the rows let in is
    live. `action` is adapt or hold.
    """

    def __init__(self, action: str, window: InlierWindow) -> None:
        self.action = action
        self.phase = Phase.ORDINARY
        self._window = window
        self._of_all = Evidence()
        self._of_key: OrderedDict[int, Evidence] = OrderedDict()
        self._held = self._of_all
        """For what alarms are held on to."""
        self._spells: deque[Spell] = deque(maxlen=MOST_SPELLS)

    @property
    def rows(self) -> int:
        """How much evidence makes a change."""
        tenth = self._window.quarantine.capacity // 2
        return min(tenth, max(FEWEST, tenth // 2)) if self._window.young else tenth

    @property
    def suspected(self) -> bool:
        """Whether so much is flagged that a change may be under way."""
        return self.phase != Phase.ORDINARY or self._of_all.level >= self.rows / 4

    def observe(self, score: Float64, sequence: Int64, least_rows: int = 0) -> str | None:
        """Take the scores [n] of the rows that the window took last, and the sequence of each; return what is done
        about a change found now.

        With `adapt` the rows of the new operating point are among the window's inliers then, at least `least_rows` in
        all if it held as many: train.
        """
        ended = self._gather(score, sequence)
        if self.phase == Phase.HELD and self._window.seen - self._held.last > self._window.inliers.capacity:
            self._held.level = 0.0  # of a machine that was switched off nothing comes that could lower it
        if self.phase == Phase.HELD and (self._held.level == 0.0 or self.action == "adapt"):
            self.phase = Phase.ORDINARY
            log.info(
                "alarms are no longer held on to: the former operating point is back, what had changed is silent, or "
                "adapt is wanted now"
            )
        if self.phase != Phase.ORDINARY:
            return None
        # Where all has changed, each key has.
        every = [(None, self._of_all)] if self._of_all.level >= self.rows else list(self._of_key.items())
        for key, evidence in every:
            if evidence.level >= self.rows and self._window.seen >= evidence.next_look:
                return self._decide(key, evidence, least_rows)
        if any(self._comes_again(spell) for spell in ended):
            return "adapt"
        return None

    def settled(self) -> None:
        """A model is live that learned what was let in: what it flags is judged anew."""
        self.phase = Phase.ORDINARY
        self._of_all.level = self._of_all.height = 0.0
        self._of_key.clear()
        self._spells.clear()

    def state(self) -> dict[str, NDArray[np.generic]]:
        """All of it as arrays, to be kept with the window's, for `restore`."""
        of_all, of_key = self._of_all, self._of_key.values()
        return {
            "regime": np.array([self.phase, of_all.level, of_all.since, of_all.next_look], np.float64),
            "regime.key": np.array(list(self._of_key), np.int64),
            "regime.of_key": np.array([[one.level, one.since, one.next_look] for one in of_key], np.float64),
            "regime.spells": np.array([spell.as_numbers() for spell in self._spells], np.int64).reshape(-1, 5),
        }

    def restore(self, arrays: Mapping[str, NDArray[np.generic]]) -> None:
        """Take over what `state` gave; what arrays of an earlier version lack stays as it is."""
        if "regime" in arrays:
            phase, level, since, next_look = arrays["regime"].tolist()
            self.phase = Phase(int(phase))
            self._of_all = Evidence(level, int(since), int(next_look), height=level, last=self._window.seen)
        if "regime.key" in arrays:
            numbers, of_key = arrays["regime.key"].tolist(), arrays["regime.of_key"].tolist()
            for key, (level, since, next_look) in zip(numbers, of_key, strict=True):
                self._of_key[key] = Evidence(level, int(since), int(next_look), height=level, last=self._window.seen)
        if "regime.spells" in arrays:
            self._spells.extend(Spell.of_numbers(*numbers) for numbers in arrays["regime.spells"].tolist())
        self._held = max([self._of_all, *self._of_key.values()], key=lambda evidence: evidence.level)

    def _gather(self, score: Float64, sequence: Int64) -> list[Spell]:
        """Take the scores [n] of the latest rows, each of a sequence [n]; return the spells that ended with them."""
        position = self._window.seen - len(score) + np.arange(len(score))
        ended = [self._of_all.gather(score, position, self.rows)]
        concerned = self._of_key.keys() | set(sequence[score >= 1.0].tolist())
        for key in concerned.intersection(np.unique(sequence).tolist()):
            own = sequence == key
            evidence = self._of_key.setdefault(key, Evidence(since=int(position[own][0])))
            ended.append(evidence.gather(score[own], position[own], self.rows, key))
            self._of_key.move_to_end(key)
            if evidence.level == 0.0:
                del self._of_key[key]
        while len(self._of_key) > MOST_KEYS:
            self._of_key.popitem(last=False)
        return [spell for spell in ended if spell is not None]

    def _comes_again(self, spell: Spell) -> bool:
        """Hear of a spell that ended; let its rows in, and those of earlier ones like it, if they are enough."""
        self._spells.append(spell)
        of_key = [other for other in self._spells if other.key == spell.key]
        if self.phase != Phase.ORDINARY or self.action == "hold" or not self._enough(of_key):
            return False
        held, inliers = self._window.quarantine.ordered(), self._window.inliers.ordered().values
        alike = [spell, *(other for other in of_key[:-1] if are_alike(spell, other, held, inliers))]
        if not self._enough(alike):
            return False
        of_spell = np.array([one.holds(held) for one in alike])
        recent = np.flatnonzero(of_spell.any(axis=0))
        isolated = isolation(held.values[recent], inliers, of_spell[:, recent].argmax(axis=0))
        let_in = self._let_in(held, recent, isolated)
        log.warning(
            f"an operating point has come {len(alike)} times, and its rows were flagged: they are learned as normal "
            "now. If they are faults, set training.on_regime_change to hold and roll back (stream-ad models rollback)",
            extra={"flagged": len(recent), "let_in": let_in},
        )
        return True

    def _enough(self, spells: Sequence[Spell]) -> bool:
        """Whether so many spells, if they are alike, are an operating point that comes again."""
        return len(spells) >= TIMES and sum(spell.height for spell in spells) >= self.rows

    def _let_in(self, held: Rows, recent: Int64, isolated: Float64) -> int:
        """Take the `recent` ones of the quarantined rows for a new operating point, without the most extreme of them by
        how `isolated` each is and by its score; return how many."""
        chosen = np.zeros(len(held), np.bool_)
        chosen[recent] = (isolated <= EXTREME) & ~far_above(held.score[recent])
        self.phase = Phase.ADAPTING
        self._window.admit(chosen)
        return int(chosen.sum())

    def _decide(self, key: int | None, evidence: Evidence, least_rows: int) -> str | None:
        """Look at the quarantined rows of a key, or at all of them; let them in, or say why not."""
        evidence.next_look = self._window.seen + self.rows
        held = self._window.quarantine.ordered()
        of_key = np.ones(len(held), np.bool_) if key is None else held.sequence == key
        recent = np.flatnonzero((held.position >= evidence.since) & of_key)
        if len(recent) < self.rows // 4:
            return None  # Rows of other keys have taken their place.
        isolated = isolation(held.values[recent], self._window.inliers.ordered().values)
        facts = {"flagged": len(recent), "isolation": round(float(np.median(isolated)), 2)}
        whose = "" if key is None else " of one key"
        if np.median(isolated) > COHERENT:
            if not evidence.told:
                log.warning(
                    f"for long most rows{whose} have been flagged, but they are no operating point: they differ among "
                    "themselves. They are taken for faults and not learned. Look at the source; if this is how it "
                    "runs now, begin anew with an empty registry.path",
                    extra=facts,
                )
            evidence.told = True
            return None
        if self.action == "hold":
            self.phase, self._held = Phase.HELD, evidence
            log.warning(
                f"the operating point{whose} has changed; alarms go on, since training.on_regime_change is hold: set "
                "it to adapt if the new one is normal",
                extra=facts,
            )
            return "hold"
        let_in = self._let_in(held, recent, isolated)
        if key is None:
            self._make_room(evidence.since, least_rows)
        log.warning(
            f"the operating point{whose} has changed: flagged rows that are like each other are learned as normal now. "
            "If they are faults, set training.on_regime_change to hold and roll back (stream-ad models rollback)",
            extra=facts | {"let_in": let_in},
        )
        return "adapt"

    def _make_room(self, since: int, least_rows: int) -> None:
        new = int((self._window.inliers.ordered().position >= since).sum())
        self._window.thin(max(FORMER * new, least_rows - new), before=since)


def far_above(score: Float64) -> Bool:
    """Which of the scores [k] lie far above the bulk of them: bool [k]."""
    low, high = np.quantile(score, [0.25, 0.75])
    above: Bool = score > high + 3.0 * (high - low)
    return above
