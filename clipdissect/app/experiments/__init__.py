"""The runners: the files of `experiments/` in the source tree, which the wheel holds here."""

from clipdissect.app.help import packaged

__path__ = [str(packaged("experiments"))]
