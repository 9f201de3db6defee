"""Pickles are read for their arrays; whatever else they ask for does not happen."""

import argparse
import ast
import collections
import copyreg
import datetime
import io
import os
import pickle
import struct
import subprocess
import zipfile
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch

from maskrcnn import weights
from maskrcnn.errors import WeightsError
from maskrcnn.weights import pickles


class Calls:
    """A pickle of this calls ``function(*arguments)`` when it is read by Python's own reader."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


class WithState(Calls):
    def __reduce__(self):
        return (*self.call, {"__class__": "x"})


@pytest.fixture
def sprung(tmp_path):
    """The file that a hostile pickle would make; at the end it must not be there."""
    path = tmp_path / "sprung"
    yield path
    assert not path.exists()


def traps(path):
    """(what it asks for, object)"""
    touch = f"touch {path}"
    python = f"open({str(path)!r}, 'w')"
    return [
        ("posix.system", Calls(os.system, touch)),
        ("builtins.eval", Calls(eval, python)),
        ("builtins.exec", Calls(exec, python)),
        ("builtins.open", Calls(open, str(path), "w")),
        ("subprocess.Popen", Calls(subprocess.Popen, ["touch", str(path)])),
        ("builtins.getattr", Calls(getattr, Calls(__import__, "os"), "system")),
        ("builtins.__import__", Calls(__import__, "os")),
        ("builtins.map", [Calls(map, os.system, [touch])]),
        ("pickle.loads", {"model": {"a": Calls(pickle.loads, pickle.dumps(Calls(os.system, touch)))}}),
        ("torch.serialization.load", Calls(torch.load, str(path))),
        ("builtins.type", WithState(type, "X", (), {})),
        ("posix.system", collections.OrderedDict(model={"w": [1, (2, {"x": Calls(os.system, touch)})]})),
        ("functools.partial", Calls(__import__("functools").partial, os.system, touch)),
        ("operator.attrgetter", Calls(__import__("operator").attrgetter, "system")),
    ]


NAMES = [name for name, _ in traps("x")]


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize("number", range(len(NAMES)), ids=NAMES)
def test_a_hostile_pickle_is_refused_by_the_name_it_asks_for(tmp_path, sprung, number, protocol):
    name, trap = traps(sprung)[number]
    path = tmp_path / "model.pkl"
    path.write_bytes(pickle.dumps(trap, protocol))
    with pytest.raises(WeightsError, match="asks for") as error:
        pickles.read(path)
    asked = str(error.value).split("asks for ")[1].split(",")[0].rpartition(".")[2]
    # Python 2's map is itertools.imap; an import for getattr is met before it.
    assert asked in (name.rpartition(".")[2], "imap", "__import__")


@pytest.mark.parametrize("number", range(len(NAMES)), ids=NAMES)
def test_a_hostile_pickle_inside_a_zip_is_refused(tmp_path, sprung, number):
    path = tmp_path / "model.pth"
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("archive/data.pkl", pickle.dumps({"model": traps(sprung)[number][1]}, 2))
    with pytest.raises(WeightsError, match="asks for"):
        weights.load(path)


@pytest.mark.parametrize("legacy", [False, True])
def test_a_hostile_object_in_a_torch_file_is_refused(tmp_path, sprung, legacy):
    path = tmp_path / "model.pth"
    content = {"model": {"w": torch.ones(2)}, "hook": Calls(os.system, f"touch {sprung}")}
    torch.save(content, path, _use_new_zipfile_serialization=not legacy)
    with pytest.raises(WeightsError, match=r"posix\.system"):
        weights.load(path)


def text(value):
    return b"X" + struct.pack("<I", len(value)) + value


def asks(module, name):
    """STACK_GLOBAL of any two strings."""
    return text(module) + text(name) + b"\x93"


@pytest.mark.parametrize(
    "program",
    [
        b"cos\nsystem\n(S'true'\ntR.",  # GLOBAL, REDUCE
        b"(S'true'\nios\nsystem\n.",  # INST
        b"(cos\nsystem\nS'true'\no.",  # OBJ
        b"\x80\x04" + asks(b"os", b"system") + b"\x8c\x04true\x85R.",
        b"\x80\x04" + asks(b"numpy.core.multiarray", b"_reconstruct.__globals__") + b".",
        b"\x80\x04" + asks(b"collections", b"OrderedDict.__init__.__globals__") + b".",
        b"\x80\x04" + asks(b"torch._utils", b"os.system") + b".",
        b"\x80\x04" + asks(b"torch", b"_utils._rebuild_tensor_v2.__globals__") + b".",
        b"\x80\x04" + asks(b"", b"eval") + b".",
        b"\x80\x04" + asks(b"builtins\n", b"eval") + b".",
        b"\x80\x04" + asks("builtinѕ".encode(), b"eval") + b".",  # a Cyrillic letter
        b"\x80\x04" + text(b"os") + b"\x94" + text(b"system") + b"\x94h\x00h\x01\x93(tR.",  # through the memo
        b"\x80\x02\x82\x01.",  # EXT1: the registry of extensions
        b"\x80\x02cnumpy\ndtype\n(tR}b.",  # a state that is none
        b"\x80\x02X\x01\x00\x00\x00aQ.",  # BINPERSID outside of a torch file
        b"Ppersistent\n.",  # PERSID
    ],
)
def test_programs_written_by_hand_are_refused(tmp_path, program):
    path = tmp_path / "x.pkl"
    path.write_bytes(program)
    with pytest.raises(WeightsError):
        pickles.read(path)


def test_what_is_allowed_cannot_be_turned_into_something_else(tmp_path):
    """BUILD hands a state to an object: here to the class, to the call itself and to the thing called."""
    for start in (b"ccollections\nOrderedDict\n", b"c_codecs\nencode\n", b"ctorch\nFloatStorage\n"):
        (tmp_path / "x.pkl").write_bytes(b"\x80\x02" + start + b"}X\x05\x00\x00\x00itemsK\x01sb.")
        pickles.read(tmp_path / "x.pkl")
    (tmp_path / "x.pkl").write_bytes(b"\x80\x02ccollections\nOrderedDict\n)R}X\x05\x00\x00\x00itemsK\x01sb.")
    assert pickles.read(tmp_path / "x.pkl") == {}
    assert collections.OrderedDict(a=1).items() == {"a": 1}.items()


def test_memo_tricks_neither_hang_nor_fill_memory(tmp_path):
    path = tmp_path / "x.pkl"
    path.write_bytes(b"\x80\x02]r\xff\xff\xff\xff.")  # LONG_BINPUT at the last place of the memo
    assert pickles.read(path) == []
    laughs = [1]
    for _ in range(100):
        laughs = [laughs] * 10
    path.write_bytes(pickle.dumps({"model": laughs}))
    assert isinstance(pickles.read(path)["model"], list)
    path.write_bytes(b"\x80\x02]q\x00h\x00a.")  # a list that holds itself
    with pytest.raises(WeightsError, match="damaged"):
        pickles.read(path)
    path.write_bytes(b"\x80\x02" + b"]" * 100_000 + b"a" * 99_999 + b".")
    with pytest.raises(WeightsError, match="damaged"):
        pickles.read(path)


def tensor_pickle(numel, offset, size, stride, key="0"):
    """data.pkl of a torch archive with one tensor, its numbers as given."""
    content = io.BytesIO()
    pickler = pickle.Pickler(content, 2)
    storage = object()
    pickler.persistent_id = lambda x: (
        ("storage", torch.FloatStorage, key, "cpu", numel) if x is storage else None
    )
    pickler.dump(Calls(torch._utils._rebuild_tensor_v2, storage, offset, size, stride, False, {}))
    return content.getvalue()


@pytest.mark.parametrize(
    ("numel", "offset", "size", "stride"),
    [(4, 0, (5,), (1,)), (4, 3, (2,), (1,)), (4, 0, (2, 2), (4, 1)), (4, -1, (2,), (1,)), (4, 0, (2,), (-1,)),
     (1 << 40, 0, (2,), (1,)), (4, 1 << 62, (2,), (1,))],
)  # fmt: skip
def test_a_tensor_never_reaches_beyond_its_storage(tmp_path, numel, offset, size, stride):
    path = tmp_path / "x.pth"
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("archive/data.pkl", tensor_pickle(numel, offset, size, stride))
        file.writestr("archive/data/0", np.ones(4, np.float32).tobytes())
    with pytest.raises(WeightsError):
        pickles.read(path)


def test_a_compressed_archive_is_refused(tmp_path):
    """torch never compresses; a small file that fills the memory does."""
    path = tmp_path / "x.pth"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("archive/data.pkl", tensor_pickle(1 << 20, 0, (1,), (1,)))
        file.writestr("archive/data/0", bytes(1 << 22))
    with pytest.raises(WeightsError, match="compressed"):
        pickles.read(path)


@pytest.mark.parametrize("protocol", range(6))
def test_arrays_of_every_kind_come_back(tmp_path, protocol):
    arrays = {
        "c": np.arange(6, dtype=np.float32).reshape(2, 3),
        "fortran": np.asfortranarray(np.arange(6, dtype=np.float64).reshape(2, 3)),
        "big": np.arange(3, dtype=">i4"),
        "half": np.float16([1.5]),
        "empty": np.empty((0, 2), np.int64),
        "none": np.array(7, np.int64),
        "bool": np.array([True, False]),
        "bytes": np.arange(256, dtype=np.uint8),
    }
    path = tmp_path / "x.pkl"
    path.write_bytes(pickle.dumps({"model": arrays, "n": np.float32(2.5), "s": {1, 2}}, protocol))
    found = pickles.read(path)
    assert found["n"] == 2.5
    for name, value in arrays.items():
        assert torch.equal(
            found["model"][name], torch.from_numpy(value.astype(value.dtype.newbyteorder("=")))
        ), name


@pytest.mark.parametrize("legacy", [False, True])
def test_tensors_of_every_kind_come_back(tmp_path, legacy):
    base = torch.arange(12.0)
    tensors = {
        "view": base.view(3, 4)[1:, ::2],
        "same": base,
        "half": torch.ones(2, dtype=torch.float16),
        "bfloat16": torch.ones(2, dtype=torch.bfloat16),
        "count": torch.tensor(5),
        "parameter": torch.nn.Parameter(torch.ones(2)),
        "bool": torch.tensor([True]),
        "empty": torch.empty(0, 3),
    }
    path = tmp_path / "x.pth"
    torch.save(collections.OrderedDict(tensors), path, _use_new_zipfile_serialization=not legacy)
    found = pickles.read(path)
    assert all(torch.equal(found[name], value) for name, value in tensors.items())


def test_strings_that_python_2_wrote_are_bytes_of_arrays(tmp_path):
    """numpy.ndarray of Python 2: the data is a str, SHORT_BINSTRING."""
    program = (
        b"\x80\x02cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R"
        b"(K\x01K\x02\x85cnumpy\ndtype\nU\x02f4K\x00K\x01\x87R(K\x03U\x01<NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
        b"\x89U\x08" + np.float32([1.5, -2.0]).tobytes() + b"tb."
    )
    (tmp_path / "x.pkl").write_bytes(program)
    assert pickles.read(tmp_path / "x.pkl").tolist() == [1.5, -2.0]


def test_arrays_of_objects_are_refused(tmp_path):
    path = tmp_path / "x.pkl"
    path.write_bytes(pickle.dumps(np.array([{}, "x"], dtype=object)))
    with pytest.raises(WeightsError, match=r"numbers|objects"):
        pickles.read(path)


def test_arguments_of_a_training_script_become_empty(tmp_path):
    path = tmp_path / "x.pth"
    torch.save({"model": {"w": torch.ones(2)}, "args": argparse.Namespace(lr=1), "epoch": 3}, path)
    found = pickles.read(path)
    assert (found["args"], found["epoch"], found["model"]["w"].tolist()) == (None, 3, [1.0, 1.0])


class Buffer:
    """Like mmengine's HistoryBuffer: numbers, and its own methods by their names."""

    def __init__(self):
        self.values, self.methods = np.arange(3), {"min": Buffer.least}

    def least(self):
        return 0


