"""Run the target and the encoder over the probe, and keep what they return in the store."""
