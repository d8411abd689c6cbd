"""Where the weights of native models come from: a path, the hub's cache, the hub, or a download.

A mirror of the hub is named by the environment variable HF_ENDPOINT, and HF_HUB_OFFLINE=1 keeps
from asking it at all: both are the hub library's own. Pickles are read as plain tensors only, and
kept as safetensors in vipo's cache.
"""

import hashlib
import os
import re
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vipo_cli.errors import MissingWeights, ModelError
from vipo_cli.run import cache_home, fingerprint, writing

_MAY_FETCH = ContextVar("may_fetch", default=True)


@dataclass(frozen=True, slots=True)
class File:
    """A file of weights or vocabulary.

    Attributes:
        name: its path in the repository.
        bytes: about how large it is; where no page tells, as its tensors are in float32.
        sha256: of the published file or how it begins, where a public page or its name tells it.
        url: where it is published, if no repository of the hub is its home.
        needed: whether the source is of no use without it.
    """

    name: str
    bytes: int
    sha256: str | None = None
    url: str = ""
    needed: bool = True


@dataclass(frozen=True, slots=True)
class Source:
    """A set of files that belong together, and where they are published.

    Attributes:
        name: what vipo calls it.
        repository: its repository on the hub; empty where the files have addresses of their own.
        files: all that is needed of it.
        licence: that of the weights.
        note: what a user must do by hand, where nothing can be fetched.
    """

    name: str
    repository: str
    files: tuple[File, ...]
    licence: str
    note: str = ""

    @property
    def bytes(self) -> int:
        """Return about how much there is to download."""
        return sum(file.bytes for file in self.files)

    @property
    def page(self) -> str:
        """Return how people call the place that it comes from."""
        return self.repository or self.name


def _tokenizer(*extra: File) -> tuple[File, ...]:
    names = (("tokenizer.json", 2_224_000), ("tokenizer_config.json", 1_000))
    special = File("special_tokens_map.json", 400, needed=False)
    return (*(File(name, size) for name, size in names), special, *extra)


_CONFIG = File("config.json", 5_000)
_VIDEOSCORE = (
    _CONFIG,
    File("preprocessor_config.json", 1_000),
    File("tokenizer.json", 1_800_000),
    File("model.safetensors.index.json", 16_800_000_000),  # with the shards that it names
)
_QWEN3_VL = (
    _CONFIG,
    File("tokenizer.json", 7_032_000),
    File("model.safetensors.index.json", 17_500_000_000),  # with the shards that it names
)
_QWEN2_VL = (_CONFIG, File("tokenizer.json", 7_032_000))

