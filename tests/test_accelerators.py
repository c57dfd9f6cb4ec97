"""Devices are found in a made-up machine's files, environment and commands."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from lm import accelerators

UUID = "GPU-8932f937-d72c-4106-c12f-20bd9faed9f6"
LISTING = f"""\
GPU 0: NVIDIA A100-SXM4-40GB (UUID: {UUID})
  MIG 3g.20gb     Device  0: (UUID: MIG-c6d4f1ef-42e4-5de3-91c7-45d71c87eb3f)
  MIG 1g.5gb      Device  1: (UUID: MIG-cba663e8-9bed-5b25-b243-5985ef7c9beb)
GPU 1: NVIDIA A100-SXM4-40GB (UUID: GPU-5c89852c-d268-c3f3-1b07-005d5ae1dc3f)
"""


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """Makes a machine: -> (root, environment)."""
    root, modules = tmp_path / "root", tmp_path / "modules"
    monkeypatch.syspath_prepend(str(modules))

    def make(nvidia=0, amd=0, tpu=0, installed=(), listing=None, **environment):
        for folder in (root / "dev", root / "bin", modules):
            folder.mkdir(parents=True, exist_ok=True)
        for i in range(nvidia):
            (root / f"dev/nvidia{i}").touch()
        for name in ("nvidiactl", "nvidia-uvm", "nvidia-modeset"):
            (root / "dev" / name).touch()
        for i in range(amd + 1):  # node 0 is the CPU
            node = root / f"sys/class/kfd/kfd/topology/nodes/{i}"
            node.mkdir(parents=True)
            text = f"cpu_cores_count 8\nsimd_count {0 if i == 0 else 304}\n"
            (node / "properties").write_text(text)
        for i in range(tpu + 1):  # the last is Google's network card
            bus = root / f"sys/bus/pci/devices/0000:00:0{i}.0"
            bus.mkdir(parents=True)
            (bus / "vendor").write_text("0x1ae0\n")
            (bus / "device").write_text("0x0063\n" if i < tpu else "0x0042\n")
        for name in installed:
            (modules / name).mkdir()
            (modules / name / "__init__.py").touch()
        if listing is not None:
            script = root / "bin/nvidia-smi"
            script.write_text(f"#!/bin/sh\ncat <<'END'\n{listing}END\n")
            script.chmod(0o755)
        path = f"{root / 'bin'}:/bin:/usr/bin"
        return root, {"PATH": path} | environment

    return make


def test_a_machine_without_any_has_none(machine):
    root, environment = machine(installed=["jax_cuda12_plugin", "libtpu"])
    for kind in accelerators.KINDS:
        assert accelerators.present(kind, root, environment) == []
    assert accelerators.usable(root, environment) is None


@pytest.mark.parametrize(
    "has, module, cards",
    [
        ({"nvidia": 3}, "jax_cuda13_plugin", ("cuda", ["0", "1", "2"])),
        ({"nvidia": 11}, "jax_cuda12_plugin", ("cuda", [str(i) for i in range(11)])),
        ({"amd": 2}, "jax_rocm7_plugin", ("rocm", ["0", "1"])),
        ({"tpu": 4}, "libtpu", ("tpu", ["0", "1", "2", "3"])),
    ],
)
def test_devices_are_counted_and_need_their_plugin(machine, has, module, cards):
    root, environment = machine(**has, installed=[module])
    assert accelerators.usable(root, environment) == cards
    assert accelerators.usable(root, environment | {"JAX_PLATFORMS": "cpu"}) is None


def test_devices_without_a_plugin_are_present_and_not_usable(machine):
    root, environment = machine(nvidia=2, amd=1, tpu=1)
    assert accelerators.usable(root, environment) is None
    counts = {
        k: len(accelerators.present(k, root, environment)) for k in ("cuda", "rocm")
    }
    assert counts == {"cuda": 2, "rocm": 1}


def test_of_two_kinds_jax_platforms_chooses(machine):
    modules = ["jax_cuda12_plugin", "jax_rocm7_plugin"]
    root, environment = machine(nvidia=1, amd=2, installed=modules)
    for wanted, kind in {
        "": "cuda",
        "gpu": "cuda",
        "cuda,cpu": "cuda",
        "rocm": "rocm",
    }.items():
        chosen = accelerators.usable(root, environment | {"JAX_PLATFORMS": wanted})
        assert chosen.kind == kind
    for wanted in ("cpu,cuda", "tpu"):
        assert (
            accelerators.usable(root, environment | {"JAX_PLATFORMS": wanted}) is None
        )


@pytest.mark.parametrize(
    "text, names",
    [
        ("2,1", ["2", "1"]),
        (" 0 , 3", ["0", "3"]),
        ("", []),
        ("-1", []),
        ("0,2,-1,1", ["0", "2"]),
        ("NoDevFiles", []),
        ("0,0", ["0"]),
        ("GPU-8932f937,MIG-c6d4f1ef", ["GPU-8932f937", "MIG-c6d4f1ef"]),
    ],
)
def test_a_list_of_visible_devices_is_read_as_cuda_reads_it(text, names):
    all_four = ["0", "1", "2", "3"]
    environment = {"CUDA_VISIBLE_DEVICES": text}
    assert accelerators.visible("cuda", all_four, environment) == names
    assert accelerators.visible("rocm", all_four, environment) == names
    hip = {"HIP_VISIBLE_DEVICES": "3"} | environment
    assert accelerators.visible("rocm", all_four, hip) == ["3"]
    assert accelerators.visible("tpu", all_four, environment) == all_four


def test_hip_counts_what_rocr_leaves(machine):
    root, environment = machine(amd=4, ROCR_VISIBLE_DEVICES="1,GPU-9c3a")
    assert accelerators.present("rocm", root, environment) == ["0", "1"]
    assert (
        accelerators.present("rocm", root, environment | {"ROCR_VISIBLE_DEVICES": ""})
        == []
    )


def test_instances_of_a_cut_card_take_its_place(machine):
    root, environment = machine(nvidia=2, listing=LISTING)
    assert [name[:12] for name in accelerators.present("cuda", root, environment)] == [
        "MIG-c6d4f1ef",
        "MIG-cba663e8",
        "GPU-5c89852c",
    ]


def test_the_drivers_list_counts_before_the_files(machine):
    line = f"GPU 0: NVIDIA H100 (UUID: {UUID})\n"
    root, environment = machine(nvidia=8, listing=line)
    assert accelerators.present("cuda", root, environment) == ["0"]


def test_a_driver_that_fails_leaves_the_files(machine):
    root, environment = machine(nvidia=2, listing="")
    (root / "bin/nvidia-smi").write_text("#!/bin/sh\necho no driver; exit 9\n")
    assert accelerators.present("cuda", root, environment) == ["0", "1"]


def test_no_jax_is_imported():
    code = "import sys, json, lm.accelerators; print(json.dumps('jax' in sys.modules))"
    root = Path(accelerators.__file__).parent.parent
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True)
    assert json.loads(done.stdout) is False
