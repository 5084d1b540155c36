# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # A first dissection
#
# We describe units of a real network, EfficientNet-Lite0, on a CPU and without a model hub. The
# network, the images, the words' embeddings and the encoder all come from the extra `offline`.
# `scripts/docs` runs this notebook; its text is `docs/notebooks/first_dissection.py`, which Jupyter
# opens by [jupytext](https://jupytext.readthedocs.io).

# %%
from tempfile import mkdtemp

import clipdissect

# %% [markdown]
# ## Describe the units
#
# A *probe* is a set of images that is shown to the network. `photos` has crops of the photographs
# that scikit-image and scikit-learn ship: enough for an example, too few and too similar for real
# work. The texts to choose from are a list here; a file or the name of a packaged list works too.

# %%
living = ["astronaut", "bird", "cat", "dog", "face", "flower", "grass", "horse", "leaf", "tree"]
things = ["camera", "clock", "coffee", "fabric", "keyboard", "motorcycle", "rocket", "wheel"]
places = ["brick wall", "gravel", "moon", "night", "sea", "sky", "temple", "tissue", "wood"]

result = clipdissect.dissect(
    "efficientnet_lite0",
    ["blocks.6"],
    probe={"name": "photos", "sample": 150},
    concepts=[*living, *things, *places],
    encoder="conse",
    similarity={"name": "soft_wpmi", "top_k": 10},
)
result

# %% [markdown]
# `top_k` is the number of top images per unit that count. The default, 100, needs thousands of
# images.
#
# ## Read the result
#
# The descriptions are a table of pandas with a row per unit, here the ten with the highest scores.

# %%
columns = ["layer", "unit", "description", "similarity", "null_similarity"]
best = result.descriptions.sort_values("similarity", ascending=False)
best[columns].head(10)

# %% [markdown]
# `null_similarity` is the best score of the same unit when the images are shuffled. A score that
# isn't clearly above it says nothing.

# %%
above = (best["similarity"] > best["null_similarity"]).mean()
print(f"{above:.0%} of {len(best)} units are above their null score")

# %% [markdown]
# The images with the highest activations of a unit, by name:

# %%
unit = int(best["unit"].iloc[0])
result.top_images.query("unit == @unit").head()

# %% [markdown]
# ## Keep it
#
# `save` writes tables and a manifest of everything that the numbers depend on; `load` reads them
# back.

# %%
folder = result.save(mkdtemp())
clipdissect.load(folder)

# %% [markdown]
# Next: [your own model](own_model.py), [which method when](../methods.md), and
# [is a description right?](../scores.md)
