"""Scores of descriptions: how well a text predicts its unit on images that it wasn't made from."""

from clipdissect.scores.score import score
from clipdissect.scores.scorers import SCORERS, ScoreOptions
from clipdissect.scores.scoring import Scored

__all__ = ["SCORERS", "ScoreOptions", "Scored", "score"]
