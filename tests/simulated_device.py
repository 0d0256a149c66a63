"""Two accelerators in pure Python, `far:0` and `far:1`, for tests on machines without one.

Import it for its effect, in a process of its own: from then on torch has a type of device "far",
and all operators of the process are intercepted. The numbers of a tensor on `far` are in the host's
memory, as its attribute `host`, and CPU kernels compute with them; but

* tensors of several devices cannot be mixed, as on CUDA;
* `waits` lists what makes the host wait, with the line of fitorch that caused it;
* each device has a random generator, a current stream, and memory whose size can be set;
* copies from pinned memory on a side stream, and asynchronous copies to the host, are made only
  when somebody waits for them: until then the target is full of NaN. A target that is used too
  early, or a source that is changed too early, gives wrong numbers.

tests/devices/simulation.py checks all that. The simulation has no sparse tensors, no generator
objects of a device, no recurrent layers (torch calls fused cells on devices), no gradients from one
device to another, no float64 to refuse, no compiled steps and no times.
"""

import contextlib
import sys
import threading
from collections import deque
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.backend_registration import _setup_privateuseone_for_python_backend

NAME, COUNT = "far", 2


# What makes the host wait.


class Wait(NamedTuple):
    """An operator that made the host wait.

    `kind` is "read" (a number that Python needs), "copy to host" or "copy to device"; or "staged",
    for copies from pageable memory that are asked for without waiting: CUDA stages them.
    """

    kind: str
    operator: str
    place: str


waits: list[Wait] = []
races: list[
    str
] = []  # the places of copies whose source was changed before the host knew their end


def _note(kind, operator):
    waits.append(Wait(kind, operator, _place()))


def _place():
    """Return the file and line of the innermost frame of fitorch, "" if there is none."""
    frame = sys._getframe(1)
    while frame is not None:
        name = frame.f_globals.get("__name__", "")
        if name.startswith("fitorch."):
            return f"{name.removeprefix('fitorch.').replace('.', '/')}.py:{frame.f_lineno}"
        frame = frame.f_back
    return ""


# Streams and events.


class Stream:
    """Copies in the order in which they were asked for; `done` of them have been made."""

    def __init__(self, device=None, priority=0):
        self.device = torch.device(NAME, _number(device))
        self._copies, self.asked, self.done = deque(), 0, 0

    def defer(self, copy):
        self._copies.append(copy)
        self.asked += 1

    def run(self, until=None):
        """Make the copies that were asked for first."""
        while self._copies and (until is None or self.done < until):
            self.done += 1
            with torch.no_grad():
                self._copies.popleft()()

    def synchronize(self):
        self.run()
        land()

    def query(self):
        return not self._copies

    def record_event(self, event=None):
        event = Event() if event is None else event
        event.record(self)
        return event

    def wait_event(self, event):
        event.wait()  # the host does not wait

    def wait_stream(self, stream):
        stream.run()


class Event:
    """A moment of a stream."""

    def __init__(self, enable_timing=False, blocking=False, interprocess=False):
        self._stream, self._moment, self._asked = None, 0, 0

    def record(self, stream=None):
        self._stream = current_stream() if stream is None else stream
        self._moment = self._stream.asked

    def synchronize(self):
        self.wait()
        land()

    def wait(self, stream=None):
        if self._stream is not None:
            self._stream.run(self._moment)

    def query(self):
        if self._stream is None:
            return True
        # The device works on while the host asks: the third answer is that all is done.
        self._asked += 1
        if self._asked > 2:
            self._stream.run(self._moment)
        return self._stream.done >= self._moment


def _number(device):
    """Return the number of a device, which may be a name, a number or None."""
    if device is None:
        return _state.device
    number = device if isinstance(device, int) else torch.device(device).index
    return _state.device if number is None else number


# What torch asks of torch.far.


@dataclass
class Memory:
    """The memory of a device in bytes, as tests set it.

    A tensor of more than `largest` bytes does not fit.
    """

    free: int = 2**34
    total: int = 2**35
    allocated: int = 0
    reserved: int = 0
    peak: int = 0
    largest: float = float("inf")