@pytest.mark.parametrize("protocol", [2, 4])
def test_objects_of_mmengine_become_empty_and_their_methods_too(tmp_path, monkeypatch, protocol):
    content = pickle.dumps({"message_hub": {"a": Buffer()}, "epoch": np.int64(3), "model": {}}, protocol)
    name, other = f"{__name__}", "mmengine.logging"
    content = content.replace(f"c{name}\n".encode(), f"c{other}\n".encode())
    content = content.replace(
        b"\x8c" + bytes([len(name)]) + name.encode(), b"\x8c" + bytes([len(other)]) + other.encode()
    )
    content = b"\x80" + bytes([protocol]) + content[11:] if protocol == 4 else content  # without its frame
    (tmp_path / "x.pkl").write_bytes(content)
    assert pickles.read(tmp_path / "x.pkl") == {"message_hub": {"a": None}, "epoch": 3, "model": {}}


def test_getattr_of_anything_else_is_refused(tmp_path):
    (tmp_path / "x.pkl").write_bytes(
        b"\x80\x02c__builtin__\ngetattr\nccollections\nOrderedDict\nU\x05clear\x86R."
    )
    with pytest.raises(WeightsError, match=r"builtins\.getattr"):
        pickles.read(tmp_path / "x.pkl")


def test_a_whole_saved_model_is_refused_with_the_way_out(tmp_path):
    path = tmp_path / "x.pth"
    torch.save(torch.nn.Linear(2, 2), path)
    with pytest.raises(WeightsError, match=r"torch\.nn\.modules\.linear\.Linear.*state_dict"):
        pickles.read(path)


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("share", [0.1, 0.5, 0.9, 0.999])
def test_truncated_files_say_so(tmp_path, legacy, share):
    path = Path(tmp_path / "x.pth")
    torch.save({"w": torch.arange(1000.0)}, path, _use_new_zipfile_serialization=not legacy)
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])
    with pytest.raises(WeightsError, match=r"truncated|damaged|cut off"):
        weights.load(path)


