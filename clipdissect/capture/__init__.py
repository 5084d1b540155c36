"""Run the target and the encoder over the probe, and cache their outputs."""