class _State:
    """What changes with time; `reset` begins again."""

    def __init__(self):
        self.generators = [torch.Generator() for _ in range(COUNT)]
        self.reset()

    def reset(self):
        self.device, self.count, self.initialized = 0, COUNT, True
        self.explicit = False  # whether far:0 is asked for by Python, and not by C++
        self.memory = [Memory() for _ in range(COUNT)]
        self.default_streams = [Stream(number) for number in range(COUNT)]
        self.in_flight = []  # sources of copies, with their versions and places
        self.streams = list(self.default_streams)  # the current one of each device
        for generator in self.generators:
            generator.manual_seed(0)


def reset():
    """Let the devices be as they were at first; `waits` is empty."""
    waits.clear()
    races.clear()
    _state.reset()


@contextlib.contextmanager
def _explicit():
    before, _state.explicit = _state.explicit, True
    try:
        yield
    finally:
        _state.explicit = before


def memory(device=None):
    """Return the `Memory` of a device, which tests may change."""
    return _state.memory[_number(device)]


def set_count(count):
    """Let the machine have so many devices, of `COUNT`."""
    _state.count = count


def forget_start():
    """Let the devices be as before their first use."""
    _state.initialized = False


def land():
    """End the copies from pinned memory, as the host waits for the device."""
    for source, version, place in _state.in_flight:
        if source._version != version:
            races.append(place)
    _state.in_flight.clear()


def _take_off(source, place):
    if not source.is_inference():
        _state.in_flight.append((source, source._version, place))


def current_stream(device=None):
    return _state.streams[_number(device)]


class _DeviceGuard:
    """torch.far.device: the current device within a block."""

    def __init__(self, device):
        self._number, self._before = _number(device), []

    def __enter__(self):
        self._before.append(_state.device)
        _state.device = self._number

    def __exit__(self, *_):
        _state.device = self._before.pop()


class _StreamGuard:
    """torch.far.stream: the current stream of its device within a block."""

    def __init__(self, stream):
        self._stream, self._before = stream, None

    def __enter__(self):
        if self._stream is not None:
            number = self._stream.device.index
            self._before, _state.streams[number] = _state.streams[number], self._stream

    def __exit__(self, *_):
        if self._stream is not None:
            _state.streams[self._stream.device.index] = self._before


class _Module:
    """torch.far."""

    device, stream, Stream, Event = _DeviceGuard, _StreamGuard, Stream, Event
    current_stream = staticmethod(current_stream)

    def is_available(self):
        return True

    def is_initialized(self):
        return _state.initialized

    def init(self):
        _state.initialized = True

    def device_count(self):
        return _state.count

    def current_device(self):
        return _state.device

    def set_device(self, device):
        _state.device = _number(device)

    def get_device_name(self, device=None):
        return f"Simulation {_number(device)}"

    def get_amp_supported_dtype(self):
        return [torch.float16, torch.bfloat16]

    def is_bf16_supported(self):
        return True

    def _is_in_bad_fork(self):
        return False

    def default_stream(self, device=None):
        return _state.default_streams[_number(device)]

    def synchronize(self, device=None):
        self.default_stream(device).run()
        current_stream(device).run()
        land()

    def manual_seed(self, seed):
        _state.generators[_state.device].manual_seed(seed)

    def manual_seed_all(self, seed):
        for generator in _state.generators:
            generator.manual_seed(seed)

    def get_rng_state(self, device=NAME):
        return _state.generators[_number(device)].get_state()

    def set_rng_state(self, new_state, device=NAME):
        _state.generators[_number(device)].set_state(new_state)

    def mem_get_info(self, device=None):
        return memory(device).free, memory(device).total

    def memory_allocated(self, device=None):
        return memory(device).allocated

    def memory_reserved(self, device=None):
        return memory(device).reserved

    def max_memory_allocated(self, device=None):
        return memory(device).peak

    def reset_peak_memory_stats(self, device=None):
        memory(device).peak = memory(device).allocated

    def empty_cache(self):
        pass


# Pinned memory.


