"""Accelerators of this machine, found from its files and environment; imports no jax.

All functions take `root`, the folder that stands for "/", and the `environment`.
"""

import http.client
import importlib.util
import re
import shutil
import subprocess
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from itertools import takewhile
from pathlib import Path
from typing import NamedTuple

PORT = 8476  # of a TPU process is this and its chip, as others choose it
ASK_SECONDS = 5.0  # what a command or server that describes the machine gets
GOOGLE = "0x1ae0"
# PCI devices of Google that are TPU chips, as jax/_src/hardware_utils.py lists them;
# its network cards bear the same vendor.
CHIPS = ("0x0027", "0x0056", "0x005e", "0x0062", "0x0063", "0x006f", "0x0076")


class Kind(NamedTuple):
    """platforms: its names in JAX_PLATFORMS; modules: jax needs one of them installed;
    variables: each hides devices, the first that is set counts; install: how to get it.
    """

    maker: str
    platforms: tuple[str, ...]
    modules: tuple[str, ...]
    variables: tuple[str, ...]
    install: str


KINDS = {  # in the order in which jax prefers them
    "cuda": Kind(
        "NVIDIA GPU",
        ("cuda", "gpu"),
        ("jax_cuda13_plugin", "jax_cuda12_plugin"),
        ("CUDA_VISIBLE_DEVICES",),
        'make ACCEL=cuda12, or pip install "jax[cuda12]" (or cuda13)',
    ),
    "rocm": Kind(
        "AMD GPU",
        ("rocm", "gpu"),
        ("jax_rocm7_plugin", "jax_rocm60_plugin"),
        ("HIP_VISIBLE_DEVICES", "CUDA_VISIBLE_DEVICES"),
        'pip install "jax[rocm7-local]"',
    ),
    "tpu": Kind(
        "TPU",
        ("tpu",),
        ("libtpu",),
        ("TPU_VISIBLE_CHIPS", "TPU_VISIBLE_DEVICES"),
        'make ACCEL=tpu, or pip install "jax[tpu]"',
    ),
}


class Cards(NamedTuple):
    """Devices of one kind that a process would use, as its variable names them."""

    kind: str
    names: list[str]


def usable(root: Path, environment: Mapping[str, str]) -> Cards | None:
    """What jax would compute on, if it is not the CPU: present, visible, installed."""
    wanted = environment.get("JAX_PLATFORMS", "").split(",")[0]
    for name, kind in KINDS.items():
        if (not wanted or wanted in kind.platforms) and plugins(name):
            names = visible(name, present(name, root, environment), environment)
            if names:
                return Cards(name, names)
    return None


def plugins(kind: str) -> list[str]:
    """Installed modules through which jax reaches this kind."""
    return [name for name in KINDS[kind].modules if importlib.util.find_spec(name)]


def present(kind: str, root: Path, environment: Mapping[str, str]) -> list[str]:
    """Names of the devices that the machine has, hidden ones included."""
    return PRESENT[kind](root, environment)


def visible(
    kind: str, names: Sequence[str], environment: Mapping[str, str]
) -> list[str]:
    """The devices that the environment leaves of `names`.

    A list ends at its first invalid entry, so "-1" and "" leave none (CUDA programming
    guide, 5.2.1; HIP reads its own the same way). UUIDs may be abbreviated.
    """
    for variable in KINDS[kind].variables:
        if variable in environment:
            words = (word.strip() for word in environment[variable].split(","))
            return list(dict.fromkeys(takewhile(_is_name, words)))
    return list(names)


def _is_name(word: str) -> bool:
    return word.isdecimal() or word.startswith(("GPU-", "MIG-"))


def alone(
    cards: Cards, names: Sequence[str], environment: Mapping[str, str]
) -> dict[str, str]:
    """What a process's environment needs so that it sees `names` of `cards` alone.

    A device that fails then ends the process, where jax would go on with the CPU. GPU
    memory stays as jax has it: most of a device, taken at the start. For one TPU chip
    the process is told that it is the whole slice, as in jax/_src/test_multiprocess.py
    and gist.github.com/skye/f82ba45d2445bb19d53545538754f9a3.
    """
    variables = KINDS[cards.kind].variables
    variable = next((v for v in variables if v in environment), variables[0])
    own = {variable: ",".join(names)}
    if not environment.get("JAX_PLATFORMS"):
        own["JAX_PLATFORMS"] = f"{cards.kind},cpu"
    if cards.kind == "tpu":
        port = str(PORT + int(names[0]))
        own |= {
            "TPU_PROCESS_BOUNDS": "1,1,1",
            "TPU_CHIPS_PER_PROCESS_BOUNDS": "1,1,1",
            "TPU_PROCESS_ADDRESSES": f"localhost:{port}",
            "TPU_PROCESS_PORT": port,
            "CLOUD_TPU_TASK_ID": "0",
            "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
        }
    return own