def test_no_module_of_the_package_loads_a_pickle_in_another_way():
    """torch.load and pickle.load run what a file asks for, unless torch.load is told to build arrays only."""
    source = Path(weights.__file__).parent.parent
    for path in [*source.rglob("*.py"), *source.with_name("mrcnn").rglob("*.py")]:
        code = path.read_text()
        assert "pickle.load" not in code, path
        assert "allow_pickle=True" not in code, path
        for call in ast.walk(ast.parse(code)):
            if isinstance(call, ast.Call) and ast.unparse(call.func) == "torch.load":
                assert ("weights_only", "True") in {(k.arg, ast.unparse(k.value)) for k in call.keywords}, (
                    path
                )


# --- small files that claim much ---


def nested(depth=64):
    """A tuple that holds itself in halves: few bytes, and 2 ** depth steps to hash or to print."""
    value = (1,)
    for _ in range(depth):
        value = (value, value)
    return pickle.dumps(value, 2)[2:-1]  # without its header and its end


HARD = b"\x80\x02" + nested() + b"."


@pytest.mark.parametrize(
    "program",
    [
        b"\x80\x04\x8e" + struct.pack("<Q", 1 << 44) + b".",  # BINBYTES8
        b"\x80\x04\x8d" + struct.pack("<Q", 1 << 44) + b".",  # BINUNICODE8
        b"\x80\x05\x96"
        + struct.pack("<Q", 1 << 36)
        + b".",  # BYTEARRAY8, which Python fills with zeros first
        b"\x80\x04\x95" + struct.pack("<Q", 1 << 44) + b".",  # FRAME
        b"\x80\x02T" + struct.pack("<i", 2**31 - 1) + b".",  # BINSTRING
        b"\x80\x02\x8b" + struct.pack("<i", 2**31 - 1) + b".",  # LONG4
        b"\x80\x03cbuiltins\nbytearray\n(\x8a\x06" + (1 << 40).to_bytes(6, "little") + b"tR.",
        b"\x80\x02c_codecs\nencode\n(\x8a\x06" + (1 << 40).to_bytes(6, "little") + b"X\x06\0\0\0latin1tR.",
        b"\x80\x02cnumpy\ndtype\n(" + nested() + b"tR.",
        b"\x80\x02cnumpy\ndtype\n(X\x02\0\0\0f4tR(K\x03" + nested() + b"tb.",
        b"\x80\x02c_codecs\nencode\n(X\x01\0\0\0a" + nested() + b"tR.",
        b"I" + b"9" * 100_000 + b"\n.",
        b"\x80\x02(" + b"K\x01" * 10 + b"u.",  # entries of no dict
        b"\x80\x02}(K\x01u.",  # a key without a value
    ],
)
def test_a_small_file_that_claims_much_is_refused_at_once(tmp_path, program):
    (tmp_path / "x.pkl").write_bytes(program)
    with pytest.raises(WeightsError):
        pickles.read(tmp_path / "x.pkl")