class _Storages:
    """A set of storages. It has weak references, so that their addresses are not used again."""

    def __init__(self):
        self._references = {}

    def add(self, tensor):
        if len(self._references) > 1000:
            known = self._references.items()
            self._references = {key: each for key, each in known if not each.expired()}
        storage = tensor.untyped_storage()
        self._references[storage._cdata] = StorageWeakRef(storage)
        return tensor

    def __contains__(self, tensor):
        return tensor.untyped_storage()._cdata in self._references


_pinned = _Storages()
_collective = _Storages()  # what gloo got in the place of tensors on devices, and DDP gets from it


# Tensors.


class Far(torch.Tensor):
    """A tensor on a device; `host` is a CPU tensor with its numbers."""

    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls, host, device):
        made = torch.Tensor._make_wrapper_subclass(
            cls,
            host.shape,
            strides=host.stride(),
            storage_offset=host.storage_offset(),
            dtype=host.dtype,
            device=torch.device(NAME, 0),
        )
        made.host, made._device = host, torch.device(device)
        return made

    @property
    def device(self):
        """The device. For torch's C++ all are `far:0`: its autograd knows only one of a backend."""
        return self._device

    def to(self, *args, **options):
        """Copy, or return itself: as C++ would do if it knew the devices."""
        target, dtype, non_blocking, _ = torch._C._nn._parse_to(
            *args, **{name: each for name, each in options.items() if name != "copy"}
        )
        if args and isinstance(args[0], Far):
            target = args[0].device
        if target is None or target.type != NAME:
            return super().to(*args, **options)
        target = torch.device(NAME, _number(target))
        if target == self.device:
            copy = options.get("copy", False)
            return super().to(self.dtype if dtype is None else dtype, copy=copy)
        with _explicit():
            return torch.ops.aten._to_copy(
                self, dtype=dtype, device=target, non_blocking=non_blocking
            )

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        return run(func, args, kwargs or {})

    def __repr__(self):
        return f"Far({self.host}, {self.device})"

    def __format__(self, spec):
        return self.item().__format__(spec) if not self.dim() else super().__format__(spec)

    def __deepcopy__(self, memo):
        if id(self) not in memo:
            memo[id(self)] = _restored(self.host.clone(), self.device, *self._kind())
        return memo[id(self)]

    def __reduce_ex__(self, protocol):  # as a CUDA tensor, it returns to its own device
        return _restored, (self.host.detach(), str(self.device), *self._kind())

    def _kind(self):
        return self.requires_grad, isinstance(self, torch.nn.Parameter)

    def tolist(self):
        _read(self.device, "tolist")
        return self.host.tolist()

    def numpy(self, *, force=False):
        if force:
            return self.cpu().numpy()
        message = f"can't convert {self.device} device type tensor to numpy. Use Tensor.cpu()"
        raise TypeError(message)

    def __array__(self, *_):
        return self.numpy()

    def new_tensor(self, data, *, dtype=None, device=None, requires_grad=False):
        made = torch.tensor(data, dtype=dtype or self.dtype, device="cpu")
        return made.to(self.device if device is None else device).requires_grad_(requires_grad)

    def record_stream(self, stream):
        """Nothing to do: memory of this device is never used again too early."""

    def untyped_storage(self):
        return self.host.untyped_storage()

    def data_ptr(self):
        return self.host.data_ptr()


def _restored(host, device, requires_grad, is_parameter):
    made = Far(host, device)
    if is_parameter:
        return torch.nn.Parameter(made, requires_grad)
    return made.requires_grad_(requires_grad)


# Operators.

_COPIES = ("copy_", "_to_copy")
# These wait for results whose size or value the host must know.
_READS = ("_local_scalar_dense", "equal", "nonzero", "masked_select", "allclose", "bincount")
_READS += ("_unique", "_unique2", "unique_dim", "unique_consecutive")
_INDEXED = ("index", "index_put", "index_put_", "_index_put_impl_")  # indices may be on the host


def _leaves(tree):
    """Yield what is in nested tuples, lists and dicts, as torch's own function but faster."""
    if isinstance(tree, (tuple, list)):
        for item in tree:
            yield from _leaves(item)
    elif isinstance(tree, dict):
        yield from _leaves(list(tree.values()))
    else:
        yield tree


