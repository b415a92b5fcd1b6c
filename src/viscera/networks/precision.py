"""The precision in which torch computes."""

from typing import Literal

import torch

from viscera.config import Precision


def precision_of(setting: Literal["auto"] | Precision, device: str) -> Precision:
    """Resolve "auto": fp16 mixed on a GPU (zhang2d's), bf16 mixed on a CPU with such instructions, otherwise fp32."""
    if setting != "auto":
        return setting
    if device == "cuda":
        return "16-mixed"
    return "bf16-mixed" if torch.ops.mkldnn._is_mkldnn_bf16_supported() else "32-true"


def autocast_type(setting: Literal["auto"] | Precision, device: str) -> torch.dtype | None:
    """Return the type of mixed precision, or None for fp32."""
    return {"16-mixed": torch.float16, "bf16-mixed": torch.bfloat16, "32-true": None}[precision_of(setting, device)]