SOURCES: dict[str, Source] = {
    source.name: source
    for source in (
        Source(
            "pickscore",
            "yuvalkirstain/PickScore_v1",
            (File("model.safetensors", 3_944_500_000), _CONFIG),
            "MIT",
        ),
        Source("clip-h-tokenizer", "laion/CLIP-ViT-H-14-laion2B-s32B-b79K", _tokenizer(), "MIT"),
        Source(
            "clip-l",
            "openai/clip-vit-large-patch14",
            (File("model.safetensors", 1_710_500_000), _CONFIG),
            "MIT",
        ),
        Source("clip-l-tokenizer", "openai/clip-vit-large-patch14", _tokenizer(), "MIT"),
        Source(
            "clip-b",
            "openai/clip-vit-base-patch32",
            (File("model.safetensors", 605_200_000), _CONFIG),
            "MIT",
        ),
        Source("clip-b-tokenizer", "openai/clip-vit-base-patch32", _tokenizer(), "MIT"),
        Source(
            "dino-b16",
            "facebook/dino-vitb16",
            (File("model.safetensors", 343_000_000), _CONFIG),
            "Apache-2.0",
        ),
        Source(
            "hpsv2.0",
            "xswu/HPSv2",
            (File("HPS_v2_compressed.pt", 3_944_500_000),),
            "Apache-2.0",
        ),
        Source(
            "hpsv2.1",
            "xswu/HPSv2",
            (File("HPS_v2.1_compressed.pt", 3_944_500_000),),
            "Apache-2.0",
        ),
        Source(
            "imagereward",
            "THUDM/ImageReward",
            (File("ImageReward.pt", 1_790_000_000), File("med_config.json", 500, needed=False)),
            "Apache-2.0",
        ),
        Source(
            "bert-tokenizer",
            "google-bert/bert-base-uncased",
            (File("tokenizer.json", 466_000), File("tokenizer_config.json", 50)),
            "Apache-2.0",
        ),
        Source(
            "blip-vqa",
            "Salesforce/blip-vqa-base",
            (
                _CONFIG,
                File("model.safetensors", 1_538_800_000),
                File("tokenizer.json", 711_000),
                File("tokenizer_config.json", 592),
            ),
            "BSD-3-Clause",
        ),
        Source(
            "aesthetic",
            "",
            (
                File(
                    "sac+logos+ava1-l14-linearMSE.pth",
                    3_714_759,
                    "21dd590f3ccdc646f0d53120778b296013b096a035a2718c9cb0d511bff0f1e0",
                    "https://github.com/christophschuhmann/improved-aesthetic-predictor"
                    "/raw/main/sac%2Blogos%2Bava1-l14-linearMSE.pth",
                ),
            ),
            "Apache-2.0",
        ),
        Source(
            "aesthetic-linear",
            "",
            (
                File(
                    "sa_0_4_vit_l_14_linear.pth",
                    3_900,
                    None,
                    "https://github.com/LAION-AI/aesthetic-predictor"
                    "/raw/main/sa_0_4_vit_l_14_linear.pth",
                ),
            ),
            "MIT",
        ),
        Source(
            "mps",
            "",
            (File("MPS_overall_checkpoint.pth", 4_414_000_000),),
            "MIT",
            note="download `MPS_overall_checkpoint.pth` by hand, from where its README links to "
            "(https://github.com/Kwai-Kolors/MPS), and name it with the option path",
        ),
        Source(
            "hpsv3",
            "MizzenAI/HPSv3",
            (File("HPSv3.safetensors", 16_600_000_000),),
            "MIT",
        ),
        Source(
            "hpsv3-code",
            "",
            (
                File(
                    "hpsv3-1.0.0-py3-none-any.whl",
                    68_966,
                    "1a1b3ed1f538315ddf0e90c55b9f5c8ab3248d772cd713c11f7dfe35bf867ab3",
                    "https://files.pythonhosted.org/packages/20/ed"
                    "/6feb979b0086f57dc7a8b545693e1dbeffd60c8d942971e0445c65fcf438"
                    "/hpsv3-1.0.0-py3-none-any.whl",
                ),
            ),
            "MIT",
        ),
        Source("qwen2-vl-7b", "Qwen/Qwen2-VL-7B-Instruct", _QWEN2_VL, "Apache-2.0"),
        Source("qwen2-vl-2b", "Qwen/Qwen2-VL-2B-Instruct", _QWEN2_VL, "Apache-2.0"),
        Source(
            "videoreward",
            "KwaiVGI/VideoReward",
            (
                File("model_config.json", 5_000),
                File(
                    "checkpoint-11352/model.pth",
                    5_031_072_529,
                    "48375908e6112de9f0248402db156a23b480709a6960b091c598c6f4c88d21b9",
                ),
            ),
            "Apache-2.0",
        ),
        Source(
            "videoalign-code",
            "",
            (
                File(
                    "prompt_template.py",
                    10_760,
                    "8fb42f91fd7440a1c9a377e78f36d67da6132eb348f402eecbeb57e41f138ae9",
                    "https://raw.githubusercontent.com/KwaiVGI/VideoAlign"
                    "/219ab9db64c045e5181a2202d11f686439351292/prompt_template.py",
                ),
            ),
            "MIT",
        ),
        Source(
            "videoscore-v1.1",
            "TIGER-Lab/VideoScore-v1.1",
            _VIDEOSCORE,
            "MIT",
            note="hf download TIGER-Lab/VideoScore-v1.1",
        ),
        Source(
            "videoscore-v1",
            "TIGER-Lab/VideoScore",
            _VIDEOSCORE,
            "MIT",
            note="hf download TIGER-Lab/VideoScore",
        ),
        Source(
            "clip-flant5-xxl",
            "zhiqiulin/clip-flant5-xxl",
            (
                _CONFIG,
                File("tokenizer.json", 2_420_000),
                # with the parts that it names; the size is public, how it is cut was not seen
                File("pytorch_model.bin.index.json", 22_900_000_000),
            ),
            "Apache-2.0",
            note="hf download zhiqiulin/clip-flant5-xxl",
        ),
        Source(
            "clip-flant5-xl",
            "zhiqiulin/clip-flant5-xl",
            (
                _CONFIG,
                File("tokenizer.json", 2_420_000),
                File("pytorch_model.bin", 6_320_000_000),
            ),
            "Apache-2.0",
        ),
        Source(
            "qwen3-vl-8b",
            "Qwen/Qwen3-VL-8B-Instruct",
            _QWEN3_VL,
            "Apache-2.0",
            note="hf download Qwen/Qwen3-VL-8B-Instruct",
        ),
        Source(
            "videoscore-code",
            "",
            (
                File(
                    "run_videoscore.py",
                    4_019,
                    "a8530842207c81eaa86b8b9c1b9b518d64ebd7247f7d5196bdc327fb7032b204",
                    "https://raw.githubusercontent.com/TIGER-AI-Lab/VideoScore"
                    "/8e449734bbeb4aba327b82f2269e7247633a7abc/examples/run_videoscore.py",
                ),
            ),
            "MIT",
        ),
        Source(
            "mask2former",
            "",
            (
                File(
                    "mask2former_swin-s-p4-w7-224_lsj_8x2_50e_coco_20220504_001756-743b7d99.pth",
                    275_000_000,
                    "743b7d99",
                    "https://download.openmmlab.com/mmdetection/v2.0/mask2former"
                    "/mask2former_swin-s-p4-w7-224_lsj_8x2_50e_coco"
                    "/mask2former_swin-s-p4-w7-224_lsj_8x2_50e_coco_20220504_001756-743b7d99.pth",
                ),
            ),
            "Apache-2.0",
        ),
    )
}
"""Every source by its name; add an entry for every model that vipo loads itself."""