def _mapped(function, tree):
    """Return nested tuples, lists and dicts with a function of each leaf."""
    if isinstance(tree, (tuple, list)):
        return type(tree)([_mapped(function, item) for item in tree])
    if isinstance(tree, dict):
        return {name: _mapped(function, item) for name, item in tree.items()}
    return function(tree)


def _numbers(leaf):
    return leaf.host if isinstance(leaf, Far) else leaf


@dataclass
class _Call:
    """A call of an operator: what it is given, and where its result is."""

    func: object
    args: tuple
    kwargs: dict
    name: str = ""
    far: list = field(default_factory=list)  # tensors on devices
    plain: list = field(default_factory=list)  # tensors on the host
    target: torch.device | None = None  # that is asked for

    def __post_init__(self):
        self.name = self.func.overloadpacket.__name__
        for leaf in _leaves((self.args, self.kwargs)):
            if isinstance(leaf, Far):
                self.far.append(leaf)
            elif isinstance(leaf, torch.Tensor):
                self.plain.append(leaf)
        if self.kwargs.get("device") is not None:
            self.target = torch.device(self.kwargs["device"])

    @property
    def home(self):
        """Where the result is, None for the host."""
        if self.name == "copy_":
            first = self.args[0]
            return first.device if isinstance(first, Far) else None
        if self.target is not None:
            if self.target.type != NAME:
                return None
            number = _number(self.target)
            if number == 0 and not _state.explicit:  # C++ says 0 for all
                number = self.far[0].device.index if self.far else _state.device
            return torch.device(NAME, number)
        return self.far[0].device if self.far else None

    @property
    def waits(self):
        """Whether a copy is to be waited for."""
        return not (self.kwargs.get("non_blocking") or (self.name == "copy_" and self.args[2:3]))

    def on_host(self, args=None):
        """Return the result on the host."""
        args = self.args if args is None else args
        kwargs = self.kwargs if self.target is None else {**self.kwargs, "device": "cpu"}
        args, kwargs = _mapped(_numbers, (args, kwargs))
        return self.func(*args, **kwargs)


def run(func, args, kwargs):
    """Run an operator; refuse what a device refuses."""
    call = _Call(func, args, kwargs)
    if call.name in ("is_pinned", "_pin_memory"):
        return _pin(call)
    pins = call.kwargs.get("pin_memory")
    if pins:
        call.kwargs = {**call.kwargs, "pin_memory": False}
    if not call.far and call.home is None:
        return _pinned.add(call.on_host()) if pins else func(*args, **call.kwargs)
    result = _on_device(call)
    return _pinned.add(result) if pins and isinstance(result, torch.Tensor) else result


def _on_device(call):
    """Run an operator of tensors on a device, or one that makes them."""
    if call.func.namespace == "c10d":  # the collective of gloo, which knows only the host
        current_stream(call.far[0].device).run()
        for tensor in call.far:
            _collective.add(tensor.host)
        return _returned(call, call.on_host())
    if call.name in _COPIES:
        copied = _copied(call)
        if copied is not None:
            return copied
    else:
        _refuse_mixed(call)
        _note_reads(call)
    if current_stream(call.home) not in _state.default_streams:
        current_stream(call.home).run()  # what is done on a stream is done in its order
    return _returned(call, _with_own_generator(call))


def _pin(call):
    tensor = call.args[0]
    if call.name == "is_pinned":
        return not call.far and tensor in _pinned
    if call.far or tensor.layout is not torch.strided:
        message = f"cannot pin '{tensor.type()}' only dense CPU tensors can be pinned"
        raise RuntimeError(message)
    return _pinned.add(tensor.clone())


def _refuse_mixed(call):
    """Refuse tensors of several devices; numbers of the host may be mixed in."""
    devices = {tensor.device for tensor in call.far}
    joins = call.name in ("stack", "cat")
    plain = [tensor for tensor in call.plain if tensor.dim() or joins]
    if call.name in _INDEXED and plain:
        _note("copy to device", call.name)
        plain = []
    if len(devices) > 1 or (devices and plain):
        listed = " and ".join(sorted(map(str, devices | {tensor.device for tensor in plain})))
        message = "Expected all tensors to be on the same device, but found at least two devices, "
        raise RuntimeError(f"{message}{listed}! (aten::{call.name})")


