"""Programs that may not build a network if their first argument is `sealed`, but may if `free`."""

# Files are taken for settled however new they are; "sealed" refuses to build a network.
START = """
import sys
from clipdissect.utils import dependencies
dependencies.settled_before_ns = 1 << 62
if sys.argv.pop(1) == "sealed":
    from clipdissect import encoder, targets
    from clipdissect.errors import DissectError
    from clipdissect.models.sentence_transformers import SentenceFolder
    def fail(*parts, **more):
        raise DissectError("a network was built")
    targets.build = encoder.build = fail
    SentenceFolder._model = property(fail)
"""
COMMAND = f"{START}\nfrom clipdissect.app import cli\ncli.main()"  # as `python -m clipdissect`
