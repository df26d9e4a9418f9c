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
    """An execution provider.

    Attributes:
        ep: its short name.
        name: what onnxruntime calls it.
        package: what to install where it is missing.
        per_node: whether the profiler times each of its kernels. A compiling provider runs a subgraph as one node,
            and of a provider that queues its kernels the profiler times the queueing: tables of those are fitted to
            whole models.
        note: what users should know of the package.
        option_patterns: its options, as patterns; None if only the provider knows them.
        defaults: options unless the user says otherwise.
        threads: the option that sets its threads, where it does not take the session's.
        memory_pattern: whether onnxruntime may plan memory ahead.
    """

    ep: str
    name: str
    package: str
    per_node: bool = False
    note: str = ""
    option_patterns: tuple[str, ...] | None = ()
    defaults: Mapping[str, str] = field(default_factory=dict)
    threads: str | None = None
    memory_pattern: bool = True

    def options(self, chosen: Mapping[str, str], threads: int) -> dict[str, str]:
        """Complete the `chosen` options of a session. Raises NetadaptError for one that the provider does not have."""
        patterns = self.option_patterns
        for key in chosen:
            if patterns is not None and not any(fnmatchcase(key, pattern) for pattern in patterns):
                raise NetadaptError(
                    f"the execution provider '{self.ep}' has no option '{key}'",
                    hint=did_you_mean(key, patterns, f"it takes {', '.join(patterns) or 'none'}"),
                    code="unknown-option",
                )
        own = {self.threads: str(threads)} if self.threads else {}
        return {**self.defaults, **own, **chosen}

    @property
    def installation(self) -> str:
        """What users have to install where it is missing."""
        return self.package + (f" ({self.note})" if self.note else "")


CPU = Provider("cpu", "CPUExecutionProvider", "onnxruntime", per_node=True)
CUDA = Provider(
    "cuda",
    "CUDAExecutionProvider",
    "onnxruntime-gpu",
    note=_REPLACES,
    option_patterns=(
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
    option_patterns=("device_id", "trt_*"),
)
OPENVINO = Provider(
    "openvino",
    "OpenVINOExecutionProvider",
    "onnxruntime-openvino",
    note=_REPLACES,
    option_patterns=(
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
    # AUTO might run one model on the processor and the next on a GPU.
    defaults={"device_type": "CPU"},
    threads="num_of_threads",
)
XNNPACK = Provider(
    "xnnpack",
    "XnnpackExecutionProvider",
    "onnxruntime built with --use_xnnpack",
    per_node=True,
    note="Android's onnxruntime-android has it",
    option_patterns=("intra_op_num_threads",),
    threads="intra_op_num_threads",
)
COREML = Provider(
    "coreml",
    "CoreMLExecutionProvider",
    "onnxruntime",
    note="the wheel for macOS",
    option_patterns=(
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
    option_patterns=(
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
    option_patterns=(
        "device_id",
        "device_filter",
        "performance_preference",
        "disable_metacommands",
        "enable_graph_capture",
    ),
    memory_pattern=False,
)
WEBGPU = Provider(
    "webgpu",
    "WebGpuExecutionProvider",
    "onnxruntime-webgpu",
    note="or onnxruntime-ep-webgpu, whose library --ep-library takes",
    option_patterns=(
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


def provider(ep: str, library: str | None = None) -> Provider:
    """The provider called `ep`. Raises NetadaptError for a name that nothing has.

    From a `library` that onnxruntime loads it goes by the short name of its family, or as it calls itself; nothing is
    known of its options, defaults or threads.
    """
    if library is not None:
        name = PROVIDERS[ep].name if ep in PROVIDERS else ep
        return Provider(ep, name, "its library", option_patterns=None)
    if ep not in PROVIDERS:
        raise NetadaptError(
            f"no execution provider '{ep}'",
            hint=f"one of {', '.join(PROVIDERS)}; --ep-library names the library of another",
            code="unknown-provider",
        )
    return PROVIDERS[ep]
