"""Numbers that were measured once and must stay: the only place in the tests for them.

Every table says what it was measured on and how far a result may be from it.
"""

from __future__ import annotations

from edgeq.tasks.detection.coco import SCORE_NAMES

MLPERF_ON_COCO_VAL88 = {
    "nvidia_Xavier_trt_int8_ssd-mobilenet": {"AP": 0.2622, "AP50": 0.3701, "AP_small": 0.0041, "AR_100": 0.2715},
    "dividiti_cpu_fp32_ssd-mobilenet-v1": {"AP": 0.2595, "AP50": 0.3634, "AP_small": 0.0052, "AR_100": 0.2680},
    "dividiti_cpu_fp32_ssd-resnet50-fpn": {"AP": 0.4447, "AP50": 0.5946, "AP_small": 0.1382, "AR_100": 0.4818},
    "hailo8_int_ssd-mobilenet": {"AP": 0.2474, "AP50": 0.3724, "AP_small": 0.0066, "AR_100": 0.2701},
}
"""MLPerf v0.5 submissions' real detections on the 88 COCO val2017 images, by pycocotools 2.0.11; deterministic."""

MLPERF_TOLERANCE = 5e-5
"""Half of the last digit."""

CENTERNET_R18_BCCD = dict(
    zip(
        SCORE_NAMES,
        (0.5803, 0.8724, 0.6512, 0.2816, 0.4284, 0.7047, 0.3931, 0.6196, 0.6824, 0.3889, 0.5935, 0.7793),
        strict=True,
    )
)
"""FP32 on the 87 val images of bccd, as published with the weights."""

CENTERNET_R18_BCCD_TOLERANCE = 0.003
"""For AP; the others hang on fewer boxes."""

FP32_ON_COCO_VAL88 = {
    "yolox_nano_coco_416": {"AP": 0.3297, "AP50": 0.4976},
    "fastestdet_coco_352": {"AP": 0.1782, "AP50": 0.3294},
}
"""The ONNX files in ONNX Runtime 1.31 and OpenVINO 2026.4 on x86.

On these 88 images AP runs higher than on the 188 of the data's MANIFEST (.276 and .147), as it does for the detections
above (.262 here and .246 there for the Xavier).
"""

CENTERNET_R18_BCCD_EVERY_THIRD = {"AP": 0.5723}
"""FP32 on every third val image in the order of their ids, in every engine; within the same tolerance."""

CIFAR10_RESNET8_EVERY_FIFTH = {
    "mlperftiny_resnet8_cifar10_float": {"top1": 0.7685, "top5": 0.9840},
    "mlperftiny_resnet8_cifar10_int8": {"top1": 0.7725, "top5": 0.9795},
}
"""MLPerf Tiny's TFLite files on every fifth CIFAR-10 test image of classification/cifar10_test10k_jpeg.npz.

By `edgeq eval` in ai-edge-litert 2.3.0 on x86, pixels 0..255 as they are (the int8 file's input has scale 1, zero point
-128); pixels in 0..1 give 10 %. On all 10,000 images top-1 is .7548 and .7542, top-5 .9851 and .9797. The images are
re-encoded and lossy, hence less than the published 85 %.
"""

CIFAR_RESNETS_EVERY_FIFTH = {"resnet20": 0.8045, "resnet44": 0.8130}
"""Top-1 of the published weights in FP32 on every fifth of the re-encoded CIFAR-10 test images.

On all 10,000 it is .8103 and .8267, as the data's MANIFEST states. Their INT8 files of target x86, calibrated on 500
training images, reach .8128 and .8243 there with `isa` vnni and .8102 and .8256 with avx2, measured in ONNX Runtime
1.32.0 on an AMD EPYC with AVX-512 VNNI.
"""

CORAL_MOBILENET_V2_ON_IMAGENET_VAL300 = {"top1": 0.6400, "top5": 0.8867}
"""coral_tf2_mobilenet_v2_1.0_224_ptq.tflite on the 300 ImageNet images, in ai-edge-litert 2.3.0 on x86.

Pixels in -1..1, 1001 classes of which the first is the background; without that offset top-1 is 1.3 %.
"""