def is_here(source: Source, path: str | Path | None = None) -> bool:
    """Tell whether all files of a source are on this machine."""
    return _local(source, path) is not None


def find(source: Source, path: str | Path | None = None) -> dict[str, Path]:
    """Return where each file of a source lies, after fetching it if it is not on this machine.

    Args:
        source: what is wanted.
        path: a folder that holds its files, or its one file under any name; nothing is fetched
            then. By default the hub's cache and vipo's own are looked through.

    Raises:
        MissingWeights: it is neither here nor to be had from here.
        ModelError: what was downloaded is not what was published.
    """
    if (found := _local(source, path)) is not None:
        return found
    if path is not None:
        raise _missing_from(source, Path(path))
    if source.note or not may_fetch():
        raise missing(source)
    if source.repository:
        return _from_hub(source)
    return {file.name: _download(source, file) for file in source.files}


def find_all(names: Sequence[str], path: str | Path | None = None) -> tuple[dict[str, Path], ...]:
    """Return where the files of several sources lie, after fetching those that are not here.

    Args:
        names: of the sources; a path must hold the first, and may hold the others.
        path: as in `find`.

    Raises:
        MissingWeights: not all are here or to be had from here; tells of all that are not.
        ModelError: what was downloaded is not what was published.
    """
    sources = [SOURCES[name] for name in names]
    folders = [path if is_here(source, path) else None for source in sources]
    if path is not None and folders[0] is None:
        raise _missing_from(sources[0], Path(path))
    absent = [
        source
        for source, folder in zip(sources, folders, strict=True)
        if not is_here(source, folder)
    ]
    by_hand = any(source.note for source in absent)
    hub = any(source.repository for source in absent)
    if absent and (by_hand or not may_fetch() or (hub and not _hub_answers())):
        raise missing(*absent)
    return tuple(find(source, folder) for source, folder in zip(sources, folders, strict=True))


@contextmanager
def without_fetching() -> Iterator[None]:
    """Let nothing be fetched inside: for what may be used if it is here, and else is left out."""
    token = _MAY_FETCH.set(False)
    try:
        yield
    finally:
        _MAY_FETCH.reset(token)


def may_fetch() -> bool:
    """Tell whether missing files may be fetched here."""
    return _MAY_FETCH.get() and os.environ.get("HF_HUB_OFFLINE", "0") in ("", "0")


def missing(*sources: Source) -> MissingWeights:
    """Return the error that names files which are not here, their sizes and how to get them."""
    names = dict.fromkeys(source.repository or source.name for source in sources)
    return MissingWeights(
        f"the weights of {' and '.join(f'`{name}`' for name in names)} are not on this "
        f"machine ({size(sum(source.bytes for source in sources))})",
        details=[
            f"{file.name} ({size(file.bytes)}, {source.licence})"
            for source in sources
            for file in source.files
        ],
        hint=f"where there is a network: {_joined(sources)}",
    )


def _joined(sources: Sequence[Source]) -> str:
    """Return the commands that fetch sources as one, and what is to be done by hand after it."""
    commands = [command(source) for source in sources if not source.note]
    notes = [source.note for source in sources if source.note]
    return "; then ".join([*([" && ".join(commands)] if commands else []), *notes])


