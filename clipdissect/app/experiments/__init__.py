"""The files of the source tree's `experiments/`, which the wheel installs here."""

from clipdissect.app.help import packaged

__path__ = [str(packaged("experiments"))]