def test_keys_and_members_are_never_hashed_unless_they_are_plain(tmp_path):
    path, hard = tmp_path / "x.pkl", nested()
    for program in (
        b"\x80\x02}" + hard + b"K\x01s.",  # SETITEM
        b"\x80\x02}(" + hard + b"K\x01u.",  # SETITEMS
        b"\x80\x02(" + hard + b"K\x01d.",  # DICT
        b"\x80\x02ccollections\nOrderedDict\n(](" + hard + b"K\x01\x86etR.",
    ):
        path.write_bytes(program)
        assert pickles.read(path) == {}
    for program in (
        b"\x80\x04\x8f(" + hard + b"\x90.",  # EMPTY_SET, ADDITEMS
        b"\x80\x04(" + hard + b"\x91.",  # FROZENSET
        b"\x80\x02cbuiltins\nset\n(](" + hard + b"etR.",
    ):
        path.write_bytes(program)
        assert isinstance(pickles.read(path), list)


def test_a_tensor_that_repeats_one_number_is_refused_when_it_is_large(tmp_path):
    path = tmp_path / "x.pth"
    for size, good in (((1 << 40,), False), ((1 << 30, 1 << 30), False), ((3, 5), True)):
        with zipfile.ZipFile(path, "w") as file:
            file.writestr("archive/data.pkl", tensor_pickle(1, 0, size, (0,) * len(size)))
            file.writestr("archive/data/0", np.ones(1, np.float32).tobytes())
        if good:
            assert pickles.read(path).shape == size
        else:
            with pytest.raises(WeightsError, match="repeats"):
                pickles.read(path)


