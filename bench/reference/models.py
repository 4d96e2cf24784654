"""The networks of the reference scripts: torchvision's where it has them, the CIFAR form of He et al. (2016) else."""

import torch
import torch.nn.functional as F
from torch import nn


class BasicBlock(nn.Module):
    """Two 3x3 convolutions; the shortcut is parameter-free: every second pixel, channels padded with zeros."""

    def __init__(self, num_inputs, num_outputs, stride):
        super().__init__()
        self.conv1 = nn.Conv2d(num_inputs, num_outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(num_outputs)
        self.conv2 = nn.Conv2d(num_outputs, num_outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(num_outputs)
        self.relu = nn.ReLU(inplace=True)
        self.stride = stride
        self.padding = (num_outputs - num_inputs) // 2

    def forward(self, x):
        y = self.relu(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        if self.stride != 1 or self.padding:
            x = F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, self.padding, self.padding))
        return self.relu(y + x)


class CifarResNet(nn.Module):
    def __init__(self, depth, num_classes, num_channels=3):
        super().__init__()
        self.conv1 = nn.Conv2d(num_channels, 16, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.relu = nn.ReLU(inplace=True)
        width = 16
        for stage in range(3):
            blocks = []
            for block in range((depth - 2) // 6):
                outputs = 16 << stage
                blocks.append(BasicBlock(width, outputs, 2 if stage > 0 and block == 0 else 1))
                width = outputs
            setattr(self, f"layer{stage + 1}", nn.Sequential(*blocks))
        self.fc = nn.Linear(64, num_classes)

    def forward(self, x):
        x = self.relu(self.bn1(self.conv1(x)))
        x = self.layer3(self.layer2(self.layer1(x)))
        return self.fc(x.mean((2, 3)))


def build(name, num_classes, num_channels=3):
    if name in ("resnet-8", "resnet-20", "resnet-32", "resnet-56", "resnet-110"):
        return CifarResNet(int(name.split("-")[1]), num_classes, num_channels)
    import torchvision

    model = getattr(torchvision.models, name.replace("-", ""))(num_classes=num_classes)
    if num_channels != 3:
        model.conv1 = nn.Conv2d(num_channels, 64, 7, 2, 3, bias=False)
    return model


def set_statistics(model, momentum):
    """The weight of the new batch in the moving statistics."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = momentum
    return model