CLASSIFICATION_TOLERANCE = 0.01
"""Other kernels round 8-bit scores otherwise, and so do inputs half a step away: with them coral's top-1 is .6300."""

FP32_TOLERANCE = 0.003
"""Another CPU rounds otherwise, and a box more or less among 88 images shows in the third digit."""

FASHIONMNIST_VIT = {"every_fifth": 0.9120, "every_25th": 0.9175}
"""Top-1 of vit_d128_l6_fashionmnist in FP32 on parts of the 10,000 test images, in torch 2.14 on x86.

On all of them it is .9077, as the data's MANIFEST states.
"""

SELFIE_ON_COCO_VAL88 = {"miou": 0.6306, "pixel_accuracy": 0.9086}
"""MediaPipe's selfie_segmentation_landscape.tflite (package mediapipe 0.10.14) on the persons of the 88 COCO images.

In ai-edge-litert 2.3.0 on x86: .6306 and .9086 by edgeq, .6307 and .9086 by torch's `interpolate` before and after the
model, pycocotools' masks and a confusion matrix. It was trained on people close to a camera, hence not more.
"""

SHIFTED_MASKS_ON_COCO_VAL88 = {"AP": 0.379001, "AP50": 0.576160, "AR_100": 0.460638}
"""The masks of tests/tasks/instances/test_instances.py, by pycocotools 2.0.11 itself."""

YUNET_BY_OPENCV = {
    "000000109313": (
        (0.9111, ((166.26, 89.43), (180.18, 89.28), (181.76, 102.02), (165.99, 115.02), (177.20, 115.13))),
    ),
    "000000166918": (
        (0.8895, ((54.56, 296.59), (67.30, 296.76), (61.58, 304.45), (56.20, 310.28), (65.83, 310.26))),
        (0.7977, ((416.80, 258.27), (424.03, 258.08), (420.02, 262.19), (417.42, 266.21), (422.97, 266.10))),
        (0.7611, ((417.63, 320.04), (428.04, 319.71), (419.39, 330.35), (418.02, 337.68), (426.01, 337.66))),
    ),
    "000000435205": (
        (0.8921, ((348.73, 97.72), (462.47, 81.00), (457.42, 141.01), (381.64, 219.46), (477.57, 201.76))),
    ),
    "000000491008": (
        (0.9087, ((269.02, 204.11), (283.62, 204.04), (277.12, 212.63), (269.29, 221.20), (281.79, 221.11))),
        (0.9068, ((406.26, 183.43), (423.56, 183.40), (414.71, 193.89), (406.64, 202.95), (421.29, 202.84))),
    ),
}
"""Faces of COCO images: score, and the landmarks in the image's pixels; by OpenCV 4.10.0's FaceDetectorYN.

yunet_n_320.onnx on the image in the upper left of 320x320 black pixels, score from .6, IoU up to .3. On 56 faces of 26
of the 88 images edgeq's landmarks are within .0001 pixels of OpenCV's, given the same pixels.
"""

TEXT_MAP_BY_RAPIDOCR = (
    (((15, 75), (25, 75), (25, 85), (15, 85)), 0.787),
    (((14, 63), (119, 47), (125, 86), (20, 96)), 0.846),
    (((6, 4), (64, 25), (53, 55), (0, 34)), 0.823),
    (((76, 2), (104, 2), (104, 48), (76, 48)), 0.888),
)
"""Text in the map of tests/tasks/text/drawn.py: corners and score, by rapidocr-onnxruntime 1.4.4's post-processing.

With OpenCV 4.10.0 and pyclipper, threshold .3, box threshold .6, ratio 1.5, no dilation. It cuts corners to whole
pixels before rectangles grow and before it averages, which moves them by half a pixel and lowers scores by .03 to .09.
"""

PP_OCR_ON_DRAWN_TEXT = {"hmean": 1.0, "exact": 0.9375, "similarity": 0.98}
"""PP-OCRv4's models in the package rapidocr-onnxruntime 1.4.4 on text drawn with Pillow's font, in ONNX Runtime 1.32.0.

hmean on 20 lines in four images, exact match and similarity on 16 images of one or two words. On 40 such images edgeq
reads 37 without an error, and rapidocr's pipeline 36, with the same errors.
"""