def _note_reads(call):
    if not call.far:
        return
    reads = call.name in _READS or (call.name == "repeat_interleave" and len(call.far) > 0)
    if call.name in _INDEXED:
        masks = any(index is not None and index.dtype is torch.bool for index in call.args[1])
        filled = call.name != "index" and not isinstance(call.args[2], Far)  # as masked_fill_
        reads = masks and not filled
    if reads:
        _read(call.far[0].device, call.name)


def _read(device, operator):
    """The host waits for the current stream of a device."""
    _note("read", operator)
    current_stream(device).run()
    land()


def _copied(call):
    """Return the result of a copy between host and device; None within one of them."""
    source = call.args[1] if call.name == "copy_" else call.args[0]
    from_far = isinstance(source, Far) or source in _collective
    if from_far == (call.home is not None):
        return None
    if from_far:
        return _copied_to_host(call, source)
    return _copied_to_device(call, source)


def _copied_to_host(call, source):
    stream, target = current_stream(source.device), call.args[0]
    pinned = call.name == "_to_copy" or target in _pinned
    if call.waits or not pinned:
        _note("copy to host", call.name)
        stream.run()
        land()
        return call.on_host()
    # The numbers at this moment of the stream, which arrive later.
    moment = source.host.clone()
    result = call.on_host()
    stream.defer(lambda: result.copy_(moment))
    return _pinned.add(_spoil(result)) if call.name == "_to_copy" else _spoil(result)


def _copied_to_device(call, source):
    stream = current_stream(call.home)
    pinned = source in _pinned
    if call.waits or not pinned:
        _note("copy to device" if call.waits else "staged", call.name)
    elif stream not in _state.default_streams:
        result, place = _returned(call, call.on_host()), _place()

        def copy():
            result.host.copy_(source)
            _take_off(source, place)

        stream.defer(copy)
        _spoil(result.host)
        return result
    else:
        _take_off(source, _place())
    return _returned(call, call.on_host())


def _spoil(tensor):
    """Fill a tensor with what nobody expects, in its place."""
    kind = tensor.dtype
    if kind.is_floating_point or kind.is_complex:
        return tensor.fill_(float("nan"))
    return tensor.fill_(True if kind is torch.bool else torch.iinfo(kind).max)


def _with_own_generator(call):
    """Return the result on the host, with random numbers of the device's own generator."""
    if torch.Tag.nondeterministic_seeded not in call.func.tags or call.home is None:
        return call.on_host()
    for leaf in _leaves((call.args, call.kwargs)):
        if isinstance(leaf, torch.Generator):
            message = f"Expected a '{NAME}' device type for generator but found '{leaf.device}'"
            raise RuntimeError(message)  # noqa: TRY004 - as torch does
    own, before = _state.generators[call.home.index], torch.default_generator.get_state()
    torch.default_generator.set_state(own.get_state())
    try:
        return call.on_host()
    finally:
        own.set_state(torch.default_generator.get_state())
        torch.default_generator.set_state(before)


def _returned(call, result):
    """Return the result on its device; what was changed in place is the same object."""
    if call.home is None:
        return result
    known = {id(tensor.host): tensor for tensor in call.far}

    def placed(leaf):
        if not isinstance(leaf, torch.Tensor):
            return leaf
        if id(leaf) in known:
            return known[id(leaf)]
        size, limit = leaf.numel() * leaf.element_size(), memory(call.home).largest
        if size > limit:
            message = f"{call.home} out of memory. Tried to allocate {size} bytes"
            raise torch.OutOfMemoryError(message)
        return Far(leaf, call.home)

    return _mapped(placed, result)


