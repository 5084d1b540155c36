"""`python -m clipdissect`, which torchrun can start: the same as the command `clipdissect`."""

from clipdissect.app.cli import main

if __name__ == "__main__":
    main()
