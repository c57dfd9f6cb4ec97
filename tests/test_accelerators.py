"""Devices are found in a made-up machine's files, environment and commands."""

import http.server
import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from lm import accelerators
from lm.sweep import workers

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


@pytest.fixture
def sixteen_cpus(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(16)))


def slots(machine, count=None, each=1):
    root, environment = machine
    return workers.slots(count, each, root, environment)


def test_without_devices_a_core_has_a_worker(machine, sixteen_cpus):
    made = machine(installed=["jax_cuda12_plugin", "libtpu"])
    assert slots(made) == [(frozenset([i]), {}) for i in range(16)]
    assert len(slots(made, count=20)) == 20


@pytest.mark.parametrize(
    "has, module, environment, variable, names",
    [
        ({"nvidia": 2}, "jax_cuda12_plugin", {}, "CUDA_VISIBLE_DEVICES", ["0", "1"]),
        (
            {"nvidia": 4},
            "jax_cuda13_plugin",
            {"CUDA_VISIBLE_DEVICES": "GPU-8932f937,2"},
            "CUDA_VISIBLE_DEVICES",
            ["GPU-8932f937", "2"],
        ),
        (
            {"nvidia": 2, "listing": LISTING},
            "jax_cuda12_plugin",
            {},
            "CUDA_VISIBLE_DEVICES",
            [line.split("UUID: ")[1][:-1] for line in LISTING.splitlines()[1:]],
        ),
        ({"amd": 2}, "jax_rocm7_plugin", {}, "HIP_VISIBLE_DEVICES", ["0", "1"]),
        (
            {"amd": 4},
            "jax_rocm7_plugin",
            {"ROCR_VISIBLE_DEVICES": "2,3"},
            "HIP_VISIBLE_DEVICES",
            ["0", "1"],
        ),
        (
            {"amd": 4},
            "jax_rocm7_plugin",
            {"CUDA_VISIBLE_DEVICES": "3"},
            "CUDA_VISIBLE_DEVICES",
            ["3"],
        ),
    ],
)
def test_a_gpu_has_a_worker_that_sees_it_alone(
    machine, sixteen_cpus, has, module, environment, variable, names
):
    places = slots(machine(**has, installed=[module], **environment))
    assert [place.environment[variable] for place in places] == names
    kind = module.split("_")[1].rstrip("0123456789")
    for place in places:
        others = {k: v for k, v in place.environment.items() if k != variable}
        assert others == {"JAX_PLATFORMS": f"{kind},cpu"}
    assert {len(place.cpus) for place in places} == {16 // len(names)}
    cpus = frozenset().union(*(place.cpus for place in places))
    assert len(cpus) == 16 // len(names) * len(names)  # disjoint


def test_a_users_choice_of_platform_stays(machine):
    made = machine(nvidia=1, installed=["jax_cuda12_plugin"], JAX_PLATFORMS="gpu")
    assert slots(made)[0].environment == {"CUDA_VISIBLE_DEVICES": "0"}


def test_hidden_devices_leave_the_cores(machine, sixteen_cpus):
    made = machine(nvidia=2, installed=["jax_cuda12_plugin"], CUDA_VISIBLE_DEVICES="")
    assert len(slots(made)) == 16 and slots(made)[0].environment == {}


@pytest.mark.parametrize(
    "count, each, groups",
    [
        (3, 1, ["0", "1", "2"]),
        (9, 1, ["0", "1", "2", "3", "4"]),
        (None, 2, ["0,1", "2,3"]),
        (1, 2, ["0,1"]),
        (None, 5, ["0,1,2,3,4"]),
        (None, 8, ["0,1,2,3,4"]),
    ],
)
def test_devices_are_dealt_out_whole(machine, count, each, groups):
    places = slots(machine(nvidia=5, installed=["jax_cuda12_plugin"]), count, each)
    assert [p.environment["CUDA_VISIBLE_DEVICES"] for p in places] == groups


def test_more_devices_than_cpus_share_them(machine, monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1})
    places = slots(machine(nvidia=3, installed=["jax_cuda12_plugin"]))
    assert [sorted(place.cpus) for place in places] == [[0], [1], [0, 1]]


def test_a_chip_of_a_tpu_of_one_host_has_a_worker(machine, sixteen_cpus):
    made = machine(tpu=4, installed=["libtpu"], TPU_WORKER_HOSTNAMES="localhost")
    places = slots(made)
    assert [p.environment["TPU_VISIBLE_CHIPS"] for p in places] == ["0", "1", "2", "3"]
    assert len({p.environment["TPU_PROCESS_PORT"] for p in places}) == 4
    for place in places:
        own = place.environment
        assert own["TPU_PROCESS_ADDRESSES"] == f"localhost:{own['TPU_PROCESS_PORT']}"
        bounds = ("TPU_PROCESS_BOUNDS", "TPU_CHIPS_PER_PROCESS_BOUNDS")
        assert {own[name] for name in bounds} == {"1,1,1"}
        assert own["JAX_PLATFORMS"] == "tpu,cpu" and len(place.cpus) == 4


@pytest.mark.parametrize(
    "environment, each",
    [
        ({"TPU_WORKER_HOSTNAMES": "a,b"}, 1),
        ({"TPU_WORKER_HOSTNAMES": "a", "MEGASCALE_NUM_SLICES": "2"}, 1),
        ({"TPU_WORKER_HOSTNAMES": "a"}, 4),
        ({"TPU_WORKER_HOSTNAMES": "a", "TPU_PROCESS_BOUNDS": "2,2,1"}, 1),
        ({"TPU_SKIP_MDS_QUERY": "1"}, 1),
    ],
)
def test_any_other_tpu_has_one_worker_for_all_of_it(
    machine, sixteen_cpus, environment, each
):
    made = machine(tpu=4, installed=["libtpu"], **environment)
    assert slots(made, each=each) == [(frozenset(range(16)), {})]


@pytest.mark.parametrize(
    "status, text, hosts", [(200, "10.0.0.1", 1), (200, "a,b", 2), (404, "", None)]
)
def test_hosts_of_a_slice_are_asked_of_its_metadata_server(status, text, hosts):
    class Server(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            asked = self.path.endswith("/attributes/worker-network-endpoints")
            known = asked and self.headers["Metadata-Flavor"] == "Google"
            self.send_response(status if known else 500)
            self.end_headers()
            self.wfile.write(text.encode())

        def log_message(self, *words):
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Server) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"127.0.0.1:{server.server_port}"
        assert accelerators.tpu_hosts({"GCE_METADATA_IP": address}) == hosts
        server.shutdown()
    assert accelerators.tpu_hosts({"GCE_METADATA_IP": address}) is None


@pytest.mark.parametrize(
    "value, refused",
    [("", False), ("cuda13", False), ("cuda", True), ("tpu gpu", True)],
)
def test_make_refuses_what_is_no_accelerator_of_jax(value, refused):
    root = Path(accelerators.__file__).parent.parent
    command = ["make", "-n", "doctor", f"ACCEL={value}"]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True)
    assert bool(done.returncode) == refused
    listed = "take one of cuda12 cuda13 rocm7-local tpu" in done.stderr
    assert listed == refused
