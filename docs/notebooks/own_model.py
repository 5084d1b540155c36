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
# # Your own model
#
# Any `torch.nn.Module` that takes a batch of images can be dissected. Here a small network learns
# to tell crops of three photographs apart, so that we know what the units of its last layer detect,
# and see whether their descriptions are right.

# %%
import torch
from torch import nn
from torchvision import transforms

import clipdissect

# %% [markdown]
# ## Images
#
# A probe may be a folder of images or, as here, a list or data set of PIL images.

# %%
photos = clipdissect.probe.build("photos")
classes = {"chelsea": "cat", "coffee": "coffee", "rocket": "rocket"}  # photograph: class
names = [name.partition(".")[0] for name in photos.images]
chosen = [number for number, name in enumerate(names) if name in classes]
pictures = [photos.read(number) for number in chosen]
labels = torch.tensor([list(classes).index(names[number]) for number in chosen])
print(len(pictures), "pictures")

# %% [markdown]
# ## A network, and its transform
#
# `preprocess` is the transform of the evaluation, from a PIL image to a tensor.

# %%
preprocess = transforms.Compose(
    [transforms.Resize((32, 32)), transforms.ToTensor(), transforms.Normalize([0.5] * 3, [0.5] * 3)]
)
torch.manual_seed(0)
network = nn.Sequential(
    nn.Conv2d(3, 16, 5, stride=2),
    nn.ReLU(),
    nn.AdaptiveAvgPool2d(3),
    nn.Flatten(),
    nn.Linear(144, 3),
)
inputs = torch.stack([preprocess(image) for image in pictures])
adam = torch.optim.Adam(network.parameters(), lr=0.01)
for _ in range(100):
    loss = nn.functional.cross_entropy(network(inputs), labels)
    adam.zero_grad()
    loss.backward()
    adam.step()
accuracy = (network(inputs).argmax(1) == labels).float().mean()
print(f"accuracy {accuracy:.0%}")

# %% [markdown]
# ## Describe it
#
# Layers are names of modules: `"4"` is the last one, whose three units are the classes.

# %%
result = clipdissect.dissect(
    network.eval(),
    ["4"],
    preprocess=preprocess,
    probe=pictures,
    concepts=["cat", "coffee", "rocket", "flower", "motorcycle", "keyboard", "dog", "sea"],
    encoder="conse",
    similarity={"name": "soft_wpmi", "top_k": 10},
)
table = result.descriptions[["unit", "description", "similarity", "null_similarity"]]
table.assign(detects=list(classes.values()))

# %% [markdown]
# All three are right. The null score, the best one with shuffled images, is almost as high, because
# there are only three kinds of pictures: real work needs a more varied probe.
#
# A wrong layer is answered with the names that exist, and so is every other mistake.

# %%
try:
    clipdissect.dissect(
        network, ["5"], preprocess=preprocess, probe=pictures, concepts=["cat"], encoder="conse"
    )
except clipdissect.DissectError as error:
    print(error)

# %% [markdown]
# ## Weights from a file
#
# For a network of torchvision with your weights, load them as usual and take the transform of the
# evaluation:
#
# ```python
# model = resnet18(num_classes=10)
# model.load_state_dict(torch.load("my_resnet18.pth", weights_only=True))
# preprocess = ResNet18_Weights.DEFAULT.transforms()
# ```
#
# [Your own model](../own_model.md) has more about layers, preprocessing and the number of images.
