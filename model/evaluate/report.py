"""What an evaluation found, in the names of its JSON."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from model.checkpoint import Scores
    from model.evaluate.folder import Figures
    from model.evaluate.slider import SliderPath


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckpointScores:
    """The scores of one checkpoint; the digest is that of its file."""

    name: str
    sha256: str
    consistency: bool
    """What its card says: whether people get its results back-projected."""
    scores: "Scores"


@dataclass(frozen=True, slots=True, kw_only=True)
class PeerScores:
    """The scores of another's network, which has one output; the digest is that of its file."""

    name: str
    sha256: str
    scores: "Mapping[str, Figures]"
    """Data set -> metric -> value."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Character:
    """What no score tells of a checkpoint, a peer or bicubic.

    An image is called as on the slider; where there is but one, like its method.
    """

    places: "Mapping[str, Mapping[str, Figures]]"
    """Data set -> image -> figure, as in `MethodResults.places`."""
    slider: "Mapping[str, Mapping[str, SliderPath]]"
    """Data set -> distance -> how it grows."""
    mask: Mapping[str, Mapping[str, int]]
    """Data set -> percentile -> level of 0 to 255."""
    overshoot: "Mapping[str, Figures]"
    """Image -> pattern -> how many levels beyond its input's own."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """All that was measured, and how."""

    back_projection: bool
    """Of checkpoints and peers."""
    jpeg: int | None
    """Quality that the small pictures that were made were compressed with, or they were not."""
    degrade: str | None
    """Recipe by which they were made, or it was the protocol's bicubic."""
    pairs: tuple[str, ...]
    """The data sets whose small pictures were not made."""
    pictures: Mapping[str, int]
    """Data set -> how many."""
    original: "Mapping[str, Figures]"
    """Data set -> figure of the true pictures, as in `MethodResults.original`."""
    bicubic: "Mapping[str, Figures]"
    """Data set -> metric -> value."""
    peers: tuple[PeerScores, ...]
    checkpoints: tuple[CheckpointScores, ...]
    character: Mapping[str, Character]
    """By name: `bicubic`, the peers, the checkpoints."""
