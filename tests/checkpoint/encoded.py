"""States as a checkpoint holds them, and what it means that two are the same."""

import math
import struct
from collections import Counter

import numpy as np
import torch

from fitorch.checkpoint.encoding import Encoder, decode
from fitorch.checkpoint.serialization import json_bytes, read_json, read_tensors, tensor_parts


def round_trip(state):
    """Take a state through the very bytes that files hold."""
    encoder = Encoder()
    text = json_bytes(encoder.encode(state, "state"))
    file = b"".join(tensor_parts(encoder.tensors, {}))
    return decode(read_json(text, "x.json"), read_tensors(file, "x.safetensors"))


def bits(tensor):
    """Return the bytes of a tensor by torch's own copy, without our code."""
    plain = (
        tensor.detach().resolve_conj().resolve_neg().clone(memory_format=torch.contiguous_format)
    )
    return plain.reshape(-1).view(torch.uint8).numpy().tobytes()


def same(a, b):  # noqa: C901, PLR0911
    """Compare types, bits, order and all."""
    if isinstance(a, dict):
        kind = Counter if type(a) is Counter else dict
        return (
            type(b) is kind and same(list(a), list(b)) and same(list(a.values()), list(b.values()))
        )
    if isinstance(a, torch.Tensor):
        return (
            type(b) is torch.Tensor
            and a.dtype == b.dtype
            and a.shape == b.shape
            and bits(a) == bits(b)
        )
    if isinstance(a, np.ndarray):
        return (
            type(b) is np.ndarray
            and a.dtype == b.dtype
            and a.shape == b.shape
            and a.tobytes() == b.tobytes()
        )
    if isinstance(a, torch.Size):
        return b == tuple(a)
    if isinstance(a, np.generic):  # np.longlong and np.int64 are two types of one dtype
        return isinstance(b, np.generic) and a.dtype == b.dtype and a.tobytes() == b.tobytes()
    if type(a) is not type(b):
        return False
    if isinstance(a, float):
        return (math.isnan(a) and math.isnan(b)) or struct.pack("d", a) == struct.pack("d", b)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(same, a, b))
    return a == b
