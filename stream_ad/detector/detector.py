"""The detector as people use it: numpy in, numpy out, one compiled module behind."""

from __future__ import annotations

import io
import threading
import warnings
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from stream_ad.detector.descriptors import FLOAT32_MAX
from stream_ad.detector.fitting import Flagged, Progress, bursts_in, fit_hierarchical_detector
from stream_ad.detector.folds import Window
from stream_ad.detector.hierarchical import MOST_CANDIDATES, HierarchicalDetector
from stream_ad.detector.mondrian import MondrianCalibration
from stream_ad.detector.recipe import Recipe
from stream_ad.detector.resting import thin_rest

Float64 = NDArray[np.float64]
Int64 = NDArray[np.int64]
Device = Literal["auto", "cpu", "cuda"]

CHUNK = 2048
"""Rows scored at once on a processor: more fall out of its caches."""
GPU_CHUNK = 16_384
"""And on a GPU, which fewer leave idle."""
GPU_VALUES = 2**22
"""Values among them at most: very wide rows need much memory on the way."""
MONDRIAN = "mondrian."
"""With it begin the names of what calibrates keys, among the tensors."""

scripting = threading.Lock()
"""TorchScript keeps its classes for the whole process: of two threads that script the same ones at once, one fails."""


class NotFittedError(RuntimeError):
    """The detector was asked to score before it was fitted."""


@dataclass(slots=True)
class Findings:
    """What the detector says of n rows."""

    score: Float64
    """[n] >= 0; 1.0 is the alert threshold."""
    p_value: Float64
    """[n] in (0, 1]: how often an inlier looks as strange."""
    reconstruction: Float64
    """[n, d] in the units of the input."""


