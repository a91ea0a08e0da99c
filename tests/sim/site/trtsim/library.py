"""The compiled stub, seen from Python: objects by number, one callback for every virtual call."""

import ctypes
from pathlib import Path

Word = ctypes.c_size_t
CALLBACK = ctypes.CFUNCTYPE(Word, ctypes.c_long, ctypes.c_long, ctypes.c_int, *[Word] * 5)
CONSTRUCTED = -1  # the slot number with which a factory function reports a new object
FIXED_KINDS = {"Builder": 1, "Runtime": 2, "OnnxParser": 3}  # as numbered in trtsim.c


class Library:
    """libnvinfer's stand-in.

    `handler(kind, id, slot, returned, a, b, c, d)` gets every call; `returned` is the address of a
    struct to fill, or 0.
    """

    def __init__(self, path):
        folder, name = Path(path).parent, Path(path).name
        self._library = ctypes.CDLL(path, mode=ctypes.RTLD_GLOBAL)
        # The bindings ask for these by soname; loaded before them, they are found.
        for other in ("libnvinfer_plugin", "libnvonnxparser", "libnvparsers"):
            companion = folder / name.replace("libnvinfer", other)
            if companion.exists():
                ctypes.CDLL(str(companion), mode=ctypes.RTLD_GLOBAL)
        stub = self._library
        stub.trtsim_new.restype, stub.trtsim_new.argtypes = ctypes.c_void_p, [ctypes.c_long]
        stub.trtsim_id.restype, stub.trtsim_id.argtypes = ctypes.c_long, [Word]
        stub.trtsim_stack.restype = Word
        stub.trtsim_log.argtypes = [ctypes.c_void_p, ctypes.c_int, ctypes.c_int, ctypes.c_char_p]
        stub.trtsim_report.argtypes = [ctypes.c_void_p, ctypes.c_int, ctypes.c_char_p, ctypes.c_float]
        self.kinds = dict(FIXED_KINDS)
        self.names = {number: name for name, number in self.kinds.items()}
        self.handler = lambda *_: 0
        self._callback = CALLBACK(lambda *arguments: self.handler(*arguments))
        stub.trtsim_set_callback(self._callback)

    def kind(self, name):
        """Number of a class; a new one if it has none yet."""
        if name not in self.kinds:
            number = 20 + len(self.kinds)
            self.kinds[name], self.names[number] = number, name
        return self.kinds[name]

    def new(self, name):
        """Address of a new object of a class."""
        return self._library.trtsim_new(self.kind(name))

    def id(self, address):
        """Number of the object at an address."""
        return self._library.trtsim_id(address)

    def stack(self):
        """Address of the arguments that were passed on the stack."""
        return self._library.trtsim_stack()

    def log(self, logger, slot, severity, message):
        """Call ILogger::log of an object that Python subclassed."""
        self._library.trtsim_log(logger, slot, severity, message.encode())

    def report(self, profiler, slot, name, ms):
        """Call IProfiler::reportLayerTime of an object that Python subclassed."""
        self._library.trtsim_report(profiler, slot, name.encode(), ms)