def tpu_hosts(environment: Mapping[str, str]) -> int | None:
    """Hosts of the TPU slice, from where jax has it; None if no one says."""
    slices = int(environment.get("MEGASCALE_NUM_SLICES") or 1)
    for variable in ("TPU_PROCESS_ADDRESSES", "TPU_WORKER_HOSTNAMES"):
        if environment.get(variable):
            return slices * len(environment[variable].split(","))
    if "TPU_SKIP_MDS_QUERY" in environment:
        return None
    server = environment.get("GCE_METADATA_IP", "metadata.google.internal")
    path = "computeMetadata/v1/instance/attributes/worker-network-endpoints"
    request = urllib.request.Request(
        f"http://{server}/{path}", headers={"Metadata-Flavor": "Google"}
    )
    straight = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with straight.open(request, timeout=ASK_SECONDS) as answer:
            return slices * len(answer.read().decode().split(","))
    except (OSError, http.client.HTTPException):
        return None


def _nvidia(root: Path, environment: Mapping[str, str]) -> list[str]:
    """Indices of cards, or UUIDs where cards are cut into MIG instances.

    The driver's own list comes first: where a scheduler keeps cards from a job, their
    files are there all the same.
    """
    files = [p for p in root.glob("dev/nvidia*") if p.name[6:].isdecimal()]
    if not files and not (root / "dev/dxg").exists():  # dxg: Windows' own, in WSL2
        return []
    listed: list[str] = []
    for line in told(["nvidia-smi", "-L"], environment).splitlines():
        found = re.search(r"UUID: ((GPU|MIG)-[^)]+)\)", line)
        if found is None:
            continue
        if found[2] == "MIG" and listed and listed[-1].startswith("GPU-"):
            listed.pop()  # the card whose first instance this is
        listed.append(found[1])
    if any(name.startswith("MIG-") for name in listed):
        return listed
    return [str(i) for i in range(len(listed) or len(files) or 1)]


def _amd(root: Path, environment: Mapping[str, str]) -> list[str]:
    """Indices of the kernel driver's nodes with compute units.

    ROCR_VISIBLE_DEVICES hides cards below HIP, whose indices count what that leaves.
    """
    nodes = root.glob("sys/class/kfd/kfd/topology/nodes/*/properties")
    found = [re.search(r"\bsimd_count\s+(\d+)", _text(node)) for node in nodes]
    count = sum(bool(match) and int(match[1]) > 0 for match in found)
    if count and "ROCR_VISIBLE_DEVICES" in environment:
        words = environment["ROCR_VISIBLE_DEVICES"].split(",")
        count = len(list(takewhile(_is_name, (word.strip() for word in words))))
    return [str(i) for i in range(count)]


def _tpu(root: Path, environment: Mapping[str, str]) -> list[str]:
    """Indices of the TPU chips on the PCI bus."""
    buses = root.glob("sys/bus/pci/devices/*")
    chips = [
        bus
        for bus in buses
        if _text(bus / "vendor") == GOOGLE and _text(bus / "device") in CHIPS
    ]
    return [str(i) for i in range(len(chips))]


PRESENT: dict[str, Callable[[Path, Mapping[str, str]], list[str]]] = {
    "cuda": _nvidia,
    "rocm": _amd,
    "tpu": _tpu,
}


def told(command: list[str], environment: Mapping[str, str]) -> str:
    """What a command that describes the machine prints; empty if it can't."""
    program = shutil.which(command[0], path=environment.get("PATH", ""))
    if program is None:
        return ""
    try:
        done = subprocess.run(
            [program, *command[1:]],
            capture_output=True,
            text=True,
            timeout=ASK_SECONDS,
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout if done.returncode == 0 else ""


def _text(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""
