"""Pretrained models: checkpoints, the model hub, tokenizers, sentence encoders, layer names."""