class Detector:
    """Anomaly detector for rows of numbers, learned from inliers alone.

    Works where anomalies leave the regions or break the relations that inliers keep. It judges each row by
    itself; what only shows in the order of rows, such as a frozen sensor whose value still fits the others, it
    sees in rows extended by `TemporalContext`.

    Parameters: `false_alarm_rate`, the share of normal rows that may score 1 or more; `device`, where to
    compute (`auto` takes a CUDA device if there is one); `seed`, the same seed and rows give the same model on
    the same machine; `recipe`, sizes and lengths of training.

    >>> import numpy as np
    >>> from stream_ad.detector import Recipe
    >>> rng = np.random.default_rng(0)
    >>> load = rng.normal(size=(400, 1))
    >>> x = load @ np.array([[1.0, 2.0, -1.0]]) + 0.1 * rng.normal(size=(400, 3))
    >>> short = Recipe(autoencoder_steps=200, rarity_steps=100, vae_steps=100, classifier_steps=100)
    >>> detector = Detector(false_alarm_rate=0.01, device="cpu", recipe=short).fit(x)
    >>> detector.score(np.array([[1.0, 2.0, -1.0], [1.0, 2.0, 3.0]])) > 1.0
    array([False,  True])
    >>> expected, share = detector.explain(np.array([[1.0, 2.0, 3.0]]))
    >>> int(share[0].argmax()), bool(abs(expected[0, 2] - -1.0) < 0.5)
    (2, True)
    """

    def __init__(
        self,
        false_alarm_rate: float = 0.01,
        device: Device | torch.device = "auto",
        seed: int = 0,
        recipe: Recipe | None = None,
    ) -> None:
        self.false_alarm_rate = false_alarm_rate
        self.device = choose_device(device)
        self.seed = seed
        self.recipe = recipe or Recipe()
        self.module: HierarchicalDetector | None = None
        self.mondrian = MondrianCalibration.none()
        self.left_out: Int64 = np.empty(0, np.int64)
        self.spared = 0
        self._compiled: Any = None

    def fit(
        self,
        x: Float64,
        *,
        flagged: Float64 | None = None,
        flagged_place: Int64 | None = None,
        flagged_sequence: Int64 | None = None,
        truncated: float = 0.0,
        anomalies: Float64 | None = None,
        judged: bool = False,
        sequence: Int64 | None = None,
        features: int | None = None,
        past: int = 0,
        stands_for: Float64 | None = None,
        progress: Progress = lambda share: None,
    ) -> Detector:
        """Learn from inliers x [n, d] in time order, NaN for missing; return self.

        `flagged` [k, d] are rows that an earlier model flagged mildly, `flagged_place` [k] how many rows of x came
        before each, `flagged_sequence` [k] the sequence of each, `truncated` the share of inliers that it flagged more
        strongly: see `fitting.Flagged`. `anomalies` [m, d] are rows known to be anomalous, if there are any. Unless an
        earlier model has `judged` the rows, a burst among them that looks like nothing else is left out; `left_out`
        then has the numbers of its rows. Rows of one `sequence` [n] follow each other, such as those of a record key;
        without it all do. A burst shows in the first `features` columns, or in all; the others tell of a row's past,
        which reaches `past` rows back, so that many rows after a burst are left out with it. Each row `stands_for` [n]
        rows of the stream, all but one of them thinned out; without it for itself. Of rows at rest few are learned
        from, `spared` tells how many are not: see `thin_rest`. Raises `TrainingError` for fewer than eight rows.
        """
        left = None if stands_for is None else torch.as_tensor(stands_for, device=self.device)
        window = Window(self._tensor(x), self._sequence(sequence, len(x)), past, left)
        window = replace(window, thinned=window.stands_for * thin_rest(window.rows, window.sequence))
        kept = window.stands_for > 0.0
        self.spared = int((~kept).sum())
        if not judged:
            looked_at = window[kept]
            burst = bursts_in(replace(looked_at, rows=looked_at.rows[:, :features]), self.recipe, self.seed)
            left_out = torch.nonzero(kept).flatten()[burst]
            self.left_out = left_out.cpu().numpy()
            kept[left_out] = False
        window = window[kept]
        extra = None
        if flagged is not None and flagged_place is not None:
            kept_before = torch.cat([kept.new_zeros(1, dtype=torch.int64), kept.cumsum(0)])
            place = kept_before[torch.as_tensor(flagged_place, device=self.device)]
            of_flagged = self._sequence(flagged_sequence, len(flagged))
            extra = Flagged(self._tensor(flagged), place, of_flagged, truncated)
        known = None if anomalies is None else self._tensor(anomalies)
        self.module, self.mondrian = fit_hierarchical_detector(
            window, self.recipe, self.false_alarm_rate, self.seed, extra, known, progress
        )
        self._compiled = None
        return self

    def score(self, x: Float64, sequence: Int64 | None = None) -> Float64:
        """Scores [n] of rows x [n, d], NaN for missing: below 1 normal, from 1 on anomalous. `sequence` as for
        `judge`."""
        return self.judge(x, sequence).score

    def judge(self, x: Float64, sequence: Int64 | None = None) -> Findings:
        """Score, p-value and reconstruction of rows x [n, d], NaN for missing.

        With the `sequence` of each row [n] as `fit` had it, those of one that is unlike the others are compared with
        their own like, too: see `MondrianCalibration`. A row without one value gets the score of the most ordinary row
        there is; leave such rows out.
        """
        module = self.compiled()
        rows = self._tensor(x)
        found = Findings(*in_parts(module, rows, rows_at_once(rows)))
        if sequence is not None and len(self.mondrian):
            found.p_value = self.mondrian.p_value(found.p_value, sequence)
            found.score = np.log(found.p_value) / np.log(self.false_alarm_rate) + 0.0
        return found

    def score_eager(self, x: Float64) -> Float64:
        """As `score`, by the module that is not compiled: to check the one against the other."""
        with torch.inference_mode():
            score: Tensor = self._fitted()(self._tensor(x))[0]
        return score.cpu().numpy()

    def explain(self, x: Float64, describes: Int64 | None = None) -> tuple[Float64, Float64]:
        """For rows x [n, d]: the values that were expected [n, d], in the units of the input, and each
        feature's share in the finding [n, d], which sum to 1.

        For rows that `TemporalContext` has extended, its `describes` [width] says which of the d features each column
        tells of: a feature is then tried out and blamed as a whole.
        """
        module = self.compiled()
        columns = np.arange(x.shape[1]) if describes is None else describes
        if len(x) == 0:
            return np.empty((0, columns.max() + 1)), np.empty((0, columns.max() + 1))
        of_column = torch.as_tensor(columns, device=self.device)
        rows = self._tensor(x)
        at_once = rows_at_once(rows) // MOST_CANDIDATES
        expected, share = in_parts(lambda part: module.explain(part, of_column), rows, at_once)
        return expected, share

    def compiled(self) -> Any:
        """The whole detector as one scripted and frozen TorchScript module on `device`.

        Compiled once, at the first use; raises `NotFittedError` before `fit`.
        """
        module = self._fitted()
        if self._compiled is None:
            keep_freed_memory()
            with scripting:
                self._compiled = self._compiled or script(module.eval().to(self.device))
        return self._compiled

    @property
    def centre(self) -> Float64:
        """[d] an ordinary value of each feature."""
        return self._fitted().standardise.mean.cpu().numpy()

    @property
    def spread(self) -> Float64:
        """[d] the unit in which each feature is measured inside."""
        return self._fitted().standardise.scale.cpu().numpy()

    @property
    def unknown(self) -> NDArray[np.bool_]:
        """[d] features that count as missing, since next to no values of them were learned."""
        return self._fitted().standardise.unknown.cpu().numpy()

    @property
    def rare_share(self) -> float:
        """Share of the prototypes that are of a rare kind of operation, which is about that of the rows: see
        `stream_ad.detector.kinds`."""
        codebook = self._fitted().codebook
        return float((codebook.usual[: codebook.count] > 0.0).double().mean())

    def report(self) -> dict[str, float]:
        """What the training report tells of the rows that are treated in a way of their own."""
        return {"strange_keys": len(self.mondrian), "spared_rows": self.spared, "rare_share": self.rare_share}

    def description(self) -> dict[str, Any]:
        """What `restore` needs beside the tensors, as JSON-able data."""
        module = self._fitted()
        return {
            "kind": "hierarchical",
            "n_features": module.standardise.mean.shape[0],
            "prototypes": module.codebook.count,
            "pairs": module.novelty.first.shape[0],
            "examples": module.examples.count,
            "false_alarm_rate": self.false_alarm_rate,
            "seed": self.seed,
            "recipe": asdict(self.recipe),
        }

    def tensors(self) -> dict[str, Tensor]:
        """All that was learned, by name, on the CPU."""
        of_module = {name: value.cpu().contiguous() for name, value in self._fitted().state_dict().items()}
        of_keys = {MONDRIAN + name: torch.from_numpy(value) for name, value in asdict(self.mondrian).items()}
        return of_module | of_keys

    def set_false_alarm_rate(self, false_alarm_rate: float) -> None:
        """Move the alert threshold; what was learned stays, since p-values do not depend on it."""
        self.false_alarm_rate = false_alarm_rate
        self._fitted().calibration.alpha.fill_(false_alarm_rate)
        self._compiled = None

    @classmethod
    def restore(
        cls, description: dict[str, Any], tensors: dict[str, Tensor], device: Device | torch.device = "auto"
    ) -> Detector:
        """Rebuild a detector from `description()` and `tensors()`."""
        recipe = Recipe(**description["recipe"])
        detector = cls(description["false_alarm_rate"], device, description["seed"], recipe)
        module = HierarchicalDetector(
            description["n_features"],
            description["prototypes"],
            recipe,
            description["pairs"],
            description["examples"],
        )
        of_keys = {name: tensors[name] for name in tensors if name.startswith(MONDRIAN)}
        of_module = {name: tensors[name] for name in tensors if name not in of_keys}
        # Models that were kept by earlier versions know neither kinds of operation, nor close relations, nor keys.
        module.load_state_dict(module.later_state() | of_module)
        detector.module = module.eval().to(detector.device)
        if of_keys:
            arrays = {name.removeprefix(MONDRIAN): value.numpy() for name, value in of_keys.items()}
            detector.mondrian = MondrianCalibration(**arrays)
        return detector

    def _fitted(self) -> HierarchicalDetector:
        if self.module is None:
            raise NotFittedError("the detector has not learned yet: call fit(x) with rows of normal data first")
        return self.module

    def _sequence(self, sequence: Int64 | None, n: int) -> Tensor:
        """[n] on the device; one for all unless given."""
        return torch.as_tensor(np.zeros(n, np.int64) if sequence is None else sequence, device=self.device)

    def _tensor(self, x: Float64) -> Tensor:
        """x as float64 on the device, infinities clipped to what float32 can hold."""
        rows = np.clip(np.asarray(x, dtype=np.float64), -FLOAT32_MAX, FLOAT32_MAX)
        if rows.ndim != 2:
            raise ValueError(f"rows must be an array [n, features], not of shape {rows.shape}")
        if self.module is not None and rows.shape[1] != self.module.standardise.mean.shape[0]:
            known = self.module.standardise.mean.shape[0]
            raise ValueError(f"the detector has learned {known} features, these rows have {rows.shape[1]}")
        return torch.from_numpy(np.ascontiguousarray(rows)).to(self.device)


