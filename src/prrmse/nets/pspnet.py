"""PSPNet on torchvision's ResNet-18: short (adding) connections. Zhao et al. 2017; He et al. 2016."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import nn
from torch.nn import functional as F

if TYPE_CHECKING:
    from torchvision.models.resnet import ResNet


def dilated_resnet18(in_channels: int, width: int) -> ResNet:
    """torchvision's ResNet-18 without its classifier, layer3 and layer4 at stride 8 (dilated 2 and 4).

    torchvision offers dilation for bottleneck blocks only, so strides and dilations are set here;
    names and (at width 64) shapes stay those of ``torchvision.models.resnet18``, so its weights load as
    they are, but for the first kernel when ``in_channels`` is not 3.
    """
    from torchvision.models.resnet import resnet18  # imports torch's compiler: seconds that no other network needs

    net = resnet18(weights=None)
    if width != 64:
        _narrow(net, width)
    for layer, dilation in ((net.layer3, 2), (net.layer4, 4)):
        for module in layer.modules():
            if isinstance(module, nn.Conv2d):
                module.stride = (1, 1)
                if module.kernel_size == (3, 3):
                    module.dilation = module.padding = (dilation, dilation)
    if in_channels != 3:
        net.conv1 = nn.Conv2d(in_channels, width, 7, 2, 3, bias=False)
        nn.init.kaiming_normal_(net.conv1.weight, mode="fan_out", nonlinearity="relu")
    del net.avgpool, net.fc
    return net


def _narrow(net: ResNet, width: int) -> None:
    """Rebuild the layers with another number of channels, by torchvision's own builder.

    Its constructor has the widths of basic blocks written in.
    """
    from torchvision.models.resnet import BasicBlock

    net.inplanes = width
    net.conv1 = nn.Conv2d(3, width, 7, 2, 3, bias=False)
    net.bn1 = nn.BatchNorm2d(width)
    for i, stride in enumerate((1, 2, 2, 2)):
        setattr(net, f"layer{i + 1}", net._make_layer(BasicBlock, width << i, 2, stride=stride))
    for module in net.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")


class PyramidPooling(nn.Module):
    """Average-pool to each bin size, reduce by a 1x1 convolution, upsample, concatenate after the input."""

    def __init__(self, channels: int, bins: tuple[int, ...]) -> None:
        super().__init__()
        self.bins = bins
        self.convs = nn.ModuleList(nn.Conv2d(channels, channels, 1, bias=False) for _ in bins)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        size = x.shape[-2:]
        levels = [x]
        for bins, conv in zip(self.bins, self.convs, strict=True):
            level = conv(F.adaptive_avg_pool2d(x, bins))
            levels.append(F.interpolate(level, size=size, mode="bilinear", align_corners=False))
        return torch.cat(levels, dim=1)


class UpConv(nn.Module):
    """Double the resolution, 3x3 convolution with bias, BN, ReLU."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, out_channels, 3, padding=1)
        self.bn = nn.BatchNorm2d(out_channels)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)
        return F.relu(self.bn(self.conv(x)))


class PSPNet(nn.Module):
    """29 convolutions (5 with bias) and 23 BN layers: 126 (kind, layer) pairs (a reconstruction).

    Args:
        in_channels: image channels the backbone sees; a one-channel image is repeated.
        out_channels: 4 for both tasks (paper).
        width: channels of the backbone's first level; 64 is ResNet-18, and what pretrained weights need.
        head_width: channels of the fused pyramid; 1024 in the reconstruction of the paper's network.

    Input ``[N, 1 or in_channels, H, W]`` with H and W divisible by 8; output ``[N, out_channels, H, W]``.
    """

    final_name = "final"
    bins = (1, 2, 3, 6)

    def __init__(self, in_channels: int = 1, out_channels: int = 4, width: int = 64, head_width: int = 1024) -> None:
        super().__init__()
        self.in_channels = in_channels
        self.backbone = dilated_resnet18(in_channels, width)
        self.pyramid = PyramidPooling(8 * width, self.bins)
        self.bottleneck = nn.Conv2d(8 * width * (1 + len(self.bins)), head_width, 1)
        narrow = max(head_width // 16, 8)
        self.up1 = UpConv(head_width, 4 * narrow)
        self.up2 = UpConv(4 * narrow, narrow)
        self.up3 = UpConv(narrow, narrow)
        self.final = nn.Conv2d(narrow, out_channels, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.in_channels > 1:
            x = x.expand(-1, self.in_channels, -1, -1)
        net = self.backbone
        x = net.maxpool(net.relu(net.bn1(net.conv1(x))))
        x = net.layer4(net.layer3(net.layer2(net.layer1(x))))
        x = F.relu(self.bottleneck(self.pyramid(x)))
        out: torch.Tensor = self.final(self.up3(self.up2(self.up1(x))))
        return out
