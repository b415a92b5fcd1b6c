"""Types of settings with a range, and how pydantic is to read them."""

from typing import Annotated, Literal

from annotated_types import Ge, Gt, Le

Fraction = Annotated[float, Ge(0), Le(1)]
Positive = Annotated[float, Gt(0)]
Count = Annotated[int, Ge(1)]
Accelerator = Literal["auto", "cpu", "cuda"]
Precision = Literal["32-true", "bf16-mixed", "16-mixed"]
STRICT = {"extra": "forbid", "allow_inf_nan": False}
