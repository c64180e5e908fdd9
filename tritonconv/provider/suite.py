"""The benchmark suite: calls that people make, described as `recording.keys_of_shape` reads them.

All in bfloat16, in both memory formats, forward and backward. Source: the networks named here.
"""

from collections.abc import Sequence
from typing import Any

Row = dict[str, Any]


def _conv(batch: int, channels: int, sizes: Sequence[int], filters: Sequence[int], **rest: Any):
    """`filters` are K and the taps an axis; padding keeps the size, stride aside, unless given."""
    out_channels, *taps = filters
    groups = rest.get("groups", 1)
    rest.setdefault("padding", [f // 2 for f in taps])
    return {
        "op": f"conv{len(sizes)}d",
        "input": [batch, channels, *sizes],
        "weight": [out_channels, channels // groups, *taps],
        **rest,
    }


def _transposed(batch: int, channels: int, sizes: Sequence[int], filters: Sequence[int], **rest):
    out_channels, *taps = filters
    return {
        "op": f"conv_transpose{len(sizes)}d",
        "input": [batch, channels, *sizes],
        "weight": [channels, out_channels, *taps],
        **rest,
    }


def _unshared(batch: int, channels: int, sizes: Sequence[int], filters: Sequence[int], **rest):
    out_channels, *taps = filters
    stride = rest.get("stride", 1)
    outputs = [(n - f) // stride + 1 for n, f in zip(sizes, taps, strict=True)]
    return {
        "op": f"unshared_conv{len(sizes)}d",
        "input": [batch, channels, *sizes],
        "weight": [*outputs, out_channels, channels, *taps],
        **rest,
    }


def _pool(name: str, batch: int, channels: int, size: int, **rest: Any) -> Row:
    return {"op": name, "input": [batch, channels, size, size], **rest}


def _fused(batch: int, channels: int, size: int, out_channels: int, pool: str) -> Row:
    return {
        "op": "conv_pool2d",
        "input": [batch, channels, size, size],
        "weight": [out_channels, channels, 3, 3],
        "padding": 1,
        "pool": pool,
    }


_CALLS: tuple[Row, ...] = (
    # ResNet-50 and ResNet-18
    _conv(256, 3, (224, 224), (64, 7, 7), stride=2),
    _conv(256, 64, (56, 56), (64, 3, 3)),
    _conv(32, 64, (56, 56), (64, 3, 3)),
    _conv(256, 64, (56, 56), (256, 1, 1)),
    _conv(256, 128, (56, 56), (128, 3, 3), stride=2),
    _conv(256, 128, (28, 28), (128, 3, 3)),
    _conv(256, 256, (14, 14), (256, 3, 3)),
    _conv(256, 512, (7, 7), (512, 3, 3)),
    _conv(1, 512, (7, 7), (512, 3, 3)),
    _conv(256, 256, (56, 56), (512, 1, 1), stride=2),
    # VGG, AlexNet
    _conv(64, 64, (224, 224), (64, 3, 3)),
    _conv(64, 256, (56, 56), (256, 3, 3)),
    _conv(64, 512, (14, 14), (512, 3, 3)),
    _conv(128, 3, (227, 227), (96, 11, 11), stride=4, padding=0),
    # diffusion UNet and VAE
    _conv(2, 320, (128, 128), (320, 3, 3)),
    _conv(2, 640, (64, 64), (640, 3, 3), stride=2),
    _conv(2, 1280, (32, 32), (1280, 3, 3)),
    _conv(1, 128, (1024, 1024), (128, 3, 3)),
    _conv(1, 512, (128, 128), (512, 3, 3)),
    # atrous, ResNeXt, a tensor of more than 2^31 elements
    _conv(8, 2048, (64, 64), (256, 3, 3), dilation=12, padding=12),
    _conv(64, 128, (56, 56), (128, 3, 3), groups=32),
    _conv(64, 128, (513, 513), (128, 3, 3), stride=2, padding=0),
    # depthwise: ConvNeXt, MobileNet, sequences
    _conv(128, 96, (56, 56), (96, 7, 7), groups=96),
    _conv(128, 768, (7, 7), (768, 7, 7), groups=768),
    _conv(128, 144, (56, 56), (144, 3, 3), groups=144, stride=2),
    _conv(128, 240, (28, 28), (240, 5, 5), groups=240),
    _conv(3072, 128, (202,), (128, 3), groups=128),
    _conv(1, 12288, (16384,), (12288, 4), groups=12288, padding="same"),
    # sequences: wav2vec 2, HuBERT
    _conv(3072, 128, (202,), (384, 3), padding=0),
    _conv(8, 1, (320000,), (512, 10), stride=5, padding=0),
    _conv(8, 512, (63999,), (512, 3), stride=2, padding=0),
    _conv(8, 768, (999,), (768, 128), groups=16),
    # volumes, video, patches
    _conv(2, 32, (128, 128, 128), (64, 3, 3, 3)),
    _conv(1, 128, (17, 256, 256), (128, 3, 3, 3)),
    _conv(4096, 3, (2, 14, 14), (1152, 2, 14, 14), stride=[2, 14, 14], padding=0),
    # transposed: DCGAN, HiFi-GAN, decoder
    _transposed(128, 1024, (4, 4), (512, 4, 4), stride=2, padding=1),
    _transposed(128, 128, (32, 32), (3, 4, 4), stride=2, padding=1),
    _transposed(16, 512, (32,), (256, 16), stride=8, padding=4),
    _transposed(1, 512, (128, 128), (256, 3, 3), stride=2, padding=1, output_padding=1),
    # unshared at three batch sizes, tiled
    *(
        _unshared(batch, 16, (size, size), (16, taps, taps), stride=stride)
        for size, taps, stride in ((63, 9, 1), (55, 7, 2), (25, 5, 1))
        for batch in (1, 32, 128)
    ),
    {
        "op": "tiled_conv2d",
        "input": [128, 64, 56, 56],
        "weight": [2, 2, 64, 64, 3, 3],
        "padding": 1,
    },
    # pooling
    _pool("max_pool2d", 256, 64, 112, kernel_size=3, stride=2, padding=1),
    _pool("max_pool2d", 64, 64, 224, kernel_size=2),
    _pool("max_pool2d", 128, 96, 55, kernel_size=3, stride=2),
    _pool("avg_pool2d", 128, 192, 35, kernel_size=3, stride=1, padding=1),
    _pool("adaptive_avg_pool2d", 256, 2048, 7, output_size=1),
    _pool("l2_pool2d", 128, 64, 56, kernel_size=2),
    # convolution, detector and pooling in one
    _fused(64, 64, 224, 64, "max"),
    _fused(128, 128, 56, 128, "max"),
    _fused(128, 64, 56, 128, "maxout"),
    _fused(128, 64, 56, 64, "l2"),
)

ROWS: tuple[Row, ...] = tuple(
    {**row, "dtype": "bfloat16", "layout": layout}
    for row in _CALLS
    for layout in ("channels_last", "contiguous")
    if layout == "contiguous" or len(row["input"]) > 3  # torch has no such format in 1-D
)
