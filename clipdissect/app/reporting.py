"""Write the report of a complete run; a failure leaves the run's files intact."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clipdissect import report, sentence
from clipdissect.app.build import build_group, parameters
from clipdissect.errors import MissingResource
from clipdissect.evaluation import Sentences
from clipdissect.method import Job
from clipdissect.report import ReportSettings
from clipdissect.report.collect_data import Labels
from clipdissect.results.tables import ResultTables
from clipdissect.targets import Target

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Reporter:
    """The configured report (`look`, or None), built early so that mistakes show at once."""

    look: ReportSettings | None
    others: Mapping[str, Labels]

    @classmethod
    def of(cls, config: Any) -> Reporter:
        values = parameters(config.report)
        enabled, against = values.pop("enabled"), values.pop("against")
        settings = ReportSettings(**values)
        others = {name: report.read_labels(name, source) for name, source in against.items()}
        return cls(settings if enabled else None, others)

    def write(
        self,
        folder: Path,
        result: ResultTables,
        job: Job,
        truth: Mapping[str, Sequence[str]],
        sentences: Sentences,
    ) -> None:
        """Write the report, or warn. `truth`: layer to class names of its units."""
        if self.look is None:
            return
        try:
            parts = job.target, job.probe, job.settings, job.store
            options: dict[str, Any] = {"truth": truth, "others": self.others}
            options |= {"sentences": sentences, "look": self.look, "encoder": job.encoder}
            report.collect(folder, result, *parts, **options)
            single_file, megabytes = self.look.single_file, self.look.megabytes
            print("report:", report.build(folder, single_file=single_file, megabytes=megabytes))
        except Exception as error:  # from any of the networks' and images' libraries
            reason = f"{type(error).__name__}: {error}"
            log.warning("the report failed (%s); the run's files are complete", reason)

    def sentences(self, config: Any, encoder: Sentences) -> Sentences:
        """Return the run's encoder; build it if only other methods' labels need it."""
        if encoder is not None or not self.others:
            return encoder
        try:
            built: sentence.SentenceEncoder = build_group(sentence.build, config.sentence)
            return built
        except MissingResource as error:
            return error


def truth_of(target: Target) -> dict[str, Sequence[str]]:
    layer = target.class_layer
    return {layer: target.class_names} if layer in target.layers and target.class_names else {}