def command(source: Source, folder: str | Path | None = None) -> str:
    """Return the shell command that fetches a source, to where it is looked for or to a folder."""
    if source.note:
        return source.note
    if source.repository:
        names = " ".join(file.name for file in source.files)
        place = f" --local-dir {folder}" if folder is not None else ""
        return f"hf download {source.repository} {names}{place}"
    place = str(folder if folder is not None else _own_folder(source))
    return " && ".join(
        f"curl -L --create-dirs -o '{place}/{file.name}' '{file.url}'" for file in source.files
    )


def size(count: float) -> str:
    """Return a number of bytes for people."""
    for unit in ("bytes", "kB", "MB"):
        if count < 1000:
            return f"{count:.0f} {unit}"
        count /= 1000
    return f"{count:.1f} GB"


def content(file: Path) -> str:
    """Return the SHA-256 of a file, remembered for as long as its size and date do not change.

    The hub's cache names its large files by it.
    """
    name = file.resolve().name
    if re.fullmatch("[0-9a-f]{64}", name):
        return name
    state = file.stat()
    key = fingerprint([str(file.resolve()), state.st_size, state.st_mtime_ns])
    note = cache_home() / "fingerprints" / f"{key}-sha256"
    if note.is_file() and len(known := note.read_text()) == 64:
        return known
    with file.open("rb") as stream:
        found = hashlib.file_digest(stream, "sha256").hexdigest()
    with writing(note) as temporary:
        temporary.write_text(found)
    return found


def read_tensors(file: Path, section: str | None = None) -> dict[str, Any]:
    """Read a state dict: safetensors as it is, a pickle by way of safetensors in vipo's cache.

    Args:
        file: what holds it; the converted copy is named by its content.
        section: the key that a pickle keeps its tensors under, if it does.

    Raises:
        ModelError: it is damaged, or a pickle with anything but tensors and plain values.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    if file.suffix != ".safetensors":
        file = _converted(file, section)
    try:
        return load_file(file)
    except (SafetensorError, OSError) as error:
        raise _damaged(file, error) from error


def converted_file(file: Path) -> Path:
    """Return where the converted copy of a pickle is kept, whether it is there yet or not."""
    return cache_home() / "weights" / "converted" / f"{content(file)}.safetensors"


def _converted(file: Path, section: str | None) -> Path:
    from safetensors.torch import save_file

    target = converted_file(file)
    if not target.is_file():
        tensors = _apart(_unpickle(file, section))
        with writing(target) as temporary:
            save_file(tensors, temporary)
    return target


def _apart(tensors: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    """Copy tensors that share memory, as safetensors wants it; the others may be too large to."""
    met: set[int] = set()
    found = {}
    for name, value in tensors:
        storage = value.untyped_storage()
        alone = storage.nbytes() == value.nbytes and storage.data_ptr() not in met
        met.add(storage.data_ptr())
        found[name] = value.contiguous() if alone else value.clone().contiguous()
    return found


class _Husk:
    """Stands for whatever a pickle holds beside tensors; keeps its attributes and does nothing."""

    def __new__(cls, *_: object, **__: object) -> "_Husk":
        return super().__new__(cls)

    def __init__(self, *_: object, **__: object) -> None: ...


def _unpickle(file: Path, section: str | None) -> Iterator[tuple[str, Any]]:
    """Yield the tensors of a pickle, without running any code that it names.

    Of a file that holds a whole module, the tensors are taken out of what stands for it.
    """
    from pickle import UnpicklingError

    import torch

    try:
        with torch.serialization.safe_globals(_husks(file)), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about the age of the file
            try:
                found = torch.load(file, map_location="cpu", weights_only=True, mmap=True)
            except RuntimeError:  # a pickle of the old layout cannot be mapped
                found = torch.load(file, map_location="cpu", weights_only=True)
    except (UnpicklingError, RuntimeError, OSError, EOFError, ValueError, TypeError) as error:
        raise _damaged(file, error) from error
    if section is not None and isinstance(found, Mapping) and section in found:
        found = found[section]
    if isinstance(found, _Husk) and "_modules" in vars(found):
        return _module_tensors(found)
    if not isinstance(found, Mapping):
        raise ModelError(f"`{file}` holds no tensors by name but a {type(found).__name__}")
    return ((str(name), value) for name, value in found.items() if isinstance(value, torch.Tensor))


def _husks(file: Path) -> list[Any]:
    """Name what a pickle would call on, each to be replaced by a husk."""
    import torch

    try:
        names = torch.serialization.get_unsafe_globals_in_checkpoint(file)
    except (RuntimeError, ValueError):  # the old layout is read with what torch allows itself
        return []
    return [(_Husk, name) for name in names]


def _module_tensors(module: _Husk, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield parameters and buffers as a module's state dict names them."""
    state = vars(module)
    kept = {**state["_parameters"], **state["_buffers"]}
    for name, value in kept.items():
        if value is not None and name not in state.get("_non_persistent_buffers_set", ()):
            yield f"{prefix}{name}", value.detach()
    for name, inner in state["_modules"].items():
        if inner is not None:
            yield from _module_tensors(inner, f"{prefix}{name}.")


