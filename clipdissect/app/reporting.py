"""The report of a run that is complete; where it fails the run is none the worse."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clipdissect import report, sentence
from clipdissect.app.build import of_group, parameters
from clipdissect.capture.settings import Settings
from clipdissect.errors import MissingResource
from clipdissect.evaluation import Sentences
from clipdissect.probe import Probe
from clipdissect.report import ReportSettings
from clipdissect.report.other_methods import Labels
from clipdissect.results.result import Result
from clipdissect.store import Store
from clipdissect.targets import Target

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Reporter:
    """Writes reports as the config says; made before the work, so that mistakes don't wait for its
    end.

    Args:
        look: what a report shows; None where none is wanted.
        others: labels of other methods by name.
    """

    look: ReportSettings | None
    others: Mapping[str, Labels]

    @classmethod
    def of(cls, config: Any) -> Reporter:
        """What the config's `report` asks for.

        Raises:
            DissectError: a value out of its range, or labels that aren't there.
        """
        values = parameters(config.report)
        wanted, against = values.pop("enabled"), values.pop("against")
        look = ReportSettings(**values)
        others = {name: report.read_labels(name, source) for name, source in against.items()}
        return cls(look if wanted else None, others)

    def write(
        self, folder: Path, result: Result, target: Target | None, probe: Probe | None,
        settings: Settings, store: Store | None, truth: Mapping[str, Sequence[str]],
        sentences: Sentences,
    ) -> None:  # fmt: skip
        """Write a complete run's report; a failure is a warning.

        Args:
            folder: with the run's files.
            result: of the method.
            target, probe, settings, store: of the run; what it didn't need may be None.
            truth: layer to its units' right names.
            sentences: for how near texts are.
        """
        if self.look is None:
            return
        try:
            report.collect(
                folder, result, target, probe, settings, store, truth=truth, others=self.others,
                sentences=sentences, look=self.look,
            )  # fmt: skip
            page = report.build(
                folder, single_file=self.look.single_file, megabytes=self.look.megabytes
            )
            print(f"report: {page}")
        except Exception as error:  # of any part of the networks' and images' libraries
            reason = f"{type(error).__name__}: {error}"
            log.warning("the report failed (%s); the run's files are complete", reason)

    def sentences(self, config: Any, found: Sentences) -> Sentences:
        """The run's sentence encoder, or the config's where only other labels need one."""
        if found is not None or not self.others:
            return found
        try:
            built: sentence.SentenceEncoder = of_group(sentence.build, config.sentence)
            return built
        except MissingResource as error:
            return error


def truth_of(target: Target) -> dict[str, Sequence[str]]:
    """The class names that a target brings, where it is dissected there."""
    layer = target.class_layer
    return {layer: target.class_names} if layer in target.layers and target.class_names else {}
