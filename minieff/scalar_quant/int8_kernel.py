"""Products of bytes: x_q W_q^T on processors that multiply 8-bit integers and add the products in 32 bits.

PyTorch has such a kernel in oneDNN, the one that its own quantized models run on. It needs the weight in
a layout of its own, which takes far longer to make than one product; so it is made once per weight and kept
beside the codes: one byte per weight in memory, none in a file. It also needs unsigned inputs, from 0 to 255:
VNNI multiplies an unsigned byte by a signed one. For two signed ones, oneDNN on processors without AMX uses a
loop that gives the same sums in a thousand times the time.
"""

from functools import cache

import torch
from jaxtyping import Float, Int8
from torch import Tensor

from minieff.scalar_quant.packing import Packed

KERNEL = "onednn.qlinear_pointwise"


@cache
def bytes_multiply() -> bool:
    """Whether this processor has VNNI or AMX, and the kernel's sums are right on it.

    Other processors may add products in 16 bits, which overflow.

    >>> type(bytes_multiply())
    <class 'bool'>
    """
    can = getattr(torch.cpu, "get_capabilities", dict)()
    if not any(can.get(name) for name in ("avx512_vnni", "avx_vnni", "amx_int8")):
        return False
    most = torch.full((1, 64), 127, dtype=torch.int8, device="cpu")
    try:
        return _kernel(most, _lay_out(most), most[0, :1].float() / 127).item() == 64 * 127**2
    except (AttributeError, RuntimeError):  # a PyTorch without this kernel, or without oneDNN
        return False


def product(x_q: Int8[Tensor, "N C"], code: Packed) -> Float[Tensor, "N R"]:
    """x_q (W_q - zero)^T, times the scales of W (one per row).

    Products are added exactly, in 32 bits; sums beyond 2^24 are then rounded to a float.

    >>> from minieff.scalar_quant.grid import Grid
    >>> x_q, code = torch.tensor([[2, 5]], dtype=torch.int8), Packed(torch.tensor([[127.0, 1.0]]), Grid())
    >>> product(x_q, code) if bytes_multiply() else x_q.float() @ code.dense().T  # 2 * 127 + 5
    tensor([[259.]])
    """
    scale = code.scale.float().expand(code.shape[0], 1).flatten().contiguous()  # (R,), one after another
    y = _kernel(x_q, _laid_out(code), scale)
    if code.zero is not None:
        y -= x_q.sum(-1, keepdim=True) * (scale * code.zero.squeeze(1))
    return y


def _laid_out(code: Packed) -> Tensor:
    """The weight in the kernel's layout, kept with the code, and made again when its codes change."""
    codes = code.codes
    if codes.is_inference():  # torch does not count changes of these
        return _lay_out(code.integers())
    if code.laid_out is None or code.laid_out[0] is not codes or code.laid_out[1] != codes._version:
        code.laid_out = codes, codes._version, _lay_out(code.integers())
    return code.laid_out[2]


def _lay_out(w_q: Int8[Tensor, "R C"]) -> Tensor:
    return torch.ops.onednn.qlinear_prepack(w_q, None)


def _kernel(x_q: Int8[Tensor, "N C"], w_q: Tensor, scale: Float[Tensor, "R"]) -> Float[Tensor, "N R"]:
    """x_q W_q^T, each column times its scale. (Most of its arguments are for fusions that we do not use.)"""
    shifted = (x_q ^ -128).view(torch.uint8)  # x_q + 128: as bytes, the two differ in the highest bit
    zeros = torch.zeros(len(scale), dtype=torch.int32, device="cpu")
    return torch.ops.onednn.qlinear_pointwise(
        shifted, 1.0, 128, w_q, scale, zeros, None, 1.0, 0, torch.float32, "none", [], ""
    )
