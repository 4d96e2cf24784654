"""Synthetic images for the step benchmarks and Fashion-MNIST for the end-to-end ones.

R0 sees PIL images through a DataLoader; R1 holds one uint8 tensor and cuts its batches out of it."""

import gzip
import os

import numpy as np
import torch

MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)


def stored_side(side):
    """Training images are cut out of ones an eighth larger, as 224 out of 256."""
    return side + side // 8


def synthetic(side, count, num_classes, seed=0):
    """uint8 [count, stored, stored, 3] and labels [count]."""
    random = np.random.default_rng(seed)
    stored = stored_side(side)
    images = random.integers(0, 256, (count, stored, stored, 3), dtype=np.uint8)
    return images, random.integers(0, num_classes, count)


def idx(images, labels, side):
    """uint8 [count, side, side] and labels, from two gzipped IDX files."""
    with gzip.open(images) as file:
        pixels = np.frombuffer(file.read(), np.uint8, offset=16).reshape(-1, side, side)
    with gzip.open(labels) as file:
        return pixels, np.frombuffer(file.read(), np.uint8, offset=8).astype(np.int64)


def fashion_mnist(directory, split):
    names = (f"{split}-images-idx3-ubyte.gz", f"{split}-labels-idx1-ubyte.gz")
    return idx(*(os.path.join(directory, name) for name in names), 28)


def digits(directory, split):
    names = (f"{split}-images.idx.gz", f"{split}-labels.idx.gz")
    return idx(*(os.path.join(directory, name) for name in names), 8)


def first_per_class(labels, count):
    """Indices of the first `count` images of each class, in the order of the file."""
    return np.sort(np.concatenate([np.flatnonzero(labels == label)[:count] for label in np.unique(labels)]))


class PilImages(torch.utils.data.Dataset):
    """What the usual script starts from: one PIL image and a torchvision transform at a time."""

    def __init__(self, images, labels, transform):
        self.images, self.labels, self.transform = images, labels, transform

    def __len__(self):
        return len(self.images)

    def __getitem__(self, index):
        from PIL import Image

        return self.transform(Image.fromarray(self.images[index])), int(self.labels[index])


class ResidentBatches:
    """The tuned script's data: uint8 in memory; crop, flip and standardise a batch at a time."""

    def __init__(self, images, labels, side, batch, mean, std, channels_last, pad=0, augment=True):
        if images.ndim == 3:
            images = images[..., None]
        pixels = torch.from_numpy(np.ascontiguousarray(images)).permute(0, 3, 1, 2)
        if pad:
            # replicate padding wants floats; every uint8 survives the way there and back
            pixels = torch.nn.functional.pad(pixels.float(), (pad,) * 4, mode="replicate").to(torch.uint8)
        layout = torch.channels_last if channels_last else torch.contiguous_format
        self.pixels = pixels.contiguous(memory_format=layout)
        self.labels = torch.from_numpy(np.asarray(labels)).long()
        self.side, self.batch, self.layout, self.augment = side, batch, layout, augment
        # every window of every image, without copying: [count, top, left] and then the image in its order in memory
        windows = self.pixels.unfold(2, side, 1).unfold(3, side, 1)
        self.windows = windows.permute(0, 2, 3, 4, 5, 1) if channels_last else windows.permute(0, 2, 3, 1, 4, 5)
        scale = torch.tensor(std).view(1, -1, 1, 1) * 255
        self.scale = 1 / scale
        self.shift = -torch.tensor(mean).view(1, -1, 1, 1) * 255 / scale
        self.generator = torch.Generator().manual_seed(0)

    def __iter__(self):
        order = torch.randperm(len(self.labels), generator=self.generator)
        room = self.pixels.shape[-1] - self.side + 1
        for indices in order.split(self.batch):
            count = len(indices)
            if self.augment:
                top, left = torch.randint(0, room, (2, count), generator=self.generator)
                cut = self.windows[indices, top, left]
                if self.layout == torch.channels_last:
                    cut = cut.permute(0, 3, 1, 2)
                flips = torch.rand(count, generator=self.generator) < 0.5
                cut[flips] = cut[flips].flip(3)
            else:
                cut = self.pixels[indices]
            yield torch.addcmul(self.shift, cut.float(), self.scale), self.labels[indices]
