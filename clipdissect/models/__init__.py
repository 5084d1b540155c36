"""Pretrained models: checkpoints, model hub, tokenizers, sentence encoders."""
