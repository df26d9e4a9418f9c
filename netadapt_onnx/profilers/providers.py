"""Execution providers, one record per family: what each is called, takes, shows and how its threads are set.

Options are those of onnxruntime's own pages on execution providers (onnxruntime.ai/docs/execution-providers).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase

from netadapt_onnx.errors import NetadaptError, did_you_mean

_REPLACES = "it takes the place of the package onnxruntime: use an environment of its own"


@dataclass(frozen=True)
class Provider:
    """An execution provider. `package` is what to install where it is missing, `note` what to know of that.

    `per_node`: the profiler times each of its kernels. A compiling provider runs a whole subgraph as one node, and of
    a provider that queues its kernels the profiler times the queueing: tables of those are fitted to whole models.
    `known`: its options, as patterns; None: only the provider knows. `defaults`: options unless the user says
    otherwise. `threads`: the option that sets its threads, where it does not take the session's. `memory_pattern`:
    whether onnxruntime may plan memory ahead.
    """

    ep: str
    name: str
    package: str
    per_node: bool = False
    note: str = ""
    known: tuple[str, ...] | None = ()
    defaults: Mapping[str, str] = field(default_factory=dict)
    threads: str | None = None
    memory_pattern: bool = True

    def options(self, given: Mapping[str, str], threads: int) -> dict[str, str]:
        """All options of a session. Raises NetadaptError for one that the provider does not have."""
        for key in given:
            if self.known is not None and not any(fnmatchcase(key, pattern) for pattern in self.known):
                raise NetadaptError(
                    f"the execution provider '{self.ep}' has no option '{key}'",
                    hint=did_you_mean(key, self.known, f"it takes {', '.join(self.known) or 'none'}"),
                    code="unknown-option",
                )
        own = {self.threads: str(threads)} if self.threads else {}
        return {**self.defaults, **own, **given}

    @property
    def installation(self) -> str:
        """What to install where it is missing."""
        return self.package + (f" ({self.note})" if self.note else "")


CPU = Provider("cpu", "CPUExecutionProvider", "onnxruntime", per_node=True)
CUDA = Provider(
    "cuda",
    "CUDAExecutionProvider",
    "onnxruntime-gpu",
    note=_REPLACES,
    known=(
        "device_id",
        "gpu_mem_limit",
        "arena_extend_strategy",
        "cudnn_conv_algo_search",
        "cudnn_conv_use_max_workspace",
        "cudnn_conv1d_pad_to_nc1d",
        "do_copy_in_default_stream",
        "enable_cuda_graph",
        "enable_skip_layer_norm_strict_mode",
        "fuse_conv_bias",
        "prefer_nhwc",
        "sdpa_kernel",
        "tunable_op_*",
        "use_ep_level_unified_stream",
        "use_tf32",
    ),
)
TENSORRT = Provider(
    "tensorrt",
    "TensorrtExecutionProvider",
    "onnxruntime-gpu",
    note="and tensorrt; " + _REPLACES,
    known=("device_id", "trt_*"),
)
OPENVINO = Provider(
    "openvino",
    "OpenVINOExecutionProvider",
    "onnxruntime-openvino",
    note=_REPLACES,
    known=(
        "device_type",
        "precision",
        "num_of_threads",
        "num_streams",
        "cache_dir",
        "load_config",
        "layout",
        "model_priority",
        "reshape_input",
        "enable_opencl_throttling",
        "enable_qdq_optimizer",
        "enable_causallm",
        "disable_dynamic_shapes",
    ),
    # AUTO might run one version on the processor and the next on a GPU.
    defaults={"device_type": "CPU"},
    threads="num_of_threads",
)
XNNPACK = Provider(
    "xnnpack",
    "XnnpackExecutionProvider",
    "onnxruntime built with --use_xnnpack",
    per_node=True,
    note="Android's onnxruntime-android has it",
    known=("intra_op_num_threads",),
    threads="intra_op_num_threads",
)
COREML = Provider(
    "coreml",
    "CoreMLExecutionProvider",
    "onnxruntime",
    note="the wheel for macOS",
    known=(
        "ModelFormat",
        "MLComputeUnits",
        "RequireStaticInputShapes",
        "EnableOnSubgraphs",
        "SpecializationStrategy",
        "AllowLowPrecisionAccumulationOnGPU",
        "ModelCacheDirectory",
        "ProfileComputePlan",
    ),
)
NNAPI = Provider("nnapi", "NnapiExecutionProvider", "onnxruntime-android", note="or a build with --use_nnapi")
QNN = Provider(
    "qnn",
    "QNNExecutionProvider",
    "onnxruntime-qnn",
    note="where it comes as a library, name that with --ep-library",
    known=(
        "backend_type",
        "backend_path",
        "device_id",
        "htp_*",
        "soc_model",
        "vtcm_mb",
        "rpc_control_latency",
        "qnn_context_priority",
        "enable_htp_*",
        "offload_graph_io_quantization",
        "op_packages",
    ),
    defaults={"backend_type": "htp"},
)
DIRECTML = Provider(
    "directml",
    "DmlExecutionProvider",
    "onnxruntime-directml",
    note=_REPLACES,
    known=("device_id", "device_filter", "performance_preference", "disable_metacommands", "enable_graph_capture"),
    memory_pattern=False,
)
WEBGPU = Provider(
    "webgpu",
    "WebGpuExecutionProvider",
    "onnxruntime-webgpu",
    note="or onnxruntime-ep-webgpu, whose library --ep-library takes",
    known=(
        "deviceId",
        "dawnBackendType",
        "enableGraphCapture",
        "forceCpuNodeNames",
        "powerPreference",
        "preferredLayout",
        "storageBufferCacheMode",
        "uniformBufferCacheMode",
        "validationMode",
    ),
)

PROVIDERS: dict[str, Provider] = {
    family.ep: family for family in (CPU, CUDA, TENSORRT, OPENVINO, XNNPACK, COREML, NNAPI, QNN, DIRECTML, WEBGPU)
}


def plugin(ep: str) -> Provider:
    """The provider of a library that onnxruntime loads: by the short name of its family, or as it calls itself.

    Nothing is known of its options, defaults or threads: only of the family's name.
    """
    family = PROVIDERS.get(ep)
    return Provider(ep, family.name if family else ep, "its library", known=None)


def provider(ep: str, library: str | None = None) -> Provider:
    """The provider called `ep`, from `library` if it is a plugin. Raises NetadaptError for a name that nothing has."""
    if library is not None:
        return plugin(ep)
    if ep not in PROVIDERS:
        raise NetadaptError(
            f"no execution provider '{ep}'",
            hint=f"one of {', '.join(PROVIDERS)}; --ep-library names the library of another",
            code="unknown-provider",
        )
    return PROVIDERS[ep]