def script(module: HierarchicalDetector) -> Any:
    """The module, scripted and frozen. It comes from a copy that owns its classes: those that `script` makes are kept
    as long as the process lives, and what `freeze` makes of these with them, 40 MB with each new model."""
    with warnings.catch_warnings():
        # TorchScript is deprecated upstream; a test holds that torch.export takes the module too.
        warnings.simplefilter("ignore")
        copy = io.BytesIO()
        torch.jit.save(torch.jit.script(module), copy)
        copy.seek(0)
        return torch.jit.freeze(torch.jit.load(copy).eval(), preserved_attrs=["explain"])


def keep_freed_memory() -> None:
    """Let glibc keep what one batch frees for the next: it hands back what is larger than any block that was freed as a
    whole before (mallopt(3), M_MMAP_THRESHOLD), and to fault it in again takes a sixth of the time to score. It keeps
    twice as much as this block, 62 MB, at most."""
    torch.empty(31 * 2**20, dtype=torch.uint8)


def in_parts(call: Callable[[Tensor], tuple[Tensor, ...]], rows: Tensor, at_once: int) -> list[Float64]:
    """What `call` says of rows [n, d], so many at once: arrays whose first axis is n."""
    with torch.inference_mode():
        found = [[column[: len(part)] for column in call(padded(part))] for part in rows.split(at_once)]
    return [torch.cat(column).cpu().numpy() for column in zip(*found, strict=True)]


def padded(rows: Tensor) -> Tensor:
    """Rows [n, d] and rows of zeros behind them, a quarter at most, so that their number is one of few: oneDNN compiles
    its code anew for each that it has not seen, which takes as long as to score hundreds of rows."""
    n = rows.shape[0]
    step = 1 << max(0, n.bit_length() - 3)
    return F.pad(rows, [0, 0, 0, -n % step])


def rows_at_once(rows: Tensor) -> int:
    """Of rows [n, d], by where they are and how wide."""
    if rows.device.type == "cpu":
        return CHUNK
    return max(CHUNK, min(GPU_CHUNK, GPU_VALUES // rows.shape[1]))


def choose_device(device: Device | torch.device) -> torch.device:
    """`auto` is CUDA where there is one. Raises ValueError for `cuda` where there is none."""
    if isinstance(device, torch.device):
        return device
    available = torch.cuda.is_available()
    if device == "cuda" and not available:
        raise ValueError("detector.device is cuda, but PyTorch finds no CUDA device: use auto or cpu")
    return torch.device("cuda" if device == "cuda" or (device == "auto" and available) else "cpu")