class _Everywhere(TorchDispatchMode):
    """Intercepts all operators of a thread, also those that make tensors."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        return run(func, args, kwargs or {})


def _in_threads():
    """Intercept operators in all threads that start from now on."""
    plain_run = threading.Thread.run

    def intercepted(thread):
        with _Everywhere():
            plain_run(thread)

    threading.Thread.run = intercepted


def _empty_strided(size, stride, dtype=None, layout=None, device=None, pin_memory=None):
    """Make the tensors of `torch.tensor(..., device=)`, which asks no mode."""
    return Far(torch.empty_strided(size, stride, dtype=dtype, device="cpu"), _device(device))


def _device(device):
    return torch.device(NAME, _number(device))


def _copy_from(source, target, non_blocking=False):
    """Fill the tensors of `torch.tensor(..., device=)`."""
    _note("copy to device", "tensor")
    target.host.copy_(_on_host(source))
    return target


# What CUDA computes in lower precision under autocast, and what in float32.
_LOWER = ("linear", "matmul", "mm", "addmm", "bmm", "baddbmm", "addmv", "mv", "conv1d", "conv2d")
_FLOAT32 = ("softmax.int", "log_softmax.int", "layer_norm", "exp", "log", "sum", "nll_loss", "norm")


def _register_operators():
    """Register what torch asks below the modes."""
    library = torch.library.Library("aten", "IMPL")
    library.impl("empty_strided", _empty_strided, "PrivateUse1")
    library.impl("_copy_from", _copy_from, "PrivateUse1")
    autocast = torch.library.Library("_", "IMPL")
    autocast.fallback(torch.library.fallthrough_kernel, "AutocastPrivateUse1")
    for names, lower in ((_LOWER, True), (_FLOAT32, False)):
        for name in names:
            packet, _, overload = name.partition(".")
            operator = getattr(getattr(torch.ops.aten, packet), overload or "default", None)
            if operator is not None:
                library.impl(name, _autocast(operator, lower), "AutocastPrivateUse1")
    return library, autocast


def _autocast(operator, lower):
    """Return the operator with floating arguments cast."""
    off = torch._C.DispatchKeySet(torch._C.DispatchKey.AutocastPrivateUse1)

    def cast(*args, **kwargs):
        kind = torch.get_autocast_dtype(NAME) if lower else torch.float32

        def converted(leaf):
            floating = isinstance(leaf, torch.Tensor) and leaf.dtype.is_floating_point
            return leaf.to(kind) if floating and leaf.dtype is not torch.float64 else leaf

        with torch._C._ExcludeDispatchKeyGuard(off):
            return operator(*_mapped(converted, args), **_mapped(converted, kwargs))

    return cast


def _group_by_their_devices():
    """Let torch's optimizers and clipping know the devices, all of which C++ takes for `far:0`."""
    group = torch._C._group_tensors_by_device_and_dtype

    def grouped(lists, *args, **options):
        found = {}
        for (device, dtype), group_of_one in group(lists, *args, **options).items():
            first = next(tensor for tensor in group_of_one[0][0] if tensor is not None)
            found[(first.device if device.type == NAME else device, dtype)] = group_of_one
        return found

    torch._C._group_tensors_by_device_and_dtype = grouped


def _let_them_be_saved():
    """Let fitorch and safetensors save our tensors, although they are of a subclass.

    The encoder of checkpoints refuses subclasses, and safetensors reads memory that they lack. No
    public name stands for either.
    """
    import safetensors.torch

    from fitorch.checkpoint import encoding

    check, save = encoding._unsupported, safetensors.torch.save_file
    encoding._unsupported = lambda tensor: check(_on_host(tensor))

    def save_file(tensors, *args, **options):
        return save({name: _on_host(each) for name, each in tensors.items()}, *args, **options)

    safetensors.torch.save_file = save_file


def _on_host(tensor):
    return tensor.host.detach() if isinstance(tensor, Far) else tensor


@contextlib.contextmanager
def counted():
    """Yield a list that holds the waits of the block once it has ended."""
    first, found = len(waits), []
    try:
        yield found
    finally:
        found += waits[first:]


_setup_privateuseone_for_python_backend(NAME, backend_module=_Module())
_state = _State()
_libraries = _register_operators()  # they hold as long as these objects
_Everywhere().__enter__()
_in_threads()
_group_by_their_devices()
_let_them_be_saved()