def archive(path, make, storages):
    """A torch archive whose pickle ``make`` builds around one storage, and the bytes of that."""
    content, storage = io.BytesIO(), object()
    pickler = pickle.Pickler(content, 2)
    pickler.persistent_id = lambda x: (
        ("storage", torch.HalfStorage, storages[0], "cpu", 1) if x is storage else None
    )
    pickler.dump(make(storage))
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("archive/data.pkl", content.getvalue())
        file.writestr("archive/data/0", storages[1])
    return path


def half(storage, size, stride):
    return Calls(torch._utils._rebuild_tensor_v2, storage, 0, size, stride, False, {})


def test_many_tensors_that_repeat_one_number_are_refused(tmp_path):
    """Two thousand of two megabytes each, once somebody turns them into float32."""
    path = archive(
        tmp_path / "x.pth", lambda s: [half(s, (1 << 20,), (0,)) for _ in range(2000)], ("0", b"\0\0")
    )
    with pytest.raises(WeightsError, match="repeats"):
        pickles.read(path)
    path = archive(tmp_path / "x.pth", lambda s: Calls(set, half(s, (1 << 20,), (0,))), ("0", b"\0\0"))
    with pytest.raises(WeightsError, match="got a Tensor"):  # a set of a million tensors
        pickles.read(path)


def test_numbers_beyond_64_bits_are_not_calculated_with(tmp_path):
    """Products of numbers of three megabytes each take minutes."""
    huge = (1 << 24_000_000) - 1
    path = archive(tmp_path / "x.pth", lambda s: half(s, (huge,), (huge,)), ("0", b"\0\0"))
    with pytest.raises(WeightsError, match="stride"):
        pickles.read(path)


def test_the_name_of_a_storage_is_text(tmp_path):
    """To hash or to print 2 ** 64 ones takes for ever."""
    path = archive(tmp_path / "x.pth", lambda s: half(s, (1,), (1,)), (pickle.loads(HARD), b"\0\0"))
    with pytest.raises(WeightsError, match="got a tuple"):
        pickles.read(path)
    stream = [pickles.LEGACY_MAGIC, 1001, {"little_endian": True}, {}]
    content = b"".join(pickle.dumps(value, 2) for value in stream)
    path.write_bytes(content + b"\x80\x02]" + HARD[2:-1] + b"a.")
    with pytest.raises(WeightsError, match="no text"):
        pickles.read(path)


def test_a_file_cannot_copy_its_bytes_without_end(tmp_path):
    """A quarter of a megabyte of text as bytes, of a list as a set; then again, for five bytes each."""
    path, times = tmp_path / "x.pkl", 100
    for value, call in (
        (text(bytes(1 << 18)), b"c_codecs\nencode\n"),
        (b"(" + b"K\x01" * (1 << 18) + b"l", b"cbuiltins\nset\n"),
    ):
        path.write_bytes(
            b"\x80\x02" + value + b"q\x00" + call + b"q\x01(" + b"h\x01h\x00\x85R" * times + b"l."
        )
        with pytest.raises(WeightsError, match="repeats its bytes"):
            pickles.read(path)


