"""Keys of the group `[property]` of Gst-nvinfer, by what their values are.

Read off the table of properties in NVIDIA's page on Gst-nvinfer and the `CONFIG_GROUP_INFER_...` names of
`gstnvinfer_property_parser.h`, DeepStream 6.1 to 9.0
(https://docs.nvidia.com/metropolis/deepstream/dev-guide/text/DS_plugin_gst-nvinfer.html). The parser ignores a key that
it does not know, so a wrong one would go unnoticed.
"""

from __future__ import annotations

INTEGERS = {
    "gie-unique-id": (0, 1 << 31), "process-mode": (1, 2), "interval": (0, 1 << 31), "gpu-id": (0, 1 << 31),
    "batch-size": (1, 1 << 31), "network-mode": (0, 2), "network-type": (0, 100), "output-tensor-meta": (0, 1),
    "network-input-order": (0, 1), "model-color-format": (0, 2), "maintain-aspect-ratio": (0, 1),
    "symmetric-padding": (0, 1), "scaling-filter": (0, 5), "scaling-compute-hw": (0, 2),
    "input-tensor-from-meta": (0, 1), "enable-dla": (0, 1), "use-dla-core": (0, 1), "workspace-size": (0, 1 << 31),
    "num-detected-classes": (0, 1 << 31),
    "cluster-mode": (0, 4), "secondary-reinfer-interval": (0, 1 << 31), "tensor-meta-pool-size": (0, 1 << 31),
    "operate-on-gie-id": (0, 1 << 31), "output-instance-mask": (0, 1), "force-implicit-batch-dim": (0, 1),
    "classifier-async-mode": (0, 1), "segmentation-output-order": (0, 1),
}  # fmt: skip
"""Key -> least and greatest value."""

NUMBERS = {"net-scale-factor", "classifier-threshold", "segmentation-threshold"}
LISTS = {"offsets", "infer-dims", "operate-on-class-ids", "filter-out-class-ids"}
PATHS = {"onnx-file", "model-engine-file", "int8-calib-file", "labelfile-path", "mean-file", "custom-lib-path"}
NAMES = {
    "output-blob-names", "output-io-formats", "layer-device-precision", "parse-bbox-func-name",
    "parse-classifier-func-name", "parse-bbox-instance-mask-func-name", "engine-create-func-name",
    "custom-network-config", "classifier-type",
}  # fmt: skip
