"""DLPack's exchange API: the C function by which torch describes a tensor to other libraries, without a copy."""

from __future__ import annotations

import ctypes

from torch import Tensor

VERSION = 1  # of the structures; later minor versions only append to them


class ExchangeAPI(ctypes.Structure):
    """`DLPackExchangeAPI` of dlpack.h, as far as it is used."""

    _fields_ = (
        ("major", ctypes.c_uint32),
        ("minor", ctypes.c_uint32),
        ("previous", ctypes.c_void_p),
        ("managed_tensor_allocator", ctypes.c_void_p),
        ("managed_tensor_from_py_object_no_sync", ctypes.c_void_p),
        ("managed_tensor_to_py_object_no_sync", ctypes.c_void_p),
        ("dltensor_from_py_object_no_sync", ctypes.c_void_p),
    )


def find_describer() -> int:
    """Return the address of torch's `dltensor_from_py_object_no_sync`, or 0 where torch has none."""
    capsule = getattr(Tensor, "__dlpack_c_exchange_api__", None)  # not in older versions of torch
    if capsule is None:
        return 0
    prototype = ctypes.PYFUNCTYPE(ctypes.c_void_p, ctypes.py_object, ctypes.c_char_p)
    get_pointer = prototype(("PyCapsule_GetPointer", ctypes.pythonapi))
    api = ExchangeAPI.from_address(get_pointer(capsule, b"dlpack_exchange_api"))
    return api.dltensor_from_py_object_no_sync or 0 if api.major == VERSION else 0
