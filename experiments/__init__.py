"""Runners: each composes a config, calls the library, and writes results."""
