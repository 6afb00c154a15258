"""The report of an evaluation; the names are those of its JSON."""

from collections.abc import Mapping
from dataclasses import dataclass

from model.checkpoint import Scores
from model.evaluate.folder import Figures
from model.evaluate.slider import SliderPath


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckpointScores:
    """The scores of one checkpoint, identified by the digest of its file."""

    name: str
    sha256: str
    consistency: bool
    """Whether the service applies back-projection, as in the model card."""
    scores: Scores


@dataclass(frozen=True, slots=True, kw_only=True)
class PeerScores:
    """The scores of another network, which has one output; identified by the digest of its file."""

    name: str
    sha256: str
    scores: Mapping[str, Figures]
    """Data set -> metric -> value."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Character:
    """Measures, beside the metrics, of a checkpoint, another network or bicubic.

    Images are named as on the slider; a single image is named like its method.
    """

    places: Mapping[str, Mapping[str, Figures]]
    """Data set -> image -> figure, as in `MethodResults.places`."""
    slider: Mapping[str, Mapping[str, SliderPath]]
    """Data set -> distance -> its growth along the slider."""
    mask: Mapping[str, Mapping[str, int]]
    """Data set -> percentile -> level of 0 to 255."""
    overshoot: Mapping[str, Figures]
    """Image -> pattern -> levels beyond those of the input."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """All results, and the settings of the evaluation."""

    back_projection: bool
    """Whether it was applied to the outputs of checkpoints and other networks."""
    jpeg: int | None
    """JPEG quality of the small pictures, if they were compressed."""
    degrade: str | None
    """Recipe of the small pictures; none: the protocol's bicubic."""
    pairs: tuple[str, ...]
    """The data sets with given small pictures."""
    pictures: Mapping[str, int]
    """Data set -> number of pictures."""
    original: Mapping[str, Figures]
    """Data set -> figure of the true pictures, as in `MethodResults.original`."""
    bicubic: Mapping[str, Figures]
    """Data set -> metric -> value."""
    peers: tuple[PeerScores, ...]
    checkpoints: tuple[CheckpointScores, ...]
    character: Mapping[str, Character]
    """By name: `bicubic`, other networks, checkpoints."""
