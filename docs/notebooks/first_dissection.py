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
# The scores of a layer, next to those with shuffled images:

# %%
result.plot()

# %% [markdown]
# One unit, with its descriptions, its top images and a histogram of its activations:

# %%
address = "blocks.6/" + str(best["unit"].iloc[0])
result.show(address)

# %% [markdown]
# Units by a word, also as a runner-up:

# %%
result.units("cat").head()

# %% [markdown]
# Units by meaning: these answer to a text whose letters no description has. `p_adjusted` says how
# many random texts of the list are as close to any unit; with so short a list it can't be small.

# %%
result.find("pet", top=3)

# %% [markdown]
# The units that one picture activates more than the others do:

# %%
result.explain(result.top_images["image"].iloc[0], top=3)

# %% [markdown]
# `result.report()` opens the page of all units, in a cell or in the browser.

# %% [markdown]
# ## Keep it
#
# `save` writes tables, a manifest of everything that the numbers depend on, and the report; `load`
# reads them back.

# %%
folder = result.save(mkdtemp(), report=False)
clipdissect.load(folder)

# %% [markdown]
# Next: [your own model](own_model.py), [which method when](../methods.md), and
# [is a description right?](../scores.md)