def _damaged(file: Path, error: Exception) -> ModelError:
    reason = (str(error).splitlines() or [type(error).__name__])[0]
    if reason.startswith("Weights only load failed"):  # which goes on to advise to run its code
        reason = "it is no file of tensors, or would run code"
    return ModelError(
        f"cannot read the weights in `{file}`: {reason}",
        hint="the file may be incomplete: compare it with where it came from",
    )


def _local(source: Source, path: str | Path | None) -> dict[str, Path] | None:
    """Return where each file lies on this machine; None if one that is needed does not."""
    found: dict[str, Path] = {}
    for file in source.files:
        place = _place(source, file, None if path is None else Path(path))
        if place is not None:
            found[file.name] = place
        elif file.needed:
            return None
    return found


def _place(source: Source, file: File, path: Path | None) -> Path | None:
    if path is not None and path.is_file():
        return path if file.needed and len(_needed(source)) == 1 else None
    if path is not None:
        return _first(path / file.name, path / Path(file.name).name)
    if not source.repository:
        return _first(_own_folder(source) / file.name)
    from huggingface_hub import try_to_load_from_cache

    cached = try_to_load_from_cache(source.repository, file.name)
    return Path(cached) if isinstance(cached, str) else None


def _needed(source: Source) -> list[File]:
    return [file for file in source.files if file.needed]


def _first(*places: Path) -> Path | None:
    return next((place for place in places if place.is_file()), None)


def _own_folder(source: Source) -> Path:
    return cache_home() / "weights" / source.name


def _missing_from(source: Source, path: Path) -> MissingWeights:
    if path.is_file():
        return MissingWeights(
            f"`{path}` is one file, where `{source.name}` has {len(_needed(source))}",
            hint="give the folder that holds them: "
            + ", ".join(file.name for file in _needed(source)),
        )
    lacking = [file.name for file in _needed(source) if _place(source, file, path) is None]
    return MissingWeights(
        f"`{path}` holds no `{lacking[0]}`",
        details=[f"no {name}" for name in lacking[1:]],
        hint=f"to fill it: {command(source, path)}",
    )


def _from_hub(source: Source) -> dict[str, Path]:
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import (
        EntryNotFoundError,
        HfHubHTTPError,
        LocalEntryNotFoundError,
        OfflineModeIsEnabled,
    )

    if not _hub_answers():
        raise missing(source)
    found: dict[str, Path] = {}
    for file in source.files:
        try:
            found[file.name] = Path(hf_hub_download(source.repository, file.name))
        except LocalEntryNotFoundError as error:
            raise missing(source) from error
        except EntryNotFoundError as error:
            if file.needed:
                raise missing(source) from error
        except (HfHubHTTPError, OfflineModeIsEnabled, OSError) as error:
            raise missing(source) from error
    return found


def _hub_answers() -> bool:
    """Ask the hub, or its mirror, once; its own library asks six times over half a minute."""
    from urllib.error import HTTPError
    from urllib.request import Request, urlopen

    from huggingface_hub import constants

    try:
        with urlopen(Request(constants.ENDPOINT, method="HEAD"), timeout=10):
            return True
    except HTTPError:
        return True
    except OSError:
        return False


def _download(source: Source, file: File) -> Path:
    """Fetch a file that is published at an address of its own."""
    from http.client import HTTPException
    from shutil import copyfileobj
    from urllib.request import urlopen

    target = _own_folder(source) / file.name
    with writing(target) as temporary:
        try:
            with urlopen(file.url, timeout=30) as answer, temporary.open("wb") as stream:
                copyfileobj(answer, stream)
        except (HTTPException, OSError) as error:
            raise missing(source) from error
        with temporary.open("rb") as stream:
            found = hashlib.file_digest(stream, "sha256").hexdigest()
        if file.sha256 is not None and not found.startswith(file.sha256):
            raise ModelError(
                f"`{file.url}` gives another file than was published: its SHA-256 is {found}",
                hint=f"{file.sha256} is expected; a proxy or a mirror may stand in between",
            )
    return target


__all__ = [
    "SOURCES",
    "File",
    "Source",
    "command",
    "content",
    "converted_file",
    "find",
    "find_all",
    "is_here",
    "may_fetch",
    "missing",
    "read_tensors",
    "size",
    "without_fetching",
]
