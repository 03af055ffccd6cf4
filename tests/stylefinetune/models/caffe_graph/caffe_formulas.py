"""Caffe's layers by its own formulas, pixel by pixel in float64; each function names its source."""

import math

import numpy as np


def convolution(x, weight, bias, stride=(1, 1), pad=(0, 0), dilation=(1, 1), group=1):
    """base_conv_layer.cpp: y = sum of weight * x over the window, of the channels of the same group."""
    count, channels, height, width = x.shape
    outputs, _, kernel_h, kernel_w = weight.shape
    padded = np.pad(x, ((0, 0), (0, 0), (pad[0],) * 2, (pad[1],) * 2))
    sizes = [
        (size + 2 * border - (step * (side - 1) + 1)) // jump + 1
        for size, border, step, side, jump in zip(
            (height, width), pad, dilation, (kernel_h, kernel_w), stride, strict=True
        )
    ]
    y = np.zeros((count, outputs, *sizes))
    part = channels // group
    for n, o, i, j in np.ndindex(y.shape):
        first = o // (outputs // group) * part
        rows = i * stride[0] + dilation[0] * np.arange(kernel_h)
        columns = j * stride[1] + dilation[1] * np.arange(kernel_w)
        window = padded[n, first : first + part][:, rows][:, :, columns]
        y[n, o, i, j] = (window * weight[o]).sum() + (0 if bias is None else bias[o])
    return y


def pooling(x, method, kernel, stride, pad, round_up=True):
    """pooling_layer.cpp: the windows are clipped to the picture, and the mean divides by the part in the border."""
    count, channels, height, width = x.shape
    rounded = math.ceil if round_up else math.floor
    sizes = [
        rounded((size + 2 * border - side) / step) + 1
        for size, side, step, border in zip((height, width), kernel, stride, pad, strict=True)
    ]
    if any(pad):
        sizes = [
            pooled - 1 if (pooled - 1) * step >= size + border else pooled
            for pooled, step, size, border in zip(sizes, stride, (height, width), pad, strict=True)
        ]
    y = np.zeros((count, channels, *sizes))
    for n, c, i, j in np.ndindex(y.shape):
        top, left = i * stride[0] - pad[0], j * stride[1] - pad[1]
        bottom, right = min(top + kernel[0], height + pad[0]), min(left + kernel[1], width + pad[1])
        area = (bottom - top) * (right - left)
        window = x[n, c, max(top, 0) : min(bottom, height), max(left, 0) : min(right, width)]
        y[n, c, i, j] = window.max() if method == "MAX" else window.sum() / area
    return y


def lrn_across(x, size, alpha, beta, k):
    """lrn_layer.cpp, CrossChannelForward: x / (k + alpha / size * sum of squares of neighbouring channels)^beta."""
    y = np.zeros_like(x)
    half = (size - 1) // 2
    for c in range(x.shape[1]):
        squares = (x[:, max(0, c - half) : c + half + 1] ** 2).sum(1)
        y[:, c] = x[:, c] * (k + alpha / size * squares) ** -beta
    return y


def lrn_within(x, size, alpha, beta):
    """lrn_layer.cpp, WithinChannelForward: the squares are averaged by a pooling layer, then raised to a power."""
    half = (size - 1) // 2
    means = pooling(x**2, "AVE", (size, size), (1, 1), (half, half))
    return x * (1 + alpha * means) ** -beta


class BatchNorm:
    """batch_norm_layer.cpp: three blobs, of which the third counts how much the first two are to be divided by."""

    def __init__(self, channels, eps, fraction):
        self.mean, self.variance, self.factor = np.zeros(channels), np.zeros(channels), 0.0
        self.eps, self.fraction = eps, fraction

    def train(self, x):
        axes = (0, 2, 3)
        mean, variance = x.mean(axes), (x**2).mean(axes) - x.mean(axes) ** 2
        m = x.size / x.shape[1]
        self.factor = self.factor * self.fraction + 1
        self.mean = self.mean * self.fraction + mean
        self.variance = self.variance * self.fraction + variance * (m / (m - 1) if m > 1 else 1)
        return self._normalize(x, mean, variance)

    def test(self, x):
        scale = 0 if self.factor == 0 else 1 / self.factor
        return self._normalize(x, self.mean * scale, self.variance * scale)

    def _normalize(self, x, mean, variance):
        shape = (1, -1, 1, 1)
        return (x - mean.reshape(shape)) / np.sqrt(variance.reshape(shape) + self.eps)
