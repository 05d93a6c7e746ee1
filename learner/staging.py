"""Where tensors are copied to while they are unchanged, to be written when they no longer are."""

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor


class Staging:
    """Memory on the CPU for one copy of some tensors, used again for the next.

    Fresh memory costs several times what the copy does, in page faults, which slow down training beside it too.
    """

    def __init__(self) -> None:
        self._buffers: dict[tuple[str, str], Tensor] = {}

    def copy(self, part: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The tensors' values as they are now, of a DTensor this rank's shard; they hold until that part is copied again."""
        return {name: self._copy((part, name), tensor.detach()) for name, tensor in tensors.items()}

    def _copy(self, key: tuple[str, str], tensor: Tensor) -> Tensor:
        if isinstance(tensor, DTensor):
            (own, mesh), context = tensor.__tensor_flatten__()
            inner = {own: self._copy(key, tensor.to_local()), mesh: tensor.device_mesh}
            copy: Tensor = DTensor.__tensor_unflatten__(inner, context, tensor.size(), tensor.stride())
            return copy
        buffer = self._buffers.get(key)
        if buffer is None or (buffer.shape, buffer.dtype) != (tensor.shape, tensor.dtype):
            buffer = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=tensor.is_cuda)
            self._buffers[key] = buffer
        return buffer.copy_(tensor)