def test_numbers_with_one_hash_are_no_keys(tmp_path):
    """Multiples of 2 ** 61 - 1 all hash to 0, and a dict of n such keys takes n * n steps."""
    keys = b"".join(b"\x8a\x0a" + (i * (2**61 - 1)).to_bytes(10, "little") + b"K\x01" for i in range(1, 1000))
    (tmp_path / "x.pkl").write_bytes(b"\x80\x02}(" + keys + b"K\x07K\x02u.")
    assert pickles.read(tmp_path / "x.pkl") == {7: 2}
    (tmp_path / "x.pkl").write_bytes(b"(dp1\np%d\n." % (2**61 - 1))
    with pytest.raises(WeightsError, match="memo"):
        pickles.read(tmp_path / "x.pkl")


def test_extensions_of_this_process_are_not_reached(tmp_path, sprung):
    """Python keeps what an extension was resolved to, and hands it out without asking for its name."""
    copyreg._extension_cache[77] = os.system
    try:
        program = b"\x80\x02\x82\x4d" + text(f"touch {sprung}".encode()) + b"\x85R."
        (tmp_path / "x.pkl").write_bytes(program)
        with pytest.raises(WeightsError, match="extension"):
            pickles.read(tmp_path / "x.pkl")
    finally:
        del copyreg._extension_cache[77]


def test_what_training_scripts_keep_beside_the_weights_becomes_empty(tmp_path):
    """torchvision's own script stores its schedule, whose milestones are a Counter."""
    path, weight = tmp_path / "x.pth", torch.ones(2)
    schedule = {"gamma": 0.1, "milestones": collections.Counter([16, 22])}
    content = {"model": {"weight": weight}, "lr_scheduler": schedule, "out": Path("runs"),
               "started": datetime.datetime(2020, 1, 1), "last": collections.deque([1.0], 3)}  # fmt: skip
    torch.save(content, path)
    found = pickles.read(path)
    assert torch.equal(found["model"]["weight"], weight)
    assert found["lr_scheduler"]["gamma"] == 0.1
    assert (found["lr_scheduler"]["milestones"], found["out"], found["started"], found["last"]) == (None,) * 4


def test_the_pickle_of_an_archive_may_not_be_compressed_either(tmp_path):
    path = tmp_path / "x.pth"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("archive/data.pkl", b"\x80\x02X" + struct.pack("<I", 1 << 24) + bytes(1 << 24) + b".")
    with pytest.raises(WeightsError, match="compressed"):
        pickles.read(path)


def test_entries_that_lie_on_each_other_are_refused(tmp_path):
    """A hundred names for the same megabyte."""
    path, content = tmp_path / "x.pth", io.BytesIO()
    storages = [object() for _ in range(100)]
    pickler = pickle.Pickler(content, 2)
    pickler.persistent_id = lambda x: (
        ("storage", torch.FloatStorage, str(storages.index(x)), "cpu", 1 << 18) if x in storages else None
    )
    pickler.dump([Calls(torch._utils._rebuild_tensor_v2, s, 0, (1,), (1,), False, {}) for s in storages])
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("archive/data.pkl", content.getvalue())
        file.writestr("archive/data/0", bytes(1 << 20))
        first = file.getinfo("archive/data/0")
        for i in range(1, 100):
            other = zipfile.ZipInfo(f"archive/data/{i}")
            other.header_offset, other.CRC = first.header_offset, first.CRC
            other.file_size = other.compress_size = 1 << 20
            file.filelist.append(other)
    with pytest.raises(WeightsError):
        pickles.read(path)


@pytest.mark.parametrize(
    ("head", "message"),
    [
        (b"sys_info".ljust(257, b"\0") + b"ustar\0" + b"00" + bytes(300), "a tar archive"),
        (b"\x1f\x8b\x08" + bytes(100), "a compressed file"),
        (b"PK\x03\x04" + bytes(60), "cut off"),
    ],
)
def test_other_containers_are_named(tmp_path, head, message):
    (tmp_path / "x.pth").write_bytes(head)
    with pytest.raises(WeightsError, match=message):
        weights.load(tmp_path / "x.pth")


def test_an_hdf5_file_that_claims_terabytes_is_refused(tmp_path):
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file.create_dataset(
            "mrcnn_class_logits/mrcnn_class_logits/kernel:0", (1 << 40,), "f4", chunks=(1 << 20,)
        )
    with pytest.raises(WeightsError, match="claim"):
        weights.load(tmp_path / "x.h5")
